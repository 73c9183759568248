"""The client and a real worker: what goes in at one end comes out at the other."""

import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from producer import Client, Job, Limits, Result, Status

SLEEP = "import time; print('started', flush=True); time.sleep(20)"
#: Prints what no two runs share.
CLOCK = "import time; print(time.time_ns())"


@pytest.fixture
def client(worker: Any) -> Iterator[Client]:
    """Make a client of the Redis that the worker serves."""
    with Client(worker.url, timeout=20) as client:
        yield client


def wait_for_start(worker: Any, job_id: str) -> None:
    """Wait until a worker has taken the job."""
    deadline = time.monotonic() + 10
    while not worker.redis.exists(f"sandboxed:attempts:{job_id}"):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_job_runs(client: Client) -> None:
    """Its result says where and when."""
    before = time.time()
    result = client.run("print('hello')")

    assert (result.status, result.text, result.exit_code) == (Status.OK, "hello\n", 0)
    assert result.ok
    assert result.worker
    assert result.attempts == 1
    assert result.submitted_at is not None
    assert result.started_at is not None
    assert result.finished_at is not None
    assert before <= result.submitted_at <= result.started_at <= result.finished_at


def test_every_field_of_a_job_arrives(client: Client) -> None:
    """Input, arguments, variables, files, labels; output and files that are no text."""
    source = """
import os, sys
data = sys.stdin.buffer.read() + open('data/in.bin', 'rb').read()
sys.stdout.buffer.write(data)
print(sys.argv[1:], os.environ['GREETING'], file=sys.stderr)
open('out.bin', 'wb').write(data[::-1])
"""
    job = Job(
        source,
        args=("ä b", "c"),
        stdin=b"\xff\x00",
        env={"GREETING": "grüezi"},
        files={"data/in.bin": b"\xfe\x80"},
        collect=("*.bin",),
        labels={"who": "Zoë", "n": "1"},
    )

    result = client.run(job)

    assert result.ok, result
    assert result.stdout == b"\xff\x00\xfe\x80"
    assert result.stderr.decode() == "['ä b', 'c'] grüezi\n"
    assert dict(result.files) == {"out.bin": b"\x80\xfe\x00\xff"}
    assert result.labels == job.labels


def test_a_script_that_fails_is_a_result(client: Client) -> None:
    """Nothing is raised on the caller's side."""
    result = client.run("raise SystemExit(3)")

    assert (result.status, result.exit_code) == (Status.NONZERO_EXIT, 3)


def test_a_limit_over_the_workers_maximum_is_refused_by_name(client: Client) -> None:
    """Only the worker can know its maxima."""
    result = client.run(Job("pass", limits=Limits(memory=1 << 40)))

    assert result.status is Status.INVALID_JOB
    assert result.error is not None
    assert "memory" in result.error


def test_a_map_runs_many_jobs(client: Client) -> None:
    """Each with its own answer, in order when asked."""
    jobs = [Job("print(input())", stdin=str(number)) for number in range(60)]

    pairs = list(client.map(jobs, ordered=True))

    assert [job for job, _ in pairs] == jobs
    assert [result.text.strip() for _, result in pairs] == [str(number) for number in range(60)]


def test_a_running_job_is_cancelled_within_a_second_or_so(client: Client, worker: Any) -> None:
    """The worker kills its jail, and says so."""
    future = client.submit(Job(SLEEP, limits=Limits(wall_time=30), labels={"a": "b"}))
    wait_for_start(worker, future.id)
    started = time.monotonic()

    assert future.cancel()
    result = future.result(5)

    assert time.monotonic() - started < 2.5
    assert (result.status, result.labels) == (Status.CANCELLED, {"a": "b"})
    assert future.cancelled()


def test_a_queued_job_that_is_cancelled_never_runs(client: Client, worker: Any) -> None:
    """It ends at once, and the worker passes over its message."""
    running = client.submit_all([Job(SLEEP, limits=Limits(wall_time=30))] * 2)
    for future in running:
        wait_for_start(worker, future.id)
    queued = client.submit("print('ran')")

    assert queued.cancel()
    assert queued.result(1).status is Status.CANCELLED
    assert client.cancel_all(running) == 2
    assert all(future.result(5).status is Status.CANCELLED for future in running)
    assert client.run("print('next')").ok
    assert client.future(queued.id).result(0).text == ""


def test_cancelling_races_with_the_end_and_one_of_them_wins(client: Client) -> None:
    """A job is done or cancelled, and what it was stays."""
    for delay in (0.0, 0.01, 0.02, 0.03, 0.05):
        future = client.submit("print('done')")
        time.sleep(delay)
        asked = future.cancel()
        result = future.result(5)

        assert result.status in ((Status.OK, Status.CANCELLED) if asked else (Status.OK,))
        time.sleep(0.05)
        assert client.future(future.id).result(0) == result


def test_a_job_takes_little_longer_than_it_takes(client: Client) -> None:
    """What the queue adds is milliseconds, not polling."""
    client.run("pass")
    took = []
    for _ in range(10):
        started = time.monotonic()
        result = client.run("pass")
        took.append(time.monotonic() - started - result.wall_time)

    assert sorted(took)[5] < 0.2


def test_many_threads_and_clients_share_a_worker(client: Client, worker: Any) -> None:
    """Nobody gets another's answer."""
    wrong: list[Result] = []

    def ask(name: str, asking: Client) -> None:
        for number in range(5):
            result = asking.run(Job("print(input())", stdin=f"{name} {number}"))
            if result.text != f"{name} {number}\n":
                wrong.append(result)

    with Client(worker.url, timeout=20) as other:
        threads = [
            threading.Thread(target=ask, args=(f"{name}{number}", asking))
            for number in range(3)
            for name, asking in (("a", client), ("b", other))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert wrong == []


def test_a_job_of_an_id_that_is_known_does_not_run_again(worker: Any) -> None:
    """Neither when it is done nor while it waits or runs, and whoever submits it."""
    done, waits = str(uuid.uuid4()), str(uuid.uuid4())
    jobs = [Job(CLOCK), Job(CLOCK + "; time.sleep(1)")]
    with Client(worker.url) as first, Client(worker.url) as second:
        once = first.submit_chunks(jobs[:1], 1, [done])[0].result()
        running = first.submit_chunks(jobs[1:], 1, [waits])
        again = second.submit_chunks([*jobs, CLOCK], 10, [done, waits, None])
        results = [future.result() for future in (*again, *running)]

    assert results[0] == once
    assert results[1] == results[3]
    assert len({result.stdout for result in results}) == 3
    assert [again[0].id, again[1].id] == [done, waits]
