"""A contender: a process that works when it is told to, in a cgroup that counts its CPU.

What it starts is counted with it, and so is what the kernel does for it. What kernel threads do for it
later, such as taking a network namespace apart, is in no cgroup but the root; for that the CPU time of
the whole machine is taken beside it, which says something where nothing else runs.
"""

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

#: Seconds for a contender to make ready, to do one piece of work, and to end.
_PATIENCE = 120.0
_REMOVAL = 5.0

_CGROUPS = Path("/sys/fs/cgroup")
_TICKS = os.sysconf("SC_CLK_TCK")
_BUSY = (0, 1, 2, 5, 6)  # user, nice, system, irq, softirq of /proc/stat (proc(5))


@dataclass(frozen=True, slots=True)
class Work:
    """What a contender did in one turn; `times` has the milliseconds of each job, if they count."""

    jobs: int
    seconds: float
    times: list[float] = field(default_factory=list)
    #: CPU seconds of the contender's cgroup, and of the whole machine, kernel threads included.
    cpu: float = 0.0
    machine: float = 0.0
    #: CPU seconds by process, where the contender tells.
    parts: dict[str, float] = field(default_factory=dict)


class Cgroup:
    """A cgroup that counts CPU time, in the hierarchy of v1's cpuacct or else in v2's tree."""

    def __init__(self, name: str) -> None:
        cpuacct = _CGROUPS / "cpuacct"
        self._v2 = not cpuacct.is_dir()
        self.path = (_CGROUPS if self._v2 else cpuacct) / f"benchmark-{os.getpid()}-{name}"
        self.path.mkdir()
        if self._v2:
            # As systemd marks what it hands over: a sandbox then makes its jails inside.
            os.setxattr(self.path, "trusted.delegate", b"1")

    def join(self) -> None:
        """Move this process into it."""
        (self.path / "cgroup.procs").write_text("0")

    def cpu_time(self) -> float:
        """Give the CPU seconds of all that is or was in it."""
        if self._v2:
            words = (self.path / "cpu.stat").read_text().split()
            return int(words[words.index("usage_usec") + 1]) / 1e6
        return int((self.path / "cpuacct.usage").read_text()) / 1e9

    def remove(self) -> None:
        """Remove it, with what the contender has made below it, as soon as all in it has ended."""
        deadline = time.monotonic() + _REMOVAL
        while True:
            try:
                for folder, _, _ in os.walk(self.path, topdown=False):
                    os.rmdir(folder)
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                return


def machine_time() -> float:
    """Give the CPU seconds that all processors were busy for, since the boot."""
    first = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    return sum(int(first[place]) for place in _BUSY) / _TICKS


class Contender:
    """A process of its own around what `make` gives, which is entered there."""

    def __init__(self, name: str, make: Callable[..., AbstractContextManager[Any]], *args: Any) -> None:
        """Start it; wait for it with `with`."""
        self.name = name
        self._cgroup = Cgroup("".join(char if char.isalnum() else "-" for char in name))
        context = multiprocessing.get_context("spawn")  # nothing of ours, our memory least, is its
        self._line, theirs = context.Pipe()
        given = (theirs, self._cgroup, make, args)
        self._process = context.Process(target=_serve, args=given, name=name)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        try:
            self._answer()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def do(self, way: Callable[..., Work], *args: Any) -> Work:
        """Have it do `way(what it made, *args)`, and count the CPU time."""
        cpu, machine = self._cgroup.cpu_time(), machine_time()
        self._line.send((way, args))
        work: Work = self._answer()
        return Work(
            work.jobs,
            work.seconds,
            work.times,
            self._cgroup.cpu_time() - cpu,
            machine_time() - machine,
            work.parts,
        )

    def _answer(self) -> Any:
        if not self._line.poll(_PATIENCE):
            raise TimeoutError(f"{self.name} does not answer")
        try:
            good, answer = self._line.recv()
        except EOFError:
            raise RuntimeError(f"{self.name} has ended") from None
        if not good:
            raise RuntimeError(f"{self.name}: {answer}")
        return answer

    def close(self) -> None:
        """End it and all that it started."""
        self._line.close()
        self._process.join(_PATIENCE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._cgroup.remove()


def _serve(
    line: Connection, cgroup: Cgroup, make: Callable[..., AbstractContextManager[Any]], args: Any
) -> None:
    cgroup.join()
    try:
        with make(*args) as made:
            line.send((True, None))
            for way, arguments in _orders(line):
                line.send((True, way(made, *arguments)))
    except Exception as error:  # noqa: BLE001  # the benchmark tells it, and ends
        line.send((False, f"{type(error).__name__}: {error}"))


def _orders(line: Connection) -> Iterator[tuple[Callable[..., Work], Any]]:
    with contextlib.suppress(EOFError):  # the benchmark is done with us
        while True:
            yield line.recv()
