"""Code-model evaluation in jails on this host: what passes is right, and what is forged does not pass."""

import gzip
import json
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from producer.grading.dispatch import LocalDispatcher
from producer.grading.evaluate import Evaluation, evaluate
from producer.grading.evaluate_jobs import Settings
from sandbox_core import Limits
from sandbox_core.local import LocalRunner

DATA = Path(__file__).parents[1] / "data" / "human-eval"
FORGERIES = tomllib.loads(
    (Path(__file__).parent / "forgeries" / "forgeries.toml").read_text(encoding="utf-8")
)
PREAMBLE = FORGERIES.pop("preamble")["program"]

both = pytest.mark.parametrize("isolated", [False, True], ids=["one interpreter", "two jails"])

#: An object that is equal to everything, and one that is to be compared with less than anything.
LIAR = """
class Liar:
    def __eq__(self, other):
        return True
    __ne__ = lambda self, other: False
    __hash__ = lambda self: 0
def return1():
    return Liar()
"""
#: Written against the one interpreter: it changes the checks' own built-ins through their frame.
MEDDLER = """
import sys
def magnitude(number):
    sys._getframe(1).f_builtins["abs"] = lambda number: 0
    return 7
"""


@pytest.fixture(scope="module")
def runner() -> Iterator[LocalRunner]:
    """Jails on this host, the same for all tests."""
    with LocalRunner() as runner:
        yield runner


@pytest.fixture
def judge(
    runner: LocalRunner, tmp_path: Path, time_factor: float
) -> Callable[..., tuple[Evaluation, list[dict[str, Any]]]]:
    """Evaluate samples; give what became of them all, and the results one by one."""

    def judge(
        samples: list[dict[str, Any]], problems: Path | list[dict[str, Any]], **options: Any
    ) -> tuple[Evaluation, list[dict[str, Any]]]:
        path = tmp_path / "samples.jsonl"
        path.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
        if isinstance(problems, list):
            written = tmp_path / "problems.jsonl"
            written.write_text("".join(json.dumps(problem) + "\n" for problem in problems))
            problems = written
        settings = Settings(Limits(wall_time=options.pop("wall_time", 3.0) * time_factor))
        jails = LocalDispatcher(options.pop("runner", runner))
        found = evaluate(str(problems), str(path), jails, settings=settings, **options)
        return found, [json.loads(line) for line in Path(found.results).read_text().splitlines()]

    return judge


def canonical() -> list[dict[str, Any]]:
    """Give the canonical solutions as samples."""
    with gzip.open(DATA / "HumanEval.jsonl.gz", "rt", encoding="utf-8") as lines:
        problems = [json.loads(line) for line in lines]
    return [{"task_id": one["task_id"], "completion": one["canonical_solution"]} for one in problems]


@both
def test_the_canonical_solutions_pass(judge, isolated):
    """All 164 of HumanEval."""
    found, results = judge(canonical(), DATA / "HumanEval.jsonl.gz", isolated=isolated, wall_time=20)

    assert [one for one in results if not one["passed"]] == []
    assert (found.passed, found.samples, found.pass_at) == (164, 164, {1: 1.0})


@both
def test_the_examples_of_human_eval_come_to_one_half(judge, isolated, time_factor):
    """As its README says of them: a process, a sleep, an input, and three that return 1."""
    samples = [json.loads(line) for line in (DATA / "example_samples.jsonl").read_text().splitlines()]

    limit = min(
        3.0, 8.0 / time_factor
    )  # one of them sleeps for ten seconds, however slow the machine is
    found, results = judge(samples, DATA / "example_problem.jsonl", isolated=isolated, wall_time=limit)

    assert found.pass_at == {1: 0.5}
    assert [one["passed"] for one in results] == [False, False, False, True, True, True]
    assert results[1]["result"] == "timed out"


