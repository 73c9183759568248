"""What Redis knows of a job when a worker takes it: attempts, a wish to cancel, an answer, a runner.

One atomic step (a script that Redis runs), so that a caller who cancels (also atomically, looking at
the same keys) and the worker who takes the job never both believe that the job is theirs to end.

A job is delivered again whenever its worker loses the connection to Redis, while the job still runs
(kombu restores what is not acknowledged). So each run leaves a mark, and the second delivery waits
for as long as the process behind the mark is alive. Where that can't be seen, on another host, the
mark's end does: it outlasts the longest job, and is shorter than the time after which a message of
a dead worker comes back (visibility_timeout).
"""

import hashlib
import json
import os
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from redis.exceptions import ConnectionError, NoScriptError, TimeoutError  # noqa: A004  # redis-py's

from sandbox_core.job import Result
from sandbox_core.wire import (
    ATTEMPTS_PREFIX,
    CANCEL_PREFIX,
    RESULT_PREFIX,
    RUNNING_PREFIX,
    result_to_json,
)

#: Celery's states after which a result does not change any more (celery.states.READY_STATES).
_FINAL = frozenset({"SUCCESS", "FAILURE", "REVOKED"})

#: Stores the results of jobs and takes the next: what is between two jobs of a chunk costs one round
#: trip. A final result that is there stays.
#: KEYS: attempts, cancel, result and running of the job to take, if any; the results of the others.
#: ARGV: whether to take one, its runner, seconds of its mark, seconds of counts and results; what to
#: store.
_STEP = """
for place = 5, #ARGV do
    local done, record = KEYS[#KEYS - #ARGV + place], ARGV[place]
    local stored = redis.call('GET', done)
    local status = stored and string.match(stored, '"status": ?"(%u+)"')
    if not (status == 'SUCCESS' or status == 'FAILURE' or status == 'REVOKED') then
        redis.call('SET', done, record, 'EX', ARGV[4])
        redis.call('PUBLISH', done, record)
    end
end
if ARGV[1] ~= 'take' then
    return {}
end
local attempts = redis.call('INCR', KEYS[1])
redis.call('EXPIRE', KEYS[1], ARGV[4])
redis.call('SET', KEYS[4], ARGV[2], 'NX', 'EX', ARGV[3])
return {attempts, redis.call('EXISTS', KEYS[2]), redis.call('GET', KEYS[3]), redis.call('GET', KEYS[4])}
"""

#: The name that Redis knows a script by (EVALSHA in its documentation).
_SHA = hashlib.sha1(_STEP.encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class Answered:
    """A job that is done, on its way into Redis: its id, and its result as Celery stores one."""

    job_id: str
    record: str


def answered(job_id: str, result: Result) -> Answered:
    """Give what to store for a job (celery.backends.base.Backend._get_result_meta)."""
    meta: dict[str, object] = {
        "status": "SUCCESS",
        "result": result_to_json(result),
        "traceback": None,
        "children": [],
        "date_done": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
        "task_id": job_id,
    }
    return Answered(job_id, json.dumps(meta))


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
    pid = os.getpid()
    return f"{_process(pid)} {uuid.uuid4()}"


def take(
    redis: Any,
    job_id: str,
    runner: str,
    *,
    longest: int,
    expires: int,
    done: Answered | None = None,
) -> Taken:
    """Count this attempt at the job, mark it as run by `runner`, and give what is known of it.

    `redis` is a client of redis-py. The mark ends after `longest` seconds, the count after
    `expires`, as a result does. The result of a job that is `done` is stored before, in the same
    round trip.
    """
    attempts_key, running_key = f"{ATTEMPTS_PREFIX}{job_id}", f"{RUNNING_PREFIX}{job_id}"
    keys = [attempts_key, f"{CANCEL_PREFIX}{job_id}", f"{RESULT_PREFIX}{job_id}", running_key]
    values: list[object] = ["take", runner, longest, expires]
    others = () if done is None else (done,)
    attempts, cancelled, stored, holder = _step(redis, keys, values, others)
    if _is_final(stored):
        return Taken(attempts, bool(cancelled), answered=True, running=False)
    if holder is not None and holder != runner.encode():
        if _is_alive(holder.decode()):
            redis.decr(attempts_key)
            return Taken(attempts - 1, bool(cancelled), answered=False, running=True)
        redis.set(running_key, runner, ex=longest)
    return Taken(attempts, bool(cancelled), answered=False, running=False)


def store(redis: Any, *done: Answered, expires: int) -> None:
    """Store the results of jobs that are done, all at once, and tell those who wait for them."""
    _step(redis, [], ["", "", 0, expires], done)


def _step(redis: Any, keys: list[str], values: list[object], done: Sequence[Answered]) -> Any:
    keys = [*keys, *(f"{RESULT_PREFIX}{one.job_id}" for one in done)]
    values = [*values, *(one.record for one in done)]
    try:
        return _directly(redis, keys, values)
    except (NoScriptError, ConnectionError, TimeoutError):
        return _script(redis)(keys, values)  # with all of redis-py's patience


def _directly(redis: Any, keys: list[str], values: list[object]) -> Any:
    """Ask by a connection of the pool: the way there through redis-py's client takes twice the CPU."""
    pool = redis.connection_pool
    connection = pool.get_connection()
    try:
        connection.send_command("EVALSHA", _SHA, len(keys), *keys, *values)
        return connection.read_response()
    except BaseException:
        connection.disconnect()  # or its next user would read our answer
        raise
    finally:
        pool.release(connection)


@cache
def _script(redis: Any) -> Any:
    return redis.register_script(_STEP)


def leave(redis: Any, job_id: str) -> None:
    """Remove the mark of a run that ended without a result; a stored result needs no such step."""
    redis.delete(f"{RUNNING_PREFIX}{job_id}")


def give_back(redis: Any, job_id: str) -> None:
    """Undo that a job was taken: nothing was attempted."""
    with redis.pipeline() as pipeline:
        pipeline.delete(f"{RUNNING_PREFIX}{job_id}")
        pipeline.decr(f"{ATTEMPTS_PREFIX}{job_id}")
        pipeline.execute()


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


@cache
def _process(pid: int) -> str:
    """Name this process, whose id is asked for so that its forks have names of their own."""
    return f"{_place()} {pid} {_started(pid)}"


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
