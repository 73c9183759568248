"""Giving up privileges: capabilities, the user, what a program could gain by exec.

Each function checks what it did by reading it back; one that can't do its work raises.
"""

from __future__ import annotations

import os
import resource

from sandbox_core.syscalls import Prctl, capabilities, drop_capabilities, prctl

#: Everything that `uid 0` means to the kernel beyond file ownership is switched off and locked:
#: NOROOT, NO_SETUID_FIXUP, NO_CAP_AMBIENT_RAISE with their locks, KEEP_CAPS locked off
#: (linux/securebits.h).
_SECUREBITS = 0xEF
_AMBIENT_CLEAR_ALL = 4
_SIGKILL = 9  # signal(7)

#: What a supervisor needs, by number in linux/capability.h. CHOWN gives a job its streams; KILL ends
#: what a supervisor that died has left; SETUID, SETGID and SETPCAP are for becoming the job's user;
#: SYS_ADMIN for namespaces, mounts and cgroups; SYS_PTRACE for entering those of a zygote, which
#: nobody else may look into.
_NEEDED = {
    "CHOWN": 0,
    "KILL": 5,
    "SETGID": 6,
    "SETUID": 7,
    "SETPCAP": 8,
    "SYS_PTRACE": 19,
    "SYS_ADMIN": 21,
}

#: Limits that are the same for every job. CORE is 1 and not 0: a dump piped to a handler ignores 0,
#: and the kernel takes 1 for "none" (core(5)).
_FIXED_RLIMITS = {
    resource.RLIMIT_CORE: 1,
    resource.RLIMIT_MEMLOCK: 0,
    resource.RLIMIT_MSGQUEUE: 0,
    resource.RLIMIT_NICE: 0,
    resource.RLIMIT_RTPRIO: 0,
    resource.RLIMIT_SIGPENDING: 64,
    resource.RLIMIT_STACK: 8 * 1024 * 1024,
}


def missing_capabilities() -> list[str]:
    """Give the names of the capabilities that making jails takes and this process lacks."""
    effective, _, _ = capabilities()
    return [name for name, bit in _NEEDED.items() if not effective >> bit & 1]


def limit_resources() -> None:
    """Set the resource limits that hold for every job."""
    for which, value in _FIXED_RLIMITS.items():
        _lower(which, value)


def lower_to_job(cpu_seconds: int, open_files: int, file_size: int, processes: int) -> None:
    """Lower the resource limits to the job's: the kernel's own backstop behind the cgroup.

    Lowering takes no privilege, so this can be done after they are gone.
    """
    _lower(resource.RLIMIT_CPU, cpu_seconds)
    _lower(resource.RLIMIT_FSIZE, file_size)
    _lower(resource.RLIMIT_NPROC, processes)
    _lower(resource.RLIMIT_NOFILE, open_files)


def _lower(which: int, value: int) -> None:
    """Set soft and hard limit to `value`, or leave the hard limit where it already is lower."""
    hard = resource.getrlimit(which)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(which, (value, value))


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent goes; a change of user clears it."""
    prctl(Prctl.SET_PDEATHSIG, _SIGKILL)


def empty_bounding_set() -> None:
    """Make sure that no exec can ever bring a capability back."""
    prctl(Prctl.CAP_AMBIENT, _AMBIENT_CLEAR_ALL)
    capability = 0
    while True:
        try:
            prctl(Prctl.CAPBSET_DROP, capability)
        except OSError:
            # EINVAL: the kernel has no capability of this number. Whether that is the end, and
            # not a refusal, shows in reading it back.
            break
        capability += 1
    if capability == 0 or any(_in_bounding_set(number) for number in range(64)):
        raise PermissionError("the capability bounding set could not be emptied")
    prctl(Prctl.SET_SECUREBITS, _SECUREBITS)
    if prctl(Prctl.GET_SECUREBITS) != _SECUREBITS:
        raise PermissionError("the secure bits could not be locked")


def _in_bounding_set(capability: int) -> bool:
    try:
        return prctl(Prctl.CAPBSET_READ, capability) == 1
    except OSError:
        return False  # the kernel has no capability of this number


def become(uid: int, gid: int) -> None:
    """Take on the job's user and group, and no other group: first the groups, or they would stay."""
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if (os.getresuid(), os.getresgid(), os.getgroups()) != ((uid,) * 3, (gid,) * 3, []):
        raise PermissionError("the user or a group of the supervisor is still there")


def give_up_privileges() -> None:
    """Empty the capability sets, and rule out gaining any privilege by exec."""
    drop_capabilities()
    if capabilities() != (0, 0, 0):
        raise PermissionError("a capability is still there")
    prctl(Prctl.SET_NO_NEW_PRIVS, 1)
    if prctl(Prctl.GET_NO_NEW_PRIVS) != 1:
        raise PermissionError("no_new_privs could not be set")
