"""The supervisor's side of a zygote: starting it, and ordering jails from it.

The other side, and the messages between the two, are `sandbox_core.zygote`'s.
"""

import errno
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sandbox_core import messages
from sandbox_core.errors import SandboxError
from sandbox_core.runtimes import Runtime
from sandbox_core.syscalls import CloneFlag, unshare
from sandbox_core.zygote import MESSAGE_SIZE

#: Seconds that our own code in a zygote or a jail may take for one answer: a thousand times what it
#: needs, so that only a host in trouble reaches it.
ANSWER_TIMEOUT = 60.0

#: The zygote finds this package by path: it starts without site-packages, where it may be installed.
_PACKAGES = str(Path(__file__).resolve().parent.parent)
_BOOT = (
    "import sys; sys.path.append(sys.argv[1]); from sandbox_core.zygote import main; "
    "main(int(sys.argv[2]), int(sys.argv[3]))"
)
_START = "start a zygote"
_STDERR = 2


class ZygoteGone(SandboxError):
    """The zygote ended, and with it every jail it had made."""

    def __init__(self) -> None:
        super().__init__("talk to the zygote", "it has ended")


class ZygoteProcess:
    """A running zygote of one runtime, for jobs of the users `uids`."""

    def __init__(self, runtime: Runtime, uids: Sequence[int]) -> None:
        """Start it and wait until it is in its root; `SandboxError` names the step that failed."""
        self._next_id = 0
        self._lasts = runtime.recycle_after
        self._prepared: dict[int, tuple[dict[str, Any], list[int]]] = {}
        self._ended: dict[int, dict[str, Any]] = {}
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._process = _start(theirs)
        except BaseException:
            self.control.close()
            raise
        finally:
            theirs.close()
        try:
            self.control.settimeout(ANSWER_TIMEOUT)
            order = {
                "plan": runtime.plan(uids),
                "command": runtime.start(),
                "environment": runtime.environment(),
                "warm": runtime.warm,
                "preload": runtime.preload,
            }
            self._send([], **order)
            if runtime.warm:
                self._send([], **order)  # for what the zygote becomes once it is in its root
            answer, _ = self._receive()
            if "failed" in answer:
                raise SandboxError(answer["failed"], answer["reason"])
        except BaseException:
            self.close()
            raise

    def order(self, order: dict[str, Any], fds: list[int]) -> int:
        """Order a jail and give its id; `prepared` waits until it is there.

        `fds` are stdin, stdout, stderr, the job socket, and the cgroups to join.
        """
        self._next_id += 1
        self._send(fds, prepare=self._next_id, **order)
        return self._next_id

    def prepared(self, jail_id: int) -> int:
        """Wait for an ordered jail; give its init's pidfd, which the caller closes."""
        while jail_id not in self._prepared:
            if self.closed:
                raise ZygoteGone
            self._take_answer()
        answer, received = self._prepared.pop(jail_id)
        if "failed" in answer:
            raise SandboxError(answer["failed"], answer["reason"])
        if not received:
            # The kernel drops a descriptor that there is no room for. A jail that can't be killed
            # by it must not be, so it goes with its zygote.
            self.close()
            raise SandboxError("receive the jail", os.strerror(errno.EMFILE))
        return received[0]

    def ended(self, jail_id: int, timeout: float) -> dict[str, Any] | None:
        """Give the exit record of a jail, or None when it has not come within `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while jail_id not in self._ended:
            if not self._readable(max(0.0, deadline - time.monotonic())):
                return None
            self._take_answer()
        return self._ended.pop(jail_id)

    def _take_answer(self) -> None:
        answer, received = self._receive()
        if "status" in answer:
            self._ended[answer["jail"]] = answer
        else:
            self._prepared[answer["jail"]] = answer, received

    def _readable(self, timeout: float) -> bool:
        if self.closed:
            raise ZygoteGone
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        return bool(poll.poll(timeout * 1000))

    @property
    def spent(self) -> bool:
        """Whether it has made as many jails as it should."""
        return self._next_id >= self._lasts

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self.control.fileno() < 0

    def close(self) -> None:
        """End it; the kernel ends every jail that it still has."""
        self.control.close()
        for _, received in self._prepared.values():
            for fd in received:
                os.close(fd)
        self._prepared.clear()
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def _send(self, fds: list[int], **message: Any) -> None:
        encoded = messages.pack(message)
        if len(encoded) > MESSAGE_SIZE:
            raise SandboxError("send to the zygote", f"a message of {len(encoded)} bytes")
        try:
            messages.send(self.control, encoded, fds)
        except (BrokenPipeError, ConnectionResetError):
            raise ZygoteGone from None

    def _receive(self) -> tuple[dict[str, Any], list[int]]:
        try:
            message, fds = messages.receive(self.control, MESSAGE_SIZE, 1)
        except ConnectionResetError:
            raise ZygoteGone from None
        if not message:
            raise ZygoteGone
        return json.loads(message), fds


def _start(control: socket.socket) -> subprocess.Popen[bytes]:
    """Start a zygote as pid 1 of a pid namespace of its own.

    Its death is then the death of every process in its jails, whatever their state, and that is for
    the kernel to do. A thread of this process, made for that and gone at once, is what enters the
    namespace: the namespace of a thread's children is its own affair (pid_namespaces(7)), and the
    children are this process's all the same.
    """
    outcome: list[subprocess.Popen[bytes] | OSError] = []

    def start() -> None:
        supervisor = None
        try:
            supervisor = os.pidfd_open(os.getpid())
            unshare(CloneFlag.NEWPID)
            interpreter = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
            fds = (control.fileno(), supervisor)
            outcome.append(
                subprocess.Popen(
                    [interpreter, "-I", "-S", "-c", _BOOT, _PACKAGES, *map(str, fds)],
                    pass_fds=fds,
                    env={},
                    cwd="/",
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=_own_stderr(),
                    start_new_session=True,
                )
            )
        except OSError as error:
            outcome.append(error)
        finally:
            if supervisor is not None:
                os.close(supervisor)

    thread = threading.Thread(target=start, name="start-zygote")
    thread.start()
    thread.join()
    if isinstance(outcome[0], OSError):
        raise SandboxError(_START, str(outcome[0])) from outcome[0]
    return outcome[0]


def _own_stderr() -> int:
    """Give where a zygote that breaks can say so: where we would."""
    try:
        os.fstat(_STDERR)
    except OSError:
        return subprocess.DEVNULL  # we have been started without one
    return _STDERR
