"""The client's verbs for asyncio.

Results come through the same listener thread as the client's; what speaks to Redis runs in asyncio's
thread pool, so that the event loop never waits for a socket.
"""

import asyncio
import contextlib
import itertools
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable
from types import TracebackType
from typing import Any, Self

from producer.client import Client
from producer.future import Future
from producer.window import DEFAULT_SIZE, Script, Window
from sandbox_core import Job, Result


class AsyncFuture:
    """A job that was submitted; `await` it, or `result(timeout)`, for its result.

    `id` is the job's id, `job` the job (None where the future was made from an id alone). A task
    that is cancelled while it waits leaves the job alone.
    """

    def __init__(self, future: Future) -> None:
        self._future = future
        self.id = future.id
        self.job = future.job

    async def result(self, timeout: float | None = None) -> Result:  # noqa: ASYNC109  # as Future's
        """Wait for the result; `timeout` and the errors are those of `Future.result`."""
        patience = self._future.patience if timeout is None else timeout
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await _done(self._future)
        if self._future.done():
            return self._future.result(0)
        return await asyncio.to_thread(self._future.expire, patience)

    def __await__(self) -> Generator[Any, None, Result]:
        return self.result().__await__()

    def done(self) -> bool:
        """Say whether the result is there."""
        return self._future.done()

    def cancelled(self) -> bool:
        """Say whether the job has ended because it was cancelled."""
        return self._future.cancelled()

    async def cancel(self) -> bool:
        """End the job, queued or running; False where it was done already."""
        return await asyncio.to_thread(self._future.cancel)

    def __repr__(self) -> str:
        return f"<Async{repr(self._future)[1:]}"


