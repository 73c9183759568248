"""The zygote: the small clean process that every job descends from.

It knows no secret: it is started by exec with an empty environment and two descriptors, its control
socket and a pidfd of its supervisor; receives a runtime's plan, moves into that runtime's root, and
from then on makes jails to order and reaps their jobs. Over its job socket a jail says `{"ready":
true}` (with a descriptor of its working directory) or `{"failed": step, "reason": …, "errno": …}`,
receives the job, and is heard of no more. Messages on the control socket, in the forms of
`sandbox_core.messages`, are one object each, with descriptors beside them:

    → {"plan": …, "command": […], "environment": {…}, "warm": …, "preload": […]}
                              ← {"ready": true} or {"failed": …}
    → {"prepare": id, "uid": …, "gid": …, "disk": …, "reap_orphans": …, "born_in_cgroup": …,
       "controllers": […]}
      + stdin, stdout, stderr, job socket, cgroups
                              ← {"jail": id, "prepared": true} + init's pidfd, or "failed": …
                              ← {"jail": id, "status": …, "at": …} once its job is reaped

What it imports is in the memory of each of its jobs, so it imports little.
"""

from __future__ import annotations

import _socket
import os
import select
import sys
import time

from sandbox_core import landlock, messages
from sandbox_core.jail import (
    CGROUPS,
    JAIL_STEPS,
    LAST_FD,
    ROOT_STEPS,
    SEAL_STEPS,
    START_STEPS,
    Jail,
    StepError,
    execute,
    open_working_directory,
    take,
)
from sandbox_core.mounts import WARM_PATH
from sandbox_core.privileges import die_with_parent
from sandbox_core.syscalls import CloneFlag, IdleProcess, fork_into, setns, unshare

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn
else:
    import _signal as signal

#: Where a warm interpreter finds its socket and the pidfd of its supervisor.
CONTROL_FD, SUPERVISOR_FD = 3, 4

MESSAGE_SIZE = 64 * 1024
_MAX_FDS = 16


class _Running:
    """A jail whose job has not been reaped yet."""

    def __init__(self, jail_id: int, init: int, init_pidfd: int, job: int) -> None:
        self.id = jail_id
        self.init = init
        self.init_pidfd = init_pidfd
        self.job = job


class Zygote:
    """Makes jails of one runtime and reaps their jobs, until the supervisor goes."""

    def __init__(self, control: _socket.socket, supervisor: int) -> None:
        self._control = control
        self._supervisor = supervisor
        self._own_pids = os.pidfd_open(os.getpid())
        self._idle = IdleProcess()
        landlock.plan()  # here, so that no job has to
        self._jails: dict[int, _Running] = {}  # by the job's pidfd
        self._poll = select.poll()
        self._command: list[str] = []
        self._environment: dict[str, str] = {}
        self._boot: str | None = None
        self._shows_cgroup = False
        self._get_ready: Callable[[Jail], object] | None = None

    def serve(
        self,
        settle: Callable[[dict[str, Any]], object],
        start: Callable[[Jail], object],
        get_ready: Callable[[Jail], object] | None = None,
    ) -> bool:
        """Answer orders and reap jobs until the supervisor is gone; then give False.

        `settle` does what the first message asks for. `get_ready` is the last step of a jail that is
        to wait for its job, `start` makes a job's process its script; if that returns, so does this,
        with True and in that process.
        """
        self._get_ready = get_ready
        if not self._settle(settle):
            return False
        self._poll.register(self._control, select.POLLIN)
        self._poll.register(self._supervisor, select.POLLIN)
        while True:
            for fd, _ in self._poll.poll():
                if fd in self._jails:
                    self._reap(fd)
                    continue
                order, fds = self._receive() if fd != self._supervisor else (None, [])
                if order is None:
                    return False
                if self._obey(order, fds):
                    self._be_the_job(order, fds, start)
                    return True

    def _settle(self, settle: Callable[[dict[str, Any]], object]) -> bool:
        """Move into the runtime's root, as the first message describes it."""
        order, _ = self._receive()
        if order is None:
            return False
        # Only now: the thread that started us has ended by the time that it sends this, and its end
        # would have been taken for the supervisor's (prctl(2), PR_SET_PDEATHSIG).
        die_with_parent()
        if self._supervisor_has_ended():
            return False  # before that it would not have been told
        self._command, self._environment = order["command"], order["environment"]
        self._boot = order["plan"]["boot"] if order["warm"] else None
        self._shows_cgroup = order["plan"]["cgroup"]
        try:
            settle(order)
        except StepError as error:
            self._send(failed=error.title, reason=error.reason)
            return False
        except Exception as error:  # noqa: BLE001  # whatever an operator's modules raise
            self._send(
                failed="preload the runtime's modules", reason=f"{type(error).__name__}: {error}"
            )
            return False
        self._send(ready=True)
        return True

    def _supervisor_has_ended(self) -> bool:
        poll = select.poll()
        poll.register(self._supervisor, select.POLLIN)
        return bool(poll.poll(0))

    def _obey(self, order: dict[str, Any], fds: list[int]) -> bool:
        """Make a jail to order; True in the process that is to be its job."""
        try:
            init, init_pidfd, job = self._fork(order, fds)
            if job == 0:
                return True
            job_pidfd = os.pidfd_open(job)
        except OSError as error:
            # Whatever was made goes with us; the supervisor starts another zygote.
            failed = "start the jail's first processes"
            self._send(jail=order["prepare"], failed=failed, reason=str(error))
            os._exit(1)
        for fd in fds:
            os.close(fd)
        self._jails[job_pidfd] = _Running(order["prepare"], init, init_pidfd, job)
        self._poll.register(job_pidfd, select.POLLIN)
        self._send((init_pidfd,), jail=order["prepare"], prepared=True)
        return False

    def _fork(self, order: dict[str, Any], fds: list[int]) -> tuple[int, int, int]:
        """Start an init and, in its pid namespace, the process that will be the job."""
        init, init_pidfd = self._make_init(reap_orphans=order["reap_orphans"])
        job = fork_into(fds[CGROUPS]) if order["born_in_cgroup"] else os.fork()
        if job != 0:
            # Only from its own pid namespace may a process make the next one (clone(2)).
            setns(self._own_pids, CloneFlag.NEWPID)
        return init, init_pidfd, job

    def _make_init(self, *, reap_orphans: bool) -> tuple[int, int]:
        """Start the pid 1 of a new pid namespace, and have our next child born there."""
        if not reap_orphans:
            init, init_pidfd = self._idle.start(CloneFlag.NEWPID, signal.SIGCHLD)
            setns(init_pidfd, CloneFlag.NEWPID)
            return init, init_pidfd
        unshare(CloneFlag.NEWPID)
        init = os.fork()
        if init == 0:
            _be_init()
        return init, os.pidfd_open(init)

    def _be_the_job(
        self, order: dict[str, Any], fds: list[int], start: Callable[[Jail], object]
    ) -> None:
        """Become the job. Returns only if `start` does: nothing else may get back to the loop."""
        started = False
        try:
            self._control.detach()  # its descriptor is about to be another's
            jail = Jail(order, fds)
            jail.command, jail.environment, jail.start = self._command, self._environment, start
            jail.boot, jail.shows_cgroup = self._boot, self._shows_cgroup
            if self._get_ready is not None:
                jail.get_ready = self._get_ready
            _take_steps(jail)
            started = True
        finally:
            if not started:
                os._exit(1)

    def _reap(self, job_pidfd: int) -> None:
        at = time.monotonic()
        jail = self._jails.pop(job_pidfd)
        self._poll.unregister(job_pidfd)
        os.close(job_pidfd)
        _, status = os.waitpid(jail.job, 0)  # os.wait4 would import a module, for all jobs to come
        # With init goes everything in the jail; its end is the proof that nothing is left.
        _end_init(jail.init, jail.init_pidfd)
        self._send(jail=jail.id, status=status, at=at)

    def _receive(self) -> tuple[dict[str, Any] | None, list[int]]:
        message, fds = messages.receive(self._control, MESSAGE_SIZE, _MAX_FDS)
        return (messages.unpack(message) if message else None), fds

    def _send(self, fds: Sequence[int] = (), **message: str | float) -> None:
        messages.send(self._control, messages.answer(**message), fds)


