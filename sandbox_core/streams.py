"""The standard streams of a job, seen from outside: bounded, never blocking, bytes only.

What comes out of a jail is not trusted: it is counted, kept up to a limit, and not looked at.
"""

import os
import select
from io import FileIO
from typing import NamedTuple

_CHUNK = 64 * 1024

#: A write of this size to a pipe that polls writable does not block (pipe(7), PIPE_BUF).
_ATOMIC = 4096


class Relay(NamedTuple):
    """Where a job's streams come from and go to while it runs; every descriptor stays the caller's.

    The job reads what comes from `stdin`, up to the byte `stdin_end` where one is named; its output is
    passed on to `stdout` and `stderr` as it comes, and is in the result too, unless `keep` is False.
    With `merge` the job's standard error is its standard output. On a `terminal`, the descriptor of a
    pseudo-terminal's inner side, all three are that, and the job's session is the terminal's.
    """

    stdin: int | None = None
    stdout: int | None = None
    stderr: int | None = None
    stdin_end: bytes | None = None
    keep: bool = True
    merge: bool = False
    terminal: int | None = None


class Capture:
    """One output stream: up to `limit` bytes, kept or passed on to `relay`, or both."""

    def __init__(
        self, pipe: FileIO, limit: int, relay: int | None = None, *, keep: bool = True
    ) -> None:
        os.set_blocking(pipe.fileno(), False)
        self._pipe = pipe
        self.kept = bytearray()
        self.truncated = False
        self._limit = limit
        self._count = 0
        self._keep = keep or relay is None
        self._relay = relay
        self._pending = b""

    def interests(self) -> list[tuple[int, int]]:
        """Give the descriptors and events to poll for."""
        if self._pending and self._relay is not None:
            return [(self._relay, select.POLLOUT)]  # the reader sets the pace
        return [] if self._pipe.closed else [(self._pipe.fileno(), select.POLLIN)]

    def on_event(self, fd: int) -> None:
        """Go on after an event on `fd`."""
        if fd == self._relay:
            self._pass_on()
        else:
            self._read()

    def _read(self) -> None:
        data = self._pipe.read(_CHUNK)
        if data is None:
            return  # nothing is there yet
        if not data:
            self._pipe.close()
            return
        room = self._limit - self._count
        if len(data) > room:
            self.truncated = True
            data = data[:room]
        self._count += len(data)
        if self._keep:
            self.kept += data
        if self._relay is not None:
            self._pending = data

    def _pass_on(self) -> None:
        assert self._relay is not None
        try:
            written = os.write(self._relay, self._pending[:_ATOMIC])
        except BlockingIOError:
            return
        except OSError:
            # Nobody reads any more, or a file is full: the script gets what it would without a
            # sandbox when its reader goes, SIGPIPE.
            self._relay, self._pending = None, b""
            self._pipe.close()
            return
        self._pending = self._pending[written:]

    def drain(self, patience: float | None, cancelled: int | None) -> None:
        """Take what is still in the pipe after everything in the jail has ended.

        A reader who keeps us waiting for longer than `patience` seconds (None: any time), or until
        the descriptor `cancelled` is readable, does not get the rest; it is kept all the same.
        """
        while not self._pipe.closed and not self.truncated:
            before = self._count
            if self._pending:
                self._wait_for_reader(patience, cancelled)
            else:
                self._read()
                if self._count == before:
                    break
        while self._pending:
            self._wait_for_reader(patience, cancelled)

    def _wait_for_reader(self, patience: float | None, cancelled: int | None) -> None:
        assert self._relay is not None
        poll = select.poll()
        poll.register(self._relay, select.POLLOUT)
        if cancelled is not None:
            poll.register(cancelled, select.POLLIN)
        ready = [fd for fd, _ in poll.poll(None if patience is None else patience * 1000)]
        if self._relay in ready:
            self._pass_on()
        else:
            self._relay, self._pending = None, b""


class Feed:
    """The input stream of a job that is fed as it comes from `source`, which stays the caller's.

    It ends where the source does, or before the first byte `end`; what follows that is not read.
    """

    def __init__(self, pipe: FileIO, source: int, end: bytes | None = None) -> None:
        os.set_blocking(pipe.fileno(), False)
        self._pipe = pipe
        self._source = source
        self._end = end
        self._pending = b""
        self._ended = False

    def interests(self) -> list[tuple[int, int]]:
        """Give the descriptors and events to poll for."""
        if self._pipe.closed:
            return []
        if self._pending:
            return [(self._pipe.fileno(), select.POLLOUT)]
        return [(self._source, select.POLLIN)]

    def on_event(self, fd: int) -> None:
        """Go on after an event on `fd`."""
        try:
            if fd == self._source:
                self._take(os.read(self._source, _CHUNK))
            else:
                self._pending = self._pending[self._pipe.write(self._pending) or 0 :]
        except BlockingIOError:
            return
        except OSError:
            # The script has closed its input, or nothing more can be had from the source.
            self._pending, self._ended = b"", True
        if self._ended and not self._pending:
            self._pipe.close()  # the script reads end of file

    def _take(self, data: bytes) -> None:
        before, found, _ = data.partition(self._end) if self._end is not None else (data, b"", b"")
        self._pending = before
        self._ended = bool(found) or not data
