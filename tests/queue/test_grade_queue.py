"""Grading through the queue: the same verdicts as in jails here."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from producer import Client
from producer.grading.dispatch import QueueDispatcher
from producer.grading.grading import grade

PACKAGES = Path(__file__).parents[1] / "data" / "packages"


@pytest.mark.parametrize(
    ("package", "scores"),
    [
        ("odd", {"accepted/all.py": 100, "partially_accepted/three.py": 40, "wrong_answer/none.py": 0}),
        (
            "near",
            {"accepted/above.py": 100, "partially_accepted/below.py": 70, "wrong_answer/same.py": 0},
        ),
        (
            "twice",
            {
                "accepted/reverse.py": None,
                "wrong_answer/keeps.py": None,
                "wrong_answer/shouts.py": None,
            },
        ),
        (
            "guess",
            {
                "accepted/halves.py": None,
                "run_time_error/dies.py": None,
                "time_limit_exceeded/waits.py": None,
                "wrong_answer/counts.py": None,
            },
        ),
    ],
)
def test_a_package_is_graded_through_the_queue(
    worker: Any, package: str, scores: dict[str, float | None]
) -> None:
    """Validators and all, also those that talk with the submission."""
    with Client(worker.url) as client:
        report = grade(PACKAGES / package, dispatcher=QueueDispatcher(client))

    assert {one.name: one.score for one in report.submissions} == scores
    assert all(one.as_expected for one in report.submissions)


FUNCTIONS = """
from grading import points
from solution import add, Counter

@points(2)
def test_add():
    assert add([1], [2]) == [1, 2]

def test_counter():
    counter = Counter()
    assert [counter.next(), counter.next()] == [1, 2]
"""
RIGHT = """
def add(a, b):
    return a + b
class Counter:
    count = 0
    def next(self):
        self.count += 1
        return self.count
"""
HALF = RIGHT.replace("self.count += 1", "pass")


def test_function_tests_run_in_two_jails_of_a_worker(worker: Any, tmp_path: Path) -> None:
    """The submission in one, its checks in the other, in one slot."""
    (tmp_path / "p").mkdir()
    (tmp_path / "p/tests.py").write_text(FUNCTIONS)
    students = {"right.py": RIGHT, "half.py": HALF, "exits.py": "import os; os._exit(0)"}
    for name, source in students.items():
        (tmp_path / name).write_text(source)
    with Client(worker.url) as client:
        named = [tmp_path / name for name in students]
        report = grade(tmp_path / "p", named, dispatcher=QueueDispatcher(client))

    assert {one.name: (one.verdict.value, one.score) for one in report.submissions} == {
        "right.py": ("AC", 3),
        "half.py": ("WA", 2),
        "exits.py": ("RTE", 0),
    }


def test_a_queue_that_is_away_is_one_line() -> None:
    """And not the package's fault."""
    words = [sys.executable, "-m", "sandbox_core.cli", "grade", "--redis", "redis://127.0.0.1:1/0"]
    done = subprocess.run(
        [*words, str(PACKAGES / "odd")], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 125
    assert "127.0.0.1" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_grading_that_was_stopped_goes_on(
    start_worker: Callable[..., Any],
    wait_until: Callable[..., Any],
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    """After a kill nothing runs twice, not even what was in the queue; Ctrl-C has cancelled that."""
    worker = start_worker("-c", "2")
    problem, state = tmp_path / "p", tmp_path / "state"
    problem.mkdir()
    for test in range(40):
        (problem / f"{test}.in").write_text(f"{test}\n")
        (problem / f"{test}.ans").write_text(f"{test}\n")
    for name in ("one", "two", "same"):  # the last is the second once more, and a submission of its own
        told = "two" if name == "same" else name
        (tmp_path / f"{name}.py").write_text(f"import time; time.sleep(0.03)  # {told}\nprint(input())")

    def start(report: str) -> subprocess.Popen[bytes]:
        files = ["--state", state, "--json", tmp_path / report, problem, *sorted(tmp_path.glob("*.py"))]
        words = ["grade", "--redis", worker.url, "--wall-time", "5", *map(str, files)]
        return subprocess.Popen([sys.executable, "-m", "sandbox_core.cli", *words])

    def done() -> int:
        return state.read_bytes().count(b'{"of"') if state.exists() else 0

    with start("never.json") as killed:
        wait_until(lambda: done() >= 30)
        killed.send_signal(number)
    at_kill = done()
    with start("report.json") as resumed:
        assert resumed.wait(60) == 0

    assert at_kill < 110
    report = json.loads((tmp_path / "report.json").read_text())
    assert [one["verdict"] for one in report["submissions"]] == ["AC"] * 3
    (answer,) = worker.celery.control.broadcast("sandbox", reply=True, timeout=10, limit=1)
    (told,) = answer.values()
    if number == signal.SIGKILL:
        assert told["counts"] == {"ok": 3 * 40 + 3}  # and whether each compiles
