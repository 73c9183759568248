"""How a jail is built: the four tables of steps, and what each does.

Theory of operation. A *zygote* is a process born by a clean exec: an empty environment, one thread,
no descriptor but its control socket, and pid 1 of a pid namespace of its own, so that when it goes
the kernel kills every jail it made. It takes the steps of `ROOT_STEPS` once: from then on it sees the
small read-only root of its runtime and nothing else of the host. For a warm runtime it becomes that
runtime's interpreter there (`sandbox_core.warm`). With `SEAL_STEPS` it gives up what making jails
does not take.

For each job it starts an *init*, pid 1 of the jail: root, hidden, sharing the zygote's memory and
never running a line of it. The job's own process is forked into init's pid namespace as pid 2. It
takes the steps of `JAIL_STEPS` and waits, harmless and complete, at its job socket; when the job
comes it takes those of `START_STEPS`, and the script runs. The zygote, its real parent, reaps it, so
the exit status is exact; killing init kills whatever else is left in the jail.

A step that fails means that the job does not run: its title and the reason go back over the job
socket, and the process ends. The job socket closes as the script starts, so nothing that a script
does can be taken for a word of ours.

The steps before the job comes need to know only the user and the size of the disk. That lets a jail
stand ready ahead of its job.
"""

from __future__ import annotations

import _socket
import os

from sandbox_core import landlock, messages, mounts, privileges, seccomp
from sandbox_core.syscalls import CloneFlag, Prctl, prctl, set_hostname, take_terminal, unshare

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Sequence
    from typing import Any
else:
    import _signal as signal

#: Where the script runs, and what it finds there.
WORKING_DIRECTORY = "/box"
HOSTNAME = "sandbox"

#: The job socket's place while the jail is made ready: the first after the standard streams.
_JOB_SOCKET = 3
LAST_FD = 2**31 - 1

#: Bytes of a file that are received at a time, and bytes that are received first: most jobs are less.
_CHUNK, _FIRST = 1 << 20, 1 << 14

#: What a zip archive has near its end: a Python looks for that in its script (APPNOTE.TXT, 4.3.16).
_ARCHIVE = b"PK\5\6"

#: Bytes of the number that says how long the job's description is.
_LENGTH_SIZE = 4

#: Assembled once, in the zygote as it starts; its jobs inherit the second one ready to install.
_ZYGOTE_FILTER = seccomp.zygote_filter()
_JOB_FILTERS = {may: seccomp.job_filter(execute=may) for may in (True, False)}

# Put together here, since each operation on such flags is a page or two that a job would have copied.
_NAMESPACES = CloneFlag.NEWNS | CloneFlag.NEWNET | CloneFlag.NEWIPC | CloneFlag.NEWUTS
_JOB_NAMESPACES = _NAMESPACES | CloneFlag.NEWCGROUP

_OOM_SCORE_WORST = b"1000"  # proc_pid_oom_score_adj(5)


#: The place of the cgroups among the descriptors that come with an order, after the four others.
CGROUPS = 4


class StepError(Exception):
    """A step failed: `title` is its name in the table."""

    def __init__(self, title: str, error: BaseException) -> None:
        super().__init__(f"{title}: {error}")
        self.title = title
        self.errno = error.errno if isinstance(error, OSError) else None
        self.reason = str(error) or type(error).__name__


class Jail:
    """One jail in the making, as the process that will be the job sees it."""

    def __init__(self, order: dict[str, Any], fds: Sequence[int]) -> None:
        self.uid: int = order["uid"]
        self.gid: int = order["gid"]
        self.disk: int = order["disk"]
        self.stdio = fds[:3]
        self.socket = fds[3]
        self.job_socket: _socket.socket | None = None
        self.unread = b""  # what has come over it and was not used yet
        # On v2 the process was born in its cgroup, and has nothing to join.
        self.cgroups = () if order["born_in_cgroup"] else fds[CGROUPS:]
        self.controllers: Sequence[str] = order["controllers"]
        self.shows_cgroup = False
        self.boot: str | None = None
        self.several: bool = order["reap_orphans"]
        self.command: Sequence[str] = ()
        self.environment: dict[str, str] = {}
        self.job: dict[str, Any] = {}
        self.terminal: int | None = None
        self.plain_files: set[str] = set()
        self.get_ready: Callable[[Jail], object] = _nothing
        self.start: Callable[[Jail], object] = execute

    def read_whole(self, size: int) -> bytes:
        """Read just `size` bytes from the job socket."""
        found, self.unread = self.unread[:size], self.unread[size:]
        while len(found) < size:
            chunk = os.read(self.socket, size - len(found))
            if not chunk:
                raise EOFError("the supervisor went away")
            found += chunk
        return found


