"""A structured log that never holds up whoever writes to it: one JSON object a line."""

import contextlib
import json
import os
import select
import threading
import time
from typing import Any

#: A line of this size is written whole or not at all, and without waiting where poll says that there
#: is room (pipe(7), PIPE_BUF).
_LINE_SIZE = 4096


class Journal:
    """Writes events to the descriptor `fd`, which stays the caller's.

    A reader that has stopped, a disk that is full, cost lines, and the next that gets through says
    how many; they never stop the program.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lost = 0
        self._lock = threading.Lock()
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    def write(self, event: dict[str, Any]) -> None:
        """Write `event` as one line."""
        with self._lock:
            whole = {"at": round(time.time(), 3), **event}
            if self._lost:
                whole["lines_lost"] = self._lost
            if self._put(_line(whole)):
                self._lost = 0
            else:
                self._lost += 1

    def _put(self, line: bytes) -> bool:
        with contextlib.suppress(OSError):
            ready = self._poll.poll(0)
            if ready and ready[0][1] & select.POLLOUT:
                return os.write(self._fd, line) == len(line)
        return False


def _line(event: dict[str, Any]) -> bytes:
    """Give the line, with the longest texts in it shortened until it fits."""
    while True:
        line = json.dumps(event).encode() + b"\n"
        excess = len(line) - _LINE_SIZE
        if excess <= 0:
            return line
        longest = max(event, key=lambda name: len(json.dumps(event[name])))
        text = str(event[longest])
        event = {**event, longest: text[-(len(text) // 2) :]}