class AsyncClient:
    """`Client` for asyncio: the same arguments, verbs and errors.

        async with AsyncClient() as client:
            result = await client.run("print('hello')")
            async for job, result in client.map(jobs): ...

    Leave a `map` early through `contextlib.aclosing`, so that what is in flight is cancelled there
    and then.
    """

    def __init__(self, url: str | None = None, *, timeout: float = 60.0) -> None:
        self._client = Client(url, timeout=timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<Async{repr(self._client)[1:]}"

    async def close(self) -> None:
        """Close the connections. Jobs go on; futures that are not done fail with `RuntimeError`."""
        await asyncio.to_thread(self._client.close)

    async def run(self, job: Script, timeout: float | None = None) -> Result:  # noqa: ASYNC109
        """Submit a job and wait for its result; a job that nobody waits for is cancelled."""
        future = await self.submit(job)
        try:
            return await future.result(timeout)
        except BaseException:
            with contextlib.suppress(OSError, RuntimeError):  # the first error is the one to tell
                await future.cancel()
            raise

    async def submit(self, job: Script) -> AsyncFuture:
        """Put a job in the queue; its result comes through the future."""
        return (await self.submit_all([job]))[0]

    async def submit_all(self, jobs: Iterable[Script]) -> list[AsyncFuture]:
        """Put several jobs in the queue, all or none, in one round trip."""
        given = list(jobs)
        futures = await _submit(self._client, lambda: self._client.submit_all(given))
        return [AsyncFuture(future) for future in futures]

    async def submit_pairs(
        self, pairs: Iterable[tuple[Script, Script]]
    ) -> list[tuple[AsyncFuture, AsyncFuture]]:
        """Put pairs of jobs that talk with each other in the queue, as `Client.submit_pairs` does."""
        given = list(pairs)

        def submit() -> list[Future]:
            return list(itertools.chain.from_iterable(self._client.submit_pairs(given)))

        futures = [AsyncFuture(future) for future in await _submit(self._client, submit)]
        return list(zip(futures[::2], futures[1::2], strict=True))

    def map(
        self,
        jobs: Iterable[Script] | AsyncIterable[Script],
        *,
        ordered: bool = False,
        timeout: float | None = None,
        window: int = DEFAULT_SIZE,
        chunksize: int | None = None,
    ) -> AsyncIterator[tuple[Job, Result]]:
        """Run many jobs; give each with its result, as they finish (`ordered`: in order).

        All is as in `Client.map`; `jobs` may be an asynchronous iterable too. A plain one is read
        in the event loop, and should be quick to give its next job.
        """
        if isinstance(jobs, str | bytes):
            raise TypeError("map: expected an iterable of jobs, got one source text")
        return self._map(jobs, Window(window, ordered=ordered, chunksize=chunksize), timeout)

    async def _map(
        self,
        jobs: Iterable[Script] | AsyncIterable[Script],
        flying: Window,
        timeout: float | None,  # noqa: ASYNC109  # as above
    ) -> AsyncIterator[tuple[Job, Result]]:
        feed = _Feed(jobs, flying)
        reader = asyncio.create_task(feed.read())
        reader.add_done_callback(lambda _: feed.news.set())
        try:
            while True:
                feed.news.clear()
                await feed.send(self._client)
                for job, future in flying.ready():
                    feed.room.release()
                    yield job, future.result(0)
                if reader.done():
                    reader.result()  # raises what the caller's iterable did
                    if not flying and not feed.read_ahead:
                        return
                patience = self._client.patience(flying.longest) if timeout is None else timeout
                if not await feed.wait(patience):
                    await asyncio.to_thread(flying.outstanding[0].expire, patience)
        finally:
            reader.cancel()
            if flying:
                with contextlib.suppress(OSError, RuntimeError):  # as in `run`
                    await asyncio.to_thread(self._client.cancel_all, flying.outstanding)

    async def future(self, job_id: str) -> AsyncFuture:
        """Give a future for a job that was submitted before, by this client or another."""
        return AsyncFuture(await asyncio.to_thread(self._client.future, job_id))

    async def cancel(self, job_id: str) -> bool:
        """End a job, queued or running; False where it was done already."""
        return await asyncio.to_thread(self._client.cancel, job_id)


class _Feed:
    """What goes into one `map` and comes out: jobs that were read, jobs that are done."""

    def __init__(self, jobs: Iterable[Script] | AsyncIterable[Script], flying: Window) -> None:
        self._jobs = jobs
        self._flying = flying
        self._loop = asyncio.get_running_loop()
        self._moved = time.monotonic()
        self.read_ahead: deque[Script] = deque()
        self.room = asyncio.Semaphore(flying.size)
        self.news = asyncio.Event()

    async def read(self) -> None:
        """Read the jobs, each as soon as there is room for it."""
        if isinstance(self._jobs, AsyncIterable):
            async for job in self._jobs:
                await self._add(job)
        else:
            for job in self._jobs:
                await self._add(job)
                await asyncio.sleep(0)  # others have their turn

    async def _add(self, job: Script) -> None:
        await self.room.acquire()
        self.read_ahead.append(job)
        self.news.set()

    async def send(self, client: Client) -> None:
        """Submit what was read; more is read meanwhile, and goes together the next time."""
        if not self.read_ahead:
            return
        batch = list(self.read_ahead)
        self.read_ahead.clear()
        if not self._flying:
            self._moved = time.monotonic()
        most = self._flying.chunksize(len(batch))
        futures = await _submit(client, lambda: client.submit_chunks(batch, most))
        self._flying.sent(futures)
        for future in futures:
            _call_when_done(future, self._loop, self._land, future)

    def _land(self, future: Future) -> None:
        self._moved = time.monotonic()
        self._flying.landed(future)
        self.news.set()

    async def wait(self, patience: float) -> bool:
        """Wait for news; False where jobs are in flight and none was done for so many seconds."""
        while not self.news.is_set():
            limit = self._moved + patience - time.monotonic() if self._flying else None
            if limit is not None and limit <= 0:
                return False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(limit):
                    await self.news.wait()
        return True


async def _submit(client: Client, submit: Callable[[], list[Future]]) -> list[Future]:
    """Submit in a thread; where the task is cancelled meanwhile, so are the jobs."""
    submitting = asyncio.ensure_future(asyncio.to_thread(submit))
    try:
        return await asyncio.shield(submitting)
    except asyncio.CancelledError:
        with contextlib.suppress(OSError, RuntimeError):  # the cancellation is what to tell
            await asyncio.to_thread(client.cancel_all, await submitting)
        raise


async def _done(future: Future) -> None:
    """Wait until `future` is done, however it ends."""
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    _call_when_done(future, loop, event.set)
    await event.wait()


def _call_when_done(
    future: Future, loop: asyncio.AbstractEventLoop, callback: Any, *args: object
) -> None:
    """Have the event loop call back; a future calls in the thread that ends it."""

    def tell(_: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits any more
            loop.call_soon_threadsafe(callback, *args)

    future.add_done_callback(tell)
