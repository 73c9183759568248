"""Are the walls there? One probing job looks at them from inside, before anybody else's job runs.

The probe is our own script, so what it says is believed; it says only what the kernel told it. A wall
that is missing is named, and whoever asked refuses to serve.
"""

import json
import os
import resource
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sandbox_core.errors import SandboxError
from sandbox_core.job import Job, Limits, Status

if TYPE_CHECKING:
    from sandbox_core.sandbox import Sandbox

_NAMESPACES = ("mnt", "pid", "net", "ipc", "uts", "cgroup")
_LIMITS = Limits(memory=32 * 1024 * 1024, open_files=40, disk=1024 * 1024, wall_time=30)

_PROBE = """
import ctypes, errno, fcntl, json, os, resource, socket

def fails(call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return None

def fork():
    if os.fork() == 0:
        os._exit(0)  # what is printed below is printed once

def is_open(fd):
    return fails(fcntl.fcntl, fd, fcntl.F_GETFD) is None

def quota(path):
    found = os.statvfs(path)
    return [found.f_blocks * found.f_frsize, found.f_files]

libc = ctypes.CDLL(None, use_errno=True)
def absent(number):
    libc.syscall(number, -1, 0, 0, 0)
    return errno.errorcode.get(ctypes.get_errno())

def status():
    with open("/proc/self/status") as file:
        return {name: value.strip() for name, _, value in (l.partition(":") for l in file)}

here = os.path.exists("/proc/self/status")
print(json.dumps({
    "namespaces": {n: os.stat("/proc/self/ns/" + n).st_ino for n in %(namespaces)r} if here else {},
    "status": status() if here else {},
    "mounts": [l.split() for l in open("/proc/self/mountinfo")] if here else [],
    "oom": open("/proc/self/oom_score_adj").read().strip() if here else None,
    "root": sorted(os.listdir("/")),
    "proc": sorted(n for n in os.listdir("/proc") if not n.isdigit()),
    "dev": sorted(os.listdir("/dev")),
    "ids": [os.getresuid(), os.getresgid(), os.getgroups(), os.getpid(), os.getsid(0)],
    "environment": sorted(os.environ),
    "open": [fd for fd in range(64) if is_open(fd)],
    "hostname": socket.gethostname(),
    "securebits": libc.prctl(27, 0, 0, 0, 0),
    "limits": {n: resource.getrlimit(getattr(resource, "RLIMIT_" + n)) for n in %(limits)r},
    "quota": quota("/box"),
    "fork": fails(fork),
    "inet": fails(socket.socket, socket.AF_INET),
    "mount": fails(os.open, "/box", os.O_PATH) or absent(428),
    "write": fails(open, "/etc/probe", "w"),
    "symlink": fails(os.symlink, "/", "/box/l") or fails(os.listdir, "/box/l"),
    "device": fails(fcntl.ioctl, os.open("/dev/urandom", os.O_RDONLY), 0x80045200, bytes(4)),
}), flush=True)
bytearray(%(memory)d)  # the end: past the memory limit
"""
_RLIMITS = {
    "CORE": 1,
    "MEMLOCK": 0,
    "MSGQUEUE": 0,
    "NICE": 0,
    "RTPRIO": 0,
    "SIGPENDING": 64,
    "NOFILE": _LIMITS.open_files,
    "NPROC": 1,
}


@dataclass(frozen=True, slots=True)
class Wall:
    """One wall: its name, whether it stands, and what was found."""

    name: str
    stands: bool
    found: str


def walls(sandbox: "Sandbox") -> list[Wall]:
    """Look at every wall with one job; `SandboxError` where that job can't even run."""
    asked = {"namespaces": _NAMESPACES, "limits": tuple(_RLIMITS), "memory": 2 * _LIMITS.memory}
    result = sandbox.run(Job(_PROBE % asked, runtime="python-exec", limits=_LIMITS))
    if not result.stdout.endswith(b"}\n"):
        said = result.stderr.decode("utf-8", "replace").strip()
        raise SandboxError("probe the walls", f"the probe ended as {result.status}: {said}")
    seen = {**json.loads(result.stdout), "end": result.status}
    return [Wall(name, *check(seen)) for name, check in _WALLS]


def refuse_without_walls(sandbox: "Sandbox") -> list[Wall]:
    """Give the walls, all of which stand; else `SandboxError` with the name of each that is missing."""
    found = walls(sandbox)
    if missing := [wall for wall in found if not wall.stands]:
        told = "; ".join(f"{wall.name} ({wall.found})" for wall in missing)
        raise SandboxError("check the walls", f"missing: {told}")
    return found


_Seen = dict[str, Any]
_Check = Callable[[_Seen], tuple[bool, str]]


def _equal(key: str, expected: object) -> _Check:
    return lambda seen: (seen[key] == expected, f"{seen[key]}")


def _status(expected: dict[str, str]) -> _Check:
    def check(seen: _Seen) -> tuple[bool, str]:
        found = {name: seen["status"].get(name) for name in expected}
        # Without /proc in the jail there is nothing to read it from.
        wrong = [f"{name} {value}" for name, value in found.items() if value != expected[name]]
        return not seen["status"] or not wrong, ", ".join(wrong) or "as it should be"

    return check


