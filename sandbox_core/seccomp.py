"""The system calls that a job may make: a seccomp allow-list, in two filters.

What is not listed does not exist for a job (ENOSYS, so that callers fall back), nor does any call of
a foreign ABI. The first filter is installed once, by the zygote, and inherited: all that neither a job
nor the making of a jail needs. The second, a short one, goes with each job and takes away what the
making of its jail took. Both are assembled once; a job costs one installation of the short one.

A filter is a program for the kernel's classic BPF machine (seccomp(2)). The number is found by binary
search, so that no call takes more than nine comparisons.
"""

from __future__ import annotations

import errno
import os
import struct

from sandbox_core.syscall_numbers import NUMBERS
from sandbox_core.syscalls import CloneFlag, Prctl, set_seccomp_filter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# The BPF instructions in use (linux/bpf_common.h) and what a filter answers (linux/seccomp.h).
_LOAD, _JUMP, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_ANY_BIT, _RETURN = 0x20, 0x05, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000

# Offsets in struct seccomp_data. The low half of an argument comes first on both architectures, and is
# all that the kernel looks at in a flag word or an ioctl number: comparing more could be fooled.
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_X32_BIT = 0x40000000

#: AUDIT_ARCH_… (linux/audit.h), and the column of `NUMBERS`.
MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}

_AF_UNIX = 1
_PERSONALITY_QUERY = 0xFFFFFFFF
#: Character and block devices have this bit in their mode; files, pipes and sockets do not.
_DEVICE_BIT = 0o020000

#: Terminal requests that put input into somebody's terminal or change what it is (ioctl_tty(2)).
_TERMINAL_IOCTLS = (0x5412, 0x541C, 0x541D, 0x5423)  # TIOCSTI, TIOCLINUX, TIOCCONS, TIOCSETD
#: F_SETLEASE and F_NOTIFY watch what others open; F_SETPIPE_SZ takes kernel memory.
_FCNTL_COMMANDS = (1024, 1026, 1031)
_PRCTL_OPERATIONS = (
    Prctl.SET_KEEPCAPS,
    Prctl.SET_SECCOMP,
    Prctl.CAPBSET_DROP,
    Prctl.SET_SECUREBITS,
    Prctl.SET_MM,
    Prctl.CAP_AMBIENT,
    Prctl.SCHED_CORE,
    Prctl.SET_MEMORY_MERGE,
    Prctl.SET_PTRACER,
)
#: No namespaces (NEWTIME is missing: clone(2) has no room for it, and clone3 is not there), and no
#: sibling: it would be the zygote's child, which nobody waits for, and keep the jail from ending.
_FORBIDDEN_CLONES = (
    CloneFlag.PARENT
    | CloneFlag.NEWNS
    | CloneFlag.NEWCGROUP
    | CloneFlag.NEWUTS
    | CloneFlag.NEWIPC
    | CloneFlag.NEWUSER
    | CloneFlag.NEWPID
    | CloneFlag.NEWNET
)

