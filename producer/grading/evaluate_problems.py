"""The files of code-model evaluation: problems and samples, JSON lines, plain or compressed with gzip.

A problem is HumanEval's (`prompt`, `entry_point`, `test` that defines `check`, `canonical_solution`);
EvalPlus's, which is the same or has inputs in place of the test; or MBPP's (`test_list` of
assertions, `test_setup_code` or `test_imports`, `code`). A sample is `{"task_id", "completion"}`, the
body that goes on from the prompt, or `{"task_id", "solution"}`, which stands by itself.
"""

import ast
import gzip
import io
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

#: Bytes of one line: a record that is longer is none.
_LONGEST_LINE = 64 << 20


class BadInput(ValueError):
    """A file that can't be read as what it should be; the text names the file and the line."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A task: what a program starts from, and what it must pass.

    `checks` is the text that runs after the program, its call included; `entry` the function's name;
    `reference` a program that is right, where the problem has one; `imports` the modules that
    prompt and checks import.
    """

    task_id: str
    prompt: str
    entry: str
    checks: str
    reference: str | None
    imports: tuple[str, ...]

    def program(self, sample: dict[str, Any]) -> str:
        """Give the text of the program that a sample makes of this problem."""
        if isinstance(sample.get("solution"), str):
            return cast("str", sample["solution"])
        return f"{self.prompt}{sample['completion']}\n"


def read_problems(path: str) -> dict[str, Problem]:
    """Read the problems in `path`, by their id; `BadInput` for a file that has none or the like."""
    problems: dict[str, Problem] = {}
    for where, record in read_lines(path):
        problem = _problem(where, record)
        if problem.task_id in problems:
            raise BadInput(f"{where}: {problem.task_id!r} is there twice")
        problems[problem.task_id] = problem
    if not problems:
        raise BadInput(f"{path}: no problems in it")
    return problems


def read_samples(path: str, problems: dict[str, Problem]) -> Iterator[tuple[dict[str, Any], Problem]]:
    """Read the samples in `path`, each with its problem; `BadInput` where there is no such."""
    for where, record in read_lines(path):
        task_id = str(record.get("task_id", ""))
        if task_id not in problems:
            raise BadInput(f"{where}: no problem {task_id!r}")
        if not isinstance(record.get("solution"), str) and not isinstance(
            record.get("completion"), str
        ):
            raise BadInput(f"{where}: {task_id!r} has neither a completion nor a solution")
        yield record, problems[task_id]