def _both_filters(seen: _Seen) -> tuple[bool, str]:
    mode, count = (seen["status"].get(name) for name in ("Seccomp", "Seccomp_filters"))
    # The count is Linux 5.9's; without /proc in the jail there is neither.
    stand = mode == "2" and count in (str(_filters_of_our_own() + 2), None)
    return not seen["status"] or stand, f"mode {mode}, filters {count}"


def _filters_of_our_own() -> int:
    """Count the filters that this process has, of a container or a service: jobs inherit them."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name == "Seccomp_filters":
                return int(value)
    return 0


def _own_namespaces(seen: _Seen) -> tuple[bool, str]:
    shared = [
        name
        for name, inode in seen["namespaces"].items()
        if os.stat(f"/proc/self/ns/{name}").st_ino == inode
    ]
    return not shared, f"shared with the host: {', '.join(shared)}" if shared else "all its own"


def _mount_flags(seen: _Seen) -> tuple[bool, str]:
    wrong = []
    for fields in seen["mounts"]:
        place, flags = fields[4], set(fields[5].split(","))
        wanted = {"nosuid"}
        if not place.startswith("/dev/"):
            wanted.add("nodev")
        if place in ("/box", "/tmp", "/proc"):  # noqa: S108  # the jail's own
            wanted.add("noexec")
        if place not in ("/box", "/tmp"):  # noqa: S108
            wanted.add("ro")
        if not wanted <= flags or "shared:" in " ".join(fields):
            wrong.append(f"{place} lacks {', '.join(sorted(wanted - flags)) or 'privacy'}")
    return not wrong, "; ".join(wrong) or f"{len(seen['mounts'])} mounts, each as it should be"


def _small_root(seen: _Seen) -> tuple[bool, str]:
    strange = {"home", "mnt", "run", "srv", "sys", "var"} & set(seen["root"])
    return not strange, ", ".join(sorted(strange or seen["root"]))


def _own_user(seen: _Seen) -> tuple[bool, str]:
    uids, gids, groups, pid, session = seen["ids"]
    alone = len(set(uids + gids)) == 1 and uids[0] != 0 and groups == []
    return alone and pid != 1 and session == pid, f"uid {uids[0]}, groups {groups}, pid {pid}"


def _quota(seen: _Seen) -> tuple[bool, str]:
    size, files = seen["quota"]
    return size <= _LIMITS.disk and files <= 4096 + 3, f"{size} bytes, {files} files"


def _resource_limits(seen: _Seen) -> tuple[bool, str]:
    # Where the host's own limit is lower, that one holds.
    wrong = [
        name
        for name, (soft, hard) in seen["limits"].items()
        if soft != hard or soft > _RLIMITS[name] or soft == resource.RLIM_INFINITY
    ]
    return not wrong, ", ".join(wrong) or "soft and hard alike"


def _landlock(seen: _Seen) -> tuple[bool, str]:
    from sandbox_core.landlock import abi  # noqa: PLC0415  # asks the kernel

    version = abi()
    # Requests to devices are Landlock's alone to refuse, from ABI 5 on.
    stands = version < 5 or seen["device"] == "EACCES"  # noqa: PLR2004
    return stands, f"ABI {version}" if version else "not in this kernel: one wall fewer"


_ZERO = "0" * 16
_WALLS: tuple[tuple[str, _Check], ...] = (
    ("namespaces", _own_namespaces),
    ("mount flags", _mount_flags),
    ("a small root", _small_root),
    ("read-only root", _equal("write", "EROFS")),
    ("five devices", lambda seen: (len(seen["dev"]) == 9, ", ".join(seen["dev"]))),  # noqa: PLR2004
    (
        "/proc of processes only",
        lambda seen: (seen["proc"] in ([], ["self", "thread-self"]), f"{seen['proc']}"),
    ),
    ("no links followed in /box", _equal("symlink", "ELOOP")),
    ("disk quota", _quota),
    ("a user of its own", _own_user),
    (
        "no capabilities",
        _status(dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), _ZERO)),
    ),
    ("locked secure bits", _equal("securebits", 0xEF)),
    ("no new privileges", _status({"NoNewPrivs": "1"})),
    ("seccomp", _both_filters),
    ("no address family but AF_UNIX", _equal("inet", "EAFNOSUPPORT")),
    ("no mount calls", _equal("mount", "ENOSYS")),
    ("Landlock", _landlock),
    ("one process", _equal("fork", "EAGAIN")),
    ("memory limit", _equal("end", Status.MEMORY_LIMIT)),
    ("resource limits", _resource_limits),
    (
        "first to go when memory is short",
        lambda seen: (seen["oom"] in ("1000", None), f"{seen['oom']}"),
    ),
    ("three descriptors", _equal("open", [0, 1, 2])),
    ("a clean environment", _equal("environment", ["HOME", "LANG", "PATH"])),
    ("a host name of its own", _equal("hostname", "sandbox")),
)
