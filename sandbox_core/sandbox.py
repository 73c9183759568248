"""`Sandbox`: runs jobs in jails on this host, as many at a time as it has slots.

A slot holds a user id that no other running job has, and the zygotes that make jails for it. The
worker, the commands `run`, `repl` and `serve`, and the tests are made of this.
"""

import itertools
import os
import queue
from contextlib import closing
from dataclasses import replace
from types import TracebackType
from typing import Self

from sandbox_core import cgroups, users
from sandbox_core.errors import InvalidJob, SandboxError
from sandbox_core.job import Job, Limits, Result, Status, exceeded
from sandbox_core.launcher import ZygoteGone, ZygoteProcess
from sandbox_core.runtimes import Runtime, Runtimes
from sandbox_core.selftest import refuse_without_walls
from sandbox_core.supervisor import Cancel, Jail, Supervision

__all__ = ["Cancel", "Sandbox"]


class Sandbox:
    """Runs jobs in fresh jails; a context manager, safe to use from several threads."""

    def __init__(
        self,
        runtimes: str | os.PathLike[str] | None = None,
        slots: int = 1,
        maxima: Limits | None = None,
    ) -> None:
        """Make ready to run `slots` jobs at a time.

        `runtimes` is an operator's table of runtimes (TOML) beside the built-in ones; `maxima`
        bound every limit that a job may ask for. Raises `SandboxError`, with the mend, where this
        host can't run jobs.
        """
        if slots < 1:
            raise ValueError(f"slots: expected at least 1, got {slots}")
        if os.geteuid() != 0:
            raise SandboxError("make a sandbox", "it takes root; run this with sudo")
        self.maxima = maxima
        self.runtimes = Runtimes(runtimes)
        self.hierarchy = cgroups.find()
        _reap(self.hierarchy)
        self._slots: list[_Slot] = []
        self._free: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
        try:
            for _ in range(slots):
                self._slots.append(_Slot(self.hierarchy))
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
    ) -> Result:
        """Run `job` in a fresh jail and give what became of it; waits for a free slot.

        A str or bytes is a `Job` of that source. With the descriptor `stdin` the job reads what
        comes from it instead of `job.stdin`; its output is passed on to the descriptors `stdout`
        and `stderr` as it comes, besides being in the result. Descriptors stay the caller's. Setting
        `cancel` ends the job as `cancelled`.

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
            return slot.run(job, runtime, (stdin, stdout, stderr), cancel)
        finally:
            self._free.put(slot)

    def _check(self, job: Job, runtime: Runtime) -> None:
        for maxima in (self.maxima, runtime.limits):
            if maxima is not None and (over := exceeded(job.limits, maxima)):
                raise InvalidJob(over)
        if runtime.script in job.files:
            raise InvalidJob(f"files: {runtime.script!r} is where the source itself is placed")

    def self_test(self) -> None:
        """Look at the walls with one probing job; `SandboxError` names each that is missing."""
        refuse_without_walls(self)

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


class _Slot:
    """Room for one job at a time."""

    def __init__(self, hierarchy: cgroups.Hierarchy) -> None:
        self._hierarchy = hierarchy
        self._user = users.hold()
        self._names = (f"{_prefix(self._user.uid)}{number}" for number in itertools.count())
        self._zygotes: dict[tuple[str, bool], ZygoteProcess] = {}

    def run(
        self,
        job: Job,
        runtime: Runtime,
        relay: tuple[int | None, int | None, int | None],
        cancel: Cancel | None,
    ) -> Result:
        feed = relay[0] is not None
        try:
            try:
                jail = self._make_jail(job, runtime, feed=feed)
            except ZygoteGone:
                # Nothing of the job has run yet, and a zygote may have died since the last one.
                self._drop(runtime)
                jail = self._make_jail(job, runtime, feed=feed)
            with closing(jail):
                return Supervision(jail, job, runtime, relay, cancel).run()
        except SandboxError:
            # It may be the zygote that is broken, and a new one costs little.
            self._drop(runtime)
            raise
        except OSError as error:
            self._drop(runtime)
            raise SandboxError("supervise the job", str(error)) from error

    def _make_jail(self, job: Job, runtime: Runtime, *, feed: bool) -> Jail:
        uid = self._user.uid
        zygote = self._zygotes.get(_key(runtime))
        if zygote is not None and zygote.spent:
            self._drop(runtime)
            zygote = None
        if zygote is None:
            zygote = self._zygotes[_key(runtime)] = ZygoteProcess(runtime, uid)
        return Jail(zygote, self._hierarchy, next(self._names), uid, job.limits, feed=feed)

    def _drop(self, runtime: Runtime) -> None:
        zygote = self._zygotes.pop(_key(runtime), None)
        if zygote is not None:
            zygote.close()

    def close(self) -> None:
        for zygote in self._zygotes.values():
            zygote.close()
        self._zygotes.clear()
        self._user.close()


def _for_environment(runtime: Runtime, job: Job) -> Runtime:
    """Start the interpreter afresh for a job that sets what is read only as it starts."""
    if runtime.warm and any(name.startswith(("PYTHON", "LC_", "LANG")) for name in job.env):
        return replace(runtime, warm=False)
    return runtime


def _key(runtime: Runtime) -> tuple[str, bool]:
    return runtime.name, runtime.warm


_NAME = "sandboxed-"


def _prefix(uid: int) -> str:
    return f"{_NAME}{uid}-"


def _reap(hierarchy: cgroups.Hierarchy) -> None:
    """Clear what supervisors that died have left, and touch nothing of those that live.

    Whoever lives holds the user ids of its jobs, and those are in the names of its cgroups.
    """
    marked = {int(name.split("-")[1]) for name in hierarchy.names(_NAME)}
    for uid in marked | users.known():
        user = users.hold_one(uid)
        if user is not None:
            try:
                hierarchy.clear(_prefix(uid))
            finally:
                user.close()