_ALLOWED = """
accept accept4 access alarm arch_prctl bind brk capget capset chdir chmod chown clock_getres
clock_gettime clock_nanosleep close close_range connect copy_file_range creat dup dup2 dup3
epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 execve
execveat exit exit_group faccessat faccessat2 fadvise64 fallocate fchdir fchmod fchmodat
fchmodat2 fchown fchownat fdatasync fgetxattr flistxattr fork fremovexattr fsetxattr fstat
fstatfs fsync ftruncate futex futex_waitv futimesat get_mempolicy get_robust_list getcpu getcwd
getdents getdents64 getegid geteuid getgid getgroups getitimer getpeername getpgid getpgrp
getpid getppid getpriority getrandom getresgid getresuid getrlimit getrusage getsid getsockname
getsockopt gettid gettimeofday getuid getxattr ioprio_get kill lchown lgetxattr link linkat
listen listxattr llistxattr lremovexattr lseek lsetxattr lstat madvise membarrier memfd_create
mincore mkdir mkdirat mlock mlock2 mlockall mmap mprotect mremap msync munlock munlockall munmap
nanosleep newfstatat open openat openat2 pause pipe pipe2 pkey_alloc pkey_free pkey_mprotect
poll ppoll pread64 preadv preadv2 prlimit64 pselect6 pwrite64 pwritev pwritev2 read readahead
readlink readlinkat readv recvfrom recvmmsg recvmsg removexattr rename renameat renameat2
restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo
rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max
sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler
sched_rr_get_interval sched_setaffinity sched_yield select sendfile sendmmsg sendmsg sendto
set_robust_list set_tid_address setfsgid setfsuid setgid setgroups setitimer setpgid setpriority
setregid setresgid setresuid setreuid setrlimit setsid setsockopt setuid setxattr shutdown
sigaltstack signalfd signalfd4 stat statfs statx symlink symlinkat sync_file_range sysinfo
tgkill time timer_create timer_delete timer_getoverrun timer_gettime timer_settime
timerfd_create timerfd_gettime timerfd_settime times tkill truncate umask uname unlink unlinkat
utime utimensat utimes vfork wait4 waitid write writev
""".split()

#: Would make the whole host write its dirty pages; told that it is done, a job is none the worse.
_PRETENDED = ("sync", "syncfs")

_FORBIDDEN = """
acct adjtimex chroot clock_adjtime clock_settime create_module delete_module finit_module
init_module ioperm iopl ioprio_set kcmp kexec_file_load kexec_load mbind migrate_pages
modify_ldt move_pages mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink
msgctl msgget msgrcv msgsnd name_to_handle_at open_by_handle_at perf_event_open pivot_root
process_vm_readv process_vm_writev ptrace quotactl reboot remap_file_pages sched_setparam
sched_setscheduler seccomp semctl semget semop semtimedop set_mempolicy set_mempolicy_home_node
setdomainname sethostname settimeofday shmat shmctl shmdt shmget swapoff swapon syslog umount2
uselib vhangup vmsplice
""".split()

#: What making a jail takes, and a job may not do.
_SETUP_FORBIDDEN = ("setns", "unshare", "mount")
_SETUP_ABSENT = (
    "clone3",
    "pidfd_open",
    "pidfd_send_signal",
    "landlock_create_ruleset",
    "landlock_add_rule",
    "landlock_restrict_self",
)


class Rule:
    """What happens to a call: `answer`, unless the argument fits one of `values`.

    `argument` is its place, None where the answer is always the same. `test` is the BPF comparison.
    """

    def __init__(
        self,
        answer: int,
        argument: int | None = None,
        test: int = _JUMP_EQUAL,
        values: tuple[int, ...] = (),
        otherwise: int = _ALLOW,
    ) -> None:
        self.answer = answer
        self.argument = argument
        self.test = test
        self.values = values
        self.otherwise = otherwise

    def same(self, other: Rule) -> bool:
        """Whether both say the same."""
        return vars(self) == vars(other)


def _fails(error: int) -> int:
    return _ERRNO | error


_REFUSED = _fails(errno.EPERM)
_ABSENT = _fails(errno.ENOSYS)
_NO_FAMILY = _fails(errno.EAFNOSUPPORT)


def zygote_rules() -> dict[str, Rule]:
    """Give the rules by call for a zygote and all that descends from it; others are absent."""
    return {
        **dict.fromkeys(_ALLOWED, Rule(_ALLOW)),
        **dict.fromkeys(_PRETENDED, Rule(_fails(0))),
        **dict.fromkeys(_FORBIDDEN, Rule(_REFUSED)),
        **dict.fromkeys((*_SETUP_FORBIDDEN, *_SETUP_ABSENT, "clone", "prctl"), Rule(_ALLOW)),
        "socket": Rule(_NO_FAMILY, 0, values=(_AF_UNIX,)),
        "socketpair": Rule(_NO_FAMILY, 0, values=(_AF_UNIX,)),
        "personality": Rule(_REFUSED, 0, values=(0, _PERSONALITY_QUERY)),
        "ioctl": Rule(_ALLOW, 1, values=_TERMINAL_IOCTLS, otherwise=_REFUSED),
        "fcntl": Rule(_ALLOW, 1, values=_FCNTL_COMMANDS, otherwise=_REFUSED),
        "mknod": Rule(_ALLOW, 1, _JUMP_ANY_BIT, (_DEVICE_BIT,), _REFUSED),
        "mknodat": Rule(_ALLOW, 2, _JUMP_ANY_BIT, (_DEVICE_BIT,), _REFUSED),
    }


