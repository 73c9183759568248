"""A slot: room for one job at a time, and what stands ready for the next one.

It holds the zygotes that make its jails, one for each runtime, and user ids that no other slot on
this host has. While a job runs, the jail for the next one is made, on the guess that it will be like
the last: of the same runtime and limits. A job of another kind waits for a jail of its own to be made.
"""

import itertools
import math
import time
from contextlib import closing, suppress
from functools import partial

from sandbox_core import users
from sandbox_core.cancel import Cancel
from sandbox_core.cgroups import Hierarchy
from sandbox_core.errors import SandboxError
from sandbox_core.job import Job, Limits, Result
from sandbox_core.launcher import ZygoteGone, ZygoteProcess
from sandbox_core.runtimes import Runtime
from sandbox_core.streams import Relay
from sandbox_core.supervisor import Jail, Supervision

#: Seconds: a slot whose last job ended less than this before the next one came is busy.
_BREATH = 0.01

#: Kinds of jails that a slot keeps one of: two kinds of jobs that take turns find theirs.
_KINDS = 2

NAME = "sandboxed-"


def prefix(uid: int) -> str:
    """Give what the names of all cgroups begin with whose jobs are of the user `uid`."""
    return f"{NAME}{uid}-"


class _Kind:
    """What a jail is made for: all that can't be changed once it stands."""

    def __init__(self, runtime: Runtime, limits: Limits, *, feed: bool) -> None:
        self.runtime = runtime
        self.limits = limits
        self.feed = feed
        self.zygote = _zygote_name(runtime)
        self._key = (self.zygote, limits.memory, limits.processes, limits.disk, feed)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Kind) and self._key == other._key


