"""A job that was submitted, as its caller holds it."""

import concurrent.futures
import contextlib
from typing import Protocol

from sandbox_core import Job, Result, Status


class Owner(Protocol):
    """What a future asks of the client that made it."""

    def cancel_future(self, future: "Future") -> bool:
        """Cancel the job of `future`."""

    def patience(self, wall_time: float) -> float:
        """Give how long to wait for a job of this limit where the caller does not say (seconds)."""

    def overdue(self, future: "Future", waited: float) -> TimeoutError | None:
        """Look once more for the result of `future`; explain why it is not there."""


class Future(concurrent.futures.Future[Result]):
    """The result of a job that was submitted, now or later.

    A `concurrent.futures.Future`, so that `as_completed`, `wait` and `add_done_callback` work; what
    differs: a job may be cancelled while it runs, and then has a result, whose status is
    `cancelled`; and no wait is endless.

    `id` is the job's id; `job` and `submitted_at` (Unix seconds) are None where the future was made
    from an id alone.
    """

    def __init__(
        self, job_id: str, job: Job | None, owner: Owner, submitted_at: float | None = None
    ) -> None:
        super().__init__()
        self.id = job_id
        self.job = job
        self.submitted_at = submitted_at
        self._owner = owner

    def result(self, timeout: float | None = None) -> Result:
        """Wait for the result, at most `timeout` seconds.

        Without `timeout`: the job's wall limit and the client's own timeout together. Raises
        `TimeoutError`, saying how the job stands, and `ConnectionError` where Redis is lost
        meanwhile; then `client.future(id)` asks again.
        """
        patience = self.patience if timeout is None else timeout
        with contextlib.suppress(TimeoutError):
            return super().result(patience)
        return self.expire(patience)

    @property
    def patience(self) -> float:
        """The seconds that a wait without a timeout may take."""
        return self._owner.patience(self.job.limits.wall_time if self.job else 0.0)

    def expire(self, waited: float) -> Result:
        """End a wait of so many seconds: look once more, then raise the `TimeoutError`."""
        if late := self._owner.overdue(self, waited):
            raise late
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait like `result`; give what it would raise, or None."""
        try:
            self.result(timeout)
        except TimeoutError:
            raise
        except Exception as error:  # noqa: BLE001  # whatever the future holds is the answer
            return error
        return None

    def cancel(self) -> bool:
        """End the job, queued or running; False where it was done already.

        A running job ends within about a second; its result says `cancelled`, unless it came first.
        """
        return False if self.done() else self._owner.cancel_future(self)

    def cancelled(self) -> bool:
        """Say whether the job has ended because it was cancelled."""
        if not self.done() or super().exception(0) is not None:
            return False
        return super().result(0).status is Status.CANCELLED

    def __repr__(self) -> str:
        return f"<Future {self.id} {'done' if self.done() else 'outstanding'}>"
