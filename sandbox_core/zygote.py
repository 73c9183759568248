"""The zygote: the small clean process that every job descends from.

It knows no secret: it is started by exec with an empty environment and one descriptor, receives a
runtime's plan, moves into that runtime's root, and from then on makes jails to order and reaps their
jobs. Over its job socket a jail says `{"ready": true}` (with a descriptor of its working directory)
or `{"failed": step, "reason": …, "errno": …}`, receives the job, and is heard of no more. Messages
on the control socket are one JSON object each, with descriptors beside them:

    → {"plan": …, "command": […], "environment": {…}}          ← {"ready": true} or {"failed": …}
    → {"prepare": id, "uid": …, "gid": …, "disk": …, "reap_orphans": …, "born_in_cgroup": …}
      + stdin, stdout, stderr, job socket, cgroups
                              ← {"jail": id, "prepared": true} + init's pidfd, or "failed": …
                              ← {"jail": id, "status": …, "at": …} once its job is reaped

What it imports is in the memory of each of its jobs, so it imports little.
"""

import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterable
from typing import Any, NoReturn

from sandbox_core.jail import (
    CGROUPS,
    JAIL_STEPS,
    LAST_FD,
    ROOT_STEPS,
    START_STEPS,
    Jail,
    StepError,
    open_working_directory,
    take,
)
from sandbox_core.privileges import die_with_parent
from sandbox_core.syscalls import CloneFlag, IdleProcess, fork_into, setns, unshare

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

    def __init__(self, control: socket.socket, supervisor: int) -> None:
        self._control = control
        self._supervisor = supervisor
        self._own_pids = os.pidfd_open(os.getpid())
        self._idle = IdleProcess()
        self._jails: dict[int, _Running] = {}  # by the job's pidfd
        self._poll = select.poll()
        self._command: list[str] = []
        self._environment: dict[str, str] = {}

    def serve(self) -> None:
        """Answer orders and reap jobs; return when the supervisor is gone."""
        if not self._settle():
            return
        self._poll.register(self._control, select.POLLIN)
        self._poll.register(self._supervisor, select.POLLIN)
        while True:
            for fd, _ in self._poll.poll():
                if fd in self._jails:
                    self._reap(fd)
                elif fd == self._supervisor or not self._obey():
                    return

    def _settle(self) -> bool:
        """Move into the runtime's root, as the first message describes it."""
        order, _ = self._receive()
        if order is None:
            return False
        self._command, self._environment = order["command"], order["environment"]
        try:
            take(ROOT_STEPS, order["plan"])
        except StepError as error:
            self._send(failed=error.title, reason=error.reason)
            return False
        self._send(ready=True)
        return True

    def _obey(self) -> bool:
        """Carry out one order; False when there will be no more."""
        order, fds = self._receive()
        if order is None:
            return False
        try:
            self._prepare(order, fds)
        except OSError as error:
            failed = "start the jail's first processes"
            self._send(jail=order["prepare"], failed=failed, reason=str(error))
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def _prepare(self, order: dict[str, Any], fds: list[int]) -> None:
        """Start an init and, in its pid namespace, the process that will be the job."""
        try:
            init, init_pidfd = self._make_init(reap_orphans=order["reap_orphans"])
            try:
                job = fork_into(fds[CGROUPS]) if order["born_in_cgroup"] else os.fork()
                if job == 0:
                    self._be_the_job(order, fds)
                job_pidfd = os.pidfd_open(job)
            except OSError:
                _end_init(init, init_pidfd)
                raise
        finally:
            # Only from its own pid namespace may a process make the next one (clone(2)).
            setns(self._own_pids, CloneFlag.NEWPID)
        self._jails[job_pidfd] = _Running(order["prepare"], init, init_pidfd, job)
        self._poll.register(job_pidfd, select.POLLIN)
        self._send((init_pidfd,), jail=order["prepare"], prepared=True)

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

    def _be_the_job(self, order: dict[str, Any], fds: list[int]) -> NoReturn:
        """Become the job; never return into the zygote's loop."""
        try:
            jail = Jail(order, fds)
            jail.command, jail.environment = self._command, self._environment
            self._take_steps(jail)
        finally:
            os._exit(1)

    @staticmethod
    def _take_steps(jail: Jail) -> None:
        try:
            take(JAIL_STEPS, jail)
            _report_ready(jail)
            take(START_STEPS, jail)
        except StepError as error:
            _report(jail, {"failed": error.title, "reason": error.reason, "errno": error.errno})

    def _reap(self, job_pidfd: int) -> None:
        at = time.monotonic()
        jail = self._jails.pop(job_pidfd)
        self._poll.unregister(job_pidfd)
        os.close(job_pidfd)
        _, status, _ = os.wait4(jail.job, 0)
        # With init goes everything in the jail; its end is the proof that nothing is left.
        _end_init(jail.init, jail.init_pidfd)
        self._send(jail=jail.id, status=status, at=at)

    def _receive(self) -> tuple[dict[str, Any] | None, list[int]]:
        message, fds, _, _ = socket.recv_fds(self._control, MESSAGE_SIZE, _MAX_FDS)
        return (json.loads(message) if message else None), fds

    def _send(self, fds: Iterable[int] = (), **message: Any) -> None:
        socket.send_fds(self._control, [json.dumps(message).encode()], list(fds))


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
    directory = open_working_directory()
    job_socket = socket.socket(fileno=os.dup(jail.socket))
    socket.send_fds(job_socket, [b'{"ready": true}\n'], [directory])
    job_socket.close()
    os.close(directory)


def _report(jail: Jail, message: dict[str, Any]) -> None:
    os.write(jail.socket, json.dumps(message).encode() + b"\n")


def main(control: int, supervisor: int) -> None:
    """Be a zygote; `control` is its socket, `supervisor` a pidfd of the process it works for."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    # A message to a supervisor that has gone must be an error to end by, not a death by signal.
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        Zygote(socket.socket(fileno=control), supervisor).serve()
    except (BrokenPipeError, ConnectionResetError):
        sys.exit(0)  # the supervisor has gone, and with this process goes every jail