@both
def test_no_forgery_passes(judge, isolated):
    """Every one of `forgeries.toml`; beside them a right answer, so that something does pass."""
    samples = [
        {"task_id": "test/0", "name": name, "solution": PREAMBLE + one["program"]}
        for name, one in FORGERIES.items()
    ]
    right = {"task_id": "test/0", "solution": PREAMBLE + "def return1(): return 1"}

    found, results = judge([*samples, right], DATA / "example_problem.jsonl", isolated=isolated)

    assert [one.get("name") for one in results if one["passed"]] == [None]
    assert found.programs == len(FORGERIES) + 1


def test_what_one_interpreter_cannot_know_two_jails_do(judge):
    """An object that is equal to everything, and a program that reaches into its checks."""
    problems = [
        json.loads((DATA / "example_problem.jsonl").read_text()),
        {
            "task_id": "magnitude",
            "prompt": "def magnitude(number):\n",
            "entry_point": "magnitude",
            "canonical_solution": "    return abs(number)\n",
            "test": "def check(candidate):\n    size = candidate(-3)\n    assert abs(size - 3) < 1e-6\n",
        },
    ]
    samples = [
        {"task_id": "test/0", "solution": LIAR},
        {"task_id": "magnitude", "solution": MEDDLER},
    ]

    _, trusting = judge(samples, problems)
    _, apart = judge(samples, problems, isolated=True)

    assert [one["passed"] for one in trusting] == [True, True]
    assert [one["passed"] for one in apart] == [False, False]
    assert "Liar is no plain value" in apart[0]["result"]


@both
def test_a_changed_module_or_a_shadowed_builtin_does_not_help(judge, isolated):
    """The checks have their own `abs`, `math` and helpers, whatever the program defines."""
    problem = {
        "task_id": "near",
        "prompt": "import math\n\ndef helper(x):\n    return x\n\ndef near(x):\n",
        "entry_point": "near",
        "canonical_solution": "    return x\n",
        "test": "def check(candidate):\n    import math as again\n    assert abs(candidate(5) - 5) < 1\n"
        "    assert math.fabs(candidate(5) - 5) < 1\n    assert again.fabs(candidate(5) - 5) < 1\n"
        "    assert helper(candidate(5)) == 5\n",
    }
    attack = (
        "import builtins, math\nabs = builtins.abs = math.fabs = lambda x: 0\n"
        "def helper(x):\n    return 5\ndef near(x):\n    return 9\n"
    )

    _, results = judge([{"task_id": "near", "solution": attack}], [problem], isolated=isolated)

    assert results[0]["result"].startswith("failed: AssertionError")


@both
def test_checks_may_import_whatever_they_like(judge, isolated):
    """Modules in packages, names in modules, and under other names."""
    problem = {
        "task_id": "same",
        "prompt": "import collections.abc\nfrom typing import List\n\ndef same(x: List[int]):\n",
        "entry_point": "same",
        "canonical_solution": "    return x\n",
        "test": "import os.path\nimport xml.etree.ElementTree as tree\nfrom xml.dom import minidom\n"
        "from collections import abc, Counter\n"
        "def check(candidate):\n    from concurrent import futures\n    import json.decoder, importlib.util\n"
        "    assert os.path.join('a', 'b') == 'a/b' and minidom.parseString('<a/>')\n"
        "    assert tree.fromstring('<a/>').tag == 'a' and isinstance([], abc.Iterable)\n"
        "    assert isinstance([], collections.abc.Iterable) and futures.Future and json.decoder.JSONDecoder\n"
        "    assert Counter(candidate([1])) == Counter([1]) and importlib.util.find_spec('os')\n"
        "    try:\n        import nowhere\n    except ImportError:\n        return\n    assert False\n",
    }

    _, results = judge(
        [{"task_id": "same", "completion": "    return x"}], [problem], isolated=isolated
    )

    assert results[0]["result"] == "passed"


