"""Pairs: two jobs that talk, in one message and one slot of a worker, each with a result of its own."""

import asyncio
import os
import signal
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psutil
import pytest

from producer import AsyncClient, Client, Job, Limits, Status
from sandbox_core.wire import (
    ATTEMPTS_PREFIX,
    CANCEL_PREFIX,
    QUEUE,
    RESULT_PREFIX,
    RUNNING_PREFIX,
    TASK_PAIR,
)

ASKS = "print(20, flush=True); print(input())"
DOUBLES = "print(2 * int(input()))"
SLEEPS = "import time; time.sleep(50)"
SLOW = "import time; time.sleep(1.5)"
LONG = Limits(wall_time=55)


def send(worker: Any, first: object, second: object, ids: list[str] | None = None) -> list[str]:
    """Send two jobs as any program could, and give their ids."""
    ids = ids or [str(uuid.uuid4()), str(uuid.uuid4())]
    pair = {
        name: {"id": job_id, "job": job}
        for name, job_id, job in zip(("first", "second"), ids, (first, second), strict=True)
    }
    worker.celery.send_task(TASK_PAIR, args=[pair], queue=QUEUE)
    return ids


def results(worker: Any, ids: list[str]) -> list[dict[str, Any]]:
    """Wait for both results."""
    return [worker.result(job_id, 30) for job_id in ids]


def attempts(worker: Any, job_id: str) -> int:
    """Give how often a job was taken."""
    return int(worker.redis.get(ATTEMPTS_PREFIX + job_id) or 0)


def test_two_jobs_talk_through_a_queue(worker: Any) -> None:
    """Each has a whole result under its own id, and the one that ended first says so."""
    ids = send(worker, {"source": ASKS, "labels": {"a": "1"}}, {"source": DOUBLES})
    first, second = results(worker, ids)

    assert (first["stdout"], second["stdout"]) == ("20\n40\n", "40\n")
    assert (first["labels"], second["labels"]) == ({"a": "1"}, {})
    assert first["worker"] == second["worker"]
    assert first["attempts"] == second["attempts"] == 1

    waits, ends = results(worker, send(worker, {"source": "input()"}, {"source": "pass"}))
    assert (waits["status"], ends["status"]) == ("nonzero_exit", "ok")
    assert ends["finished_at"] < waits["finished_at"]


def test_a_client_submits_pairs(worker: Any) -> None:
    """Several in one round trip; more of them than there are slots."""
    with Client(worker.url) as client:
        made = client.submit_pairs((ASKS, Job(f"print({n} + int(input()))")) for n in range(6))
        found = [(first.result(30).text, second.result(30).text) for first, second in made]

    assert found == [(f"20\n{20 + n}\n", f"{20 + n}\n") for n in range(6)]


def test_an_asyncio_client_submits_pairs(worker: Any) -> None:
    """With the same results."""

    async def main() -> list[str]:
        async with AsyncClient(worker.url) as client:
            ((first, second),) = await client.submit_pairs([(ASKS, DOUBLES)])
            return [(await first).text, (await second).text]

    assert asyncio.run(main()) == ["20\n40\n", "40\n"]


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_every_pool_runs_pairs(start_worker: Callable[..., Any], pool: str) -> None:
    """With a single slot."""
    worker = start_worker("-P", pool, "-c", "1")

    assert [
        one["status"] for one in results(worker, send(worker, {"source": ASKS}, {"source": DOUBLES}))
    ]
    pair = results(worker, send(worker, {"source": ASKS}, {"source": DOUBLES}))
    assert [one["stdout"] for one in pair] == ["20\n40\n", "40\n"]
    assert worker.run("print(1)")["stdout"] == "1\n"
    assert worker.stop() == 0


@pytest.mark.parametrize(
    ("first", "second", "errors"),
    [
        ({"source": "", "limts": 1}, {"source": ""}, ("limts", "the first: ")),
        ({"source": ""}, 17, ("the second of the pair: ", "expected an object")),
        ({"source": ""}, {"source": "", "limits": {"memory": 1 << 50}}, ("memory", "memory")),
        ({"source": "", "runtime": "cobol"}, {"source": SLEEPS}, ("cobol", "cobol")),
    ],
)
def test_a_pair_of_which_one_is_wrong_is_not_run(
    worker: Any, first: object, second: object, errors: tuple[str, str]
) -> None:
    """And both results say why."""
    found = results(worker, send(worker, first, second))

    assert [one["status"] for one in found] == ["invalid_job"] * 2
    assert all(told in one["error"] for told, one in zip(errors, found, strict=True))


JOB: dict[str, Any] = {"source": ""}


@pytest.mark.parametrize(
    "args",
    [
        [],
        [JOB],
        [[{"id": "a", "job": JOB}, {"id": "b", "job": JOB}]],
        [{"first": {"id": "a", "job": JOB}}],
        [{"first": {"id": "a", "job": JOB}, "second": {"id": "a", "job": JOB}}],
        [{"first": {"id": "a", "job": JOB}, "second": {"id": "", "job": JOB}}],
        [{"first": {"id": "a", "job": JOB}, "second": {"id": "b", "job": JOB}, "third": 1}],
    ],
    ids=["nothing", "a job", "an array", "one", "one id", "no id", "three"],
)
def test_what_is_no_pair_is_answered_under_its_own_id(worker: Any, args: list[object]) -> None:
    """Nobody else can be told; and the worker goes on."""
    sent = worker.celery.send_task(TASK_PAIR, args=args, queue=QUEUE)

    assert worker.result(sent.id)["status"] == "invalid_job"
    assert worker.run("print(1)")["stdout"] == "1\n"


