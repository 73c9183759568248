"""A cgroup for each job: its limits on memory and processes, what it used, and the way to end it.

cgroup v1 and v2 stand side by side behind `Cgroup`. Which one is used is decided by which hierarchy
really holds the `memory` and `pids` controllers; on a host with v1 controllers the v2 tree, where it
is mounted, still counts CPU time and kills. A number that a kernel can't give is None.
"""

import contextlib
import errno
import os
import signal
import time
from pathlib import Path
from typing import NamedTuple, Protocol

from sandbox_core.errors import SandboxError

#: A removed cgroup may be busy for a moment after its last process ended.
_REMOVE_TIMEOUT = 2.0
_STEP = "find the cgroup controllers"

#: Bytes by which a cgroup may have been below its limit when it failed to take more, and a few pages
#: beside: more than is asked for at a time where that can end in a kill (mm/memcontrol.c).
_LARGEST_CHARGE = 1024 * 1024


class Usage(NamedTuple):
    """What a job used: CPU seconds, peak bytes of memory, and how often the OOM killer came.

    `host_oom` says that it came although the job had not reached its limit: memory ran out around it.
    """

    cpu_time: float | None
    memory: int | None
    oom_kills: int
    host_oom: bool


class Cgroup(Protocol):
    """The cgroup of one job; it is gone after `remove`."""

    #: Whether a process can be born in it (clone3 with CLONE_INTO_CGROUP); else it has to join.
    born_in: bool

    #: The v1 controllers that it has a directory of, and "" for the v2 tree (as proc_pid_cgroup(5)).
    controllers: tuple[str, ...]

    def entrances(self) -> list[tuple[str, int]]:
        """Give what to open to let a process in, each with the flags to open it.

        It is the directory to be born in, or the files to write "0" into to join.
        """

    def limit(self, memory: int, processes: int) -> None:
        """Set the limits: bytes of memory (and no swap), count of processes and threads."""

    def cpu_time(self) -> float | None:
        """Give the CPU seconds used so far."""

    def oom_kills(self) -> int:
        """Give how many processes the kernel has killed for want of memory."""

    def usage(self) -> Usage:
        """Give what was used, once the job has ended."""

    def kill(self) -> None:
        """Kill every process in it, where the kernel can do that at one stroke."""

    def remove(self) -> None:
        """Remove it; `SandboxError` when the kernel keeps it busy."""


class Hierarchy(Protocol):
    """Where the cgroups of jobs are made."""

    description: str

    def create(self, name: str) -> Cgroup:
        """Make the cgroup `name`; `SandboxError` when the host does not let us."""

    def names(self, prefix: str) -> set[str]:
        """Give the names of the cgroups here that begin with `prefix` and a number."""

    def clear(self, prefix: str) -> None:
        """Kill and remove what a supervisor that died has left in cgroups named `prefix…`."""


def find(proc: Path = Path("/proc/self")) -> Hierarchy:
    """Find the hierarchy that this host's `memory` and `pids` controllers are in.

    Raises `SandboxError` that names what is missing and the mend.
    """
    places = _mounted(proc)
    v2 = places.get("")
    if v2 is not None and {"memory", "pids"} <= set(_read(v2 / "cgroup.controllers").split()):
        return _V2Hierarchy(v2, places["top"])
    missing = [name for name in ("memory", "pids") if name not in places]
    if missing:
        raise SandboxError(
            _STEP,
            f"no cgroup hierarchy has the controller {' or '.join(missing)}; mount cgroup2 on "
            "/sys/fs/cgroup, or delegate these controllers to this service or container",
        )
    return _V1Hierarchy(places["memory"], places["pids"], places.get("cpuacct"), v2)


