"""`sandboxed evaluate` through a real queue: figures, resuming, and one line for what is wrong."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).parents[1] / "data" / "human-eval"
PROBLEM = str(DATA / "example_problem.jsonl")


@pytest.fixture
def start(worker):
    """Start `sandboxed evaluate` on the queue that the worker serves."""

    def start(*words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "sandbox_core.cli", "evaluate", *words],
            env={**os.environ, "SANDBOXED_REDIS_URL": worker.url},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture
def evaluate(start):
    """Run it to its end; give its exit code and what it wrote."""

    def evaluate(*words: str) -> tuple[int, str, str]:
        process = start(*words)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    return evaluate


@pytest.fixture
def samples(tmp_path: Path):
    """Write samples of the example problem."""

    def samples(*completions: str) -> str:
        path = tmp_path / "samples.jsonl"
        lines = [json.dumps({"task_id": "test/0", "completion": text}) for text in completions]
        path.write_text("\n".join([*lines, ""]))
        return str(path)

    return samples


def results(path: str) -> list[dict[str, Any]]:
    """Read the results that stand beside the samples."""
    return [json.loads(line) for line in Path(f"{path}_results.jsonl").read_text().splitlines()]


def test_figures_and_results(evaluate, samples):
    """For people, and as JSON."""
    path = samples("    return 1", "    return 2", "    return 1", "    return 2", "    exit()")

    code, out, err = evaluate("--k", "1,2,10", PROBLEM, path)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "2 of 5 samples passed (3 programs)",
        "pass@1  0.4000",
        "pass@2  0.7000",
        f"results: {path}_results.jsonl",
    ]
    assert [one["passed"] for one in results(path)] == [True, False, True, False, False]
    assert [one["result"] for one in results(path)][1] == "failed: AssertionError"

    code, out, _ = evaluate("--json", "--runs", "3", "--isolated", PROBLEM, path)
    assert code == 0
    told = json.loads(out)
    assert told["pass_at"] == {"1": pytest.approx(0.4)}
    assert (told["runs"], told["agreement"]) == ([{"1": 0.4}] * 3, 1.0)


def test_killed_and_started_again_it_runs_only_what_is_missing(start, evaluate, samples, wait_until):
    """With the same results as if nothing had happened."""
    slow = "    import time\n    time.sleep(0.2)\n    return "
    path = samples(*(f"{slow}{1 + n % 2}  # {n}" for n in range(30)))
    journal = Path(f"{path}_results.jsonl.part")

    process = start(PROBLEM, path)
    wait_until(lambda: journal.exists() and journal.read_bytes().count(b"\n") >= 5)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    known = journal.read_bytes().splitlines()
    journal.write_bytes(b"\n".join([*known, b'["0:12']))  # it may be cut off anywhere

    code, out, _ = evaluate("--json", PROBLEM, path)

    assert code == 0
    assert json.loads(out)["resumed"] == len(known)
    assert [one["passed"] for one in results(path)] == [True, False] * 15
    assert not journal.exists()


def test_what_was_judged_otherwise_is_not_taken_for_known(start, evaluate, samples, wait_until):
    """Another limit, another way of judging: another result."""
    path = samples(*(f"    import time\n    time.sleep(0.2)\n    return 1  # {n}" for n in range(8)))
    journal = Path(f"{path}_results.jsonl.part")
    process = start(PROBLEM, path)
    wait_until(lambda: journal.exists() and journal.read_bytes().count(b"\n") >= 2)
    process.send_signal(signal.SIGKILL)
    process.communicate()

    code, out, _ = evaluate("--json", "--memory", "16K", PROBLEM, path)

    assert code == 0
    assert json.loads(out)["resumed"] == 0
    assert {one["passed"] for one in results(path)} == {False}


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--k", "0"], 2, "is no list of numbers such as 1,10,100"),
        (["--wall-time", "0"], 2, "--wall-time: expected a finite number above 0"),
        (["--local", "--redis", "redis://localhost"], 2, "--local needs no queue"),
        (["--runtime", "cobol"], 3, "invalid job: runtime: 'cobol' is not offered here"),
        (["--memory", "64G"], 3, "invalid job: limits.memory"),
    ],
)
def test_what_can_not_be_done_is_told_in_one_line(evaluate, samples, words, code, told):
    """Bad usage is 2, a job that can't be run as asked is 3; no figures then."""
    path = samples("    return 1")

    ended, out, err = evaluate(*words, PROBLEM, path)

    assert (ended, out) == (code, "")
    assert told in err
    assert err.count("\n") == 1
    assert not Path(f"{path}_results.jsonl").exists()


def test_files_that_are_none_are_told_in_one_line(evaluate, samples, tmp_path):
    """A file that is not there is bad usage; one that can't be used is 3."""
    path = samples("    return 1")
    empty = tmp_path / "empty"
    empty.write_text("")

    for words, code, told in [
        ((str(tmp_path / "none"), path), 2, "none"),
        ((str(empty), path), 3, f"{empty}: no problems in it"),
        ((PROBLEM, str(empty)), 3, f"{empty}: no samples in it"),
        ((path, path), 3, f"{path}:1: 'test/0': has neither a test nor a test_list"),
    ]:
        ended, out, err = evaluate(*words)
        assert (ended, out) == (code, "")
        assert told in err
        assert err.count("\n") == 1
