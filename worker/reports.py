"""What a worker's processes tell its main process of their jobs, and the line of each in the log.

The jobs run in a pool's processes; metrics and `inspect` are answered by the main one. One pipe leads
from the former to the latter, a line of JSON for each job. Such a line is short enough for the kernel
to write it whole (PIPE_BUF, pipe(7)). When the main process doesn't read, lines are dropped: nothing
that is only looked at may hold up a job.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from sandbox_core.job import Result, Status
from worker.summary import described, ended, escaped, runtime_of, size

#: One line a job, at INFO, in either format of `worker.logs`.
job_log = logging.getLogger("sandboxed.jobs")

_MOST_OF_AN_ERROR = 400
_READ_SIZE = 1 << 16

#: Seconds that the main process lets reports gather, or each job would wake a thread of it. The pipe
#: holds some three hundred (pipe(7)).
_GATHER = 0.05

Record = dict[str, Any]


class Reports:
    """The pipe; made before the pool forks, read by a thread of the main process."""

    def __init__(self) -> None:
        self._pipe: tuple[int, int] | None = None

    def open(self) -> None:
        """Make the pipe, in the main process."""
        if self._pipe is None:
            self._pipe = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(self._pipe[1], False)

    def listen(self, take: Callable[[Record], None]) -> None:
        """Have a thread give every record to `take`, in the main process, for as long as it lives."""
        self.open()
        assert self._pipe is not None
        threading.Thread(target=_read, args=(self._pipe[0], take), name="reports", daemon=True).start()

    def tell(self, record: Record) -> None:
        """Send `record` to the main process, from whichever."""
        if self._pipe is not None:
            with suppress(BlockingIOError):  # it is full: see above
                os.write(self._pipe[1], json.dumps(record).encode() + b"\n")

    def ended(self, job_id: str, args: object, result: Result, began: float) -> None:
        """Tell and log that a job has its `result`; `began` is when it was taken (Unix seconds)."""
        finished = result.finished_at or time.time()
        record: Record = {
            "id": job_id,
            "status": result.status.value,
            "runtime": runtime_of(args),
            "wall_time": result.wall_time,
            "cpu_time": result.cpu_time,
            # All that the worker did besides: asking Redis, making the jail, taking it down.
            "setup_time": max(finished - began - result.wall_time, 0.0),
            # None where the sender said nothing, or something from the future.
            "queue_time": _between(result.submitted_at, began),
        }
        if result.status is Status.INTERNAL_ERROR:
            record["error"] = escaped(result.error or "", _MOST_OF_AN_ERROR)
        self.tell(record)
        if job_log.isEnabledFor(logging.INFO):
            job_log.info(
                "%s", _line(job_id, args, result), extra={"job": _fields(record, args, result)}
            )

    def retried(self, job_id: str, error: str) -> None:
        """Tell that the sandbox failed a job, which is tried again."""
        self.tell({"id": job_id, "retry": True, "error": escaped(error, _MOST_OF_AN_ERROR)})

    def reaped(self, count: int) -> None:
        """Tell how many jails of dead workers were cleared away."""
        if count:
            self.tell({"reaped": count})


def _between(submitted_at: float | None, began: float) -> float | None:
    if submitted_at is None or submitted_at > began:
        return None
    return began - submitted_at


def _read(pipe: int, take: Callable[[Record], None]) -> None:
    rest = b""
    while data := os.read(pipe, _READ_SIZE):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            take(json.loads(line))
        time.sleep(_GATHER)


def _line(job_id: str, args: object, result: Result) -> str:
    parts = [f"job {escaped(job_id)}", ended(result), described(args)]
    if result.exit_code:
        parts.append(f"exit code {result.exit_code}")
    if result.signal:
        parts.append(result.signal)
    if result.cpu_time is not None:
        parts.append(f"CPU {result.cpu_time:.2f} s")
    if result.memory is not None:
        parts.append(f"memory {size(result.memory)}")
    if result.attempts > 1:
        parts.append(f"attempt {result.attempts}")
    if result.error:
        parts.append(escaped(result.error, _MOST_OF_AN_ERROR))
    return " · ".join(parts)


def _fields(record: Mapping[str, Any], args: object, result: Result) -> Record:
    """Give the job as an object of the JSON log, where all is escaped by being JSON."""
    return {
        **record,
        "summary": described(args),
        "exit_code": result.exit_code,
        "signal": result.signal,
        "memory": result.memory,
        "attempts": result.attempts,
        "error": escaped(result.error, _MOST_OF_AN_ERROR) if result.error else None,
        "labels": {escaped(name): escaped(value) for name, value in result.labels.items()},
    }
