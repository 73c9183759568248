"""Jobs through a real worker, sent by plain Celery: what comes back, and what can be seen of them."""

import time
import uuid
from typing import Any

import pytest

from sandbox_core import Job
from sandbox_core.wire import CANCEL_PREFIX, TASK, TASK_MANY, TASK_PAIR, job_to_json, result_from_json


def test_a_celery_user_needs_no_producer(worker: Any) -> None:
    """`send_task` and `get` are enough; the value is the result as JSON."""
    sent = worker.celery.send_task(TASK, args=[{"source": "print(6 * 7)"}], queue="sandboxed")
    result = sent.get(timeout=15)

    assert result["status"] == "ok"
    assert result["stdout"] == "42\n"


def test_a_job_comes_back_with_all_that_it_gave(worker: Any) -> None:
    """Arguments, input, files, labels, bytes that are no text, and what it collected."""
    job = Job(
        "import sys, pathlib\n"
        "print(sys.argv[1:], pathlib.Path('in.bin').read_bytes())\n"
        "sys.stderr.write(input())\n"
        "pathlib.Path('out').write_bytes(b'\\xff\\x00')\n",
        args=("a", "é"),
        stdin="typed\n",
        files={"in.bin": b"\xfe"},
        collect=("out",),
        labels={"who": "me"},
    )
    result = result_from_json(worker.result(worker.send(job_to_json(job))))

    assert result.stdout == "['a', 'é'] b'\\xfe'\n".encode()
    assert result.stderr == b"typed"
    assert result.files == {"out": b"\xff\x00"}
    assert result.labels == {"who": "me"}


def test_a_result_tells_by_whom_and_when(worker: Any) -> None:
    """The Celery node, the times in their order, and that it was taken once."""
    before = time.time()
    job_id = worker.send({"source": ""}, headers={"submitted_at": before})
    result = worker.result(job_id)

    assert result["worker"] in worker.celery.control.inspect().ping()
    assert result["submitted_at"] == before
    assert before <= result["started_at"] <= result["finished_at"] <= time.time()
    assert result["attempts"] == 1


@pytest.mark.parametrize("header", [None, "yesterday", True, {"a": 1}])
def test_a_time_of_submission_that_is_none_is_left_out(worker: Any, header: object) -> None:
    """The header is the sender's and may be anything."""
    job_id = worker.send({"source": ""}, headers={"submitted_at": header})

    assert worker.result(job_id)["submitted_at"] is None


def test_a_script_that_fails_is_no_failed_task(worker: Any) -> None:
    """Its state is SUCCESS (which `result` checks), its value says how the script ended."""
    result = worker.run("raise SystemExit(3)")

    assert (result["status"], result["exit_code"]) == ("nonzero_exit", 3)


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ([{"source": "", "limts": {}}], "limts"),
        ([{"source": "", "limits": {"memory": 1 << 40}}], "limits.memory: 1099511627776 is more"),
        ([{"source": "", "limits": {"wall_time": -1}}], "limits.wall_time"),
        ([{"source": "", "runtime": "cobol"}], "cobol"),
        ([{"source": "", "files": {"../up": ""}}], "../up"),
        ([{}], "source: missing"),
        ([], "one argument"),
        ([{"source": ""}, {"source": ""}], "one argument"),
        (["print(1)"], "expected an object"),
        ([None], "expected an object"),
    ],
)
def test_what_is_no_job_is_answered(worker: Any, args: list[object], told: str) -> None:
    """As invalid_job, with what is wrong in it; and the worker goes on."""
    result = worker.result(worker.send(*args))

    assert result["status"] == "invalid_job"
    assert told in result["error"]
    assert worker.run("print('still here')")["stdout"] == "still here\n"


def test_a_job_named_by_keyword_is_answered(worker: Any) -> None:
    """The job is the one argument; nothing is guessed."""
    result = worker.result(worker.send(kwargs={"job": {"source": ""}}))

    assert result["status"] == "invalid_job"
    assert "job" in result["error"]


def test_a_running_job_is_cancelled_within_a_second(worker: Any) -> None:
    """The caller sets a key; the jail is killed, and the result is there."""
    job_id = worker.send({"source": "import time; time.sleep(5)", "labels": {"a": "b"}})
    worker.pool_process_of(job_id)
    asked = time.monotonic()
    worker.redis.set(CANCEL_PREFIX + job_id, 1, ex=60)
    result = worker.result(job_id)

    assert time.monotonic() - asked < 1
    assert result["status"] == "cancelled"
    assert result["labels"] == {"a": "b"}


def test_a_job_cancelled_before_it_is_taken_does_not_run(worker: Any) -> None:
    """The flag is seen when the job is taken."""
    job_id = str(uuid.uuid4())
    worker.redis.set(CANCEL_PREFIX + job_id, 1, ex=60)
    worker.send({"source": "print(1)"}, task_id=job_id)
    result = worker.result(job_id)

    assert (result["status"], result["stdout"]) == ("cancelled", "")


def test_jobs_run_side_by_side(worker: Any) -> None:
    """Two of them, in this worker."""
    began = time.monotonic()
    jobs = [worker.send({"source": "import time; time.sleep(1)"}) for _ in range(2)]
    for job_id in jobs:
        assert worker.result(job_id)["status"] == "ok"

    assert time.monotonic() - began < 1.9


# What can be seen from outside.


def test_celery_can_look_at_the_worker(worker: Any) -> None:
    """With the commands of `celery inspect`, and no options of ours."""
    inspect = worker.celery.control.inspect(limit=1)
    (node,) = inspect.ping()

    assert inspect.registered()[node] == [TASK, TASK_MANY, TASK_PAIR]
    assert inspect.stats()[node]["pool"]["max-concurrency"] == 2
    assert [queue["name"] for queue in inspect.active_queues()[node]] == ["sandboxed"]
    # Whoever may look sees all of it; and nothing but JSON gets in.
    assert inspect.conf()[node]["accept_content"] == ["json"]


def test_a_script_is_not_shown(worker: Any) -> None:
    """Neither the source nor the output are in what is logged or shown; one short line is."""
    job_id = worker.send({"source": "import time; time.sleep(1); print('SEC' + 'RET') # HIDDEN"})
    shown = worker.running(job_id)["args"]
    assert worker.result(job_id)["stdout"] == "SECRET\n"
    log = worker.log.read_text()

    assert shown == "python · 57 B"
    assert "HIDDEN" not in log
    assert "SECRET" not in log
    assert "superuser" not in log


def test_a_result_waits_for_a_day(worker: Any) -> None:
    """Then Redis forgets it."""
    job_id = worker.send({"source": ""})
    worker.result(job_id)

    assert 86_000 < worker.redis.ttl(f"celery-task-meta-{job_id}") <= 86_400
    assert 86_000 < worker.redis.ttl(f"sandboxed:attempts:{job_id}") <= 86_400
