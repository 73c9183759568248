"""What Redis knows of a job when a worker takes it: attempts, a wish to cancel, an answer, a runner.

One atomic round trip, so that a caller who cancels (also atomically, looking at the same keys) and
the worker who takes the job never both believe that the job is theirs to end.

A job is delivered again whenever its worker loses the connection to Redis, while the job still runs
(kombu restores what is not acknowledged). So each run leaves a mark, and the second delivery waits
for as long as the process behind the mark is alive. Where that can't be seen, on another host, the
mark's end does: it outlasts the longest job, and is shorter than the time after which a message of
a dead worker comes back (visibility_timeout).
"""

import json
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandbox_core.wire import ATTEMPTS_PREFIX, CANCEL_PREFIX, RESULT_PREFIX, RUNNING_PREFIX

#: Celery's states after which a result does not change any more (celery.states.READY_STATES).
_FINAL = frozenset({"SUCCESS", "FAILURE", "REVOKED"})


@dataclass(frozen=True, slots=True)
class Taken:
    """A job as it was found when it was taken.

    `attempts` counts how often it was taken, this time included; `cancelled` says that its caller
    wants it stopped; `answered` that a final result is stored, so that there is nothing to do;
    `running` that another process runs it now, so that this delivery was not counted.
    """

    attempts: int
    cancelled: bool
    answered: bool
    running: bool


def new_runner() -> str:
    """Name one run of a job in this process: where, which process, and a name of its own."""
    return f"{_place()} {os.getpid()} {_started(os.getpid())} {uuid.uuid4()}"


def take(redis: Any, job_id: str, runner: str, *, longest: int, expires: int) -> Taken:
    """Count this attempt at the job, mark it as run by `runner`, and give what is known of it.

    `redis` is a client of redis-py. The mark ends after `longest` seconds, the count after
    `expires`, as a result does.
    """
    attempts_key, running_key = f"{ATTEMPTS_PREFIX}{job_id}", f"{RUNNING_PREFIX}{job_id}"
    with redis.pipeline(transaction=True) as transaction:
        transaction.incr(attempts_key)
        transaction.expire(attempts_key, expires)
        transaction.exists(f"{CANCEL_PREFIX}{job_id}")
        transaction.get(f"{RESULT_PREFIX}{job_id}")
        transaction.set(running_key, runner, nx=True, ex=longest)
        transaction.get(running_key)
        attempts, _, cancelled, stored, _, holder = transaction.execute()
    if _is_final(stored):
        return Taken(attempts, bool(cancelled), answered=True, running=False)
    if holder is not None and holder != runner.encode():
        if _is_alive(holder.decode()):
            redis.decr(attempts_key)
            return Taken(attempts - 1, bool(cancelled), answered=False, running=True)
        redis.set(running_key, runner, ex=longest)
    return Taken(attempts, bool(cancelled), answered=False, running=False)


def leave(redis: Any, job_id: str) -> None:
    """Remove the mark of a run that ended without a result; a stored result needs no such step."""
    redis.delete(f"{RUNNING_PREFIX}{job_id}")


def _is_final(stored: bytes | None) -> bool:
    """Whether Celery's record of a result says that the task is over."""
    if stored is None:
        return False
    try:
        return json.loads(stored)["status"] in _FINAL
    except (ValueError, KeyError, TypeError):
        return False  # not Celery's: the result of this run will replace it


def _is_alive(runner: str) -> bool:
    """Whether the process of a runner is there, as far as can be seen from here."""
    place, pid, started, _ = runner.split(" ")
    return place != _place() or _started(int(pid)) == started


def _place() -> str:
    """Name where a process id means something: this boot of this host, this pid namespace."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}:{Path('/proc/self/ns/pid').stat().st_ino}"


def _started(pid: int) -> str | None:
    """Give when a process began, in clock ticks since the boot; None when it is no more."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # From the third field on (proc(5)): the second is a name, which may contain anything.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]
