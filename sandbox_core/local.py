"""Many jobs on this host, without a queue: as many at a time as there are processors."""

import itertools
import os
import queue
import threading
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

from sandbox_core.errors import InvalidJob, SandboxError
from sandbox_core.job import Job, Result, Status
from sandbox_core.sandbox import Cancel, Sandbox


class LocalRunner:
    """Runs many jobs in jails here; a context manager.

    Raises `SandboxError`, with the mend, where this host can't run jobs.
    """

    def __init__(self, slots: int | None = None) -> None:
        self._slots = slots or len(os.sched_getaffinity(0))
        self._sandbox = Sandbox(runtimes=os.environ.get("SANDBOXED_RUNTIMES"), slots=self._slots)
        self._stop = Cancel()

    @property
    def slots(self) -> int:
        """How many jobs run at a time."""
        return self._slots

    def run(self, job: Job) -> Result:
        """Run one job; what the sandbox refuses or fails at is a Result here, too."""
        return self._run(job, self._stop)

    def run_pair(self, first: Job, second: Job) -> tuple[Result, Result, bool]:
        """Run two jobs, each reading what the other writes; say whether the second ended first.

        What the sandbox refuses or fails at is a Result here, too, of both.
        """
        try:
            return self._sandbox.run_pair(first, second, cancel=self._stop)
        except (InvalidJob, SandboxError) as error:
            status = Status.INVALID_JOB if isinstance(error, InvalidJob) else Status.INTERNAL_ERROR
            return (
                Result(status, error=str(error), labels=first.labels),
                Result(status, error=str(error), labels=second.labels),
                False,
            )

    def stop(self) -> None:
        """End what runs as cancelled."""
        self._stop.set()
        self._stop = Cancel()  # whoever runs still holds the other

    def map(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Result]]:
        """Give each job with its result, as they finish; read no more jobs than are under way.

        What the sandbox refuses or fails at is a Result here, too. Where the iteration ends early the
        jobs that run are cancelled.
        """
        todo: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[Job, Result | BaseException]] = queue.SimpleQueue()
        cancel = Cancel()
        threads = [
            threading.Thread(target=self._work, args=(todo, done, cancel), daemon=True)
            for _ in range(self._slots)
        ]
        coming, under_way = iter(jobs), 0
        try:
            for thread in threads:
                thread.start()
            while True:
                # One more than can run, so that no slot waits for us.
                for job in itertools.islice(coming, 2 * self._slots - under_way):
                    todo.put(job)
                    under_way += 1
                if not under_way:
                    return
                job, result = done.get()
                under_way -= 1
                if isinstance(result, BaseException):
                    raise result
                yield job, result
        finally:
            cancel.set()
            for _ in threads:
                todo.put(None)
            for thread in threads:
                thread.join()
            cancel.close()

    def _work(
        self,
        todo: "queue.SimpleQueue[Job | None]",
        done: "queue.SimpleQueue[tuple[Job, Result | BaseException]]",
        cancel: Cancel,
    ) -> None:
        while (job := todo.get()) is not None:
            try:
                done.put((job, self._run(job, cancel)))
            except BaseException as error:  # noqa: BLE001  # raised again where the results are taken
                done.put((job, error))

    def _run(self, job: Job, cancel: Cancel) -> Result:
        try:
            return self._sandbox.run(job, cancel=cancel)
        except InvalidJob as error:
            return Result(Status.INVALID_JOB, error=str(error), labels=job.labels)
        except SandboxError as error:
            return Result(Status.INTERNAL_ERROR, error=str(error), labels=job.labels)

    def close(self) -> None:
        """End the jails."""
        self._sandbox.close()
        self._stop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
