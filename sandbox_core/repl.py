"""The jailed interactive interpreter, for whoever types at a terminal.

It runs on a pseudo-terminal of its own, and this module stands between the two: the user's terminal is
never inside the jail. What is typed goes in as it is, keys and all; the jail's terminal makes lines and
signals of it. `interact` serves any terminal by its descriptor, so a program that has made a
pseudo-terminal for its own user can embed it.
"""

import contextlib
import os
import select
import termios
import threading
import time
import tty
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Self

from sandbox_core.cancel import Cancel
from sandbox_core.distribution import distribution
from sandbox_core.errors import InvalidJob, SandboxError
from sandbox_core.job import Job, Limits, Result
from sandbox_core.sandbox import Relay, Sandbox

#: Ten years of seconds, and more bytes than are written in them: a job's limits have to be numbers.
_NO_WALL_TIME = 10 * 365 * 24 * 3600.0
_NO_OUTPUT = 1 << 62

#: What a session may use if nothing else is asked for.
LIMITS = Limits(wall_time=_NO_WALL_TIME, output=_NO_OUTPUT)

#: What of the user's environment says how their terminal likes to be talked to.
_TERMINAL_VARIABLES = (
    "TERM",
    "COLORTERM",
    "NO_COLOR",
    "FORCE_COLOR",
    "PYTHON_COLORS",
    "PYTHON_BASIC_REPL",
)

#: Where the descriptions of terminals are (terminfo(5)).
_TERMINFO = ("/usr/share/terminfo", "/lib/terminfo", "/etc/terminfo")

_RUNTIME = "repl"
_CHUNK = 4096

#: Seconds between two looks at the size of the user's terminal. The signal that tells of a change
#: goes to whoever is in its foreground, which a program that embeds us need not be.
_GLANCE = 0.2


@dataclass(frozen=True, slots=True)
class Ending:
    """How a session ended: its job's `result`, or that nobody typed, or wrote more than it may."""

    result: Result
    idle: bool = False
    flooded: bool = False


def add_runtime(
    sandbox: Sandbox, *, prefix: str | None = None, dev: bool = False, cgroup: bool = False
) -> None:
    """Have `sandbox` offer the interactive interpreter.

    It is that of the distribution `prefix`, or ours; `dev` adds the harmless devices, `cgroup` a
    view of the jail's own cgroup. Raises `SandboxError` where there is no such distribution.
    """
    base = sandbox.runtimes["python-exec"] if prefix is None else distribution(prefix)
    described = tuple(path for path in _TERMINFO if os.path.isdir(path))
    sandbox.runtimes.add(
        replace(
            base,
            name=_RUNTIME,
            warm=False,
            main=(),
            paths=(*base.paths, *described),
            devices=dev,
            cgroup=cgroup,
        )
    )


