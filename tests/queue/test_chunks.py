"""Chunks: several jobs in one message, each with its own jail, result, cancellation and attempts."""

import base64
import json
import os
import signal
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from producer import AsyncClient, Client, Job, Limits, Status, message
from sandbox_core.wire import (
    ATTEMPTS_PREFIX,
    CANCEL_PREFIX,
    QUEUE,
    RESULT_PREFIX,
    RUNNING_PREFIX,
    TASK_MANY,
)

SLOW = "import time; time.sleep(1.5)"


def push(worker: Any, *sources: str) -> list[str]:
    """Put jobs into one message, and give their ids."""
    ids = [str(uuid.uuid4()) for _ in sources]
    texts = [message.job_text(Job(source)) for source in sources]
    worker.redis.lpush(
        QUEUE, message.encode_chunk(list(zip(ids, texts, strict=True)), time.time(), ids[0])
    )
    return ids


def attempts(worker: Any, job_id: str) -> int:
    """Give how often a job was taken."""
    return int(worker.redis.get(ATTEMPTS_PREFIX + job_id) or 0)


def test_each_job_of_a_chunk_has_its_own_jail_and_result(worker: Any) -> None:
    """What one leaves behind, the next one does not see."""
    source = "import os, pathlib; print(os.listdir()); pathlib.Path('left').touch()"
    results = [worker.result(job_id) for job_id in push(worker, source, source, source)]

    assert [result["stdout"] for result in results] == ["['main.py']\n"] * 3
    assert [result["attempts"] for result in results] == [1] * 3
    assert all(result["submitted_at"] <= result["started_at"] for result in results)


def test_a_result_is_there_before_the_chunk_ends(worker: Any) -> None:
    """A caller of the first job does not wait for the second."""
    first, second = push(worker, "print(1)", SLOW)
    worker.result(first)

    assert worker.redis.get(RESULT_PREFIX + second) is None
    assert worker.result(second)["status"] == "ok"


def test_a_bad_job_spoils_its_own_result_alone(worker: Any) -> None:
    """Whatever is wrong with it."""
    ids = [str(uuid.uuid4()) for _ in range(4)]
    jobs: list[object] = [{"source": "", "limts": 1}, 17, {"source": "exit(3)"}, {"source": "print(1)"}]
    worker.celery.send_task(
        TASK_MANY,
        args=[[{"id": job_id, "job": job} for job_id, job in zip(ids, jobs, strict=True)]],
        queue=QUEUE,
    )
    results = [worker.result(job_id)["status"] for job_id in ids]

    assert results == ["invalid_job", "invalid_job", "nonzero_exit", "ok"]


@pytest.mark.parametrize(
    "args",
    [
        [],
        [{"source": ""}],
        [[{"source": ""}]],
        [[{"id": 1, "job": {}}]],
        [[{"id": "", "job": {}}]],
        [[{"id": "x" * 1000, "job": {}}]],
        [[{"id": "a", "job": {}, "more": 1}]],
        [[{"id": "a", "job": {}}] * 1001],
    ],
    ids=["nothing", "a job", "no ids", "a number", "empty", "long", "unknown", "too many"],
)
def test_what_is_no_chunk_is_answered_under_its_own_id(worker: Any, args: list[object]) -> None:
    """Nobody else can be told; and the worker goes on."""
    sent = worker.celery.send_task(TASK_MANY, args=args, queue=QUEUE)

    assert worker.result(sent.id)["status"] == "invalid_job"
    assert worker.run("print(1)")["stdout"] == "1\n"


def test_slow_jobs_of_a_chunk_run_in_every_slot(worker: Any) -> None:
    """What waits behind a job that takes long goes to whoever is idle."""
    results = [worker.result(job_id) for job_id in push(worker, SLOW, SLOW)]

    assert [result["attempts"] for result in results] == [1, 1]
    assert results[0]["submitted_at"] == results[1]["submitted_at"]
    assert results[1]["started_at"] < results[0]["finished_at"]


