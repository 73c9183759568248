"""The files and the figures of code-model evaluation; no jail."""

import gzip
import json
import math
from pathlib import Path

import pytest

from producer.grading.evaluate import pass_at_k
from producer.grading.evaluate_problems import BadInput, read_problems, read_samples
from producer.grading.jailed.plain_values import plain, value

PROBLEM = {
    "task_id": "test/0",
    "prompt": "def return1():\n",
    "entry_point": "return1",
    "test": "def check(candidate):\n    assert candidate() == 1",
}


@pytest.mark.parametrize("n", [1, 2, 5, 10, 100, 200])
def test_pass_at_k_is_the_published_product(n):
    """1 where fewer than k failed, else 1 minus the product of 1 - k/i."""
    for c in range(0, n + 1, max(1, n // 7)):
        for k in {1, min(10, n), n}:
            product = math.prod(1 - k / i for i in range(n - c + 1, n + 1))
            expected = 1.0 if n - c < k else 1 - product

            assert pass_at_k(n, c, k) == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_is_exact():
    """Half of six is one half."""
    assert pass_at_k(6, 3, 1) == 0.5
    assert pass_at_k(200, 200, 100) == 1.0
    assert pass_at_k(200, 0, 100) == 0.0


def write(path: Path, *lines: object) -> str:
    """Write lines: text as it is, anything else as JSON."""
    path.write_text(
        "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    )
    return str(path)


def test_files_may_be_compressed(tmp_path):
    """With gzip, whatever they are called."""
    path = tmp_path / "problems"
    path.write_bytes(gzip.compress(json.dumps(PROBLEM).encode() + b"\n\n"))

    assert list(read_problems(str(path))) == ["test/0"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "1: not JSON"),
        ("[" * 100_000, "1: not JSON"),
        ("[]", "1: expected a JSON object"),
        ('{"task_id": "\\ud800"}', "1: has a lone surrogate"),
        ({}, "1: a problem without a task_id"),
        ({"task_id": "a"}, "1: 'a': has neither a test nor a test_list"),
        ({"task_id": "Mbpp/2", "base_input": []}, "has inputs but no prompt"),
        (
            {**PROBLEM, "task_id": "Mbpp/2", "test": None, "base_input": [], "canonical_solution": ""},
            "use the MBPP+ that has a test",
        ),
        ({**PROBLEM, "test": "def check(:"}, "its checks don't compile"),
        ({**PROBLEM, "entry_point": "1"}, "its entry_point is no name of a function"),
        ({"task_id": 1, "test_list": []}, "expected a test_list of assertions"),
        ({"task_id": 1, "test_list": [1]}, "expected a test_list of assertions"),
        ({"task_id": 1, "test_list": ["assert 1"]}, "the checks call no function of the code's"),
    ],
)
def test_a_problem_that_is_none_is_told_with_its_line(tmp_path, line, told):
    """One line that names the file."""
    path = write(tmp_path / "problems.jsonl", line)

    with pytest.raises(BadInput) as caught:
        read_problems(path)
    assert str(caught.value).startswith(path)
    assert told in str(caught.value)


def test_a_problem_stands_once(tmp_path):
    """A second one of the same id would be judged by the wrong checks."""
    path = write(tmp_path / "problems.jsonl", PROBLEM, PROBLEM)

    with pytest.raises(BadInput, match=r"problems\.jsonl:2: 'test/0' is there twice"):
        read_problems(path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "no problems in it"),
        (b"\x1f\x8b", "1: damaged"),
        (gzip.compress(b'{"task_id": 1}\n' * 1000)[:40], "damaged"),
        (b"\xff\xfe\n", "1: not JSON"),
    ],
)
def test_a_damaged_file_is_told(tmp_path, content, told):
    """Whatever is wrong with it."""
    path = tmp_path / "problems.jsonl"
    path.write_bytes(content)

    with pytest.raises(BadInput, match=told):
        read_problems(str(path))


@pytest.mark.parametrize(
    ("sample", "told"),
    [
        ({"task_id": "test/1", "completion": ""}, "no problem 'test/1'"),
        ({"completion": ""}, "no problem ''"),
        ({"task_id": "test/0"}, "'test/0' has neither a completion nor a solution"),
        ({"task_id": "test/0", "completion": 1}, "'test/0' has neither a completion nor a solution"),
    ],
)
def test_a_sample_that_is_none_is_told_with_its_line(tmp_path, sample, told):
    """One line that names the file."""
    problems = read_problems(write(tmp_path / "problems.jsonl", PROBLEM))
    path = write(tmp_path / "samples.jsonl", "", sample)

    with pytest.raises(BadInput) as caught:
        list(read_samples(path, problems))
    assert str(caught.value) == f"{path}:2: {told}"


def test_a_completion_goes_on_from_the_prompt_and_a_solution_does_not(tmp_path):
    """As EvalPlus has it."""
    problem = read_problems(write(tmp_path / "problems.jsonl", PROBLEM))["test/0"]

    assert problem.program({"completion": "    return 1"}) == "def return1():\n    return 1\n"
    assert problem.program({"solution": "x = 1", "completion": "  2"}) == "x = 1"


@pytest.mark.parametrize(
    "written",
    [
        {"int": "0x1", "float": "1"},
        {"object": 1},
        {"tuple": 3},
        {"set": [[1]]},
        {"int": "one"},
        {"int": 3},
        {"float": []},
        {"bytes": "xyz"},
        {"dict": [1]},
        {"complex": []},
        1.5,
    ],
)
def test_an_answer_that_is_no_plain_value_is_refused(written):
    """Whatever else may stand in a file that came from a jail."""
    with pytest.raises((ValueError, TypeError, LookupError)):
        value(written)


def test_a_derived_class_arrives_as_what_it_is_derived_from():
    """No behaviour of its own crosses."""

    class Liar(int):
        def __eq__(self, other):
            return True

        __hash__ = int.__hash__

    crossed = value(json.loads(json.dumps(plain([Liar(7), {Liar(1): Liar(2)}]))))

    assert crossed == [7, {1: 2}]
    assert type(crossed[0]) is int
