"""`AsyncClient`: the client's verbs for asyncio, and an event loop that never waits for a socket."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import aclosing
from typing import Any

import pytest
import redis

from producer import AsyncClient, Job, Limits, Status
from sandbox_core.wire import CANCEL_PREFIX, QUEUE

SLEEP = "import time; time.sleep(20)"


@pytest.fixture
def server(redis_url: str) -> Iterator[redis.Redis]:
    """Connect to a Redis without a worker; the queue is empty before and after."""
    with redis.Redis.from_url(redis_url) as server:
        server.delete(QUEUE)
        yield server
        server.delete(QUEUE)


async def longest_pause(work: Coroutine[Any, Any, Any]) -> tuple[Any, float]:
    """Do `work`, and measure how long the event loop was held up meanwhile."""
    longest = 0.0

    async def tick() -> None:
        nonlocal longest
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.001)
            longest = max(longest, time.monotonic() - before)

    ticking = asyncio.create_task(tick())
    try:
        return await work, longest
    finally:
        ticking.cancel()


def cancelled_ids(server: redis.Redis) -> set[str]:
    """Give the ids of jobs in the queue that were cancelled."""
    ids = [json.loads(data)["headers"]["id"] for data in server.lrange(QUEUE, 0, -1)]  # type: ignore[union-attr]
    return {job_id for job_id in ids if server.exists(CANCEL_PREFIX + job_id)}


def test_run_and_submit(worker: Any) -> None:
    """Await a run; await a future, or its result with a timeout."""

    async def main() -> None:
        async with AsyncClient(worker.url, timeout=20) as client:
            assert (await client.run("print('hello')")).text == "hello\n"
            future = await client.submit(Job("print(1)", labels={"a": "b"}))
            assert future.job == Job("print(1)", labels={"a": "b"})
            result = await future
            assert future.done()
            assert not future.cancelled()
            assert await future.result(timeout=5) == result
            again = await client.future(future.id)
            assert await again.result(0) == result

    asyncio.run(main())


def test_many_at_once(worker: Any) -> None:
    """A hundred tasks wait together, and the loop goes on turning."""

    async def main() -> tuple[list[str], float]:
        async with AsyncClient(worker.url, timeout=30) as client:
            await client.run("pass")  # redis-py is imported in a thread, which holds up the rest
            runs = [client.run(Job("print(input())", stdin=str(n))) for n in range(100)]
            results, pause = await longest_pause(_all(runs))
            return [result.text.strip() for result in results], pause

    async def _all(runs: list[Coroutine[Any, Any, Any]]) -> list[Any]:
        return await asyncio.gather(*runs)

    texts, pause = asyncio.run(main())

    assert texts == [str(number) for number in range(100)]
    assert pause < 0.5


@pytest.mark.parametrize("ordered", [False, True])
def test_map_over_a_plain_iterable(worker: Any, ordered: bool) -> None:  # noqa: FBT001
    """More jobs than fit the window."""

    async def main() -> list[tuple[Any, str]]:
        async with AsyncClient(worker.url, timeout=20) as client:
            jobs = (Job("print(input())", stdin=str(number)) for number in range(50))
            return [
                (job.stdin, result.text.strip())
                async for job, result in client.map(jobs, ordered=ordered, window=20)
            ]

    pairs = asyncio.run(main())

    assert all(given == got for given, got in pairs)
    numbers = [int(given) for given, _ in pairs]
    assert (numbers if ordered else sorted(numbers)) == list(range(50))


def test_map_over_an_asynchronous_iterable(worker: Any) -> None:
    """It is read as results are taken; one that waits, here for the result itself, holds up none."""

    async def main() -> list[int]:
        seen = [asyncio.Event() for _ in range(5)]

        async def jobs() -> AsyncIterator[str]:
            for number, event in enumerate(seen):
                yield f"print({number})"
                await asyncio.wait_for(event.wait(), 20)

        got = []
        async with AsyncClient(worker.url, timeout=20) as client:
            async for _, result in client.map(jobs()):
                got.append(int(result.text))
                seen[got[-1]].set()
        return got

    assert asyncio.run(main()) == [0, 1, 2, 3, 4]


def test_map_reads_no_further_than_its_window(server: redis.Redis, redis_url: str) -> None:
    """An endless input is no matter."""
    read = 0

    def jobs() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield "pass"

    async def main() -> None:
        async with AsyncClient(redis_url) as client:
            with pytest.raises(TimeoutError, match="7 jobs wait"):
                await anext(client.map(jobs(), window=7, timeout=0.2))

    asyncio.run(main())

    assert read == 8  # one is read, and waits for room
    assert len(cancelled_ids(server)) == 7


def test_leaving_a_map_early_cancels_what_is_in_flight(worker: Any) -> None:
    """At once, where it is closed."""

    async def main() -> list[str]:
        async with AsyncClient(worker.url, timeout=20) as client:
            jobs = ["print('first')", *[Job(SLEEP, limits=Limits(wall_time=30))] * 3]
            async with aclosing(client.map(jobs)) as results:  # type: ignore[type-var]
                async for _, result in results:
                    assert result.text == "first\n"
                    break
            started = time.monotonic()
            assert (await client.run("print('next')")).ok
            assert time.monotonic() - started < 5
            return []

    asyncio.run(main())


def test_an_input_that_fails_ends_the_map(server: redis.Redis, redis_url: str) -> None:
    """The caller gets the input's own exception."""

    async def jobs() -> AsyncIterator[str]:
        yield "pass"
        await asyncio.sleep(0.1)
        raise LookupError("no more")

    async def main() -> None:
        async with AsyncClient(redis_url) as client:
            with pytest.raises(LookupError, match="no more"):
                await anext(client.map(jobs()))

    asyncio.run(main())

    assert len(cancelled_ids(server)) == 1


