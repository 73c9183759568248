"""Submits jobs to the queue and waits for their results.

A job is one Celery message (`producer.message`) on a Redis list; its result comes back through
Celery's own result backend (`producer.listener`). Celery itself is not needed here.
"""

import contextlib
import os
import queue
import re
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Self, cast

from producer import address, chunks, message, outcome
from producer.connection import Connection
from producer.future import Future
from producer.listener import Listener
from producer.window import DEFAULT_SIZE, Script, Window, collect
from sandbox_core import Job, Result
from sandbox_core.wire import QUEUE


class Client:
    """A connection to the queue, opened when first needed; threads may share one.

    `url` is a Redis URL (redis://, rediss://, unix:///path?db=N, redis+socket:///path?virtual_host=N);
    without it $SANDBOXED_REDIS_URL, else redis://localhost:6379/0. `timeout` is how many seconds a
    wait may take beyond the job's own wall limit, where it is not given one of its own.

    Every method that speaks to Redis raises `ConnectionError`, within 5 seconds, where Redis is not
    reached, `PermissionError` where it refuses the credentials, `RuntimeError` where it is full.

    After a fork the child's copy works, with connections of its own; futures stay with the parent.
    """

    def __init__(self, url: str | None = None, *, timeout: float = 60.0) -> None:
        if url is None:
            url = os.environ.get("SANDBOXED_REDIS_URL") or address.DEFAULT_URL
        self._address = address.parse(url)
        self._timeout = timeout
        self._closed = False
        self._start_afresh()
        _clients.add(self)

    def _start_afresh(self) -> None:
        self._reply_to = message.new_id()
        self._prefix = self._reply_to[: message.FAMILY]
        self._connection = Connection(self._address)
        self._listener = Listener(self._address, self._prefix)
        # For a client that is dropped without being closed: its thread would keep it alive.
        self._finalizer = weakref.finalize(self, self._listener.close)

    def _after_fork(self) -> None:
        """Leave the parent's thread, locks and sockets to the parent."""
        self._finalizer.detach()
        self._start_afresh()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Client of Redis at {self._address.name}>"

    def close(self) -> None:
        """Close the connections. Jobs go on; futures that are not done fail with `RuntimeError`."""
        self._closed = True
        self._finalizer()
        self._connection.close()

    def run(self, job: Script, timeout: float | None = None) -> Result:
        """Submit a job and wait for its result, at most `timeout` seconds.

        A job that nobody waits for any more is cancelled: where the time is over (`TimeoutError`),
        at Ctrl-C, and at any other exception.
        """
        future = self.submit(job)
        try:
            return future.result(timeout)
        except BaseException:
            with contextlib.suppress(OSError, RuntimeError):  # the first error is the one to tell
                future.cancel()
            raise

    def submit(self, job: Script) -> Future:
        """Put a job in the queue; its result comes through the future."""
        return self.submit_all([job])[0]

    def submit_all(self, jobs: Iterable[Script]) -> list[Future]:
        """Put several jobs in the queue, all or none, in one round trip."""
        return self.submit_chunks(jobs, 1)

    def submit_chunks(
        self, jobs: Iterable[Script], most: int, ids: Iterable[str | None] | None = None
    ) -> list[Future]:
        """Do as `submit_all`, with up to `most` jobs in a message, which a worker runs in turn.

        `ids`, one for each job, are the caller's own (UUIDs; None: a new one). A job whose result Redis
        still has, by its id, does not run again, nor does one that waits or runs when it is submitted
        once more: so who is killed, and derives ids from what the jobs are, goes on where it was.
        `ValueError` where this client waits for a job of that id already.
        """
        self._check_open()
        now = time.time()
        entries = self._entries(jobs, ids)

        def messages(futures: list[Future]) -> list[bytes]:
            rest = [entry for entry, future in zip(entries, futures, strict=True) if not future.done()]
            return [self._message(chunk, now) for chunk in chunks.divide(rest, most)]

        return self._push(entries, messages, now)

    def submit_pairs(
        self, pairs: Iterable[tuple[Script, Script]], ids: Iterable[str | None] | None = None
    ) -> list[tuple[Future, Future]]:
        """Put pairs of jobs in the queue; the two of a pair run at the same time, and talk.

        Each reads, as its standard input, what the other writes; `Job.stdin` counts for nothing. When
        one ends, the other reads end of file. Cancelling either ends both; the one whose result has the
        earlier `finished_at` ended first. `ids` are those of `submit_chunks`, two for each pair.
        """
        self._check_open()
        now = time.time()
        entries = self._entries((job for pair in pairs for job in pair), ids)

        def messages(futures: list[Future]) -> list[bytes]:
            texts = [(entry.job_id, entry.text) for entry in entries]
            return [
                message.encode_pair(texts[place], texts[place + 1], now, self._reply_to)
                for place in range(0, len(entries), 2)
                if not (futures[place].done() and futures[place + 1].done())
            ]

        futures = self._push(entries, messages, now)
        return list(zip(futures[::2], futures[1::2], strict=True))

    def _entries(self, given: Iterable[Script], ids: Iterable[str | None] | None) -> list[chunks.Entry]:
        jobs = [_job(one) for one in given]
        named = [None] * len(jobs) if ids is None else list(ids)
        return [
            chunks.Entry(job_id or self._new_id(), job, message.job_text(job))
            for job, job_id in zip(jobs, named, strict=True)
        ]

    def _push(
        self,
        entries: list[chunks.Entry],
        messages: Callable[[list[Future]], list[bytes]],
        now: float,
    ) -> list[Future]:
        if not entries:
            return []
        futures = [Future(entry.job_id, entry.job, self, now) for entry in entries]
        named = [future for future in futures if not future.id.startswith(self._prefix)]
        self._check_names(named)
        self._listener.watch(futures)  # before a worker can be quicker
        try:
            if named:
                self._recall(named)
            if pending := messages(futures):
                self._connection.push(pending)
        except BaseException:
            self._listener.forget(futures)
            raise
        return futures

    def _check_names(self, named: list[Future]) -> None:
        seen: set[str] = set()
        for future in named:
            if not _ID.fullmatch(future.id):
                raise ValueError(f"ids: expected a UUID in small letters, got {future.id!r}")
            if future.id in seen or self._listener.find(future.id):
                raise ValueError(f"ids: job {future.id} is waited for already")
            seen.add(future.id)

    def _recall(self, named: list[Future]) -> None:
        """Listen for jobs of other families, and deliver what is there of them."""
        new = self._listener.follow({future.id[: message.FAMILY] for future in named})
        stored = self._connection.fetch([future.id for future in named])
        for future, result in zip(named, stored, strict=True):
            self._listener.deliver(future.id, result)
        if new:
            self._connection.publish(self._listener.wake_channel)

    def _message(self, chunk: list[chunks.Entry], now: float) -> bytes:
        if len(chunk) == 1:
            return message.encode(chunk[0].job, chunk[0].job_id, now, self._reply_to, chunk[0].text)
        texts = [(entry.job_id, entry.text) for entry in chunk]
        return message.encode_chunk(texts, now, self._reply_to)

    def map(
        self,
        jobs: Iterable[Script],
        *,
        ordered: bool = False,
        timeout: float | None = None,
        window: int = DEFAULT_SIZE,
        chunksize: int | None = None,
    ) -> Iterator[tuple[Job, Result]]:
        """Run many jobs; give each with its result, as they finish (`ordered`: in order).

        `jobs` may have any length: it is read as results are taken, so that at most `window` jobs
        are in the queue, running, or done and not yet taken. `timeout` is how many seconds may pass
        without any result, by default the client's timeout and the largest wall limit in flight.

        Up to `chunksize` jobs travel in one message, which one slot of a worker runs in turn, each
        in its own jail; their wall limits together are at most a minute. By default so few that
        sixteen slots have work; 1 gives each job a message of its own.

        Where the iteration ends early, by `break` or by an exception, the jobs in flight are
        cancelled.
        """
        if isinstance(jobs, str | bytes):
            raise TypeError("map: expected an iterable of jobs, got one source text")
        # Not in the generator, so that wrong arguments are told at once.
        return self._map(iter(jobs), Window(window, ordered=ordered, chunksize=chunksize), timeout)

    def _map(
        self, jobs: Iterator[Script], flying: Window, timeout: float | None
    ) -> Iterator[tuple[Job, Result]]:
        landed: queue.SimpleQueue[Future] = queue.SimpleQueue()
        more = True
        try:
            while more or flying:
                if more and (room := flying.room):
                    batch = collect(jobs, room)
                    more = bool(batch)
                    futures = self.submit_chunks(batch, flying.chunksize(len(batch)))
                    flying.sent(futures)
                    for future in futures:
                        future.add_done_callback(cast("Callable[[object], None]", landed.put))
                elif flying:
                    self._land(landed, flying, timeout)
                with contextlib.suppress(queue.Empty):
                    while True:
                        flying.landed(landed.get_nowait())
                for job, future in flying.ready():
                    yield job, future.result()
        finally:
            if flying:
                with contextlib.suppress(OSError, RuntimeError):  # as in `run`
                    self.cancel_all(flying.outstanding)

    def _land(self, landed: "queue.SimpleQueue[Future]", flying: Window, timeout: float | None) -> None:
        """Wait until a job in flight is done."""
        patience = self.patience(flying.longest) if timeout is None else timeout
        try:
            flying.landed(landed.get(timeout=patience))
        except queue.Empty:
            if late := self.overdue(flying.outstanding[0], patience):
                raise late from None

    def future(self, job_id: str) -> Future:
        """Give a future for a job that was submitted before, by this client or another."""
        future = Future(job_id, None, self)
        self._check_open()
        if known := self._listener.find(job_id):
            return known
        if job_id.startswith(self._prefix):
            self._listener.watch([future])
        else:
            self._listener.watch_foreign(future)
        try:
            self._listener.deliver(job_id, self._connection.fetch([job_id])[0])
            if not future.done():
                self._connection.publish(self._listener.wake_channel)
        except BaseException:
            self._listener.forget([future])
            raise
        return future

    def cancel(self, job_id: str) -> bool:
        """End a job, queued or running; False where it was done already.

        Redis can't tell an id that never was from that of a job which waits in the queue.
        """
        self._check_open()
        return self.cancel_future(self._listener.find(job_id) or Future(job_id, None, self))

    def cancel_all(self, futures: Iterable[Future]) -> int:
        """End jobs in one round trip; give how many of them were not done yet."""
        results = {
            future.id: outcome.cancelled(future.id, future.job, future.submitted_at)
            for future in futures
            if not future.done()
        }
        states = self._connection.cancel(results, outcome.EXPIRES)
        return sum(state != "done" for state in states)

    # What a Future asks for.

    def cancel_future(self, future: Future) -> bool:
        """Cancel the job of `future`."""
        return self.cancel_all([future]) == 1

    def patience(self, wall_time: float) -> float:
        """Give how long to wait for a job of this limit where the caller does not say (seconds)."""
        return self._timeout + wall_time

    def overdue(self, future: Future, waited: float) -> TimeoutError | None:
        """Look once more for the result of `future`; explain why it is not there."""
        if future.done() or self._closed:
            return None
        standing = self._connection.standing(future.id)
        if self._listener.deliver(future.id, standing.stored) or future.done():
            return None
        at = f"Redis at {self._address.name}"
        if standing.attempts:
            where = "a worker has taken it, and has stored no result yet"
        elif standing.queue_length:
            count = standing.queue_length
            where = (
                f"at least {count} {'job waits' if count == 1 else 'jobs wait'} in the queue "
                f"{QUEUE!r} of {at}; is a worker running (`sandboxed worker`)?"
            )
        else:
            where = f"the queue {QUEUE!r} of {at} is empty, and no worker tells of this job"
        return TimeoutError(f"no result of job {future.id} within {waited:g} s: {where}")

    def _new_id(self) -> str:
        return self._prefix + message.new_id()[message.FAMILY :]

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("this client is closed")


#: What travels in messages unquoted, and in the names of keys.
_ID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def _job(job: Script) -> Job:
    if isinstance(job, Job):
        return job
    if isinstance(job, str | bytes):
        return Job(job)
    raise TypeError(f"expected a Job, or the source of one as str or bytes, got {type(job).__name__}")


_clients: "weakref.WeakSet[Client]" = weakref.WeakSet()


def _after_fork() -> None:
    for client in list(_clients):
        client._after_fork()  # noqa: SLF001  # the other half of the class


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