@both
def test_a_wrong_answer_may_lead_the_checks_elsewhere(judge, isolated):
    """Later calls depend on earlier answers; honest programs of another kind pass all the same."""
    problem = {
        "task_id": "turn",
        "prompt": "def turn(x):\n",
        "entry_point": "turn",
        "canonical_solution": "    return x[::-1]\n",
        "test": "def check(candidate):\n    once = candidate([1, 2, 3])\n    assert sorted(once) == [1, 2, 3]\n"
        "    assert candidate(once) == [1, 2, 3]\n",
    }
    samples = [
        {"task_id": "turn", "completion": "    return list(x)\n"},
        {"task_id": "turn", "completion": "    return [x[0]] + x[:0:-1]\n"},
        {"task_id": "turn", "completion": "    return [0]\n"},
        {"task_id": "turn", "completion": "    return [x[1], x[2], x[0]]\n"},
    ]

    _, results = judge(samples, [problem], isolated=isolated)

    assert [one["passed"] for one in results] == [True, True, False, False]


@both
def test_calls_are_found_without_a_reference(judge, isolated):
    """A problem need not have a solution."""
    problem = {
        "task_id": "double",
        "prompt": "def double(x):\n",
        "entry_point": "double",
        "test": "def check(candidate):\n    for n in range(5):\n        assert candidate(n) == 2 * n\n",
    }
    samples = [
        {"task_id": "double", "completion": "    return x + x\n"},
        {"task_id": "double", "completion": "    return x * x\n"},
    ]

    _, results = judge(samples, [problem], isolated=isolated)

    assert [one["passed"] for one in results] == [True, False]


@both
def test_values_cross_between_the_jails_as_they_are(judge, isolated):
    """Each kind of plain value comes back as it went, and an exception as itself."""
    problem = {
        "task_id": "echo",
        "prompt": "def echo(value, *, key=None):\n",
        "entry_point": "echo",
        "canonical_solution": "    return value if key is None else value[key]\n",
        "test": "def check(candidate):\n"
        "    values = [None, True, 0, -1, 2**70, -2**70, 0.1, float('inf'), 1+2j, '', 'é\\ud800', b'\\xff',\n"
        "              [], [1, [2]], (1,), (), {}, {1: 'a', (1, 2): [3]}, {1, 2}, frozenset({3}), range(3), 10**5000]\n"
        "    for value in values:\n"
        "        answer = candidate(value)\n"
        "        assert type(answer) is type(value) and answer == value, (answer, value)\n"
        "    assert str(candidate(-0.0)) == '-0.0' and candidate(float('nan')) != candidate(float('nan'))\n"
        "    assert candidate({'a': 7}, key='a') == 7\n"
        "    try:\n"
        "        candidate([], key=3)\n"
        "    except IndexError as error:\n"
        "        assert 'range' in str(error)\n"
        "    else:\n"
        "        raise AssertionError\n",
    }
    sample = {"task_id": "echo", "completion": problem["canonical_solution"]}

    _, results = judge([sample], [problem], isolated=isolated)

    assert results[0]["result"] == "passed"


@both
def test_an_iterator_is_an_iterator_on_the_other_side(judge, isolated):
    """A generator is no list, and its items are those that it gives."""
    problem = {
        "task_id": "up",
        "prompt": "def up(n):\n",
        "entry_point": "up",
        "canonical_solution": "    yield from range(n)\n",
        "test": "def check(candidate):\n    assert candidate(3) != [0, 1, 2]\n"
        "    assert list(candidate(3)) == [0, 1, 2]\n",
    }
    samples = [
        {"task_id": "up", "completion": problem["canonical_solution"]},
        {"task_id": "up", "completion": "    return map(int, '012')\n"},
        {"task_id": "up", "completion": "    return [0, 1, 2]\n"},
        {"task_id": "up", "completion": "    while True:\n        yield n\n"},
    ]

    _, results = judge(samples, [problem], isolated=isolated)

    assert [one["passed"] for one in results] == [True, True, False, False]


