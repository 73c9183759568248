"""What of this host a sandbox needs, part by part, with the mend for what is missing.

A job that runs, and one that looks at each wall from inside, are what decides; the parts before say
where to look, the advice after them how to harden the host further.
"""

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sandbox_core import cgroups
from sandbox_core.errors import SandboxError
from sandbox_core.job import Job
from sandbox_core.privileges import missing_capabilities
from sandbox_core.sandbox import Sandbox
from sandbox_core.seccomp import MACHINES
from sandbox_core.selftest import walls

#: clone3(2) with CLONE_INTO_CGROUP; all else that can't be done without is older.
_OLDEST_KERNEL = (5, 7)
_NAMESPACES = ("mnt", "pid", "net", "ipc", "uts", "cgroup")


@dataclass(frozen=True, slots=True)
class Check:
    """One part of the host: `ok` is None where it makes no difference to whether jobs run."""

    name: str
    ok: bool | None
    found: str
    mend: str = ""
    needed: bool = True


def checks() -> list[Check]:
    """Look at each part of this host that running jobs takes."""
    host = (_root, _capabilities, _kernel, _namespaces, _cgroups, _swap, _proc, _seccomp)
    return [check() for check in host] + _jails() + advice()


def _root() -> Check:
    uid = os.geteuid()
    return Check("root", uid == 0, f"user id {uid}", "run as root: sudo sandboxed …")


def _capabilities() -> Check:
    missing = missing_capabilities()
    return Check(
        "capabilities",
        not missing,
        f"missing: {', '.join(missing)}" if missing else "all that it takes",
        "in a container, add them with --cap-add (docs/deploy.md)",
    )


def _kernel() -> Check:
    release = platform.release()
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    oldest = ".".join(map(str, _OLDEST_KERNEL))
    return Check("kernel", numbers >= _OLDEST_KERNEL, release, f"use Linux {oldest} or newer")


def _namespaces() -> Check:
    missing = [name for name in _NAMESPACES if not Path("/proc/self/ns", name).exists()]
    return Check(
        "namespaces",
        not missing,
        f"missing: {', '.join(missing)}" if missing else ", ".join(_NAMESPACES),
        "use a kernel that is built with them",
    )


def _cgroups() -> Check:
    try:
        return Check("cgroup", True, cgroups.find().description)
    except (SandboxError, OSError) as error:
        return Check("cgroup", False, str(error), "see the text: mount or delegate the controllers")


def _swap() -> Check:
    on = cgroups.swap_is_on()
    return Check("swap", True, "on; limited with the memory" if on else "off", needed=False)


def _proc() -> Check:
    numbers = tuple(int(part) for part in platform.release().split(".")[:2] if part.isdigit())
    new_enough = numbers >= (5, 8)
    return Check(
        "/proc in jails",
        new_enough,
        "processes of the jail only" if new_enough else "left out: the kernel can't restrict it",
        "use Linux 5.8 or newer for scripts that read /proc",
        needed=False,
    )


def _seccomp() -> Check:
    actions = Path("/proc/sys/kernel/seccomp/actions_avail")
    known = platform.machine() in MACHINES
    offered = "offered by the kernel" if actions.exists() else "not offered by the kernel"
    return Check(
        "seccomp",
        actions.exists() and known,
        offered if known else f"no filter for {platform.machine()}",
        f"use a kernel that is built with CONFIG_SECCOMP_FILTER, on {' or '.join(MACHINES)}",
    )


