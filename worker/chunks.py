"""The task `sandboxed.run_many`: several jobs in one message, each with a result of its own.

They run one after the other, each taken from the ledger just before it runs and stored as soon as it
is done, so that a job of a chunk is cancelled, counted and delivered again like any other. What Celery
does for a message is done once for all of them.

A chunk keeps its slot for about half a second. What it has not begun by then goes back into the queue
as a chunk of its own, even while a slow job still runs: other slots may be idle.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, cast

from celery.exceptions import OperationalError, Reject
from redis.exceptions import RedisError

from sandbox_core import wire
from sandbox_core.errors import SandboxError
from sandbox_core.job import Result, Status
from worker import ledger
from worker.celery import app
from worker.summary import described
from worker.tasks import ENTRY, LOOK_AGAIN_AFTER, RETRY_AFTER, attempt, is_entry, store, take

logger = logging.getLogger(__name__)

#: Seconds after which a chunk begins no further job.
_SLICE = 0.5

#: Jobs in one message: more of them would only be sent round and round.
_MOST = 1000

_Entry = dict[str, Any]


@app.task(  # type: ignore[untyped-decorator]  # Celery ships no types
    bind=True,
    name=wire.TASK_MANY,
    Request="worker.requests:JobRequest",
    Strategy="worker.requests:strategy",
    typing=False,
    max_retries=None,
    ignore_result=True,  # each job has its own
    # A hung job is Celery's to end, with the pool process: the message comes back in time, and the
    # ledger counts. A failure stored under the message's id would tell nobody.
    acks_on_timeout=False,
)
def run_many(self: Any, *args: object, **kwargs: object) -> str:
    """Run the jobs in the list that is the only argument; give what the log says of them."""
    try:
        entries = _entries(args, kwargs)
    except ValueError as error:
        refusal = Result(Status.INVALID_JOB, error=str(error), worker=self.request.hostname)
        store(ledger.answered(self.request.id, refusal))
        return f"{described(args)} {refusal.status}"
    chunk = _Chunk(self, entries)
    try:
        chunk.run()
    except (RedisError, OperationalError) as error:
        # Full, or it refuses: whatever has no result yet is delivered again, a little later.
        time.sleep(RETRY_AFTER)
        raise Reject(str(error), requeue=True) from error
    return f"{described(args)} {chunk.count} done, {len(entries) - chunk.count} not here or not again"


class _Chunk:
    """The jobs of one message, and which of them are still to be begun."""

    def __init__(self, task: Any, entries: Sequence[_Entry]) -> None:
        self.count = 0
        self._task = task
        self._request = task.request  # kept: Celery finds it only in the task's own thread
        self._rest = deque(entries)
        # Held while the rest goes back into the queue: it ends up there, or stays here.
        self._lock = threading.Lock()
        self._until = time.monotonic() + _SLICE

    def run(self) -> None:
        """Run what is not handed over; each result is stored before the next job begins."""
        done: ledger.Answered | None = None
        while entry := self._next():
            job_id = entry["id"]
            taken = take(job_id, done)
            done = None
            if taken.running:
                self._send([entry], LOOK_AGAIN_AFTER)
            elif not taken.answered:
                result = self._attempt(entry, taken)
                if result is not None:
                    done = ledger.answered(job_id, result)
                    self.count += 1
            if done and time.monotonic() >= self._until:
                store(done)
                done = None
        if done:
            store(done)

    def _next(self) -> _Entry | None:
        if time.monotonic() >= self._until:
            self._hand_over()
        with self._lock:
            return self._rest.popleft() if self._rest else None

    def _attempt(self, entry: _Entry, taken: ledger.Taken) -> Result | None:
        """Give the result of a job; None where the sandbox failed and it waits to be tried again."""
        try:
            return attempt(
                self._request,
                taken,
                (entry["job"],),
                {},
                job_id=entry["id"],
                settled=self._hand_over,
            )
        except SandboxError as error:
            logger.warning("job %s is tried again: %s", entry["id"], error)
            self._send([entry], RETRY_AFTER)
            return None
        except Exception as error:
            # One that nobody thought of is this job's, and not its neighbours'.
            logger.exception("job %s", entry["id"])
            return Result(Status.INTERNAL_ERROR, error=f"{type(error).__name__}: {error}")

    def _hand_over(self) -> None:
        """Put what was not begun back into the queue, if that can be done now."""
        with self._lock:
            if not self._rest:
                return
            try:
                self._send(list(self._rest), 0)
            except Exception as error:  # noqa: BLE001  # it stays here, whatever Redis has
                logger.warning("the rest of a chunk can't go back into the queue: %s", error)
            else:
                self._rest.clear()

    def _send(self, entries: list[_Entry], countdown: int) -> None:
        """Put jobs into the queue; twice is no harm, since the ledger knows each."""
        submitted_at = self._request.get(wire.SUBMITTED_AT)
        self._task.apply_async(
            args=[entries],
            countdown=countdown or None,
            headers={wire.SUBMITTED_AT: submitted_at},
            argsrepr=described([entries]),
            add_to_parent=False,
        )


def _entries(args: tuple[object, ...], kwargs: dict[str, object]) -> list[_Entry]:
    """Give the jobs in a task's arguments, each with an id; whether it is a job is found out later."""
    match args:
        case ([*entries],) if not kwargs and len(entries) <= _MOST:
            for entry in entries:
                if not is_entry(entry):
                    raise ValueError(f"{wire.TASK_MANY}: expected {ENTRY} for each job")
            return cast("list[_Entry]", entries)
    raise ValueError(f"{wire.TASK_MANY}: expected one argument, an array of at most {_MOST} jobs")