class Slot:
    """Room for one job at a time; not for several threads at once."""

    def __init__(self, hierarchy: Hierarchy, *, ahead: bool) -> None:
        """Hold its user ids; with `ahead` keep jails standing ready."""
        self._hierarchy = hierarchy
        self._ahead = ahead
        self._numbers = itertools.count()
        self._zygotes: dict[tuple[str, bool], ZygoteProcess] = {}
        self._standing: dict[_Kind, Jail] = {}  # the kind used last comes last
        self._ended = -math.inf
        self._users: list[users.JobUser] = []
        self._beside: Slot | None = None
        try:
            # One for the job that runs, and one for each jail that stands ready beside it.
            for _ in range(1 + _KINDS * ahead):
                self._users.append(users.hold())
        except BaseException:
            self.close()
            raise
        self.uids = [user.uid for user in self._users]
        self._free_uids = list(self.uids)
        #: Set from any thread: the next job is to have new zygotes.
        self.stale = False

    def beside(self) -> "Slot":
        """Give room for a second job at the same time, for two that talk with each other.

        It is made on first use and kept: most slots never need one.
        """
        self._heed_stale()
        if self._beside is None:
            self._beside = Slot(self._hierarchy, ahead=self._ahead)
        return self._beside

    def run(
        self,
        job: Job,
        runtime: Runtime,
        relay: Relay,
        cancel: Cancel | None,
    ) -> Result:
        """Run `job` in a jail of `runtime`; the rest is as `Sandbox.run` says."""
        kind = _Kind(runtime, job.limits, feed=relay.stdin is not None)
        self._heed_stale()
        try:
            jail = self._standing_ready(kind) or self._made_now(kind)
            with closing(_Successor(self, kind)) as successor:
                with closing(jail):
                    result = Supervision(
                        jail,
                        job,
                        runtime,
                        relay,
                        cancel=cancel,
                        successor=successor if self._ahead else None,
                        busy=time.monotonic() - self._ended < _BREATH,
                    ).run()
                # Not before: while a process joins cgroups, which on v1 may take milliseconds, none can
                # be removed.
                successor.order()
                return result
        except SandboxError:
            # It may be the zygote that is broken, and a new one costs little.
            self._drop(runtime)
            raise
        except OSError as error:
            self._drop(runtime)
            raise SandboxError("supervise the job", str(error)) from error
        finally:
            self._ended = time.monotonic()

    def prepare(self, limits: Limits, runtime: Runtime, *, feed: bool) -> None:
        """Have a jail stand ready for a job of `runtime` with `limits`."""
        kind = _Kind(runtime, limits, feed=feed)
        self._heed_stale()
        if self._ahead and kind not in self._standing:
            self.make_room()
            try:
                self._standing[kind] = self._made_now(kind)
            except (SandboxError, OSError):
                self._drop(runtime)  # as above
                raise

    def make_room(self) -> None:
        """Take down the jail of the kind that has waited longest, if there is none to spare."""
        while len(self._standing) >= _KINDS:
            self._standing.pop(next(iter(self._standing))).close()

    def make(self, kind: _Kind) -> Jail | None:
        """Make the supervisor's part of a jail that is to stand ready; None if its zygote is spent."""
        zygote = self._zygotes.get(kind.zygote)
        if zygote is None or zygote.spent:
            return None
        self.make_room()
        return self._make(zygote, kind)

    def keep(self, kind: _Kind, jail: Jail) -> None:
        """Keep a jail that was ordered, for the next job of its kind."""
        self._standing[kind] = jail

    def _standing_ready(self, kind: _Kind) -> Jail | None:
        """Give the jail of this kind that stands ready, or None where there is none any more."""
        jail = self._standing.pop(kind, None)
        if jail is None:
            return None
        # If it is not ready, or its process has ended, nothing of a job was lost by it: another is
        # made, and if that one fails too its error is the one to be told.
        with suppress(SandboxError, OSError):
            if jail.await_ready() and jail.exit_record() is None:
                return jail
        with suppress(SandboxError):
            jail.close()
        self._drop(kind.runtime)
        return None

    def _made_now(self, kind: _Kind) -> Jail:
        try:
            return self._complete(kind)
        except ZygoteGone:
            # Nothing of the job has run yet, and a zygote may have died since the last one.
            self._drop(kind.runtime)
            return self._complete(kind)

    def _complete(self, kind: _Kind) -> Jail:
        zygote = self._zygotes.get(kind.zygote)
        if zygote is None or zygote.spent:
            self._drop(kind.runtime)
            zygote = self._zygotes[kind.zygote] = ZygoteProcess(kind.runtime, self.uids)
        jail = self._make(zygote, kind)
        try:
            jail.order()
            jail.await_ready()
        except BaseException:
            jail.close()
            raise
        return jail

    def _make(self, zygote: ZygoteProcess, kind: _Kind) -> Jail:
        uid = self._free_uids.pop()
        return Jail(
            zygote,
            self._hierarchy,
            f"{prefix(uid)}{next(self._numbers)}",
            uid=uid,
            limits=kind.limits,
            feed=kind.feed,
            release=partial(self._free_uids.append, uid),
        )

    def _drop(self, runtime: Runtime) -> None:
        """End a runtime's zygote, and with it the jails that stand ready."""
        name = _zygote_name(runtime)
        zygote = self._zygotes.pop(name, None)
        if zygote is not None:
            zygote.close()
            for kind in [kind for kind in self._standing if kind.zygote == name]:
                self._standing.pop(kind).close()

    def _heed_stale(self) -> None:
        if self.stale:
            self.stale = False
            if self._beside is not None:
                self._beside.stale = True
            self._drop_all()

    def _drop_all(self) -> None:
        for zygote in self._zygotes.values():
            zygote.close()
        self._zygotes.clear()
        while self._standing:
            self._standing.popitem()[1].close()

    def close(self) -> None:
        """End the zygotes and their jails, and let go of the user ids."""
        if self._beside is not None:
            self._beside.close()
            self._beside = None
        self._drop_all()
        for user in self._users:
            user.close()
        self._users.clear()


class _Successor:
    """The jail for the next job, if that is of the same kind."""

    def __init__(self, slot: Slot, kind: _Kind) -> None:
        self._slot = slot
        self._kind = kind
        self._jail: Jail | None = None

    # Where one can't be made, this job goes on all the same; the next one tries again, and is told.

    def make(self) -> None:
        with suppress(SandboxError, OSError):
            self._jail = self._slot.make(self._kind)

    def order(self) -> None:
        if self._jail is not None:
            with suppress(SandboxError, OSError):
                self._jail.order()
                self._slot.keep(self._kind, self._jail)
                self._jail = None

    def close(self) -> None:
        """Take down what was not ordered after all."""
        if self._jail is not None:
            self._jail.close()


def _zygote_name(runtime: Runtime) -> tuple[str, bool]:
    return runtime.name, runtime.warm
