"""What runs the jobs of grading: jails behind a queue, or jails on this host.

Not `Client.map`: which test runs next may hang on how the last one ended, and `map` reads its jobs
ahead of their results. So a dispatcher takes tasks as they come up and gives back what has ended.
"""

import contextlib
import queue
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future as LocalFuture
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol, cast

from producer import chunks, message
from producer.client import Client
from producer.future import Future
from producer.window import DEFAULT_SIZE
from sandbox_core import Job, Result

#: Seconds between two tries to end what runs.
_STOP_EVERY = 0.1


@dataclass(frozen=True, slots=True)
class Name:
    """Which step this is of which grading: the same when a grading that was killed goes on."""

    grading: str  # a UUID
    step: str

    def job_id(self, job: Job) -> str:
        """Give the id that a job of this step has, which is another's where the job is."""
        return message.named_id(self.grading, f"{self.step} {message.job_text(job)}")


@dataclass(frozen=True, slots=True)
class Task:
    """A job to run; or two, at the same time, each reading what the other writes.

    One that is `alone` has the machine to itself, as far as this grading goes. One with a `name` does
    not run a second time where its first result can still be had.
    """

    job: Job
    partner: Job | None = None
    alone: bool = False
    name: Name | None = None

    def job_ids(self) -> list[str | None]:
        """Give the ids of its jobs, as far as its name gives them any."""
        jobs = [job for job in (self.job, self.partner) if job]
        if self.name is None:
            return [None for _ in jobs]
        names = (self.name, replace(self.name, step=f"{self.name.step} partner"))
        return [name.job_id(job) for name, job in zip(names, jobs, strict=False)]


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of a task; `partner_first` says that of two the partner ended first."""

    result: Result
    partner: Result | None = None
    partner_first: bool = False


class Dispatcher(Protocol):
    """Runs tasks, as many at a time as it likes: all that grading and evaluating ask of a sandbox."""

    @property
    def width(self) -> int:
        """How many tasks to keep under way, so that nothing that could run stands idle."""
        ...

    @property
    def batch(self) -> int:
        """How many tasks it likes to be given at once, while others are under way."""
        ...

    def start(self, tasks: Sequence[tuple[int, Task]]) -> None:
        """Have tasks run, each under a number of the caller's."""
        ...

    def wait(self) -> list[tuple[int, Ended]]:
        """Give what has ended, at least one; wait for it if need be."""
        ...

    def close(self) -> None:
        """End what still runs."""
        ...


def run_each(dispatcher: Dispatcher, jobs: Iterable[Job]) -> Iterator[tuple[Job, Result]]:
    """Give each job with its result, as they finish; read no more jobs than can be under way."""
    coming = enumerate(jobs)
    under_way: dict[int, Job] = {}
    more = True
    while True:
        room = dispatcher.width - len(under_way)
        if more and (room >= dispatcher.batch or not under_way):
            batch = list(islice(coming, room))
            more = len(batch) == room
            under_way.update(batch)
            dispatcher.start([(number, Task(job)) for number, job in batch])
        if not under_way:
            return
        for number, ended in dispatcher.wait():
            yield under_way.pop(number), ended.result


@dataclass(slots=True)
class _Flight:
    """A task in the queue: one future, or that of each of a pair."""

    number: int
    futures: tuple[Future, ...]

    def ended(self) -> Ended:
        """Give what became of it; of a pair, the worker sees to it that the times tell the order."""
        results = [future.result() for future in self.futures]
        if len(results) == 1:
            return Ended(results[0])
        first, second = results
        partner_first = (second.finished_at or 0.0) < (first.finished_at or 0.0)
        return Ended(first, second, partner_first)


