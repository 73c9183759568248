"""The task `sandboxed.run_pair`: two jobs at the same time, each reading what the other writes.

Both run in one slot, which has a second room for that (`Sandbox.run_pair`): two messages of a job each
could wait for one another for ever. They are taken from the ledger and stored together, each under its
own id, so that a pair is cancelled, counted and delivered again as one: whoever cancels either job ends
both, and where the sandbox fails at one, both are tried again.
"""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from celery.exceptions import OperationalError, Reject
from redis.exceptions import RedisError

from sandbox_core import wire
from sandbox_core.cancel import Cancel
from sandbox_core.errors import InvalidJob, SandboxError
from sandbox_core.job import Job, Result, Status
from sandbox_core.pairs import PairResult
from worker import ledger
from worker.celery import app, settings
from worker.summary import described
from worker.tasks import (
    ENTRY,
    LOOK_AGAIN_AFTER,
    RETRY_AFTER,
    WORN_OUT,
    is_entry,
    jails,
    job_of,
    store,
    take,
    watch,
    watcher,
    whole,
)

logger = logging.getLogger(__name__)

_Entry = dict[str, Any]


@app.task(  # type: ignore[untyped-decorator]  # Celery ships no types
    bind=True,
    name=wire.TASK_PAIR,
    Request="worker.requests:JobRequest",
    Strategy="worker.requests:strategy",
    typing=False,
    max_retries=None,
    ignore_result=True,  # each job has its own
    acks_on_timeout=False,  # as for a chunk
)
def run_pair(self: Any, *args: object, **kwargs: object) -> str:
    """Run the two jobs in the object that is the only argument; give what the log says of them."""
    try:
        pair = _Pair(self, _entries(args, kwargs))
    except ValueError as error:
        refusal = Result(Status.INVALID_JOB, error=str(error), worker=self.request.hostname)
        store(ledger.answered(self.request.id, refusal))
        return f"{described(args)} {refusal.status}"
    try:
        told = pair.run()
    except (RedisError, OperationalError) as error:
        time.sleep(RETRY_AFTER)
        raise Reject(str(error), requeue=True) from error
    return f"{described(args)} {told}"


class _Pair:
    """The two jobs of one message."""

    def __init__(self, task: Any, entries: Sequence[_Entry]) -> None:
        self._task = task
        self._request = task.request
        self._entries = entries
        self._ids = [entry["id"] for entry in entries]

    def run(self) -> str:
        """Run both, and store both results at once; say what became of them."""
        taken = [take(job_id) for job_id in self._ids]
        if all(one.answered for one in taken):
            return "done before"
        if any(one.running for one in taken):
            for job_id, one in zip(self._ids, taken, strict=True):
                if not (one.running or one.answered):
                    ledger.give_back(app.backend.client, job_id)
            self._send(LOOK_AGAIN_AFTER)
            return "runs elsewhere"
        started_at = time.time()
        try:
            results = self._results(taken)
        except SandboxError as error:
            if all(one.attempts < settings.max_attempts for one in taken):
                self._try_again(str(error))
                return f"is tried again: {error}"
            results = self._both(Status.INTERNAL_ERROR, str(error))
        except Exception as error:
            # One that nobody thought of, as in a chunk.
            logger.exception("pair %s", " ".join(self._ids))
            results = self._both(Status.INTERNAL_ERROR, f"{type(error).__name__}: {error}")
        done = []
        for entry, one, result in zip(self._entries, taken, results, strict=True):
            if not one.answered:
                given = (entry["job"],)
                known = whole(
                    self._request, one, given, result, job_id=entry["id"], started_at=started_at
                )
                done.append(ledger.answered(entry["id"], known))
        store(*done)
        return "done"

    def _results(self, taken: Sequence[ledger.Taken]) -> list[Result]:
        jobs: list[Job] = []
        wrong: list[str | None] = []
        for entry in self._entries:
            try:
                jobs.append(job_of((entry["job"],), {}))
                wrong.append(None)
            except ValueError as error:
                wrong.append(str(error))
        if any(wrong):
            first, second = wrong
            reasons = (first or f"the second of the pair: {second}", second or f"the first: {first}")
            return [Result(Status.INVALID_JOB, error=reason) for reason in reasons]
        if any(one.cancelled or one.answered for one in taken):  # what is answered was cancelled
            return [Result(Status.CANCELLED, labels=job.labels) for job in jobs]
        if any(one.attempts > settings.max_attempts for one in taken):
            return [Result(Status.INTERNAL_ERROR, error=WORN_OUT, labels=job.labels) for job in jobs]
        try:
            cancel = Cancel()  # closed by whoever lets go of it last, which may be the watcher
            with (
                watcher.watching(self._ids[0], cancel=cancel),
                watcher.watching(self._ids[1], cancel=cancel),
            ):
                pair = jails.open().run_pair(jobs[0], jobs[1], cancel=cancel)
        except InvalidJob as error:
            reason = str(error)
            return [Result(Status.INVALID_JOB, error=reason, labels=job.labels) for job in jobs]
        return list(_in_order(pair))

    def _both(self, status: Status, error: str) -> list[Result]:
        return [Result(status, error=error)] * len(self._ids)

    def _try_again(self, why: str) -> None:
        for job_id in self._ids:
            ledger.leave(app.backend.client, job_id)
            watch.reports.retried(job_id, why)
        logger.warning("pair %s is tried again: %s", " ".join(self._ids), why)
        self._send(RETRY_AFTER)

    def _send(self, countdown: int) -> None:
        first, second = self._entries
        args = [{"first": first, "second": second}]
        self._task.apply_async(
            args=args,
            countdown=countdown,
            headers={wire.SUBMITTED_AT: self._request.get(wire.SUBMITTED_AT)},
            argsrepr=described(args),
            add_to_parent=False,
        )


def _in_order(pair: PairResult) -> tuple[Result, Result]:
    """Give both results, that of the job which ended later with the later time.

    That is how a caller knows; and a clock may be set back, or too coarse.
    """
    first, second = pair.first, pair.second
    ends = (first.finished_at or 0.0, second.finished_at or 0.0)
    if pair.second_ended_first:
        return replace(first, finished_at=max(ends[0], math.nextafter(ends[1], math.inf))), second
    return first, replace(second, finished_at=max(ends[1], math.nextafter(ends[0], math.inf)))


def _entries(args: tuple[object, ...], kwargs: dict[str, object]) -> Sequence[_Entry]:
    """Give the two jobs in a task's arguments, each with an id of its own."""
    match args:
        case ({"first": first, "second": second, **rest},) if not rest and not kwargs:
            if is_entry(first) and is_entry(second):
                entries = cast("list[_Entry]", [first, second])
                if entries[0]["id"] != entries[1]["id"]:
                    return entries
    expected = f'{{"first": {ENTRY}, "second": {ENTRY}}}, with two ids'
    raise ValueError(f"{wire.TASK_PAIR}: expected one argument, {expected}")