def test_a_chunk_whose_pool_process_is_killed_goes_on_where_it_was(
    worker: Any, wait_until: Callable[..., Any]
) -> None:
    """What has a result is not run again; what was running is, and the rest runs once."""
    first, second, third = push(worker, "import random; print(random.random())", SLOW, "print(3)")
    before = worker.result(first)
    mark = wait_until(lambda: worker.redis.get(RUNNING_PREFIX + second))
    os.kill(int(mark.split()[1]), signal.SIGKILL)
    second_result, third_result = worker.result(second), worker.result(third)

    assert worker.result(first) == before
    assert (second_result["status"], second_result["attempts"]) == ("ok", 2)
    assert (third_result["status"], third_result["attempts"]) == ("ok", 1)


def test_a_job_of_a_chunk_is_cancelled_queued_and_running(
    worker: Any, wait_until: Callable[..., Any]
) -> None:
    """Each alone; its neighbours run."""
    with Client(worker.url) as client:
        running, waiting, last = push(worker, "while True: pass", "print(2)", "print(3)")
        assert client.cancel(waiting)
        wait_until(lambda: attempts(worker, running))
        assert client.cancel(running)
        results = [worker.result(job_id) for job_id in (running, waiting, last)]

    assert [result["status"] for result in results] == ["cancelled", "cancelled", "ok"]
    assert [result["stdout"] for result in results] == ["", "", "3\n"]


def test_a_flag_alone_cancels_a_job_that_its_chunk_has_not_begun(worker: Any) -> None:
    """As any program may set it."""
    job_id = str(uuid.uuid4())
    worker.redis.set(CANCEL_PREFIX + job_id, 1, ex=60)
    text = message.job_text(Job("print(1)", labels={"a": "b"}))
    worker.redis.lpush(QUEUE, message.encode_chunk([(job_id, text)] * 2, time.time(), job_id))
    result = worker.result(job_id)

    assert (result["status"], result["labels"]) == ("cancelled", {"a": "b"})


def test_a_chunk_delivered_twice_runs_each_job_once(
    worker: Any, wait_until: Callable[..., Any]
) -> None:
    """Side by side in two slots; each result is stored once."""
    ids = [str(uuid.uuid4()) for _ in range(12)]
    text = message.job_text(Job("import random, time; time.sleep(.02); print(random.random())"))
    entries = [(job_id, text) for job_id in ids]
    stored: list[str] = []
    with worker.redis.pubsub() as listening:
        for job_id in ids:
            listening.subscribe(RESULT_PREFIX + job_id)
        for _ in range(2):
            worker.redis.lpush(QUEUE, message.encode_chunk(entries, time.time(), ids[0]))
        first = [worker.result(job_id) for job_id in ids]
        wait_until(lambda: not worker.redis.llen(QUEUE) and not worker.redis.hlen("unacked"))
        while heard := listening.get_message(timeout=0.1):
            if heard["type"] == "message":
                stored.append(heard["channel"].decode())

    assert [worker.result(job_id) for job_id in ids] == first
    assert sorted(stored) == sorted(RESULT_PREFIX + job_id for job_id in ids)


def test_sources_of_a_chunk_are_not_shown(worker: Any, wait_until: Callable[..., Any]) -> None:
    """Neither in the log nor to monitors; one short line is."""
    ids = push(worker, f"{SLOW}; print('SEC' + 'RET') # HIDDEN", "print(2) # HIDDEN")
    wait_until(lambda: attempts(worker, ids[0]))
    active = worker.celery.control.inspect(timeout=5, limit=1).active()
    shown = [request["args"] for requests in active.values() for request in requests]
    for job_id in [*ids, *push(worker, "print(1) # HIDDEN", "print(2) # HIDDEN")]:
        worker.result(job_id)
    worker.run("print(1)")
    log = worker.log.read_text()

    assert "2 python jobs" in shown
    for job_id in ids:
        assert f"job {job_id} · ok · " in log
    assert "HIDDEN" not in log
    assert "SECRET" not in log