def _mounted(proc: Path) -> dict[str, Path]:
    """Map each mounted controller to our own cgroup's directory; '' is v2's, 'top' its mount."""
    own: dict[str, str] = {}
    for line in (proc / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            own[controller] = path
    places: dict[str, Path] = {}
    for line in (proc / "mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        root, mount_point = before.split()[3:5]
        fstype, _, options = after.split()[:3]
        if fstype == "cgroup2":
            names = [""]
        elif fstype == "cgroup":
            names = [name for name in options.split(",") if name in own]
        else:
            continue
        for name in names:
            directory = _own_directory(Path(mount_point), root, own.get(name, "/"))
            if directory is not None:
                places.setdefault(name, directory)
                if not name:
                    places.setdefault("top", Path(mount_point))
    return places


def _own_directory(mount_point: Path, root: str, own: str) -> Path | None:
    """Find our cgroup `own` below a mount that shows the hierarchy from `root` down."""
    relative = os.path.relpath(own, root)
    directory = mount_point if relative.startswith("..") else mount_point / relative
    for candidate in (directory, mount_point):  # a container may show its own cgroup as the root
        if candidate.is_dir():
            return candidate
    return None


# With the plain calls, since each job pays for these a dozen times over.


def _read(path: str | Path) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        pieces = []
        while piece := os.read(fd, 1 << 16):
            pieces.append(piece)
        return b"".join(pieces).decode("ascii")
    finally:
        os.close(fd)


def _write(path: str | Path, value: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode("ascii"))
    finally:
        os.close(fd)


def _counter(path: str, name: str) -> int | None:
    """Read the line `name N` of a flat-keyed file."""
    for line in _read(path).splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return None


def _make(directories: list[str]) -> None:
    """Make all of `directories`, or none."""
    made: list[str] = []
    try:
        for directory in directories:
            os.mkdir(directory)
            made.append(directory)
    except OSError as error:
        for directory in made:
            os.rmdir(directory)
        raise SandboxError("make the job's cgroup", str(error)) from error


def _remove(directories: list[str]) -> None:
    deadline = time.monotonic() + _REMOVE_TIMEOUT
    for directory in directories:
        while True:
            try:
                os.rmdir(directory)
            except FileNotFoundError:
                break
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() > deadline:
                    raise SandboxError("remove the job's cgroup", str(error)) from error
                time.sleep(0.001)
            else:
                break


def _names(parents: list[Path], prefix: str) -> set[str]:
    return {found.name for parent in parents for found in parent.glob(f"{prefix}[0-9]*")}


def _clear(parents: list[Path], prefix: str) -> None:
    for parent in parents:
        for directory in parent.glob(f"{prefix}*"):
            for pid in _read(directory / "cgroup.procs").split():
                with contextlib.suppress(ProcessLookupError):  # it ended by itself meanwhile
                    os.kill(int(pid), signal.SIGKILL)
            _remove([str(directory)])


def _unified_cpu_time(directory: str) -> float | None:
    microseconds = _counter(f"{directory}/cpu.stat", "usage_usec")
    return None if microseconds is None else microseconds / 1e6


def _unified_kill(directory: str) -> None:
    # Linux 5.14. The jail's init is killed beside this, and takes all of the jail with it.
    if os.path.exists(f"{directory}/cgroup.kill"):
        _write(f"{directory}/cgroup.kill", "1")


class _V1Cgroup:
    """A directory in each of several hierarchies."""

    born_in = False

    def __init__(self, memory: str, pids: str, cpuacct: str | None, unified: str | None) -> None:
        self._memory, self._pids, self._cpuacct, self._unified = memory, pids, cpuacct, unified
        named = {"memory": memory, "pids": pids, "cpuacct": cpuacct, "": unified}
        self.controllers = tuple(name for name, path in named.items() if path is not None)
        self._all = [path for path in named.values() if path is not None]
        _make(self._all)

    def entrances(self) -> list[tuple[str, int]]:
        return [(f"{path}/cgroup.procs", os.O_WRONLY) for path in self._all]

    def limit(self, memory: int, processes: int) -> None:
        _write(f"{self._memory}/memory.limit_in_bytes", str(memory))
        # Memory and swap together, after memory alone, which may never be the greater of the two.
        memory_and_swap = f"{self._memory}/memory.memsw.limit_in_bytes"
        if os.path.exists(memory_and_swap):
            _write(memory_and_swap, str(memory))
        _write(f"{self._memory}/memory.swappiness", "0")
        _write(f"{self._pids}/pids.max", str(processes))

    def cpu_time(self) -> float | None:
        if self._unified is not None:
            return _unified_cpu_time(self._unified)
        if self._cpuacct is not None:
            return int(_read(f"{self._cpuacct}/cpuacct.usage")) / 1e9
        return None

    def oom_kills(self) -> int:
        return _counter(f"{self._memory}/memory.oom_control", "oom_kill") or 0

    def usage(self) -> Usage:
        peak, kills = int(_read(f"{self._memory}/memory.max_usage_in_bytes")), self.oom_kills()
        return Usage(self.cpu_time(), peak, kills, bool(kills) and not self._was_full(peak))

    def _was_full(self, peak: int) -> bool:
        # That it has failed to take more, recent kernels do not count.
        return peak + _LARGEST_CHARGE >= int(_read(f"{self._memory}/memory.limit_in_bytes"))

    def kill(self) -> None:
        if self._unified is not None:
            _unified_kill(self._unified)

    def remove(self) -> None:
        _remove(self._all)


class _V1Hierarchy:
    """The v1 hierarchies of `memory` and `pids`, with the v2 tree beside them where there is one."""

    def __init__(self, memory: Path, pids: Path, cpuacct: Path | None, unified: Path | None) -> None:
        self._memory, self._pids = memory, pids
        # CPU time needs one of the two; the v2 tree counts it without any controller, and kills.
        self._unified = unified
        self._cpuacct = None if unified is not None else cpuacct
        if self._unified is None and self._cpuacct is None:
            raise SandboxError(
                _STEP, "neither cpuacct nor the v2 tree is mounted to count CPU time; mount one"
            )
        if not (memory / "memory.memsw.limit_in_bytes").exists() and swap_is_on():
            raise SandboxError(
                _STEP,
                "swap is on and cgroup v1 can't limit it here; boot with swapaccount=1, or swapoff -a",
            )
        also = " with the v2 tree" if unified is not None else ""
        self.description = f"v1{also}, below {memory} and {pids}"

    def create(self, name: str) -> Cgroup:
        return _V1Cgroup(
            f"{self._memory}/{name}",
            f"{self._pids}/{name}",
            f"{self._cpuacct}/{name}" if self._cpuacct is not None else None,
            f"{self._unified}/{name}" if self._unified is not None else None,
        )

    def names(self, prefix: str) -> set[str]:
        return _names(self._places, prefix)

    def clear(self, prefix: str) -> None:
        _clear(self._places, prefix)

    @property
    def _places(self) -> list[Path]:
        places = (self._unified, self._memory, self._pids, self._cpuacct)
        return [place for place in places if place is not None]


def swap_is_on() -> bool:
    """Whether this host swaps."""
    return len(_read(Path("/proc/swaps")).splitlines()) > 1


class _V2Cgroup:
    """One directory with every controller."""

    born_in = True
    controllers: tuple[str, ...] = ("",)

    def __init__(self, directory: str) -> None:
        self._directory = directory
        _make([directory])

    def entrances(self) -> list[tuple[str, int]]:
        return [(self._directory, os.O_RDONLY | os.O_DIRECTORY)]

    def limit(self, memory: int, processes: int) -> None:
        _write(f"{self._directory}/memory.max", str(memory))
        swap = f"{self._directory}/memory.swap.max"
        if os.path.exists(swap):  # absent where the kernel knows no swap
            _write(swap, "0")
        # One process over the limit ends the job, as it would if it were the only one.
        _write(f"{self._directory}/memory.oom.group", "1")
        _write(f"{self._directory}/pids.max", str(processes))

    def cpu_time(self) -> float | None:
        return _unified_cpu_time(self._directory)

    def oom_kills(self) -> int:
        return _counter(f"{self._directory}/memory.events", "oom_kill") or 0

    def usage(self) -> Usage:
        peak = f"{self._directory}/memory.peak"  # Linux 5.19
        memory = int(_read(peak)) if os.path.exists(peak) else None
        kills = self.oom_kills()
        # A kill counts whatever brought it about, "oom" only if that was its own limit (cgroup-v2.rst).
        host_oom = bool(kills) and not _counter(f"{self._directory}/memory.events", "oom")
        return Usage(self.cpu_time(), memory, kills, host_oom)

    def kill(self) -> None:
        _unified_kill(self._directory)

    def remove(self) -> None:
        _remove([self._directory])


class _V2Hierarchy:
    """The v2 tree below a cgroup that is ours to divide."""

    def __init__(self, own: Path, top: Path) -> None:
        self._parent = _parent(own, top)
        self.description = f"v2, below {self._parent}"

    def create(self, name: str) -> Cgroup:
        return _V2Cgroup(f"{self._parent}/{name}")

    def names(self, prefix: str) -> set[str]:
        return _names([self._parent], prefix)

    def clear(self, prefix: str) -> None:
        _clear([self._parent], prefix)


#: Where the supervisor moves to in a cgroup that it divides: a cgroup with controllers for its
#: children may have no process of its own (cgroups(7), "no internal processes").
_SUPERVISOR = "sandboxed-supervisor"


def _parent(own: Path, top: Path) -> Path:
    """Find the cgroup to make those of jobs in, and enable the controllers for them there.

    `own` is ours, `top` the highest that is mounted. Below the service's own cgroup where that was
    delegated to it (systemd's Delegate=yes) or is all that a container sees; else, for a program
    started from a root shell, at the top of the tree.
    """
    if own.name == _SUPERVISOR or _is_delegated(own.parent):
        own = own.parent
    if _enabled(own) or _is_root(own):
        return _enable(own)
    if own == top or _is_delegated(own):
        _move_aside(own)
        return _enable(own)
    if _enabled(top):
        return top
    raise SandboxError(
        _STEP,
        f"{own} is not ours to divide, and {top} has no memory and pids controllers for its children; "
        "delegate a cgroup to this service (systemd: Delegate=yes)",
    )


def _enabled(directory: Path) -> bool:
    return {"memory", "pids"} <= set(_read(directory / "cgroup.subtree_control").split())


def _is_root(directory: Path) -> bool:
    return not (directory / "cgroup.type").exists()  # every other cgroup has it (cgroups(7))


def _is_delegated(directory: Path) -> bool:
    """Whether systemd has handed the cgroup over (systemd.resource-control(5))."""
    for name in ("trusted.delegate", "user.delegate"):
        try:
            if os.getxattr(directory, name) == b"1":
                return True
        except OSError:
            continue  # no such attribute, or none at all in this file system
    return False


def _enable(directory: Path) -> Path:
    if not _enabled(directory):
        try:
            _write(directory / "cgroup.subtree_control", "+memory +pids")
        except OSError as error:
            raise SandboxError(
                _STEP, f"can't enable memory and pids for the children of {directory}: {error.strerror}"
            ) from error
    return directory


def _move_aside(directory: Path) -> None:
    """Move every process of `directory` into a child of it, ourselves among them."""
    aside = directory / _SUPERVISOR
    aside.mkdir(exist_ok=True)
    for pid in _read(directory / "cgroup.procs").split():
        with contextlib.suppress(ProcessLookupError):  # it ended by itself meanwhile
            _write(aside / "cgroup.procs", pid)