def interact(
    sandbox: Sandbox,
    terminal: int,
    *,
    output: int | None = None,
    limits: Limits = LIMITS,
    idle: float | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Ending:
    """Serve an interactive interpreter at the descriptor `terminal`, until it ends.

    That is a terminal, such as the inner side of a pseudo-terminal that the caller has made; it is put
    into raw mode for the while, and stays the caller's. What is shown goes to `output` where that is
    another. The session ends after `idle` seconds in which nobody typed. `sandbox` has been given the
    interpreter by `add_runtime`. Raises `SandboxError` where the sandbox could not do its work.
    """
    outer, inner = os.openpty()
    try:
        termios.tcsetattr(inner, termios.TCSANOW, termios.tcgetattr(terminal))
        job = _job(limits, environment)
        with _Running(sandbox, job, Relay(keep=False, terminal=inner)) as running:
            relay = _Terminals(terminal, terminal if output is None else output, outer)
            with _raw(terminal):
                idled, flooded = _relay(relay, running, idle, limits.output)
        return Ending(running.result(), idled, flooded)
    finally:
        os.close(inner)
        os.close(outer)


def run_piped(
    sandbox: Sandbox, limits: Limits = LIMITS, environment: Mapping[str, str] = os.environ
) -> Result:
    """Run what comes on our standard input, which is no terminal, as `python3` does."""
    relay = Relay(stdin=0, stdout=1, stderr=2, keep=False)
    return sandbox.run(_job(limits, environment), relay=relay)


def _job(limits: Limits, environment: Mapping[str, str]) -> Job:
    env = {name: environment[name] for name in _TERMINAL_VARIABLES if name in environment}
    return Job("", runtime=_RUNTIME, env=env, limits=limits)


class _Running:
    """A job that runs in a thread; whoever leaves it ends it."""

    def __init__(self, sandbox: Sandbox, job: Job, relay: Relay) -> None:
        self._sandbox, self._job, self._relay = sandbox, job, relay
        self._cancel = Cancel()
        self.over = os.eventfd(0, os.EFD_CLOEXEC)
        self._outcome: Result | SandboxError | InvalidJob | None = None
        self._thread = threading.Thread(target=self._run, name="session")

    def _run(self) -> None:
        try:
            self._outcome = self._sandbox.run(self._job, cancel=self._cancel, relay=self._relay)
        except (SandboxError, InvalidJob) as error:
            self._outcome = error
        finally:
            os.eventfd_write(self.over, 1)

    def end(self) -> None:
        self._cancel.set()

    def result(self) -> Result:
        if isinstance(self._outcome, Exception):
            raise self._outcome
        assert self._outcome is not None
        return self._outcome

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self._thread.join()
        self._cancel.close()
        os.close(self.over)


@contextmanager
def _raw(terminal: int) -> Iterator[None]:
    """Have every key come through as it is typed."""
    former = termios.tcgetattr(terminal)
    tty.setraw(terminal)
    try:
        yield
    finally:
        with contextlib.suppress(termios.error):  # it has been hung up
            termios.tcsetattr(terminal, termios.TCSADRAIN, former)


class _Terminals:
    """The user's terminal, and the outer side of the jail's."""

    def __init__(self, keys: int, screen: int, outer: int) -> None:
        os.set_blocking(outer, False)
        self.keys, self.screen, self.outer = keys, screen, outer
        self._typed = b""
        self._size: tuple[int, int] | None = None
        self.count = 0

    def interests(self) -> list[tuple[int, int]]:
        """Give the descriptors and events to poll for."""
        interests = [(self.outer, select.POLLIN | (select.POLLOUT if self._typed else 0))]
        if not self._typed:
            interests.append((self.keys, select.POLLIN))
        return interests

    def resize(self) -> None:
        """Make the jail's terminal as large as the user's."""
        size = termios.tcgetwinsize(self.keys)
        if size != self._size:
            self._size = size
            termios.tcsetwinsize(self.outer, size)

    def type(self) -> bool:
        """Take what was typed; False when the terminal is gone."""
        try:
            self._typed = os.read(self.keys, _CHUNK)
        except OSError:
            return False
        return bool(self._typed)

    def pass_typed(self) -> None:
        """Pass on what was typed, as far as there is room."""
        if self._typed:
            with contextlib.suppress(BlockingIOError):
                self._typed = self._typed[os.write(self.outer, self._typed) :]

    def show(self) -> bool:
        """Show what was written; False when there is nothing, or nobody any more to write."""
        try:
            data = os.read(self.outer, _CHUNK)
        except OSError:  # nothing yet, or the inner side is closed
            return False
        self.count += len(data)
        while data:
            data = data[os.write(self.screen, data) :]
        return True


def _relay(
    terminals: _Terminals, running: _Running, idle: float | None, most: int
) -> tuple[bool, bool]:
    """Stand between the two until the job is over; give whether that was for idleness or a flood."""
    typed_at = time.monotonic()
    while True:
        terminals.resize()
        poll = select.poll()
        poll.register(running.over, select.POLLIN)
        for fd, events in terminals.interests():
            poll.register(fd, events)
        for fd, _ in poll.poll(_GLANCE * 1000):
            if fd == terminals.keys:
                if not terminals.type():
                    return False, False
                typed_at = time.monotonic()
            elif fd == terminals.outer:
                terminals.pass_typed()
                terminals.show()
            else:
                while terminals.show():
                    continue
                return False, False
        if terminals.count > most:
            return False, True
        if idle is not None and time.monotonic() - typed_at > idle:
            return True, False
