"""Programs that we start and that never outlive us: a Redis server, a worker, Flower."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, NamedTuple

#: Seconds between two looks at whether a program still runs.
_POLL = 0.05

# Runs a command that gets SIGTERM when its parent dies (prctl(2), PR_SET_PDEATHSIG is 1), even by
# SIGKILL. An interpreter of its own does it between fork and exec: a `preexec_fn` would run Python
# in the fork of a process that may have threads. The line before exec is for a parent that died
# before the prctl.
_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
parent, *command = sys.argv[1:]
ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)
os.getppid() == int(parent) or sys.exit(1)
os.execvp(command[0], command)
"""


def start(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    output: IO[bytes] | None = None,
) -> subprocess.Popen[bytes]:
    """Start `command` so that it gets SIGTERM when the calling thread ends, however it ends.

    It is in a session of its own: Ctrl-C at the terminal reaches us alone, and we stop things in
    order. Its stdout and stderr are ours, or go to `output`.
    """
    launcher = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid())]
    return subprocess.Popen(
        [*launcher, *command],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )


def stop(
    process: subprocess.Popen[bytes], grace: float, hurry: Callable[[], bool] = lambda: False
) -> int:
    """End `process` with SIGTERM, and give its exit code.

    After `grace` seconds, or as soon as `hurry` gives true, it is SIGKILLed.
    """
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + grace
    while process.poll() is None:
        if time.monotonic() > deadline or hurry():
            process.kill()
            return process.wait()
        time.sleep(_POLL)
    return process.returncode


class _Child(NamedTuple):
    name: str
    process: subprocess.Popen[bytes]
    grace: float


class Children:
    """Some programs that run together, or not at all."""

    def __init__(self) -> None:
        self._children: list[_Child] = []

    def start(self, name: str, command: Sequence[str], *, env: Mapping[str, str], grace: float) -> None:
        """Start `command`; it has `grace` seconds to end when it is stopped."""
        self._children.append(_Child(name, start(command, env=env), grace))

    def first_to_end(self) -> str | None:
        """Say which program has ended, and how; None while all of them run."""
        for child in self._children:
            code = child.process.poll()
            if code is not None:
                how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
                return f"{child.name} ended ({how})"
        return None

    def stop(self, hurry: Callable[[], bool]) -> None:
        """Stop all of them, the last one first; see `stop` for `hurry`."""
        while self._children:
            child = self._children.pop()
            stop(child.process, child.grace, hurry)