@both
def test_assertions_in_the_manner_of_mbpp(judge, isolated):
    """Whole solutions, a list of assertions that name the function, a number for an id."""
    problem = {
        "task_id": 11,
        "text": "Write a python function to remove first and last occurrence of a given character.",
        "code": "def remove_Occ(s, ch):\n    s = s.replace(ch, '', 1)\n    return s[::-1].replace(ch, '', 1)[::-1]\n",
        "test_setup_code": "import math",
        "test_list": [
            'assert remove_Occ("hello","l") == "heo"',
            'assert math.isclose(len(remove_Occ("abcda","a")), 3)',
        ],
    }
    samples = [
        {"task_id": 11, "completion": problem["code"]},
        {"task_id": 11, "solution": "def remove_Occ(s, ch):\n    return s\n"},
    ]

    found, results = judge(samples, [problem], isolated=isolated)

    assert [one["passed"] for one in results] == [True, False]
    assert found.pass_at == {1: 0.5}


@both
def test_inputs_and_a_reference_in_the_manner_of_eval_plus(judge, isolated):
    """What the reference answers is right, a float nearly so; a zero is a zero wherever it is found."""
    half = {
        "task_id": "HumanEval/1000",
        "prompt": "def halves(xs):\n",
        "entry_point": "halves",
        "canonical_solution": "    return [x / 3 for x in xs]\n",
        "base_input": [[[1, 2]]],
        "plus_input": [[[]], [[1e9, -7]]],
        "atol": 0,
    }
    zero = {
        "task_id": "HumanEval/32",
        "prompt": "import math\n\ndef find_zero(xs):\n",
        "entry_point": "find_zero",
        "canonical_solution": "    return 1.0\n",
        "base_input": [[[-1, 0, 1]]],
        "atol": 1e-4,
    }
    samples = [
        {"task_id": "HumanEval/1000", "completion": half["canonical_solution"]},
        {"task_id": "HumanEval/1000", "completion": "    return [x * 0.33333333333 for x in xs]\n"},
        {"task_id": "HumanEval/1000", "completion": "    return [x * 0.333 for x in xs]\n"},
        {"task_id": "HumanEval/1000", "completion": "    return [x / 3 for x in xs] + [0]\n"},
        {"task_id": "HumanEval/32", "completion": "    return -1.0\n"},
        {"task_id": "HumanEval/32", "completion": "    return 2.0\n"},
    ]

    _, results = judge(samples, [half, zero], isolated=isolated)

    assert [one["passed"] for one in results] == [True, True, False, False, True, False]


def test_the_same_program_runs_once(judge):
    """And each sample has its result."""
    samples = [{"task_id": "test/0", "completion": "    return 1", "n": n} for n in range(20)]
    samples += [{"task_id": "test/0", "completion": "    return 2", "n": n} for n in range(20)]

    found, results = judge(samples, DATA / "example_problem.jsonl")

    assert (found.samples, found.programs, found.passed) == (40, 2, 20)
    assert [one["n"] for one in results] == [*range(20), *range(20)]
    assert found.pass_at == {1: 0.5, 10: pytest.approx(1 - 184756 / 847660528)}


def test_several_runs_tell_how_far_they_agree(judge):
    """A program that throws a coin now passes, now fails."""
    coin = "    import os\n    return 1 if os.urandom(1)[0] % 2 else 2"
    samples = [{"task_id": "test/0", "completion": f"{coin}  # {n}\n"} for n in range(12)] + [
        {"task_id": "test/0", "completion": "    return 1"}
    ]

    found, results = judge(samples, DATA / "example_problem.jsonl", runs=3)

    assert len(found.runs) == 3
    assert found.pass_at[1] == pytest.approx(sum(run[1] for run in found.runs) / 3)
    alike = [len({result == "passed" for result in one["runs"]}) == 1 for one in results]
    assert found.agreement == sum(alike) / 13 < 1
    assert results[-1]["runs"] == ["passed"] * 3


def test_the_processes_of_an_evaluation_are_gone_when_it_ends(judge, leftovers):
    """Also where it ends by an error half-way."""
    before = leftovers()

    def stop(done: int, _total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    samples = [{"task_id": "test/0", "completion": f"    return {n}"} for n in range(20)]
    with LocalRunner() as own, pytest.raises(KeyboardInterrupt):
        judge(samples, DATA / "example_problem.jsonl", progress=stop, runner=own)

    assert leftovers() == before
