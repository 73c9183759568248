"""The standard streams of a job, seen from outside: bounded, never blocking, bytes only.

What comes out of a jail is not trusted: it is counted, kept up to a limit, and not looked at.
"""

import os
import select
from io import FileIO

_CHUNK = 64 * 1024

#: A write of this size to a pipe that polls writable does not block (pipe(7), PIPE_BUF).
_ATOMIC = 4096


class Capture:
    """One output stream: kept up to `limit` bytes, and passed on to `relay` where one is given."""

    def __init__(self, pipe: FileIO, limit: int, relay: int | None = None) -> None:
        os.set_blocking(pipe.fileno(), False)
        self._pipe = pipe
        self.kept = bytearray()
        self.truncated = False
        self._limit = limit
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
        room = self._limit - len(self.kept)
        if len(data) > room:
            self.truncated = True
            data = data[:room]
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
            before = len(self.kept)
            if self._pending:
                self._wait_for_reader(patience, cancelled)
            else:
                self._read()
                if len(self.kept) == before:
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
    """The input stream of a job that is fed as it comes from `source`, which stays the caller's."""

    def __init__(self, pipe: FileIO, source: int) -> None:
        os.set_blocking(pipe.fileno(), False)
        self._pipe = pipe
        self._source = source
        self._pending = b""

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
                self._pending = os.read(self._source, _CHUNK)
                if not self._pending:
                    self._pipe.close()  # the script reads end of file
            else:
                self._pending = self._pending[self._pipe.write(self._pending) or 0 :]
        except BlockingIOError:
            return
        except OSError:
            # The script has closed its input, or nothing more can be had from the source.
            self._pending = b""
            self._pipe.close()