def _nothing(_: Jail) -> None:
    """Get ready where there is nothing to get ready: a program that is started by exec."""


# The root of a runtime, made once by its zygote.


def _enter_own_namespaces(_: dict[str, Any]) -> None:
    unshare(_NAMESPACES)
    set_hostname(HOSTNAME)
    prctl(Prctl.SET_DUMPABLE, 0)


ROOT_STEPS: tuple[tuple[str, Callable[[dict[str, Any]], object]], ...] = (
    ("leave the host's mount, network, IPC and UTS namespaces", _enter_own_namespaces),
    ("make every mount private", lambda _: mounts.make_private()),
    ("put the read-only root together", mounts.build_root),
    ("make the five harmless devices", mounts.make_devices),
    ("pivot into the root and let go of the host's", lambda _: mounts.enter_root()),
)

#: What the zygote gives up once it is in its root, and in the interpreter that makes the jails.
SEAL_STEPS: tuple[tuple[str, Callable[[None], object]], ...] = (
    (
        "empty the capability bounding set and lock the secure bits",
        lambda _: privileges.empty_bounding_set(),
    ),
    (
        "filter system calls: what no jail takes does not exist",
        lambda _: seccomp.install(_ZYGOTE_FILTER),
    ),
)


# One jail, made by the process that will be the job.


def _join_cgroups(jail: Jail) -> None:
    for fd in jail.cgroups:
        os.write(fd, b"0")  # 0 is the writer itself (cgroups(7))


def _leave_session(_: Jail) -> None:
    os.setsid()
    privileges.die_with_parent()


def _enter_namespaces(_: Jail) -> None:
    # The pid namespace is init's, entered by the fork. The cgroup namespace comes after the join, or
    # its root would be the supervisor's cgroup.
    unshare(_JOB_NAMESPACES)


def _mount_scratch(jail: Jail) -> None:
    if jail.boot is not None:
        mounts.cover(jail.boot)  # with the root's own /box, which is empty as yet
    mounts.mount_scratch(jail.disk, jail.uid, jail.gid)


def _mount_proc(_: Jail) -> None:
    if mounts.mount_proc():
        # The kernel takes the job first when the host runs out of memory, never the supervisor.
        file = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        os.write(file, _OOM_SCORE_WORST)
        os.close(file)
        mounts.protect_proc()


def _show_cgroup(jail: Jail) -> None:
    if jail.shows_cgroup:
        mounts.mount_cgroup(jail.controllers)


def _place_descriptors(jail: Jail) -> None:
    # First out of the way of the places that the dup2 calls are about to take.
    streams = [_above(fd) for fd in jail.stdio]
    job_socket = _above(jail.socket)
    for place, fd in enumerate(streams):
        os.dup2(fd, place)
    os.dup2(job_socket, _JOB_SOCKET, inheritable=False)
    os.closerange(_JOB_SOCKET + 1, LAST_FD)
    jail.socket = _JOB_SOCKET
    # All that it would ask the kernel about a descriptor is known here.
    jail.job_socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, _JOB_SOCKET)


def _above(fd: int) -> int:
    while fd <= _JOB_SOCKET:
        fd = os.dup(fd)
    return fd


def _become_the_user(jail: Jail) -> None:
    privileges.become(jail.uid, jail.gid)