@pytest.mark.parametrize("place", [0, 1])
def test_cancelling_either_job_ends_both(
    worker: Any, wait_until: Callable[..., Any], place: int
) -> None:
    """While they run."""
    with Client(worker.url) as client:
        ((first, second),) = client.submit_pairs([(Job(SLEEPS, limits=LONG), Job(SLEEPS, limits=LONG))])
        wait_until(lambda: attempts(worker, second.id))
        assert (first, second)[place].cancel()
        found = [first.result(20), second.result(20)]

    assert [one.status for one in found] == [Status.CANCELLED] * 2


@pytest.mark.parametrize("place", [0, 1])
def test_a_job_that_is_cancelled_in_the_queue_takes_the_other_with_it(worker: Any, place: int) -> None:
    """It has a result already; the other gets the same."""
    ids = [str(uuid.uuid4()), str(uuid.uuid4())]
    with Client(worker.url) as client:
        assert client.cancel(ids[place])
        send(worker, {"source": SLEEPS}, {"source": SLEEPS}, ids)
        found = results(worker, ids)

    assert [one["status"] for one in found] == ["cancelled"] * 2


def test_a_flag_alone_cancels_a_pair(worker: Any) -> None:
    """As any program may set it."""
    ids = [str(uuid.uuid4()), str(uuid.uuid4())]
    worker.redis.set(CANCEL_PREFIX + ids[1], 1, ex=60)
    send(worker, {"source": SLEEPS, "labels": {"a": "b"}}, {"source": SLEEPS}, ids)
    first, second = results(worker, ids)

    assert first["status"] == second["status"] == "cancelled"
    assert first["labels"] == {"a": "b"}


def test_a_pair_whose_pool_process_is_killed_runs_again(
    worker: Any, wait_until: Callable[..., Any]
) -> None:
    """Both of it, and only once more."""
    ids = send(worker, {"source": SLOW}, {"source": SLOW})
    mark = wait_until(lambda: worker.redis.get(RUNNING_PREFIX + ids[1]))
    os.kill(int(mark.split()[1]), signal.SIGKILL)
    found = results(worker, ids)

    assert [(one["status"], one["attempts"]) for one in found] == [("ok", 2)] * 2


def test_a_pair_is_run_again_where_the_sandbox_fails_at_one(
    start_worker: Callable[..., Any], wait_until: Callable[..., Any]
) -> None:
    """The other one does not go on alone."""
    worker = start_worker("-c", "1")
    script = {"source": "import time; time.sleep(4)"}
    ids = send(worker, script, script)
    pool_process = int(wait_until(lambda: worker.redis.get(RUNNING_PREFIX + ids[1])).split()[1])
    # As for a single job (test_worker_faults): two processes of the jail, two of the one to come.
    wait_until(lambda: sum(len(children(one)) >= 4 for one in children(pool_process)) == 2)
    os.kill(children(pool_process)[-1], signal.SIGKILL)
    found = results(worker, ids)

    assert [(one["status"], one["attempts"]) for one in found] == [("ok", 2)] * 2
    assert f"pair {ids[0]} {ids[1]} is tried again" in worker.log.read_text()


def children(pid: int) -> list[int]:
    """Give the processes that a process has started, the newest last; none where it has ended."""
    with suppress(psutil.NoSuchProcess):
        return [child.pid for child in psutil.Process(pid).children()]
    return []


def test_a_pair_that_kills_every_worker_is_given_up(start_worker: Callable[..., Any]) -> None:
    """After as many attempts as any job has."""
    worker = start_worker("-c", "1", SANDBOXED_MAX_ATTEMPTS="1")
    ids = [str(uuid.uuid4()), str(uuid.uuid4())]
    worker.redis.set(ATTEMPTS_PREFIX + ids[0], 1, ex=60)
    found = results(worker, send(worker, {"source": SLEEPS}, {"source": SLEEPS}, ids))

    assert [one["status"] for one in found] == ["internal_error"] * 2
    assert all("not tried again" in one["error"] for one in found)


def test_a_pair_that_is_delivered_twice_runs_once(worker: Any, wait_until: Callable[..., Any]) -> None:
    """The second delivery waits for the first, and then finds both results."""
    script = {"source": "import random, time; time.sleep(1); print(random.random())"}
    ids = send(worker, script, script)
    wait_until(lambda: attempts(worker, ids[1]))
    send(worker, script, script, ids)
    stored: list[str] = []
    with worker.redis.pubsub() as listening:
        listening.subscribe(*(RESULT_PREFIX + job_id for job_id in ids))
        found = results(worker, ids)
        wait_until(lambda: not worker.redis.llen(QUEUE) and not worker.redis.hlen("unacked"), 30)
        while heard := listening.get_message(timeout=0.2):
            if heard["type"] == "message":
                stored.append(heard["channel"].decode())

    assert results(worker, ids) == found
    assert [one["attempts"] for one in found] == [1, 1]
    assert sorted(stored) == sorted(RESULT_PREFIX + job_id for job_id in ids)


def test_sources_of_a_pair_are_not_shown(worker: Any, wait_until: Callable[..., Any]) -> None:
    """Neither in the log nor to monitors; one short line is."""
    ids = send(worker, {"source": f"{SLOW} # HIDDEN"}, {"source": f"{SLOW} # HIDDEN"})
    wait_until(lambda: attempts(worker, ids[1]))
    active = worker.celery.control.inspect(timeout=5, limit=1).active()
    shown = [request["args"] for requests in active.values() for request in requests]
    results(worker, ids)
    worker.run("print(1)")
    log = worker.log.read_text()

    assert "a pair: python · 37 B | python · 37 B" in shown
    for job_id in ids:
        assert f"job {job_id} · ok · " in log
    assert "HIDDEN" not in log
