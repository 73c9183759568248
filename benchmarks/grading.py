"""Measure grading, here and through the queue: many submissions by many tests, beside bare jails.

    python benchmarks/grading.py --submissions 200 --tests 50 --resume

Half of the submissions are right, the others wrong, or only now and then. Rounds of bare jails, of
grading here and of grading through a queue take turns in one run. With --resume a grading of either
kind is killed at half and started again: the report has to be the one of a grading that was not, and no
test may have run twice.
"""

import argparse
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from queues import jobs_run, ours

from producer.grading.dispatch import Dispatcher, LocalDispatcher, QueueDispatcher
from producer.grading.grading import grade
from sandbox_core import Job, Sandbox
from sandbox_core.local import LocalRunner

SLOTS = 2
SOURCES = (
    "print(sum(map(int, input().split())))\n",
    "a, b = map(int, input().split())\nprint(a + b)\n",
    "print(input())\n",
    "print(eval(input()))\n",
)


def make(folder: Path, submissions: int, tests: int) -> tuple[Path, Path]:
    """Make a problem and a folder of submissions."""
    problem, students = folder / "sums", folder / "students"
    problem.mkdir()
    students.mkdir()
    for number in range(tests):
        (problem / f"{number:03}.in").write_text(f"{number} {number * number}\n")
        (problem / f"{number:03}.ans").write_text(f"{number + number * number}\n")
    for number in range(submissions):
        source = SOURCES[number % 2 if number % 4 < 2 else number % 4]  # noqa: PLR2004  # half are right
        (students / f"student{number:03}.py").write_text(f"# {number}\n{source}")
    return problem, students


def bare(jobs: int) -> float:
    """Run the first of the submissions in bare jails, some at a time; jobs in a second."""
    job = Job(SOURCES[0], stdin=b"1 2\n")
    with Sandbox(slots=SLOTS) as sandbox, ThreadPoolExecutor(SLOTS) as pool:
        list(pool.map(sandbox.run, [job] * 20))  # for nothing: what is made on first use
        began = time.perf_counter()
        for result in pool.map(sandbox.run, [job] * jobs):
            if not result.ok:
                raise RuntimeError(f"the script ended as {result.status}")
        return jobs / (time.perf_counter() - began)


def graded(problem: Path, students: list[Path], dispatcher: Dispatcher) -> float:
    """Grade, and give the tests in a second."""
    began = time.perf_counter()
    report = grade(problem, students, dispatcher=dispatcher)
    return sum(len(one.tests) for one in report.submissions) / (time.perf_counter() - began)


def command(
    problem: Path, students: Path, state: Path, report: Path, where: Sequence[str]
) -> subprocess.Popen[bytes]:
    """Start the command."""
    words = [*where, "--state", state, "--json", report, problem, students]
    return subprocess.Popen(
        [sys.executable, "-m", "sandbox_core.cli", "grade", *map(str, words)],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def lines(state: Path) -> int:
    """Count the tests that are done."""
    return state.read_bytes().count(b'{"of"') if state.exists() else 0


def resumed(
    folder: Path, given: tuple[Path, Path], total: int, where: Sequence[str], count: Callable[[], int]
) -> dict[str, object]:
    """Kill a grading at half and start it again; `count` gives how many jobs have run so far."""
    problem, students = given
    folder.mkdir()
    counts = [count()]
    state = folder / "state"
    first = command(problem, students, state, folder / "never", where)
    while lines(state) < total // 2:
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    at_kill = lines(state)
    command(problem, students, state, folder / "resumed", where).wait()
    counts.append(count())
    command(problem, students, folder / "state2", folder / "whole", where).wait()
    counts.append(count())
    records = [json.loads(line) for line in state.read_text().splitlines()]
    tests = [(one["of"], one["name"]) for one in records if "of" in one]
    return {
        "tests": total,
        "done at the kill": at_kill,
        "run in all": len(tests),
        "run twice": len(tests) - len(set(tests)),
        "jobs": counts[1] - counts[0],
        "jobs of one that was not killed": counts[2] - counts[1],
        "the same report": timeless(folder / "resumed") == timeless(folder / "whole"),
    }


def timeless(path: Path) -> object:
    """Give a report without what no two runs share."""
    report = json.loads(path.read_text())
    for one in report["submissions"]:
        for test in one["tests"]:
            test["wall_time"] = test["cpu_time"] = test["memory"] = None
    return report


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--submissions", type=int, default=200)
    parser.add_argument("--tests", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3, help="of bare jails and of grading [3]")
    parser.add_argument("--resume", action="store_true", help="kill one at half, too")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ours(slots=SLOTS) as queue:
        folder, client = Path(name), queue.client
        problem, students = make(folder, given.submissions, given.tests)
        named = sorted(students.iterdir())
        share = max(len(named) // given.rounds, 1)
        ratios: dict[str, list[float]] = {"here": [], "queue": []}
        for turn in range(given.rounds):
            some = named[turn * share : (turn + 1) * share]
            jails = bare(300)
            with LocalRunner(SLOTS) as runner:
                here = graded(problem, some, LocalDispatcher(runner))
            queued = graded(problem, some, QueueDispatcher(client))
            ratios["here"].append(here / jails)
            ratios["queue"].append(queued / jails)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(
                f"jails {jails:.0f}/s  here {here:.0f} tests/s {here / jails:.2f}"
                f"  queue {queued:.0f} tests/s {queued / jails:.2f}  peak {peak:.0f} MiB",
                flush=True,
            )
        for kind, each in ratios.items():
            print(f"{kind}: median of the ratios {statistics.median(each):.2f}")
        if given.resume:
            total = given.submissions * given.tests
            ways = (
                ("here", ["--local"], lambda: 0),  # jails here, which nobody counts
                ("queue", ["--redis", queue.url], lambda: jobs_run(queue.url)),
            )
            for kind, where, count in ways:
                found = resumed(folder / kind, (problem, students), total, where, count)
                print(kind, json.dumps(found))


if __name__ == "__main__":
    main()