def test_a_map_in_chunks_gives_every_result_once(worker: Any) -> None:
    """Whatever the size of its chunks."""
    with Client(worker.url) as client:
        for chunksize in (None, 1, 7):
            jobs = [Job("import sys; print(sys.argv[1])", args=(str(n),)) for n in range(60)]
            pairs = list(client.map(jobs, chunksize=chunksize))
            assert sorted(int(result.text) for _, result in pairs) == list(range(60))
            assert all(job.args[0] == result.text.strip() for job, result in pairs)
            assert {result.attempts for _, result in pairs} == {1}


async def mapped(url: str) -> list[tuple[Job, Any]]:
    """Map some jobs in asyncio, in large chunks."""
    async with AsyncClient(url) as client:
        jobs = [Job("import sys; print(sys.argv[1])", args=(str(n),)) for n in range(40)]
        return [pair async for pair in client.map(jobs, ordered=True, chunksize=10)]


def test_asyncio_maps_in_chunks_too(worker: Any) -> None:
    """With the same results."""
    import asyncio  # noqa: PLC0415  # for this one test

    pairs = asyncio.run(mapped(worker.url))

    assert [result.text for _, result in pairs] == [f"{n}\n" for n in range(40)]


# What a client puts together; no worker is asked.


def sizes(client: Client, url: str, jobs: list[Job], **options: Any) -> list[int]:
    """Give how many jobs are in each message of a map, the first message first."""
    import redis  # noqa: PLC0415  # here alone

    with redis.Redis.from_url(url) as server:
        server.delete(QUEUE)
        with pytest.raises(TimeoutError):
            next(client.map(jobs, timeout=0.1, **options))
        found = []
        for data in reversed(server.lrange(QUEUE, 0, -1)):  # type: ignore[arg-type]
            envelope = json.loads(data)
            argument = json.loads(base64.b64decode(envelope["body"]))[0][0]
            many = envelope["headers"]["task"] == TASK_MANY
            found.append(len(argument) if many else 1)
        server.delete(QUEUE)
    return found


def test_few_jobs_travel_alone(redis_url: str) -> None:
    """Each may find an idle slot."""
    with Client(redis_url) as client:
        assert sizes(client, redis_url, [Job("")] * 16) == [1] * 16


def test_many_jobs_share_messages(redis_url: str) -> None:
    """As many as leave work for sixteen slots, or as the caller says."""
    with Client(redis_url) as client:
        jobs = [Job("")] * 64
        assert sizes(client, redis_url, jobs) == [4] * 16
        assert sizes(client, redis_url, jobs, chunksize=1) == [1] * 64
        assert sizes(client, redis_url, jobs, chunksize=8) == [8] * 8


def test_a_chunk_is_bounded_by_its_wall_limits_and_its_size(redis_url: str) -> None:
    """A minute together; a quarter of a MiB, above which a job travels alone."""
    with Client(redis_url) as client:
        slow = [Job("", limits=Limits(wall_time=25))] * 6
        assert sizes(client, redis_url, slow, chunksize=6) == [2, 2, 2]
        large = [Job("#" * 100_000)] * 4 + [Job("#" * 300_000)] * 2
        assert sizes(client, redis_url, large, chunksize=6) == [2, 2, 1, 1]


def test_a_wrong_chunksize_is_told_at_once(redis_url: str) -> None:
    """Not at the first result."""
    with Client(redis_url) as client, pytest.raises(ValueError, match="chunksize"):
        client.map([], chunksize=0)


def test_a_job_of_a_chunk_that_waits_is_cancelled_in_the_queue(redis_url: str) -> None:
    """Its result is there at once, though its message is not its own."""
    with Client(redis_url) as client:
        futures = client.submit_chunks(["a", "b", "c"], 3)

        assert futures[1].cancel()
        assert futures[1].result(1).status is Status.CANCELLED
        assert not futures[0].done()
        client.cancel_all(futures)