def test_cancel_ends_a_job(server: redis.Redis, redis_url: str) -> None:
    """By its future, and by its id."""

    async def main() -> None:
        async with AsyncClient(redis_url, timeout=5) as client:
            first, second = await client.submit_all(["pass", "pass"])
            assert await first.cancel()
            assert await client.cancel(second.id)
            assert (await first).status is Status.CANCELLED
            assert (await second).status is Status.CANCELLED
            assert first.cancelled()
            assert not await first.cancel()

    asyncio.run(main())

    assert len(cancelled_ids(server)) == 2


def test_a_wait_that_is_over_tells_how_the_job_stands(server: redis.Redis, redis_url: str) -> None:
    """As the client does; `run` cancels the job, `result` does not."""

    async def main() -> None:
        async with AsyncClient(redis_url) as client:
            future = await client.submit("pass")
            with pytest.raises(TimeoutError, match=r"within 0\.1 s: at least 1 job waits"):
                await future.result(0.1)
            with pytest.raises(TimeoutError):
                await client.run("pass", timeout=0.1)

    asyncio.run(main())

    assert len(cancelled_ids(server)) == 1
    assert server.llen(QUEUE) == 2


def test_a_task_that_is_cancelled_cancels_the_job_it_runs(server: redis.Redis, redis_url: str) -> None:
    """Nobody could get the result; a future that is awaited is left alone."""

    async def main() -> None:
        async with AsyncClient(redis_url) as client:
            future = await client.submit("pass")
            waiting = asyncio.create_task(future.result())
            running = asyncio.create_task(client.run("pass"))
            await asyncio.sleep(0.2)
            for task in (waiting, running):
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert not future.done()

    asyncio.run(main())

    assert len(cancelled_ids(server)) == 1


def test_a_task_that_is_cancelled_while_it_submits_leaves_no_job(
    server: redis.Redis, redis_url: str
) -> None:
    """The message may be on its way already."""

    async def main() -> None:
        async with AsyncClient(redis_url) as client:
            task = asyncio.create_task(client.run("pass"))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())

    assert len(cancelled_ids(server)) == server.llen(QUEUE)


def test_an_unreachable_redis_is_told_and_the_loop_goes_on() -> None:
    """Within seconds, by name."""

    async def main(port: int) -> float:
        async with AsyncClient(f"redis://127.0.0.1:{port}") as client:

            async def use() -> None:
                with pytest.raises(ConnectionError, match=f":{port}/0"):
                    await client.run("pass")

            return (await longest_pause(use()))[1]

    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        pause = asyncio.run(main(silent.getsockname()[1]))

    assert time.monotonic() - started < 6
    assert pause < 0.5


def test_closing_fails_what_is_awaited(redis_url: str) -> None:
    """As `concurrent.futures` does it, with the client's own words."""

    async def main() -> None:
        async with AsyncClient(redis_url) as client:
            future = await client.submit("pass")
            waiting = asyncio.create_task(future.result())
            await asyncio.sleep(0.05)
        with pytest.raises(RuntimeError, match="closed"):
            await waiting

    asyncio.run(main())
