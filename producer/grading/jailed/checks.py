"""Runs a task's checks against answers that were given in another jail: the half that is trusted.

Standard input holds one JSON object: `prompt`, `checks`, `entry`, `reference` (a program that is known
to be right, or None), and `calls` and `answers`, JSON texts as this script and `function.py` have
written them. Calls are answered in their order as long as they are those that were put to the
function. At the first other one the checks are no verdict any more: the reference answers from there
on, so that one run brings to light all the calls to put next; without a reference it ends there.

Standard output gets `passed`, `failed: …`, or `calls`: the file `calls` then has the calls. No line of
the program that is judged ever runs here, and what it has answered arrives as plain values.
"""

import builtins
import copy
import json
import os
import random
import sys
import types
from typing import Any

from plain_values import plain, value  # placed beside this script

_LONGEST = 500  # characters of a failure's text
_MOST_CALLS = 100_000


class _Unanswered(BaseException):
    """A call that nobody can answer yet."""


class _Unfit(BaseException):
    """The function has ended, or a call or an answer is no plain value."""


class _Function:
    """Stands for the function in its checks."""

    def __init__(self, calls: list[Any], answers: list[Any], reference: Any) -> None:
        self.calls: list[Any] = []
        self.astray = False
        self._known = list(zip(calls, answers, strict=False))
        self._reference = reference

    def __call__(self, *positional: Any, **named: Any) -> Any:
        try:
            call = [plain(list(positional)), plain(named)]
        except (TypeError, RecursionError) as error:
            raise _Unfit(f"the checks hand over what can't leave them: {error}") from None
        number = len(self.calls)
        self.calls.append(call)
        if number >= _MOST_CALLS:
            raise _Unfit(f"the checks make over {_MOST_CALLS} calls")
        if not self.astray and number < len(self._known) and self._known[number][0] == call:
            return _take(self._known[number][1])
        self.astray = True
        if self._reference is None:
            raise _Unanswered
        return self._reference(*copy.deepcopy(positional), **copy.deepcopy(named))


def _take(answer: Any) -> Any:
    """Give the answer's value, or raise what the function has raised."""
    if isinstance(answer, dict) and len(answer) == 1:
        if "value" in answer:
            return value(answer["value"])
        if "raised" in answer:
            name, text = (str(part) for part in answer["raised"])
            kind = getattr(builtins, name, None)
            if isinstance(kind, type) and issubclass(kind, Exception):
                raised: Exception = RuntimeError(text)
                try:
                    raised = kind(text)
                except TypeError:
                    raised.add_note(name)  # such as UnicodeDecodeError, which takes more than a text
                raise raised
            raise _Unfit(f"{name}: {text}")
        if "ended" in answer:
            raise _Unfit(str(answer["ended"]))
    raise ValueError("no answer")


def main() -> None:
    """Run the checks that standard input holds, and write how they ended."""
    given = json.load(sys.stdin)
    sys.set_int_max_str_digits(0)
    out, null = os.dup(1), os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    try:
        answers = json.loads(given["answers"])
        if not isinstance(answers, list):
            raise ValueError("no answers")
    except (ValueError, RecursionError):
        os.write(out, b"failed: the answers can't be read")
        return
    function = _Function(json.loads(given["calls"]), answers, _reference(given))
    names = _namespace(given["prompt"])
    names[given["entry"]] = function
    random.seed(0)  # or the calls of one run would not be those of the next
    try:
        exec(compile(given["checks"], "<checks>", "exec"), names)  # noqa: S102
        verdict = "passed"
    except BaseException as error:  # a wrong answer may lead anywhere
        verdict = _told(error)
        unfit = isinstance(error, _Unfit)
    else:
        unfit = False
    if function.astray and not unfit:
        with open("calls", "w", encoding="utf-8") as file:
            json.dump(function.calls, file)
        verdict = "calls"
    os.write(out, verdict.encode("utf-8", "replace"))


def _reference(given: dict[str, Any]) -> Any:
    if given["reference"] is None:
        return None
    module = types.ModuleType("reference")
    sys.modules["reference"] = module
    exec(compile(given["reference"], "<reference>", "exec"), vars(module))  # noqa: S102
    return vars(module)[given["entry"]]


def _namespace(prompt: str) -> dict[str, Any]:
    """Give what the prompt defines."""
    names: dict[str, Any] = {"__name__": "checks"}
    for ending in ("", "    pass\n", "\tpass\n"):
        try:
            code = compile(f"{prompt}\n{ending}", "<prompt>", "exec", dont_inherit=True)
        except SyntaxError:
            continue
        exec(code, names)  # noqa: S102
        break
    return names


def _told(error: BaseException) -> str:
    name = "" if isinstance(error, _Unfit) else type(error).__name__
    return ": ".join(part for part in ("failed", name, str(error)) if part)[:_LONGEST]


if __name__ == "__main__":
    main()
