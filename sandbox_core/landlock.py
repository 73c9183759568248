"""Landlock: a wall behind the mounts, that still stands if one of their flags was forgotten.

A job may read and run what its root shows, write in `/box` and `/tmp` and to the harmless devices, and
nothing else; it can't talk to devices by ioctl, bind or connect TCP, reach abstract sockets or signal
processes outside. What of this the kernel knows, its ABI number tells (landlock(7)).
"""

from __future__ import annotations

import ctypes
import errno
import os

from sandbox_core.syscalls import landlock_add_path, landlock_create_ruleset, landlock_restrict_self


class Access:
    """Rights over files (linux/landlock.h), with the ABI that brought those after the first."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13  # 2
    TRUNCATE = 1 << 14  # 3
    IOCTL_DEV = 1 << 15  # 5


_FIRST_ABI = (1 << 13) - 1
_LATER = ((2, Access.REFER), (3, Access.TRUNCATE), (5, Access.IOCTL_DEV))

_NETWORK_ABI, _ALL_TCP = 4, 0b11
_SCOPE_ABI, _ALL_SCOPES = 6, 0b11

_READ = Access.EXECUTE | Access.READ_FILE | Access.READ_DIR
_WRITE = (
    Access.READ_FILE
    | Access.READ_DIR
    | Access.WRITE_FILE
    | Access.REMOVE_DIR
    | Access.REMOVE_FILE
    | Access.MAKE_DIR
    | Access.MAKE_REG
    | Access.MAKE_SOCK
    | Access.MAKE_FIFO
    | Access.MAKE_SYM
    | Access.REFER
    | Access.TRUNCATE
)
_RULES = (
    ("/", _READ),
    ("/box", _WRITE),
    ("/tmp", _WRITE),  # noqa: S108  # the jail's own
    ("/dev", Access.READ_FILE | Access.WRITE_FILE),
)


def abi() -> int:
    """Give the version of Landlock that the kernel has, 0 where there is none."""
    try:
        return landlock_create_ruleset(None, version=True)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP):
            return 0
        raise


_Plan = tuple[object, tuple[tuple[str, int], ...]] | None
#: What `plan` has found, once it has.
_planned: list[_Plan] = []


def plan() -> _Plan:
    """Give the attributes of the ruleset and its rules, as far as this kernel has them; None without.

    The same for every job: a zygote works it out for all of them.
    """
    if not _planned:
        _planned.append(_find_plan())
    return _planned[0]


def _find_plan() -> _Plan:
    version = abi()
    if version == 0:
        return None
    handled = _FIRST_ABI
    for since, access in _LATER:
        if version >= since:
            handled |= access
    attributes = (ctypes.c_uint64 * 3)(
        handled,
        _ALL_TCP if version >= _NETWORK_ABI else 0,
        _ALL_SCOPES if version >= _SCOPE_ABI else 0,
    )
    return attributes, tuple((path, access & handled) for path, access in _RULES)


def restrict() -> None:
    """Confine this process and its descendants, as far as the kernel can."""
    planned = plan()
    if planned is None:
        return
    attributes, rules = planned
    ruleset = landlock_create_ruleset(attributes)
    for path, access in rules:
        directory = os.open(path, os.O_PATH | os.O_CLOEXEC)
        landlock_add_path(ruleset, access, directory)
        os.close(directory)
    landlock_restrict_self(ruleset)
    os.close(ruleset)