def read_lines(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read JSON objects, one a line, each with the words that say where it stands."""
    number = 0
    try:
        with open(path, "rb") as file:
            packed = file.peek(2)[:2] == b"\x1f\x8b"
            lines = cast("io.BufferedIOBase", gzip.GzipFile(fileobj=file) if packed else file)
            while line := lines.readline(_LONGEST_LINE):
                number += 1
                where = f"{path}:{number}"
                if len(line) == _LONGEST_LINE:
                    raise BadInput(f"{where}: a line of over {_LONGEST_LINE >> 20} MiB")
                if line.strip():
                    yield where, _record(where, line)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BadInput(f"{path}:{number + 1}: damaged: {error}") from None
    except OSError as error:
        raise BadInput(f"{path}: {os.strerror(error.errno) if error.errno else error}") from None


def _record(where: str, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where}: not JSON: {error}") from None
    if not isinstance(record, dict):
        raise BadInput(f"{where}: expected a JSON object")
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise BadInput(f"{where}: has a lone surrogate, which is not UTF-8 text") from None
    return record


def _problem(where: str, record: dict[str, Any]) -> Problem:
    if not isinstance(record.get("task_id"), str | int):
        raise BadInput(f"{where}: a problem without a task_id")
    task_id = str(record["task_id"])
    where = f"{where}: {task_id!r}"
    if isinstance(record.get("test"), str):
        made = _with_check(where, record)
    elif isinstance(record.get("test_list"), list):
        made = _with_assertions(where, record)
    elif isinstance(record.get("base_input"), list):
        made = _with_inputs(where, task_id, record)
    else:
        raise BadInput(f"{where}: has neither a test nor a test_list")
    prompt, entry, checks, solution = made
    return Problem(
        task_id,
        prompt,
        entry,
        checks,
        None if solution is None else f"{prompt}{solution}\n",
        _imports(where, checks, prompt),
    )


def _with_check(where: str, record: dict[str, Any]) -> tuple[str, str, str, str | None]:
    """Read HumanEval's form, whose test defines a function `check` (or makes the calls itself)."""
    checks, entry = record["test"], record.get("entry_point")
    defines_check = any(
        isinstance(node, ast.FunctionDef) and node.name == "check"
        for node in _parse(where, checks).body
    )
    if defines_check:
        if not isinstance(entry, str) or not entry.isidentifier():
            raise BadInput(f"{where}: its entry_point is no name of a function")
        checks = f"{checks}\ncheck({entry})\n"
    prompt, solution = record.get("prompt"), record.get("canonical_solution")
    if "code" in record or not isinstance(prompt, str):  # MBPP's prompt is prose
        prompt, solution = "", record.get("code")
    if not isinstance(entry, str):
        entry = _called_first(where, checks, solution)
    return prompt, entry, checks, solution if isinstance(solution, str) else None


def _with_inputs(where: str, task_id: str, record: dict[str, Any]) -> tuple[str, str, str, str]:
    """Read EvalPlus's own form: inputs, and a reference that knows what is right."""
    prompt, entry, solution = (
        record.get(name) for name in ("prompt", "entry_point", "canonical_solution")
    )
    if not (isinstance(prompt, str) and isinstance(solution, str) and isinstance(entry, str)):
        raise BadInput(f"{where}: has inputs but no prompt, entry_point and canonical_solution")
    if task_id.startswith("Mbpp/"):
        # JSON has no tuples and sets, and which list is meant for one is told nowhere in the file.
        raise BadInput(f"{where}: its inputs don't say what they are; use the MBPP+ that has a test")
    given = {
        "inputs": [*record["base_input"], *(record.get("plus_input") or [])],
        "tolerance": record.get("atol") or 0,
        "reference": f"{prompt}{solution}\n",
        "entry": entry,
    }
    return prompt, entry, f"{_AGAINST_REFERENCE}\ncheck({entry}, {json.dumps(given)!r})\n", solution


#: What EvalPlus asks of an answer: to equal the reference's, floats nearly so; and of `find_zero`,
#: where several answers are right, to be a zero.
_AGAINST_REFERENCE = """
import copy, json, math

def close(answer, expected, tolerance):
    if isinstance(expected, (list, tuple)):
        return len(answer) == len(expected) and all(
            close(one, other, tolerance) for one, other in zip(answer, expected))
    return answer == expected or abs(answer - expected) <= tolerance + 1e-7 * abs(expected)

def check(candidate, given):
    given = json.loads(given)
    names = {}
    exec(given["reference"], names)
    for inputs in given["inputs"]:
        expected = names[given["entry"]](*copy.deepcopy(inputs))
        answer = candidate(*copy.deepcopy(inputs))
        tolerance = given["tolerance"]
        if given["entry"] == "find_zero":
            assert abs(sum(c * math.pow(answer, i) for i, c in enumerate(inputs[0]))) <= tolerance
            continue
        parts = expected if isinstance(expected, (list, tuple)) else [expected]
        if not tolerance and all(isinstance(part, float) for part in parts):
            tolerance = 1e-6
        assert answer == expected or (tolerance and close(answer, expected, tolerance))
"""


def _with_assertions(where: str, record: dict[str, Any]) -> tuple[str, str, str, str | None]:
    """Read MBPP's form."""
    setup = record.get("test_setup_code") or record.get("test_imports") or ""
    lines = [setup] if isinstance(setup, str) else setup
    checks = [*lines, *record["test_list"]]
    if not record["test_list"] or not all(isinstance(line, str) for line in checks):
        raise BadInput(f"{where}: expected a test_list of assertions")
    text = "\n".join([*checks, ""])
    _parse(where, text)
    code = record.get("code")
    entry = record.get("entry_point")
    if not isinstance(entry, str):
        entry = _called_first(where, text, code)
    return "", entry, text, code if isinstance(code, str) else None


def _called_first(where: str, checks: str, code: object) -> str:
    """Give the function that assertions are about: the first that they call and the code defines."""
    defined = (
        {node.name for node in _parse(where, code).body if isinstance(node, ast.FunctionDef)}
        if isinstance(code, str)
        else set()
    )
    for node in ast.walk(_parse(where, checks)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            name = node.func.id
            if name in defined or (not defined and name not in dir(__builtins__)):
                return name
    raise BadInput(f"{where}: the checks call no function of the code's")


def _imports(where: str, checks: str, prompt: str) -> tuple[str, ...]:
    names: dict[str, None] = {}
    trees = [_parse(where, checks)]
    for ending in ("", "    pass\n", "\tpass\n"):
        try:
            trees.append(ast.parse(f"{prompt}\n{ending}"))
        except (SyntaxError, ValueError):
            continue
        break
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    names.update(((alias.name, None), (alias.name.partition(".")[0], None)))
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names[node.module] = None
    return tuple(names)


def _parse(where: str, text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise BadInput(f"{where}: its checks don't compile: {error}") from None
