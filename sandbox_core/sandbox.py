"""`Sandbox`: runs jobs in jails on this host, as many at a time as it has slots.

What a slot is, and what it keeps ready, is `sandbox_core.slot`'s. The worker, the commands `run`,
`repl` and `serve`, and the tests are made of this.
"""

import os
import queue
from contextlib import closing
from dataclasses import replace
from types import TracebackType
from typing import Self

from sandbox_core import cgroups, users
from sandbox_core.cancel import Cancel
from sandbox_core.errors import InvalidJob, SandboxError
from sandbox_core.job import Job, Limits, Result, Status, exceeded
from sandbox_core.pairs import PairResult, Run, run_pair
from sandbox_core.privileges import missing_capabilities
from sandbox_core.runtimes import Runtime, Runtimes
from sandbox_core.selftest import Wall, refuse_without_walls
from sandbox_core.slot import NAME, Slot, prefix
from sandbox_core.streams import Relay

__all__ = ["Cancel", "Relay", "Sandbox"]


class Sandbox:
    """Runs jobs in fresh jails; a context manager, safe to use from several threads."""

    def __init__(
        self,
        runtimes: str | os.PathLike[str] | None = None,
        slots: int = 1,
        maxima: Limits | None = None,
        *,
        ahead: bool = True,
    ) -> None:
        """Make ready to run `slots` jobs at a time.

        With `ahead` each slot keeps a jail standing ready, for a job like the last one; without, a
        jail is made when its job has come, and no process is left between two jobs but a zygote.

        `runtimes` is an operator's table of runtimes (TOML) beside the built-in ones; `maxima`
        bound every limit that a job may ask for. Raises `SandboxError`, with the mend, where this
        host can't run jobs.
        """
        if slots < 1:
            raise ValueError(f"slots: expected at least 1, got {slots}")
        if os.geteuid() != 0:
            raise SandboxError("make a sandbox", "it takes root; run this with sudo")
        if missing := missing_capabilities():
            raise SandboxError(
                "make a sandbox",
                f"missing capabilities: {', '.join(missing)}; in a container, add them with --cap-add",
            )
        self.maxima = maxima
        self.runtimes = Runtimes(runtimes)
        self.hierarchy = cgroups.find()
        #: How many jails of supervisors that died were cleared away.
        self.reaped = _reap(self.hierarchy)
        self._slots: list[Slot] = []
        self._free: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        try:
            for _ in range(slots):
                self._slots.append(Slot(self.hierarchy, ahead=ahead))
        except BaseException:
            self.close()
            raise
        for slot in self._slots:
            self._free.put(slot)

    def run(
        self,
        job: Job | str | bytes,
        *,
        cancel: Cancel | None = None,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        relay: Relay | None = None,
    ) -> Result:
        """Run `job` in a fresh jail and give what became of it; waits for a free slot.

        A str or bytes is a `Job` of that source. With the descriptor `stdin` the job reads what
        comes from it instead of `job.stdin`; its output is passed on to the descriptors `stdout`
        and `stderr` as it comes, besides being in the result. Descriptors stay the caller's. Setting
        `cancel` ends the job as `cancelled`. `relay` says more of the streams than those three can,
        and takes their place.

        Raises `InvalidJob` where the job can't be run as asked, `SandboxError` where the sandbox
        could not do its work.
        """
        if not self._slots:
            raise SandboxError("run a job", "this sandbox is closed")
        if not isinstance(job, Job):
            job = Job(job)
        runtime = _for_environment(self.runtimes[job.runtime], job)
        self._check(job, runtime)
        slot = self._free.get()
        try:
            if cancel is not None and cancel.is_set():
                return Result(Status.CANCELLED, labels=job.labels)
            return slot.run(job, runtime, relay or Relay(stdin, stdout, stderr), cancel)
        finally:
            self._free.put(slot)

    def run_pair(self, first: Job, second: Job, *, cancel: Cancel | None = None) -> PairResult:
        """Run two jobs at the same time, each reading what the other writes; waits for a free slot.

        They take one slot, which has room for the second one beside it, made on first use: so a pair
        never waits for a second slot that another pair holds. Both jails stand before either script
        starts. Setting `cancel` ends both jobs.

        Raises as `run` does, where either job can't be run as asked or the sandbox failed at one:
        nothing of the other is left by then.
        """
        if not self._slots:
            raise SandboxError("run a pair of jobs", "this sandbox is closed")
        runtimes = []
        for job in (first, second):
            runtimes.append(_for_environment(self.runtimes[job.runtime], job))
            self._check(job, runtimes[-1])
        slot = self._free.get()
        try:
            if cancel is not None and cancel.is_set():
                return PairResult(
                    Result(Status.CANCELLED, labels=first.labels),
                    Result(Status.CANCELLED, labels=second.labels),
                    second_ended_first=False,
                )
            rooms = (slot, slot.beside())
            for room, job, runtime in zip(rooms, (first, second), runtimes, strict=True):
                room.prepare(job.limits, runtime, feed=True)
            with closing(Cancel(also=cancel)) as stop:

                def run_in(room: Slot, runtime: Runtime) -> Run:
                    return lambda job, reading, writing: room.run(
                        job, runtime, Relay(reading, writing), stop
                    )

                runs = (run_in(rooms[0], runtimes[0]), run_in(rooms[1], runtimes[1]))
                return run_pair(runs, first, second, stop=stop.set)
        finally:
            self._free.put(slot)

    def prepare(self, job: Job, *, feed: bool = False) -> None:
        """Have a jail stand ready for a job like `job` in every slot that is free just now.

        Like it is one of the same runtime and limits; with `feed`, one whose input will come from a
        descriptor. Raises as `run` does.
        """
        runtime = _for_environment(self.runtimes[job.runtime], job)
        self._check(job, runtime)
        free: list[Slot] = []
        try:
            while True:
                free.append(self._free.get_nowait())
        except queue.Empty:
            for slot in free:
                slot.prepare(job.limits, runtime, feed=feed)
        finally:
            for slot in free:
                self._free.put(slot)

    def _check(self, job: Job, runtime: Runtime) -> None:
        for maxima in (self.maxima, runtime.limits):
            if maxima is not None and (over := exceeded(job.limits, maxima)):
                raise InvalidJob(over)
        if runtime.main is None and runtime.script in job.files:
            raise InvalidJob(f"files: {runtime.script!r} is where the source itself is placed")

    def self_test(self) -> list[Wall]:
        """Look at the walls with one probing job; `SandboxError` names each that is missing."""
        return refuse_without_walls(self)

    def recycle(self) -> None:
        """Have every job from now on come from a new zygote, and so from a new warm interpreter."""
        for slot in self._slots:
            slot.stale = True

    def close(self) -> None:
        """End the zygotes and let go of the user ids; jobs that still run end with them."""
        for slot in self._slots:
            slot.close()
        self._slots.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _for_environment(runtime: Runtime, job: Job) -> Runtime:
    """Start the interpreter afresh for a job that sets what is read only as it starts.

    Or only as a module is loaded: so it is with what the runtime itself sets for its modules.
    """
    read = runtime.env if runtime.preload else ()
    if runtime.warm and any(
        name in read or name.startswith(("PYTHON", "LC_", "LANG")) for name in job.env
    ):
        return replace(runtime, warm=False)
    return runtime


def _reap(hierarchy: cgroups.Hierarchy) -> int:
    """Clear what supervisors that died have left, and touch nothing of those that live.

    Gives how many jails that were.

    Whoever lives holds the user ids of its jobs, and those are in the names of its cgroups.
    """
    marked = {int(name.split("-")[1]) for name in hierarchy.names(NAME)}
    reaped = 0
    for uid in marked | users.known():
        user = users.hold_one(uid)
        if user is not None:
            try:
                reaped += len(hierarchy.names(prefix(uid)))
                hierarchy.clear(prefix(uid))
            finally:
                user.close()
    return reaped