def job_rules(*, execute: bool = True) -> dict[str, Rule]:
    """Give the rules that come on top for a job; calls without one are left to the zygote's.

    A job that is already the program it has to be needs no way to `execute` another.
    """
    return {
        **({} if execute else dict.fromkeys(("execve", "execveat"), Rule(_fails(errno.EACCES)))),
        **dict.fromkeys(_SETUP_FORBIDDEN, Rule(_REFUSED)),
        **dict.fromkeys(_SETUP_ABSENT, Rule(_ABSENT)),
        "clone": Rule(_ALLOW, 0, _JUMP_ANY_BIT, (_FORBIDDEN_CLONES,), _REFUSED),
        "prctl": Rule(_ALLOW, 0, values=tuple(_PRCTL_OPERATIONS), otherwise=_REFUSED),
    }


def assemble(rules: dict[str, Rule], default: int, machine: str) -> bytes:
    """Assemble the filter for `machine`, as uname(1) names it; `default` answers all other calls.

    Raises `ValueError` for an architecture whose calls are not known here.
    """
    if machine not in MACHINES:
        raise ValueError(f"no system call numbers for {machine}; known are {', '.join(MACHINES)}")
    architecture, column = MACHINES[machine]
    answers = {
        number: rule for name, rule in rules.items() if (number := NUMBERS[name][column]) is not None
    }
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        program += [(_JUMP_AT_LEAST, 0, 1, _X32_BIT), (_RETURN, 0, 0, _ABSENT)]
    program += _search(_ranges(answers, Rule(default)))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


_Instruction = tuple[int, int, int, int]


def _ranges(answers: dict[int, Rule], default: Rule) -> list[tuple[int, Rule]]:
    """Give the first number of each run of calls with the same rule, from 0 up."""
    ranges: list[tuple[int, Rule]] = []
    for number in range(max(answers) + 2):
        rule = answers.get(number, default)
        if not (ranges and ranges[-1][1].same(rule)):
            ranges.append((number, rule))
    return ranges


def _search(ranges: list[tuple[int, Rule]]) -> list[_Instruction]:
    """Search for the number that is loaded, halving the ranges at each comparison."""
    if len(ranges) == 1:
        return list(_decide(ranges[0][1]))
    middle = len(ranges) // 2
    below, above = _search(ranges[:middle]), _search(ranges[middle:])
    # A conditional jump reaches 255 instructions far, the unconditional one any distance.
    return [
        (_JUMP_AT_LEAST, 0, 1, ranges[middle][0]),
        (_JUMP, 0, 0, len(below)),
        *below,
        *above,
    ]


def _decide(rule: Rule) -> Iterable[_Instruction]:
    if rule.argument is not None:
        yield (_LOAD, 0, 0, _ARGUMENTS + 8 * rule.argument)
        for value in rule.values:
            yield (rule.test, 0, 1, value)
            yield (_RETURN, 0, 0, rule.otherwise)
    yield (_RETURN, 0, 0, rule.answer)


def install(program: bytes) -> None:
    """Put `program` over the calling process and all that descends from it, for good."""
    set_seccomp_filter(program)


def zygote_filter() -> bytes:
    """Assemble the first filter for this machine."""
    return assemble(zygote_rules(), _ABSENT, os.uname().machine)


def job_filter(*, execute: bool) -> bytes:
    """Assemble the second filter for this machine."""
    return assemble(job_rules(execute=execute), _ALLOW, os.uname().machine)
