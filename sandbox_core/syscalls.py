"""The Linux calls that the jail needs and Python 3.11 does not offer.

One table of prototypes, bound once; flags are the kernel's own names without their prefix. A call
that fails raises `SyscallError`, an `OSError` that reads like a line of strace. This module holds no
policy: what to mount, unshare or drop is decided elsewhere.
"""

import ctypes
import os
import sys
from ctypes import POINTER, c_char_p, c_int, c_long, c_size_t, c_ulong, c_void_p
from enum import Flag, IntEnum, IntFlag


class CloneFlag(IntFlag):
    """What a new process shares, or has of its own (linux/sched.h)."""

    VM = 0x00000100
    PIDFD = 0x00001000
    NEWNS = 0x00020000
    NEWCGROUP = 0x02000000
    NEWUTS = 0x04000000
    NEWIPC = 0x08000000
    NEWPID = 0x20000000
    NEWNET = 0x40000000


class MountFlag(IntFlag):
    """How to mount (linux/mount.h)."""

    RDONLY = 1
    NOSUID = 2
    NODEV = 4
    NOEXEC = 8
    REMOUNT = 32
    BIND = 4096
    REC = 16384
    PRIVATE = 1 << 18


class UmountFlag(IntFlag):
    """How to unmount (linux/fs.h)."""

    DETACH = 2


class Prctl(IntEnum):
    """The operations of prctl(2) in use here (linux/prctl.h)."""

    SET_PDEATHSIG = 1
    GET_PDEATHSIG = 2
    SET_DUMPABLE = 4
    CAPBSET_READ = 23
    CAPBSET_DROP = 24
    GET_SECUREBITS = 27
    SET_SECUREBITS = 28
    SET_NO_NEW_PRIVS = 38
    GET_NO_NEW_PRIVS = 39
    CAP_AMBIENT = 47


class Resolve(IntFlag):
    """What openat2(2) refuses on its way along a path (linux/openat2.h)."""

    NO_XDEV = 0x01
    NO_MAGICLINKS = 0x02
    NO_SYMLINKS = 0x04
    BENEATH = 0x08


class SyscallError(OSError):
    """A system call that failed; its text is the call and the reason, as strace prints it."""

    def __str__(self) -> str:
        return str(self.strerror)


def _spelling(value: object) -> str:
    """Spell one argument as strace does."""
    if isinstance(value, Flag):
        return "|".join(flag.name or "" for flag in value) or "0"
    if isinstance(value, IntEnum):
        return value.name
    if isinstance(value, bytes):
        return repr(os.fsdecode(value))
    if isinstance(value, int):
        return str(value)
    return "NULL" if value is None else "…"


def _check(result: int, function: object, arguments: tuple[object, ...]) -> int:
    if result == -1:
        errno = ctypes.get_errno()
        call = f"{getattr(function, '__name__', '?')}({', '.join(map(_spelling, arguments))})"
        raise SyscallError(errno, f"{call}: {os.strerror(errno)}")
    return result


_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _bind(name: str, *argtypes: type) -> "ctypes._NamedFuncPointer":
    """Bind one libc function; without its argument types a str would become a wchar_t pointer."""
    function = getattr(_libc, name)
    function.argtypes = argtypes
    function.restype = c_int
    function.errcheck = _check
    return function  # type: ignore[no-any-return]


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", c_int))


