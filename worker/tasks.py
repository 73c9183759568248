"""The task `sandboxed.run`: a job as JSON in, its result as JSON out.

It always ends in a result: a script that fails is one, and so is a job that can't be run. Only a
failure of the sandbox itself is tried again.
"""

import math
import time
from dataclasses import replace
from typing import Any

from celery.exceptions import Ignore, Reject
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sandbox_core import wire
from sandbox_core.errors import InvalidJob, SandboxError
from sandbox_core.job import Job, Result, Status, exceeded
from worker import ledger
from worker.cancellation import Watcher
from worker.celery import app, longest_run, settings
from worker.jails import Jails, follow_celery
from worker.requests import described

#: Seconds until a job is tried again after the sandbox failed.
_RETRY_AFTER = 1
#: Seconds until a second delivery of a job that still runs is looked at again.
_LOOK_AGAIN_AFTER = 5

jails = Jails(settings)
follow_celery(jails)
watcher = Watcher(lambda: app.backend.client)


class Answer:
    """A result on its way into Celery: JSON where it is stored, one short line where it is logged.

    Celery writes the `repr` of what a task returns to its log and its events.
    """

    def __init__(self, what: str, result: Result) -> None:
        self.what = what
        self.result = result

    def __json__(self) -> dict[str, Any]:
        """Give what kombu's JSON encoder stores."""
        return wire.result_to_json(self.result)

    def __repr__(self) -> str:
        return f"{self.what} {self.result.status} in {self.result.wall_time:.3f} s"


@app.task(  # type: ignore[untyped-decorator]  # Celery ships no types
    bind=True,
    name=wire.TASK,
    Request="worker.requests:JobRequest",
    Strategy="worker.requests:strategy",
    typing=False,  # wrong arguments are answered below; Celery's own check would fail the task
    max_retries=None,  # the ledger counts, and it counts crashes too
)
def run(self: Any, *args: object, **kwargs: object) -> Answer:
    """Run the job that is the only argument."""
    request, started_at = self.request, time.time()
    taken = _take(request.id)
    if taken.running:
        # Not `retry`, which would write a state beside the result that is about to be stored.
        self.signature_from_request(request, countdown=_LOOK_AGAIN_AFTER).apply_async()
    if taken.answered or taken.running:
        raise Ignore  # this delivery is acknowledged, and leaves no result of its own
    try:
        result = _result(request.id, taken, args, kwargs)
    except SandboxError as error:
        if taken.attempts < settings.max_attempts:
            ledger.leave(app.backend.client, request.id)
            # Not the error itself, which Celery would pickle to tell its main process.
            raise self.retry(exc=RuntimeError(str(error)), countdown=_RETRY_AFTER) from error
        result = Result(Status.INTERNAL_ERROR, error=str(error))
    return Answer(
        described(args),
        replace(
            result,
            worker=request.hostname,
            submitted_at=_seconds(request.get(wire.SUBMITTED_AT)),
            started_at=result.started_at or started_at,
            finished_at=result.finished_at or time.time(),
            attempts=min(taken.attempts, settings.max_attempts),
        ),
    )


def _take(job_id: str) -> ledger.Taken:
    """Ask the ledger, for as long as Celery's policy for results says; else give the job back."""
    backend, runner = app.backend, ledger.new_runner()

    def take() -> ledger.Taken:
        return ledger.take(
            backend.client,
            job_id,
            runner,
            longest=math.ceil(longest_run(settings)),
            expires=settings.result_expires,
        )

    try:
        taken: ledger.Taken = backend.ensure(take, ())
    except (RedisConnectionError, RedisTimeoutError) as error:
        raise Reject(str(error), requeue=True) from error
    return taken


def _result(
    job_id: str, taken: ledger.Taken, args: tuple[object, ...], kwargs: dict[str, object]
) -> Result:
    """Give the result of the job in a task's arguments; `SandboxError` if there is none."""
    try:
        job = _job(args, kwargs)
    except ValueError as error:
        return Result(Status.INVALID_JOB, error=str(error))
    if taken.cancelled:
        return Result(Status.CANCELLED, labels=job.labels)
    if taken.attempts > settings.max_attempts:
        reason = f"the worker failed under it {settings.max_attempts} times; it is not tried again"
        return Result(Status.INTERNAL_ERROR, error=reason, labels=job.labels)
    try:
        with watcher.watching(job_id) as cancel:
            return jails.open().run(job, cancel=cancel)
    except InvalidJob as error:
        return Result(Status.INVALID_JOB, error=str(error), labels=job.labels)


def _job(args: tuple[object, ...], kwargs: dict[str, object]) -> Job:
    """Make the job in a task's arguments; `ValueError` for anything else, or a job too large."""
    if len(args) != 1 or kwargs:
        given = f"{len(args)} arguments" + (f" and {', '.join(kwargs)}" if kwargs else "")
        raise ValueError(f"{wire.TASK}: expected one argument, the job; got {given}")
    job = wire.job_from_json(args[0])
    if problem := exceeded(job.limits, settings.maxima):
        raise ValueError(problem)
    return job


def _seconds(header: object) -> float | None:
    """Give a Unix time that came in a header; it is the sender's, and anything may be there."""
    if isinstance(header, int | float) and not isinstance(header, bool) and math.isfinite(header):
        return float(header)
    return None