#: What a careful operator sets on a host of workers, and why: (file below /proc/sys, what is fine,
#: the reason). None of it is needed for the walls to stand; each takes a way to attack them away.
_ADVICE: tuple[tuple[str, Callable[[str], bool], str], ...] = (
    ("kernel/io_uring_disabled", lambda v: v == "2", "=2: jobs can't use it, and it has had many bugs"),
    ("kernel/unprivileged_bpf_disabled", lambda v: v != "0", "=2: BPF is for root alone"),
    ("kernel/perf_event_paranoid", lambda v: int(v) >= 2, "=2: no kernel addresses by perf"),  # noqa: PLR2004
    ("vm/unprivileged_userfaultfd", lambda v: v == "0", "=0: it makes kernel races easy to win"),
    ("dev/tty/legacy_tiocsti", lambda v: v == "0", "=0: nobody types into another's terminal"),
    ("kernel/yama/ptrace_scope", lambda v: int(v) >= 1, "=1: only parents trace"),
    (
        "user/max_user_namespaces",
        lambda v: v == "0",
        "=0, if nothing else needs them",
    ),
    (
        "kernel/core_pattern",
        lambda v: not v.startswith("|"),
        "without a pipe: no crash handler",
    ),
    ("kernel/print-fatal-signals", lambda v: v == "0", "=0: a crash storm does not fill the log"),
    ("fs/protected_hardlinks", lambda v: v == "1", "=1"),
    ("fs/protected_symlinks", lambda v: v == "1", "=1"),
    ("fs/protected_fifos", lambda v: v != "0", "=2"),
    ("fs/protected_regular", lambda v: v != "0", "=2"),
)

#: Modules that have let a user write what he may only read, and that no job needs.
_MODULES = ("algif_aead", "esp4", "esp6", "rxrpc", "vsock")


def advice() -> list[Check]:
    """Give the advice for hardening this host: `ok` is False where it is not followed."""
    found = []
    for name, fine, reason in _ADVICE:
        path = Path("/proc/sys", name)
        if path.exists():  # a kernel without it has nothing to be advised on
            value = path.read_text().strip()
            setting = name.replace("/", ".")
            found.append(
                Check(
                    f"advice: {setting}", fine(value), value, f"sysctl {setting} {reason}", needed=False
                )
            )
    loaded = {line.split()[0] for line in _lines(Path("/proc/modules"))}
    risky = sorted(loaded.intersection(_MODULES))
    found.append(
        Check(
            "advice: modules",
            not risky,
            ", ".join(risky) or "none of those that have been a way in",
            f"blacklist {', '.join(risky or _MODULES)} in /etc/modprobe.d",
            needed=False,
        )
    )
    # After the jobs above, for which the kernel has loaded the module if there is one.
    layers = "overlay" in [line.split()[-1] for line in _lines(Path("/proc/filesystems"))]
    found.append(
        Check(
            "advice: overlayfs",
            layers,
            "in the kernel" if layers else "not in the kernel",
            "use a kernel with CONFIG_OVERLAY_FS: no job sees record locks of another then",
            needed=False,
        )
    )
    return [*found, *_cgroup_moves()]


def _cgroup_moves() -> list[Check]:
    """Look whether a process that joins a cgroup has to wait for all processors (cgroup-v2.rst).

    On v1 each jail does; on v2 it is born there.
    """
    mounts = [line.split() for line in _lines(Path("/proc/mounts"))]
    options: dict[str, set[str]] = {"cgroup": set(), "cgroup2": set()}
    places: dict[str, str] = {}
    for _, place, kind, told, *_ in mounts:
        if kind in options:
            options[kind] |= set(told.split(","))
            places.setdefault(kind, place)
    if "memory" not in options["cgroup"]:
        return []
    swift = "favordynmods" in options["cgroup"] | options["cgroup2"]
    tree = "cgroup2" if "cgroup2" in places else "cgroup"
    return [
        Check(
            "advice: cgroup moves",
            swift,
            "at once" if swift else "may wait for all processors, on cgroup v1",
            f"mount -t {tree} -o remount,favordynmods {tree} {places[tree]} (Linux 6.0): one job"
            " in fifty waits some milliseconds otherwise",
            needed=False,
        )
    ]


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _a_job(sandbox: Sandbox) -> Check:
    """Run one job, the proof of all the rest."""
    result = sandbox.run(Job("print('ready')"))
    found = f"runs, in {result.wall_time * 1000:.0f} ms" if result.ok else f"ended as {result.status}"
    return Check("a job", result.text == "ready\n", found, "see what is reported above")


def _jails() -> list[Check]:
    """Run one job, and look at each wall with another."""
    try:
        with Sandbox(ahead=False) as sandbox:
            return [
                _a_job(sandbox),
                *(
                    Check(f"wall: {wall.name}", wall.stands, wall.found, "no job may run without it")
                    for wall in walls(sandbox)
                ),
            ]
    except (SandboxError, OSError) as error:
        mend = "mend what is reported above; the text names the step that failed"
        return [Check("a job", False, str(error), mend)]
