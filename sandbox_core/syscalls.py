"""The Linux calls that the jail needs and Python 3.11 does not offer.

One table of prototypes, bound once; flags are the kernel's own names without their prefix. A call
that fails raises `SyscallError`, an `OSError` that reads like a line of strace. This module holds no
policy: what to mount, unshare or drop is decided elsewhere.

It is in the memory of every job, as all is that a zygote imports. So it imports little: no `enum`, no
`typing`, and of `signal` the half that is written in C.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from ctypes import POINTER, c_char_p, c_int, c_long, c_size_t, c_ulong, c_void_p

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
else:
    import _signal as signal


class CloneFlag:
    """What a new process shares, or has of its own (linux/sched.h)."""

    VM = 0x00000100
    PIDFD = 0x00001000
    PARENT = 0x00008000
    THREAD = 0x00010000
    NEWNS = 0x00020000
    NEWCGROUP = 0x02000000
    NEWUTS = 0x04000000
    NEWIPC = 0x08000000
    NEWUSER = 0x10000000
    NEWPID = 0x20000000
    NEWNET = 0x40000000


#: Only clone3(2) has room for this one.
_CLONE_INTO_CGROUP = 0x200000000
_CLONE_CHILD_SETTID, _CLONE_CHILD_CLEARTID = 0x01000000, 0x00200000


class MountFlag:
    """How to mount (linux/mount.h)."""

    RDONLY = 1
    NOSUID = 2
    NODEV = 4
    NOEXEC = 8
    NOSYMFOLLOW = 256  # Linux 5.10; ignored before
    REMOUNT = 32
    BIND = 4096
    REC = 16384
    PRIVATE = 1 << 18


class UmountFlag:
    """How to unmount (linux/fs.h)."""

    DETACH = 2


class Prctl:
    """The operations of prctl(2) in use here (linux/prctl.h)."""

    SET_PDEATHSIG = 1
    GET_PDEATHSIG = 2
    SET_DUMPABLE = 4
    SET_KEEPCAPS = 8
    SET_SECCOMP = 22
    CAPBSET_READ = 23
    CAPBSET_DROP = 24
    GET_SECUREBITS = 27
    SET_SECUREBITS = 28
    SET_MM = 35
    SET_NO_NEW_PRIVS = 38
    GET_NO_NEW_PRIVS = 39
    GET_TID_ADDRESS = 40
    CAP_AMBIENT = 47
    SCHED_CORE = 62
    SET_MEMORY_MERGE = 67
    SET_PTRACER = 0x59616D61


class Resolve:
    """What openat2(2) refuses on its way along a path (linux/openat2.h)."""

    NO_XDEV = 0x01
    NO_MAGICLINKS = 0x02
    NO_SYMLINKS = 0x04
    BENEATH = 0x08


class SyscallError(OSError):
    """A system call that failed; its text is the call and the reason, as strace prints it."""

    def __str__(self) -> str:
        return str(self.strerror)


#: For each call, the place of an argument that is made of named numbers, and where their names are.
_NAMED: dict[str, tuple[int, type]] = {
    "unshare": (0, CloneFlag),
    "setns": (1, CloneFlag),
    "mount": (3, MountFlag),
    "umount2": (1, UmountFlag),
    "prctl": (0, Prctl),
}


def _spelling(value: object, names: type | None) -> str:
    """Spell one argument as strace does."""
    if isinstance(value, bytes):
        return repr(os.fsdecode(value))
    if not isinstance(value, int):
        return "NULL" if value is None else "…"
    if names is None:
        return str(value)
    known = {number: name for name, number in vars(names).items() if isinstance(number, int)}
    if value in known:
        return known[value]
    return "|".join(name for number, name in known.items() if number & value) or str(value)


def _check(result: int, function: object, arguments: tuple[object, ...]) -> int:
    if result == -1:
        errno = ctypes.get_errno()
        name = getattr(function, "__name__", "?")
        place, names = _NAMED.get(name, (0, None))
        spelled = (
            _spelling(value, names if number == place else None)
            for number, value in enumerate(arguments)
        )
        raise SyscallError(errno, f"{name}({', '.join(spelled)}): {os.strerror(errno)}")
    return result


#: What `os.fsencode` does to a path, which is a function of Python's own for each.
_PATH = (sys.getfilesystemencoding(), sys.getfilesystemencodeerrors())

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _bind(name: str, *argtypes: type) -> ctypes._NamedFuncPointer:
    """Bind one libc function; without its argument types a str would become a wchar_t pointer."""
    function = getattr(_libc, name)
    function.argtypes = argtypes
    function.restype = c_int
    function.errcheck = _check
    return function  # type: ignore[no-any-return]


def _bind_number(number: int, name: str, *argtypes: type) -> Callable[..., int]:
    """Bind a system call that libc has no function for, by its number."""
    function = ctypes.CDLL(None, use_errno=True).syscall  # one object a call, each with its types
    function.argtypes = (c_long, *argtypes)
    function.restype = c_int
    function.__name__ = name
    function.errcheck = _check  # type: ignore[assignment]  # it takes any call's arguments
    return lambda *arguments: function(number, *arguments)


class _CloneArgs(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            "flags",
            "pidfd",
            "child_tid",
            "parent_tid",
            "exit_signal",
            "stack",
            "stack_size",
            "tls",
            "set_tid",
            "set_tid_size",
            "cgroup",
        )
    )


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", c_int))


class _FilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", c_char_p))


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


#: Effective, permitted and inheritable capabilities, the low words and then the high ones.
_CapData = ctypes.c_uint32 * 6
_CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h: 64 capabilities in two words
# Made here once, and not by each job.
_CAP_HEADER = _CapHeader(_CAPABILITY_VERSION_3, 0)
_CAP_DATA, _NO_CAPABILITIES = _CapData(), _CapData()

_BPF_INSTRUCTION_SIZE = 8
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000  # linux/fcntl.h
_LANDLOCK_VERSION, _LANDLOCK_PATH_BENEATH = 1, 1  # linux/landlock.h
_SECCOMP_MODE_FILTER = 2
_TIOCSCTTY = 0x540E  # asm-generic/ioctls.h

_clone = _bind("clone", c_void_p, c_void_p, c_int, c_void_p, POINTER(c_int))
_unshare = _bind("unshare", c_int)
_setns = _bind("setns", c_int, c_int)
_mount = _bind("mount", c_char_p, c_char_p, c_char_p, c_ulong, c_char_p)
_umount2 = _bind("umount2", c_char_p, c_int)
_pivot_root = _bind("pivot_root", c_char_p, c_char_p)
_prctl = _bind("prctl", c_int, c_ulong, c_ulong, c_ulong, c_ulong)
_capget = _bind("capget", POINTER(_CapHeader), POINTER(_CapData))
_capset = _bind("capset", POINTER(_CapHeader), POINTER(_CapData))
_ioctl = _bind("ioctl", c_int, c_ulong, c_int)
_sethostname = _bind("sethostname", c_char_p, c_size_t)

# Bound so that Python's lock is held throughout: between the halves of a fork no other code may run.
_SYS_CLONE3 = 435
_clone3 = ctypes.PyDLL(None, use_errno=True).syscall
_clone3.argtypes = (c_long, POINTER(_CloneArgs), c_size_t)
_clone3.restype = c_long
# Looked up here: on first use in a zygote they would be new objects to each of its jobs.
_before_fork = ctypes.pythonapi.PyOS_BeforeFork
_after_fork_in_child = ctypes.pythonapi.PyOS_AfterFork_Child
_after_fork_in_parent = ctypes.pythonapi.PyOS_AfterFork_Parent

# glibc 2.36 has no function for these; since Linux 5.1 a new call has one number everywhere.
_openat2 = _bind_number(437, "openat2", c_int, c_char_p, POINTER(_OpenHow), c_size_t)
_mount_setattr = _bind_number(
    442, "mount_setattr", c_int, c_char_p, c_int, POINTER(_MountAttr), c_size_t
)
_landlock_create_ruleset = _bind_number(444, "landlock_create_ruleset", c_void_p, c_size_t, c_int)
_landlock_add_rule = _bind_number(445, "landlock_add_rule", c_int, c_int, POINTER(_PathBeneath), c_int)
_landlock_restrict_self = _bind_number(446, "landlock_restrict_self", c_int, c_int)


def unshare(flags: int) -> None:
    """Give the caller (for NEWPID: its next children) namespaces of its own, as unshare(2)."""
    _unshare(flags)


def setns(fd: int, flags: int) -> None:
    """Enter the namespaces of the process that pidfd `fd` stands for, as setns(2)."""
    _setns(fd, flags)


def mount(source: str | None, target: str, fstype: str | None, flags: int, data: str = "") -> None:
    """Mount `source` on `target`, as mount(2)."""
    _mount(
        None if source is None else source.encode(*_PATH),
        target.encode(*_PATH),
        None if fstype is None else fstype.encode(),
        flags,
        data.encode(*_PATH) if data else None,
    )


def umount(target: str, flags: int) -> None:
    """Unmount what is on `target`, as umount2(2)."""
    _umount2(os.fsencode(target), flags)


def pivot_root(new_root: str, put_old: str) -> None:
    """Make `new_root` the root, and put the old one on `put_old`, as pivot_root(2)."""
    _pivot_root(os.fsencode(new_root), os.fsencode(put_old))


def prctl(operation: int, *arguments: int) -> int:
    """Do `operation` on the calling process, as prctl(2)."""
    padded = (*arguments, 0, 0, 0, 0)[:4]
    return int(_prctl(operation, *padded))


def set_seccomp_filter(program: bytes) -> None:
    """Filter the system calls of this process and its descendants with a BPF program, for good.

    It takes no_new_privs or CAP_SYS_ADMIN, as seccomp(2) says.
    """
    wrapped = _FilterProgram(len(program) // _BPF_INSTRUCTION_SIZE, program)
    prctl(Prctl.SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(wrapped))


def capabilities() -> tuple[int, int, int]:
    """Give the effective, permitted and inheritable capabilities, each as a bit set, as capget(2)."""
    _capget(_CAP_HEADER, _CAP_DATA)
    *low, effective, permitted, inheritable = struct.unpack("=6I", bytes(_CAP_DATA))
    return low[0] | effective << 32, low[1] | permitted << 32, low[2] | inheritable << 32


def drop_capabilities() -> None:
    """Empty the effective, permitted and inheritable capabilities, as capset(2)."""
    _capset(_CAP_HEADER, _NO_CAPABILITIES)


def set_hostname(name: str) -> None:
    """Name the host of this UTS namespace, as sethostname(2)."""
    encoded = name.encode()
    _sethostname(encoded, len(encoded))


def take_terminal(fd: int) -> None:
    """Make terminal `fd` the controlling one of the caller, a session leader, as TIOCSCTTY(2const)."""
    _ioctl(fd, _TIOCSCTTY, 0)


def openat2(directory: int, path: bytes, flags: int, resolve: int) -> int:
    """Open `path` below `directory`, refusing what `resolve` names on the way, as openat2(2)."""
    how = _OpenHow(flags | os.O_CLOEXEC, 0, resolve)
    return _openat2(directory, path, how, ctypes.sizeof(how))


def fork_into(cgroup: int) -> int:
    """Fork like `os.fork`, with the child born in the cgroup v2 directory `cgroup`, as clone3(2).

    No page of the child is ever charged elsewhere, and the kernel need not stop all forks of the
    host to move it, which takes milliseconds. The calls around it are those that os.fork makes, so
    that all that Python does at a fork is done; the C library's own note of the thread's id, which
    a bare clone3 would leave stale, is set by the kernel.
    """
    note = ctypes.c_uint64()
    prctl(Prctl.GET_TID_ADDRESS, ctypes.addressof(note))
    arguments = _CloneArgs(
        flags=_CLONE_INTO_CGROUP | _CLONE_CHILD_SETTID | _CLONE_CHILD_CLEARTID,
        child_tid=note.value,
        exit_signal=signal.SIGCHLD,
        cgroup=cgroup,
    )
    reference, size = ctypes.byref(arguments), ctypes.sizeof(arguments)
    _before_fork()
    pid = _clone3(_SYS_CLONE3, reference, size)
    if pid == 0:
        _after_fork_in_child()
        return 0
    errno = ctypes.get_errno()
    _after_fork_in_parent()
    if pid < 0:
        raise SyscallError(errno, f"clone3(CLONE_INTO_CGROUP): {os.strerror(errno)}")
    return int(pid)


def set_mount_attributes(target: str, attributes: int) -> None:
    """Set `attributes` on the mount at `target` and on all below it, as mount_setattr(2).

    Of the flags only those that this call knows by the same value may be given: RDONLY, NOSUID,
    NODEV, NOEXEC.
    """
    wrapped = _MountAttr(attributes, 0, 0, 0)
    _mount_setattr(_AT_FDCWD, os.fsencode(target), _AT_RECURSIVE, wrapped, ctypes.sizeof(wrapped))


def landlock_create_ruleset(attributes: object, *, version: bool = False) -> int:
    """Make a ruleset, or give the kernel's version of Landlock, as landlock_create_ruleset(2)."""
    if version:
        return _landlock_create_ruleset(None, 0, _LANDLOCK_VERSION)
    return _landlock_create_ruleset(ctypes.byref(attributes), ctypes.sizeof(attributes), 0)  # type: ignore[arg-type]


def landlock_add_path(ruleset: int, access: int, directory: int) -> None:
    """Grant `access` below `directory`, as landlock_add_rule(2)."""
    _landlock_add_rule(ruleset, _LANDLOCK_PATH_BENEATH, _PathBeneath(access, directory), 0)


def landlock_restrict_self(ruleset: int) -> None:
    """Confine this process to what `ruleset` grants, as landlock_restrict_self(2)."""
    _landlock_restrict_self(ruleset, 0)


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

    def start(self, flags: int, exit_signal: int) -> tuple[int, int]:
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