def _give_up_privileges(_: Jail) -> None:
    privileges.give_up_privileges()
    privileges.die_with_parent()  # the change of user cleared it


def _install_filter(jail: Jail) -> None:
    # A single process in a warm interpreter is all that it has to be, and needs no exec.
    seccomp.install(_JOB_FILTERS[jail.start is execute or jail.several])


JAIL_STEPS: tuple[tuple[str, Callable[[Jail], object]], ...] = (
    ("join the job's own cgroups", _join_cgroups),
    ("start a session of its own, without a terminal", _leave_session),
    ("enter fresh mount, network, IPC, UTS and cgroup namespaces", _enter_namespaces),
    ("mount a private /box and /tmp of the allowed size", _mount_scratch),
    ("mount /proc with the jail's own processes only", _mount_proc),
    ("show the jail's own cgroup, read-only, if that is asked for", _show_cgroup),
    ("keep stdin, stdout, stderr and the job socket, close all else", _place_descriptors),
    ("set the resource limits", lambda _: privileges.limit_resources()),
    ("become a user and group that nobody else on the host is", _become_the_user),
    ("give up every capability and rule out gaining any", _give_up_privileges),
    ("confine file access once more with Landlock, where there is one", lambda _: landlock.restrict()),
    ("filter system calls: what making the jail took is over", _install_filter),
    ("get the warm interpreter as far as it can be without its job", lambda jail: jail.get_ready(jail)),
)


# The start of the job, when it comes.


def _receive_job(jail: Jail) -> None:
    assert jail.job_socket is not None
    # A terminal travels beside the first bytes.
    jail.unread, terminals = messages.receive(jail.job_socket, _FIRST, 1)
    size = int.from_bytes(jail.read_whole(_LENGTH_SIZE), "big")
    jail.job = messages.unpack(jail.read_whole(size))
    if jail.job["terminal"]:
        jail.terminal = terminals[0]


def _connect_streams(jail: Jail) -> None:
    if jail.job["merge"]:
        os.dup2(1, 2)
    if jail.terminal is not None:
        take_terminal(jail.terminal)
        for place in range(3):
            os.dup2(jail.terminal, place)
        os.close(jail.terminal)


def open_working_directory() -> int:
    """Open `/box`, for the supervisor to collect files from once the job has ended."""
    return os.open(WORKING_DIRECTORY, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _place_files(jail: Jail) -> None:
    os.chdir(WORKING_DIRECTORY)
    os.umask(0o022)
    for path, size in jail.job["files"]:
        if directory := os.path.dirname(path):
            os.makedirs(directory, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        missing = size
        while missing:
            chunk = jail.read_whole(min(missing, _CHUNK))
            _write(file, chunk)
            missing -= len(chunk)
            if len(chunk) == size and _ARCHIVE not in chunk:
                jail.plain_files.add(f"{WORKING_DIRECTORY}/{path}")
        os.close(file)


def _write(file: int, content: bytes) -> None:
    written = os.write(file, content)
    while written < len(content):
        written += os.write(file, content[written:])


def _lower_limits(jail: Jail) -> None:
    privileges.lower_to_job(**jail.job["rlimits"])


def execute(jail: Jail) -> None:
    """Become the runtime's program."""
    # Python ignores these two, and what is ignored stays so through exec.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    command = [*jail.command, *jail.job["args"]]
    os.execve(command[0], command, {**jail.environment, **jail.job["env"]})


START_STEPS: tuple[tuple[str, Callable[[Jail], object]], ...] = (
    ("receive the job", _receive_job),
    ("join stderr to stdout, or all three to a terminal, as the job asks", _connect_streams),
    ("place the script and its files", _place_files),
    ("lower the resource limits to the job's", _lower_limits),
    ("start the script", lambda jail: jail.start(jail)),
)


def take(steps: Sequence[tuple[str, Callable[[Any], object]]], subject: Any) -> None:
    """Take `steps` in order; the first that fails raises `StepError` with its title."""
    for title, step in steps:
        try:
            step(subject)
        except Exception as error:
            raise StepError(title, error) from error