def _take_steps(jail: Jail) -> None:
    try:
        take(JAIL_STEPS, jail)
        _report_ready(jail)
        take(START_STEPS, jail)
    except StepError as error:
        told = messages.answer(failed=error.title, reason=error.reason, errno=error.errno)
        os.write(jail.socket, told + b"\n")
        raise


def _be_init() -> NoReturn:
    """Be an init for a jail of several processes: leave its orphans to the kernel to reap.

    A parent that ignores SIGCHLD has no zombies (wait(2)). An idle init can't ignore it: it would
    have to take that from us, and a job that ended just then would be reaped without its status.
    """
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        os.closerange(0, LAST_FD)
        die_with_parent()
        while True:
            signal.pause()
    finally:
        os._exit(1)


def _end_init(init: int, init_pidfd: int) -> None:
    signal.pidfd_send_signal(init_pidfd, signal.SIGKILL)
    os.waitpid(init, 0)
    os.close(init_pidfd)


def _report_ready(jail: Jail) -> None:
    assert jail.job_socket is not None
    directory = open_working_directory()
    messages.send(jail.job_socket, messages.answer(ready=True) + b"\n", [directory])
    os.close(directory)


def main(control: int, supervisor: int) -> None:
    """Be a zygote; `control` is its socket, `supervisor` a pidfd of the process it works for."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    # A message to a supervisor that has gone must be an error to end by, not a death by signal.
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    os.umask(0o022)  # the job's user, which is another one, must be able to enter the root

    def settle(order: dict[str, Any]) -> None:
        take(ROOT_STEPS, order["plan"])
        if order["warm"]:
            _become_the_interpreter(order, control, supervisor)
        take(SEAL_STEPS, None)

    try:
        Zygote(_socket.socket(fileno=control), supervisor).serve(settle, start=execute)
    except (BrokenPipeError, ConnectionResetError):
        sys.exit(0)  # the supervisor has gone, and with this process goes every jail


def _become_the_interpreter(order: dict[str, Any], control: int, supervisor: int) -> NoReturn:
    """Go on in the runtime's own interpreter (`sandbox_core.warm`), which has a message waiting."""
    control, supervisor = _above(control), _above(supervisor)
    os.dup2(control, CONTROL_FD)
    os.dup2(supervisor, SUPERVISOR_FD)
    os.closerange(SUPERVISOR_FD + 1, LAST_FD)
    environment = dict(order["environment"])
    if order["plan"]["boot"] == WARM_PATH:
        environment["PYTHONPATH"] = WARM_PATH
    os.execve(order["command"][0], order["command"], environment)


def _above(fd: int) -> int:
    while fd <= SUPERVISOR_FD:
        fd = os.dup(fd)
    return fd
