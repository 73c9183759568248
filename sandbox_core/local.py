"""Many jobs on this host, without a queue: as many at a time as there are processors."""

import os
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
        try:
            return self._sandbox.run(job, cancel=self._stop)
        except (InvalidJob, SandboxError) as error:
            return _refused(job, error)

    def run_pair(self, first: Job, second: Job) -> tuple[Result, Result, bool]:
        """Run two jobs, each reading what the other writes; say whether the second ended first.

        What the sandbox refuses or fails at is a Result here, too, of both.
        """
        try:
            return self._sandbox.run_pair(first, second, cancel=self._stop)
        except (InvalidJob, SandboxError) as error:
            return _refused(first, error), _refused(second, error), False

    def stop(self) -> None:
        """End what runs as cancelled."""
        self._stop.set()
        self._stop = Cancel()  # whoever runs still holds the other

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


def _refused(job: Job, error: Exception) -> Result:
    status = Status.INVALID_JOB if isinstance(error, InvalidJob) else Status.INTERNAL_ERROR
    return Result(status, error=str(error), labels=job.labels)
