"""Grading through the queue: the same verdicts as in jails here."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from producer import Client
from producer.grading.dispatch import NoPairs, QueueDispatcher
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
    ],
)
def test_a_package_is_graded_through_the_queue(
    worker: Any, package: str, scores: dict[str, float | None]
) -> None:
    """Validators and all."""
    with Client(worker.url) as client:
        report = grade(PACKAGES / package, dispatcher=QueueDispatcher(client))

    assert {one.name: one.score for one in report.submissions} == scores
    assert all(one.as_expected for one in report.submissions)


def test_what_takes_two_jails_at_a_time_is_refused_by_the_queue(worker: Any) -> None:
    """With what to do instead."""
    with Client(worker.url) as client, pytest.raises(NoPairs, match="--local"):
        grade(PACKAGES / "guess", dispatcher=QueueDispatcher(client))


def test_a_queue_that_is_away_is_one_line() -> None:
    """And not the package's fault."""
    words = [sys.executable, "-m", "sandbox_core.cli", "grade", "--redis", "redis://127.0.0.1:1/0"]
    done = subprocess.run(
        [*words, str(PACKAGES / "odd")], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 125
    assert "127.0.0.1" in done.stderr.splitlines()[-1]
