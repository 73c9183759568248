"""The client of `sandboxed serve`: sends its input, gives what comes back, up to the closing NUL."""

import contextlib
import errno
import os
import select
import socket

from sandbox_core.errors import SandboxError

_CHUNK = 64 * 1024

#: A write of this size to a pipe that polls writable does not block (pipe(7), PIPE_BUF).
_ATOMIC = 4096


def connect(path: str, stdin: int | None, stdout: int) -> bool:
    """Talk to the server at the socket `path`: from the descriptor `stdin`, to `stdout`.

    Gives whether the server said that the program has ended; else it broke off. Raises `SandboxError`
    where nobody listens, `OSError` where `stdout` can't be written.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        try:
            server.connect(path)
        except OSError as error:
            raise SandboxError("connect", f"{path}: {error.strerror or error}") from error
        server.setblocking(False)
        return _Conversation(server, stdin, stdout).hold()


class _Conversation:
    """Both ways at a time, each as fast as its reader."""

    def __init__(self, server: socket.socket, stdin: int | None, stdout: int) -> None:
        self._server = server
        self._stdin, self._stdout = stdin, stdout
        self._to_server = b""
        self._ended = False
        self._held = b""  # a NUL that is the last thing to come is not output
        if stdin is None:
            self._end_input()

    def hold(self) -> bool:
        while True:
            for fd, events in self._wait():
                if fd == self._stdin:
                    self._read_input()
                    continue
                if events & select.POLLOUT and self._to_server:
                    self._send()
                if events & ~select.POLLOUT and not self._receive():
                    return self._ended

    def _wait(self) -> list[tuple[int, int]]:
        poll = select.poll()
        poll.register(self._server, select.POLLIN | (select.POLLOUT if self._to_server else 0))
        if self._stdin is not None and not self._to_server:
            poll.register(self._stdin, select.POLLIN)
        return poll.poll()

    def _read_input(self) -> None:
        assert self._stdin is not None
        self._to_server = os.read(self._stdin, _CHUNK)
        if not self._to_server:
            self._end_input()

    def _end_input(self) -> None:
        self._stdin = None
        with contextlib.suppress(OSError):  # it has heard enough
            self._server.shutdown(socket.SHUT_WR)

    def _send(self) -> None:
        try:
            self._to_server = self._to_server[self._server.send(self._to_server) :]
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.ECONNRESET):
                raise
            self._to_server, self._stdin = b"", None  # it takes no more; what it says still counts

    def _receive(self) -> bool:
        """Pass on what has come; False at the end."""
        try:
            data = self._server.recv(_CHUNK)
        except BlockingIOError:
            return True
        except ConnectionResetError:
            data = b""
        if not data:
            self._ended = self._held == b"\0"
            return False
        data = self._held + data
        self._held = data[-1:] if data.endswith(b"\0") else b""
        _write(self._stdout, data[: len(data) - len(self._held)])
        return True


def _write(fd: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(fd, data[:_ATOMIC]) :]
        except BlockingIOError:
            select.select([], [fd], [])
