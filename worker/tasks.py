"""The task `sandboxed.run`: a job as JSON in, its result as JSON out.

`worker.chunks` takes several at once, `worker.pairs` two that talk with each other.

It always ends in a result: a script that fails is one, and so is a job that can't be run. Only a
failure of the sandbox itself is tried again.
"""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from celery.exceptions import Ignore, Reject
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sandbox_core import wire
from sandbox_core.errors import InvalidJob, SandboxError
from sandbox_core.job import Job, Result, Status, exceeded
from worker import heap, ledger
from worker.cancellation import Watcher
from worker.celery import app, longest_run, settings
from worker.jails import Jails, follow_celery
from worker.summary import ended
from worker.watch import Watch

#: Seconds until a job is tried again after the sandbox failed.
RETRY_AFTER = 1
#: Seconds until a second delivery of a job that still runs is looked at again.
LOOK_AGAIN_AFTER = 5
#: How often storing a result is tried again while Redis is away: about once in a second.
_STORE_RETRIES = 300

#: A job among others in one message, as the task's refusals write it.
ENTRY = '{"id": "…", "job": {…}}'
#: Characters of an id; Celery's own are UUIDs.
_LONGEST_ID = 200

_T = TypeVar("_T")

_maxima = settings.maxima

watch = Watch(settings)
WORN_OUT = f"the worker failed under it {settings.max_attempts} times; it is not tried again"
jails = Jails(settings, watch.reports)
follow_celery(jails)
heap.keep_shared()
watcher = Watcher(lambda: app.backend.client)


class Answer:
    """A result on its way into Celery: JSON where it is stored, one short line where it is shown.

    Celery writes the `repr` of what a task returns to its events.
    """

    def __init__(self, result: Result) -> None:
        self.result = result

    def __json__(self) -> dict[str, Any]:
        """Give what kombu's JSON encoder stores."""
        return wire.result_to_json(self.result)

    def __repr__(self) -> str:
        return ended(self.result)


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
    request = self.request
    taken = take(request.id)
    if taken.running:
        # Not `retry`, which would write a state beside the result that is about to be stored.
        self.signature_from_request(request, countdown=LOOK_AGAIN_AFTER).apply_async()
    if taken.answered or taken.running:
        raise Ignore  # this delivery is acknowledged, and leaves no result of its own
    try:
        result = attempt(request, taken, args, kwargs, job_id=request.id)
    except SandboxError as error:
        # Not the error itself, which Celery would pickle to tell its main process.
        raise self.retry(exc=RuntimeError(str(error)), countdown=RETRY_AFTER) from error
    if not (request.ignore_result or request.callbacks or request.chain or request.chord):
        # In one round trip instead of Celery's two; and what is stored already stays.
        store(ledger.answered(request.id, result))
        request.ignore_result = True
    return Answer(result)


def attempt(
    request: Any,
    taken: ledger.Taken,
    args: tuple[object, ...],
    kwargs: dict[str, object],
    *,
    job_id: str,
    settled: Callable[[], None] | None = None,
) -> Result:
    """Give the whole result of a job that was taken; `SandboxError` where it is to be tried again.

    `settled` is what the watcher calls while the job runs.
    """
    started_at = time.time()
    try:
        result = _result(job_id, taken, args, kwargs, settled)
    except SandboxError as error:
        if taken.attempts < settings.max_attempts:
            ledger.leave(app.backend.client, job_id)
            watch.reports.retried(job_id, str(error))
            raise
        result = Result(Status.INTERNAL_ERROR, error=str(error))
    return whole(request, taken, args, result, job_id=job_id, started_at=started_at)


def whole(
    request: Any,
    taken: ledger.Taken,
    args: tuple[object, ...],
    result: Result,
    *,
    job_id: str,
    started_at: float,
) -> Result:
    """Give a result with all that the worker knows of it, and report it."""
    result = replace(
        result,
        worker=request.hostname,
        submitted_at=_seconds(request.get(wire.SUBMITTED_AT)),
        started_at=result.started_at or started_at,
        finished_at=result.finished_at or time.time(),
        attempts=min(taken.attempts, settings.max_attempts),
    )
    watch.reports.ended(job_id, args, result, started_at)
    return result


def take(job_id: str, done: ledger.Answered | None = None) -> ledger.Taken:
    """Take a job, and store the result of the one that is `done`."""
    runner = ledger.new_runner()
    # A result is worth more patience than a job that is still in the queue as well.
    return ensured(
        lambda: ledger.take(
            app.backend.client,
            job_id,
            runner,
            longest=math.ceil(longest_run(settings)),
            expires=settings.result_expires,
            done=done,
        ),
        **({} if done is None else {"max_retries": _STORE_RETRIES}),
    )


def store(*done: ledger.Answered) -> None:
    """Store the results of jobs, all at once, and tell those who wait for them."""
    ensured(
        lambda: ledger.store(app.backend.client, *done, expires=settings.result_expires),
        max_retries=_STORE_RETRIES,
    )


def ensured(action: Callable[[], _T], **policy: object) -> _T:
    """Ask Redis, for as long as Celery's policy for results says; else give the message back."""
    try:
        answer: _T = app.backend.ensure(action, (), **policy)
    except (RedisConnectionError, RedisTimeoutError) as error:
        raise Reject(str(error), requeue=True) from error
    return answer


def _result(
    job_id: str,
    taken: ledger.Taken,
    args: tuple[object, ...],
    kwargs: dict[str, object],
    settled: Callable[[], None] | None,
) -> Result:
    """Give the result of the job in a task's arguments; `SandboxError` if there is none."""
    try:
        job = job_of(args, kwargs)
    except ValueError as error:
        return Result(Status.INVALID_JOB, error=str(error))
    if taken.cancelled:
        return Result(Status.CANCELLED, labels=job.labels)
    if taken.attempts > settings.max_attempts:
        return Result(Status.INTERNAL_ERROR, error=WORN_OUT, labels=job.labels)
    try:
        with watcher.watching(job_id, settled) as cancel:
            return jails.open().run(job, cancel=cancel)
    except InvalidJob as error:
        return Result(Status.INVALID_JOB, error=str(error), labels=job.labels)


def job_of(args: tuple[object, ...], kwargs: dict[str, object]) -> Job:
    """Make the job in a task's arguments; `ValueError` for anything else, or a job too large."""
    if len(args) != 1 or kwargs:
        given = f"{len(args)} arguments" + (f" and {', '.join(kwargs)}" if kwargs else "")
        raise ValueError(f"{wire.TASK}: expected one argument, the job; got {given}")
    job = wire.job_from_json(args[0])
    if problem := exceeded(job.limits, _maxima):
        raise ValueError(problem)
    return job


def is_entry(value: object) -> bool:
    """Whether this is a job with its id, as those have it that share a message."""
    match value:
        case {"id": str(job_id), "job": _, **rest} if not rest:
            return 1 <= len(job_id) <= _LONGEST_ID
    return False


def _seconds(header: object) -> float | None:
    """Give a Unix time that came in a header; it is the sender's, and anything may be there."""
    if isinstance(header, int | float) and not isinstance(header, bool) and math.isfinite(header):
        return float(header)
    return None