class QueueDispatcher:
    """Through the queue, by a client that stays the caller's."""

    def __init__(self, client: Client, width: int = DEFAULT_SIZE) -> None:
        self._client = client
        self._landed: queue.SimpleQueue[Future] = queue.SimpleQueue()
        self._flying: dict[Future, _Flight] = {}
        self._longest = 0.0  # the largest wall limit so far, in seconds
        self.width = width
        self.batch = chunks.size(width)  # what then goes out in one message

    def start(self, tasks: Sequence[tuple[int, Task]]) -> None:
        """Put tasks in the queue, in one round trip those of either kind."""
        together = chunks.size(len(self._flying) + len(tasks))
        single = [(number, task) for number, task in tasks if task.partner is None]
        sent = self._client.submit_chunks((task.job for _, task in single), together, _ids(single))
        for (number, _), future in zip(single, sent, strict=True):
            self._watch(_Flight(number, (future,)))
        paired = [(number, task) for number, task in tasks if task.partner]
        pairs = ((task.job, task.partner) for _, task in paired if task.partner)
        for (number, _), futures in zip(
            paired, self._client.submit_pairs(pairs, _ids(paired)), strict=True
        ):
            self._watch(_Flight(number, futures))

    def _watch(self, flight: _Flight) -> None:
        for future in flight.futures:
            self._flying[future] = flight
            if future.job:
                self._longest = max(self._longest, future.job.limits.wall_time)
        for future in flight.futures:
            future.add_done_callback(cast("Callable[[object], None]", self._landed.put))

    def wait(self) -> list[tuple[int, Ended]]:
        """Give what has ended; `TimeoutError` where nothing does within the client's patience."""
        landed: list[_Flight] = []
        while not landed:
            landed = list(self._take())
        return [(flight.number, flight.ended()) for flight in landed]

    def _take(self) -> Iterator[_Flight]:
        """Give the flight of each future that is done, once all of its futures are; wait for one."""
        patience = self._client.patience(self._longest)
        futures = []
        try:
            futures.append(self._landed.get(timeout=patience))
        except queue.Empty:
            if late := self._client.overdue(next(iter(self._flying)), patience):
                raise late from None
            return
        with contextlib.suppress(queue.Empty):
            while True:
                futures.append(self._landed.get_nowait())
        for future in futures:
            flight = self._flying.pop(future)
            if not any(other in self._flying for other in flight.futures):
                yield flight

    def close(self) -> None:
        """Cancel what still runs."""
        if self._flying:
            with contextlib.suppress(OSError, RuntimeError):  # what led here is the thing to tell
                self._client.cancel_all(self._flying)


def _ids(tasks: Iterable[tuple[int, Task]]) -> list[str | None]:
    return [job_id for _, task in tasks for job_id in task.job_ids()]


class Jails(Protocol):
    """What runs jobs on this host: `sandbox_core.local.LocalRunner`, handed in by who may know it."""

    @property
    def slots(self) -> int:
        """How many jobs it runs at a time."""
        ...

    def run(self, job: Job) -> Result:
        """Run a job."""
        ...

    def run_pair(self, first: Job, second: Job) -> tuple[Result, Result, bool]:
        """Run two jobs that talk with each other; say whether the second ended first."""
        ...

    def stop(self) -> None:
        """End what still runs."""
        ...


class LocalDispatcher:
    """In jails on this host, which stay the caller's."""

    batch = 1

    def __init__(self, jails: Jails) -> None:
        self._jails = jails
        self._pool = ThreadPoolExecutor(jails.slots, thread_name_prefix="grading")
        self._landed: queue.SimpleQueue[tuple[int, LocalFuture[Ended]]] = queue.SimpleQueue()
        self._running: set[LocalFuture[Ended]] = set()
        self.width = 2 * jails.slots  # one more each than can run, so that none waits for us

    def start(self, tasks: Sequence[tuple[int, Task]]) -> None:
        """Have tasks run as soon as there is room."""
        for number, task in tasks:
            future = self._pool.submit(self._run, task)
            self._running.add(future)
            future.add_done_callback(lambda done, number=number: self._land(number, done))  # type: ignore[misc]

    def _land(self, number: int, done: LocalFuture[Ended]) -> None:
        self._landed.put((number, done))

    def _run(self, task: Task) -> Ended:
        if task.partner is None:
            return Ended(self._jails.run(task.job))
        return Ended(*self._jails.run_pair(task.job, task.partner))

    def wait(self) -> list[tuple[int, Ended]]:
        """Give what has ended; what could not be run at all is raised."""
        landed = [self._landed.get()]
        with contextlib.suppress(queue.Empty):
            while True:
                landed.append(self._landed.get_nowait())
        self._running.difference_update(done for _, done in landed)
        return [(number, done.result()) for number, done in landed]

    def close(self) -> None:
        """End what still runs."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        while running := [future for future in self._running if not future.done()]:
            # Again and again: what is only just about to start would not be ended by the first.
            self._jails.stop()
            wait(running, _STOP_EVERY)
        self._pool.shutdown(wait=True)
