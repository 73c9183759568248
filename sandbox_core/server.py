"""`Server`: runs one program for each connection to a unix socket, every time in a fresh jail.

What a client sends, up to a NUL byte or its end of file, is the program's standard input; its standard
output goes back as it comes; when it ends, one NUL byte does, and the connection closes. Nothing that a
client sends is looked at but for that byte.

Each worker is a thread that takes the next connection from the kernel's own line, which is bounded
and in order, so that whoever waits costs this process nothing. A connection has its peer, its jail
and its descriptors to itself.
"""

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

from sandbox_core.job import Job, Result
from sandbox_core.sandbox import Relay, Sandbox
from sandbox_core.sockets import Departure, Listener, Peer, peer_of

#: What becomes of a program's standard error.
Errors = Literal["log", "merge", "drop"]

#: The end of the input, and of the output.
END = b"\0"

#: Seconds beyond the wall limit that a client has to take what the program wrote.
_GRACE_FOR_READERS = 1.0

#: Seconds to wait when there is no descriptor or no memory for the next connection.
_SCARCITY = 0.1

#: Bytes of the program's standard error that go into the log, its end being what tells most.
_LOGGED_ERRORS = 2048

#: Seconds between two looks at the deadlines of readers.
_GLANCE = 0.25


@dataclass(slots=True)
class _Run:
    """A connection that is being served."""

    departure: Departure
    deadline: float


class Server:
    """Serves `job` at a socket; a context manager.

    `sandbox` has as many slots as there are to be workers. `log` takes one event after another, from
    any thread. The program's standard error goes into it, or to the client in order with the output
    (`errors` is "merge"), or nowhere ("drop"). Setting `job` has the next connections served
    by another.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        listener: Listener,
        job: Job,
        *,
        workers: int = 5,
        errors: Errors = "log",
        log: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> None:
        self.job = job
        self._sandbox = sandbox
        self._listener = listener
        self._errors, self._log = errors, log
        self._stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._runs: dict[int, _Run] = {}
        self._next = 0
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, name=f"worker-{number}", daemon=True)
            for number in range(1, workers + 1)
        ]
        self._watch = threading.Thread(target=self._keep_deadlines, name="deadlines", daemon=True)

    def start(self) -> None:
        """Have the jails stand ready, then take connections."""
        self._sandbox.prepare(self.job, feed=True)
        for thread in (*self._threads, self._watch):
            thread.start()

    def stop(self) -> None:
        """Take no more connections, and wait for those that are served: at most the wall limit."""
        self._stopping.set()
        os.eventfd_write(self._stop, 1)
        for thread in (*self._threads, self._watch):
            if thread.ident is not None:
                thread.join()

    def close(self) -> None:
        """Stop, and remove the socket."""
        if self._stop < 0:
            return
        self.stop()
        self._listener.close()
        os.close(self._stop)
        self._stop = -1

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # The workers.

    def _work(self) -> None:
        with select.epoll() as epoll:
            # Of the workers that wait, one is woken (epoll_ctl(2)).
            epoll.register(self._listener.socket, select.EPOLLIN | select.EPOLLEXCLUSIVE)
            epoll.register(self._stop, select.EPOLLIN)
            while not self._stopping.is_set():
                epoll.poll()
                self._take_connection()

    def _take_connection(self) -> None:
        if self._stopping.is_set():
            return
        try:
            connection, _ = self._listener.socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # another worker was quicker
        except OSError as error:  # no descriptor or no memory is free
            self._log({"event": "can't accept", "error": error.strerror})
            self._stopping.wait(_SCARCITY)
            return
        with connection:
            self._receive(connection)

    def _receive(self, connection: socket.socket) -> None:
        """Serve one connection; whatever goes wrong with it stays its own affair."""
        accepted = time.time()
        number = self._take_number()
        event: dict[str, Any] = {"event": "connection", "id": number, "accepted_at": accepted}
        try:
            peer = peer_of(connection)
            event |= {"pid": peer.pid, "uid": peer.uid}
            self._admit(connection, peer, number, event)
        except Exception as error:  # noqa: BLE001  # a worker outlives every connection
            event |= {"status": "internal_error", "error": f"{error}"}
        self._log(event)

    def _take_number(self) -> int:
        with self._lock:
            self._next += 1
            return self._next

    def _admit(self, connection: socket.socket, peer: Peer, number: int, event: dict[str, Any]) -> None:
        if not self._listener.admits(peer):
            event["status"] = "refused"
            return
        departure = Departure(connection)
        try:
            if departure.is_set():
                event["status"] = "left"  # while it waited
                return
            result = self._serve(connection, departure, number)
            self._describe(result, event)
        finally:
            departure.close()

    def _serve(self, connection: socket.socket, departure: Departure, number: int) -> Result:
        connection.setblocking(False)
        # Of another number, so that one poll can wait for the input and for room for the output.
        with socket.socket(fileno=os.dup(connection.fileno())) as answers:
            relay = Relay(
                stdin=connection.fileno(),
                stdout=answers.fileno(),
                stdin_end=END,
                keep=False,
                merge=self._errors == "merge",
            )
            deadline = time.monotonic() + self.job.limits.wall_time + _GRACE_FOR_READERS
            with self._lock:
                self._runs[number] = _Run(departure, deadline)
            try:
                result = self._sandbox.run(self.job, cancel=departure, relay=relay)
                _part(connection, deadline)
            finally:
                with self._lock:
                    del self._runs[number]
        return result

    def _describe(self, result: Result, event: dict[str, Any]) -> None:
        for name in ("status", "exit_code", "signal", "wall_time", "cpu_time", "memory"):
            value = getattr(result, name)
            event[name] = round(value, 6) if isinstance(value, float) else value
        if self._errors == "log" and result.stderr:
            event["stderr"] = result.stderr[-_LOGGED_ERRORS:].decode("utf-8", "replace")

    def _keep_deadlines(self) -> None:
        """Part with clients that do not take the answer."""
        while not self._stopping.wait(_GLANCE) or self._runs:
            now = time.monotonic()
            with self._lock:
                for run in self._runs.values():
                    if now > run.deadline:
                        run.departure.set()
            if self._stopping.is_set():
                time.sleep(_GLANCE)


def _part(connection: socket.socket, deadline: float) -> None:
    """Say that the program has ended, and take leave.

    What the client has sent and nobody has read is dropped first: the kernel would make a broken
    connection of it, which its reader would meet in place of the end of file.
    """
    poll = select.poll()
    poll.register(connection, select.POLLOUT)
    with contextlib.suppress(OSError):  # it has left, or reads nothing
        if poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            connection.send(END)
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
        while connection.recv(1 << 16):
            continue
