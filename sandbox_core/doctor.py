"""What of this host a sandbox needs, part by part, with the mend for what is missing.

The last check is the whole: a job that runs. It is what decides; the others say where to look.
"""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from sandbox_core import cgroups
from sandbox_core.errors import SandboxError
from sandbox_core.job import Job
from sandbox_core.sandbox import Sandbox
from sandbox_core.syscalls import capabilities

#: openat2(2), with which files are collected; all else that is needed is older.
_OLDEST_KERNEL = (5, 6)
_NAMESPACES = ("mnt", "pid", "net", "ipc", "uts", "cgroup")

#: By number in linux/capability.h: what making a jail takes.
_CAPABILITIES = {
    "CHOWN": 0,
    "KILL": 5,
    "SETGID": 6,
    "SETUID": 7,
    "SETPCAP": 8,
    "SYS_ADMIN": 21,
}


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
    return [
        check()
        for check in (
            _root,
            _capabilities,
            _kernel,
            _namespaces,
            _cgroups,
            _swap,
            _proc,
            _seccomp,
            _a_job,
        )
    ]


def _root() -> Check:
    uid = os.geteuid()
    return Check("root", uid == 0, f"user id {uid}", "run as root: sudo sandboxed …")


def _capabilities() -> Check:
    effective, _, _ = capabilities()
    missing = [name for name, bit in _CAPABILITIES.items() if not effective >> bit & 1]
    return Check(
        "capabilities",
        not missing,
        f"missing: {', '.join(missing)}" if missing else "all that it takes",
        "in a container, add them: --cap-add SYS_ADMIN, or --privileged",
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
    return Check(
        "seccomp",
        actions.exists(),
        "offered by the kernel" if actions.exists() else "not offered by the kernel",
        "use a kernel that is built with CONFIG_SECCOMP_FILTER",
        needed=False,
    )


def _a_job() -> Check:
    """Run one job, the proof of all the rest."""
    name, mend = "a job", "mend what is reported above; the text names the step that failed"
    try:
        with Sandbox() as sandbox:
            result = sandbox.run(Job("print('ready')"))
    except (SandboxError, OSError) as error:
        return Check(name, False, str(error), mend)
    found = f"runs, in {result.wall_time * 1000:.0f} ms" if result.ok else f"ended as {result.status}"
    return Check(name, result.text == "ready\n", found, mend)