class _CapData(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


_CapDataPair = _CapData * 2
_CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h: 64 capabilities in two words

_clone = _bind("clone", c_void_p, c_void_p, c_int, c_void_p, POINTER(c_int))
_unshare = _bind("unshare", c_int)
_setns = _bind("setns", c_int, c_int)
_mount = _bind("mount", c_char_p, c_char_p, c_char_p, c_ulong, c_char_p)
_umount2 = _bind("umount2", c_char_p, c_int)
_pivot_root = _bind("pivot_root", c_char_p, c_char_p)
_prctl = _bind("prctl", c_int, c_ulong, c_ulong, c_ulong, c_ulong)
_capget = _bind("capget", POINTER(_CapHeader), POINTER(_CapData))
_capset = _bind("capset", POINTER(_CapHeader), POINTER(_CapData))
_sethostname = _bind("sethostname", c_char_p, c_size_t)
_syscall = _bind("syscall", c_long, c_int, c_char_p, POINTER(_OpenHow), c_size_t)

_SYS_OPENAT2 = 437  # the same number on every architecture


def unshare(flags: CloneFlag) -> None:
    """Give the caller (for NEWPID: its next children) namespaces of its own, as unshare(2)."""
    _unshare(flags)


def setns(fd: int, flags: CloneFlag) -> None:
    """Enter the namespaces of the process that pidfd `fd` stands for, as setns(2)."""
    _setns(fd, flags)


def mount(
    source: str | None, target: str, fstype: str | None, flags: MountFlag, data: str = ""
) -> None:
    """Mount `source` on `target`, as mount(2)."""
    _mount(
        None if source is None else os.fsencode(source),
        os.fsencode(target),
        None if fstype is None else fstype.encode(),
        flags,
        data.encode() if data else None,
    )


def umount(target: str, flags: UmountFlag) -> None:
    """Unmount what is on `target`, as umount2(2)."""
    _umount2(os.fsencode(target), flags)


def pivot_root(new_root: str, put_old: str) -> None:
    """Make `new_root` the root, and put the old one on `put_old`, as pivot_root(2)."""
    _pivot_root(os.fsencode(new_root), os.fsencode(put_old))


def prctl(operation: Prctl, *arguments: int) -> int:
    """Do `operation` on the calling process, as prctl(2)."""
    padded = (*arguments, 0, 0, 0, 0)[:4]
    return int(_prctl(operation, *padded))


def capabilities() -> tuple[int, int, int]:
    """Give the effective, permitted and inheritable capabilities, each as a bit set, as capget(2)."""
    data = _CapDataPair()
    _capget(_CapHeader(_CAPABILITY_VERSION_3, 0), data)
    low, high = data
    return (
        low.effective | high.effective << 32,
        low.permitted | high.permitted << 32,
        low.inheritable | high.inheritable << 32,
    )


def drop_capabilities() -> None:
    """Empty the effective, permitted and inheritable capabilities, as capset(2)."""
    _capset(_CapHeader(_CAPABILITY_VERSION_3, 0), _CapDataPair())


def set_hostname(name: str) -> None:
    """Name the host of this UTS namespace, as sethostname(2)."""
    encoded = name.encode()
    _sethostname(encoded, len(encoded))


def openat2(directory: int, path: bytes, flags: int, resolve: Resolve) -> int:
    """Open `path` below `directory`, refusing what `resolve` names on the way, as openat2(2)."""
    how = _OpenHow(flags | os.O_CLOEXEC, 0, resolve)
    return int(_syscall(_SYS_OPENAT2, directory, path, how, ctypes.sizeof(how)))


class IdleProcess:
    """Start processes that share this one's memory and never run a line of it.

    Each is libc's `pause` on a stack of its own: no page table is copied, so making one costs tens
    of microseconds (clone(2) with CLONE_VM). They can share one stack, because each only ever sleeps
    in the same frame of it; the stack must outlive them, so it lives here.
    """

    _STACK_SIZE = 64 * 1024

    def __init__(self) -> None:
        self._stack = ctypes.create_string_buffer(self._STACK_SIZE)
        # The stack grows down, and the ABI wants its top aligned to 16 bytes.
        self._top = (ctypes.addressof(self._stack) + self._STACK_SIZE) & ~15
        assert _libc is not None
        self._pause = ctypes.cast(_libc.pause, c_void_p)

    def start(self, flags: CloneFlag, exit_signal: int) -> tuple[int, int]:
        """Start one with the namespaces in `flags`; give its pid and a pidfd, both the caller's."""
        fd = c_int(-1)
        pid = _clone(
            self._pause,
            self._top,
            flags | CloneFlag.VM | CloneFlag.PIDFD | exit_signal,
            None,
            ctypes.byref(fd),
        )
        return int(pid), fd.value
