"""The battery of attacks: what the tables beside this module say, as jobs with an expectation.

Each table is a group. An `[[attack]]` in it has

- `id` and `what` (one sentence: what it tries);
- `source`, the literal script, which says `blocked` where the walls held and `ESCAPED …` where not;
  `repeat` makes a long one: text and times, added at its end;
- `runtimes`, where it does not make sense in every Python, and `machines`, where in one ABI only;
- `bait`, what the test puts on the host for it to reach, if it can; its name is the first argument;
- fields of the job (`limits`, `args`, `stdin`, `files`, `collect`, `labels`);
- what must come of it: `status` (one or several), `stdout` (all of it; left out where it may be
  anything), `signal`, `exit_code`, the `collected` files, `at_least` for numbers of the result;
- `walls`: what holds it. With `proof = true` these are all of them, and each alone is enough:
  `test_walls_removed` takes them away. `landlock_since` says which ABI of Landlock it takes. `warm = true` does that in an interpreter that has not been
  started afresh, because a fresh start would be one more wall. With `proof = false` the reason why the
  walls can't be taken away stands in `unproven`.
"""

import ctypes
import fcntl
import os
import platform
import shutil
import socket
import struct
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sandbox_core import Job, Limits, Result, Sandbox, Status, landlock
from sandbox_core.syscall_numbers import NUMBERS

#: How much slower this host is than one that the limits are made for.
TIME_FACTOR = float(os.environ.get("SANDBOXED_TEST_TIME_FACTOR", "1"))

HERE = Path(__file__).parent

#: A warm Python that has modules loaded before a job comes; which, says `_PRELOAD`.
PRELOADED = "preloaded"

#: The Pythons that attacks are tried in: a warm one, one that is started afresh, and that one.
PYTHONS = tuple(os.environ.get("SANDBOXED_TEST_PYTHONS", f"python python-exec {PRELOADED}").split())

#: Those whose state, generators, locks or callbacks at a fork could be another thing in a job than they
#: are after an import in it, and what the attacks themselves use.
_PRELOAD = """
    asyncio concurrent.futures ctypes decimal email.message fcntl glob hashlib http.client json locale
    logging multiprocessing pickle random resource secrets socket sqlite3 ssl subprocess tempfile
    threading unittest uuid zipfile
""".split()

#: A Python that is shown a directory of canaries, as an operator might bind one.
CANARY = "canary"
CANARY_GROUP = 4242

_WALL_TIME = 10.0


@dataclass(frozen=True)
class Attack:
    """One row of a table."""

    group: str
    id: str
    what: str
    source: str
    walls: tuple[str, ...] = ()
    proof: bool = False
    unproven: str = ""
    warm: bool = False
    runtimes: tuple[str, ...] = PYTHONS
    machines: tuple[str, ...] = ("x86_64", "aarch64")
    repeat: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, Any] = field(default_factory=dict)
    job: dict[str, Any] = field(default_factory=dict)
    status: tuple[str, ...] = ("ok",)
    stdout: str | None = None
    signal: str | None = None
    exit_code: int | None = None
    collected: tuple[str, ...] = ()
    at_least: dict[str, float] = field(default_factory=dict)
    landlock_since: int = 1
    bait: str = ""

    def __str__(self) -> str:
        return f"{self.group}-{self.id}"


def load() -> list[Attack]:
    """Read every table, in the order of their names."""
    return [
        _attack(path.stem, {**table.get("all", {}), **entry})
        for path in sorted(HERE.glob("*.toml"))
        if path.stem not in _NO_GROUPS
        for table in (tomllib.loads(path.read_text(encoding="utf-8")),)
        for entry in table["attack"]
    ]


#: The vocabulary, and what two jobs do beside each other.
_NO_GROUPS = ("walls", "neighbours")

#: Groups of attacks on what is the same whatever modules a warm interpreter has: they are not tried once
#: more in one that has some. All attacks do fail there; it takes a minute to see it.
_WHATEVER_IS_LOADED = frozenset(
    ("abi", "collect", "kernel", "keyrings", "logs", "namespaces", "sockets", "source", "terminal")
)

_JOB_FIELDS = ("args", "stdin", "env", "files", "collect", "labels")


def _attack(group: str, entry: dict[str, Any]) -> Attack:
    entry = dict(entry)
    job = {name: entry.pop(name) for name in _JOB_FIELDS if name in entry}
    status = entry.pop("status", "ok")
    for name in ("walls", "runtimes", "machines", "collected"):
        if name in entry:
            entry[name] = tuple(entry[name])
    if entry.get("stdout", "blocked\n") == "*":
        entry["stdout"] = None
    elif "stdout" not in entry:
        entry["stdout"] = "blocked\n" if status == "ok" else ""
    statuses = (status,) if isinstance(status, str) else tuple(status)
    if group in _WHATEVER_IS_LOADED and len(PYTHONS) > 1:
        entry.setdefault("runtimes", tuple(name for name in PYTHONS if name != PRELOADED))
    return Attack(group=group, job=job, status=statuses, **entry)


def walls() -> dict[str, str]:
    """Give the name and the meaning of every wall."""
    table: dict[str, str] = tomllib.loads((HERE / "walls.toml").read_text(encoding="utf-8"))
    return table


def pairs() -> list[dict[str, Any]]:
    """Give what one job does and what its neighbour tries then."""
    table = tomllib.loads((HERE / "neighbours.toml").read_text(encoding="utf-8"))
    found: list[dict[str, Any]] = table["pair"]
    return found


def fits(attack: Attack) -> bool:
    """Whether `attack` makes sense on this machine: what only Landlock stops takes a kernel with it."""
    if attack.walls == ("landlock",) and landlock.abi() < attack.landlock_since:
        return False
    return platform.machine() in attack.machines


def run(sandbox: Sandbox, attack: Attack, runtime: str) -> Result:
    """Run `attack` in `runtime`, with what it is to be tempted by standing on the host."""
    with _BAITS[attack.bait]() as bait:
        return sandbox.run(job(attack, runtime, bait))


@contextmanager
def _abstract_socket() -> Iterator[tuple[str, ...]]:
    with socket.socket(socket.AF_UNIX) as server:
        name = f"sandboxed-test-bait-{os.getpid()}"
        server.bind(f"\0{name}")
        server.listen()
        yield (name,)


@contextmanager
def _tcp_listener() -> Iterator[tuple[str, ...]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield (str(server.getsockname()[1]),)


@contextmanager
def _message_queue() -> Iterator[tuple[str, ...]]:
    libc = ctypes.CDLL(None, use_errno=True)
    key = 0x53420000 | os.getpid() & 0xFFFF
    queue = libc.msgget(key, 0o1666)
    assert queue != -1, os.strerror(ctypes.get_errno())
    try:
        yield (str(key),)
    finally:
        libc.msgctl(queue, 0, None)


#: What jobs see of the host: a directory, a program, a file and a device.
LOCKABLE = (os.path.dirname(os.__file__), os.path.realpath(sys.executable), os.__file__, "/dev/null")


@contextmanager
def _record_locks() -> Iterator[tuple[str, ...]]:
    held = [os.open(path, os.O_RDONLY) for path in LOCKABLE]
    try:
        for fd in held:
            fcntl.lockf(fd, fcntl.LOCK_SH, 1, 77)
        yield LOCKABLE
    finally:
        for fd in held:
            os.close(fd)


_BAITS: dict[str, Callable[[], AbstractContextManager[tuple[str, ...]]]] = {
    "": lambda: nullcontext(()),
    "abstract-socket": _abstract_socket,
    "tcp-listener": _tcp_listener,
    "message-queue": _message_queue,
    "record-locks": _record_locks,
}


def job(attack: Attack, runtime: str, bait: tuple[str, ...] = ()) -> Job:
    """Make the job: the script, and beside it what the scripts in Python share.

    The name of its `bait` is its first argument.
    """
    limits = {"wall_time": _WALL_TIME, **attack.limits}
    for name in ("wall_time", "cpu_time"):
        if name in limits:
            limits[name] *= TIME_FACTOR
    options = {**attack.job, "args": (*bait, *attack.job.get("args", ()))}
    if runtime != "sh":
        options["files"] = {**options.get("files", {}), **_shared_files()}
    source = attack.source
    if attack.repeat:
        source += attack.repeat["text"] * attack.repeat["times"] + attack.repeat.get("end", "")
    return Job(source, runtime=runtime, limits=Limits(**limits), **options)


#: Calls that no filter of ours names, because a call that is not listed does not exist: the numbers for
#: x86-64 and aarch64 (asm/unistd_64.h, asm-generic/unistd.h).
_UNLISTED = {
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "inotify_init1": (294, 26),
    "fanotify_init": (300, 262),
    "splice": (275, 76),
    "tee": (276, 77),
    "io_setup": (206, 0),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "flock": (73, 32),
    "sched_setattr": (314, 274),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440),
    "mount_setattr": (442, 442),
}


def numbers() -> dict[str, int]:
    """Give the numbers of system calls on this machine, by name."""
    column = {"x86_64": 0, "aarch64": 1}[platform.machine()]
    known = {**_UNLISTED, **NUMBERS}
    return {name: number for name, places in known.items() if (number := places[column]) is not None}


def _shared_files() -> dict[str, str]:
    return {
        "tools.py": (HERE / "tools.py").read_text(encoding="utf-8")
        + f"\n#: How many times slower this machine is.\nTIME_FACTOR = {TIME_FACTOR}\n",
        "numbers_of_calls.py": f"NUMBERS = {numbers()!r}\n",
    }


def problem(attack: Attack, result: Result) -> str | None:
    """Say in what `result` is not what the table expects, or None."""
    if b"ESCAPED" in result.stdout:
        return f"it got through: {result.text}"
    seen = {
        "status": result.status in attack.status,
        "stdout": attack.stdout is None or result.text == attack.stdout,
        "signal": attack.signal is None or result.signal == attack.signal,
        "exit_code": attack.exit_code is None or result.exit_code == attack.exit_code,
        "collected": sorted(result.files) == sorted(attack.collected),
        "labels": dict(result.labels) == attack.job.get("labels", {}),
        **{name: getattr(result, name) >= least for name, least in attack.at_least.items()},
    }
    if wrong := [name for name, right in seen.items() if not right]:
        return f"unexpected {', '.join(wrong)}: {_brief(result)}"
    return None


def got_through(attack: Attack, result: Result) -> bool:
    """Whether the attack reached what it tries; a script that merely crashed did not."""
    if b"ESCAPED" in result.stdout or sorted(result.files) != sorted(attack.collected):
        return True
    return "ok" not in attack.status and result.status is Status.OK


def _brief(result: Result) -> str:
    return (
        f"{result.status} exit {result.exit_code} signal {result.signal} files {sorted(result.files)} "
        f"memory {result.memory} cpu {result.cpu_time}\n{result.text[-2000:]}\n{result.stderr[-2000:].decode()}"
    )


@contextmanager
def canary() -> Iterator[Path]:
    """Have a directory of canaries for a while; give the runtimes table that shows it to jobs."""
    # Outside /tmp, which a jail covers with its own.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        yield make_canary(Path(directory))


def make_canary(directory: Path) -> Path:
    """Fill `directory` with what an attack must not reach; give the runtimes table that shows it.

    Everything in it is harmless: a copy of id(1) and of grep(1) with privileges that only matter where
    walls are gone, a device that gives zeros, a file of a group, files that anybody may write.
    """
    directory.chmod(0o777)
    (directory / "secret.txt").write_text("secret of the host\n")
    (directory / "open.txt").write_text("as it was\n")
    (directory / "open.txt").chmod(0o666)
    (directory / "group.txt").write_text("for a group\n")
    os.chown(directory / "group.txt", 0, CANARY_GROUP)
    (directory / "group.txt").chmod(0o040)
    os.mknod(directory / "zero", 0o666 | 0o020000, os.makedev(1, 5))
    (directory / "zero").chmod(0o666)
    for name, program, mode in (
        ("id", "id", 0o4755),
        ("grep", "grep", 0o4755),
        ("able", "grep", 0o755),
    ):
        shutil.copy(os.path.realpath(shutil.which(program) or program), directory / name)
        (directory / name).chmod(mode)
    # VFS_CAP_REVISION_2 with the effective bit, and CAP_NET_RAW as permitted (linux/capability.h).
    capability = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)
    os.setxattr(directory / "able", "security.capability", capability)
    table = directory / "runtimes.toml"
    table.write_text(
        f'[{CANARY}]\nprefix = "{sys.base_prefix}"\nbinds = ["{directory}"]\n'
        # What takes a wall away does so in the zygote's first interpreter.
        "warm = false\n"
        f'env = {{ CANARY = "{directory}" }}\n'
        f'[{PRELOADED}]\nprefix = "{sys.base_prefix}"\npreload = {_PRELOAD}\n'
    )
    return table


def uid_of_jobs(sandbox: Sandbox) -> int:
    """Give the user of the jobs of a sandbox with one slot, that keeps no jails ready."""
    (uid,) = sandbox._slots[0].uids
    return uid


def traces(look: Callable[[], dict[str, list[str]]], uid: int) -> dict[str, list[str]]:
    """Give what `look` finds of jobs of `uid`; other tests on this host may have jobs of their own."""
    found = _look(look)
    found["processes"] = [line for line in found["processes"] if _is_of(line, uid)]
    found["cgroups"] = [path for path in found["cgroups"] if f"/sandboxed-{uid}-" in path]
    return found


def _look(look: Callable[[], dict[str, list[str]]]) -> dict[str, list[str]]:
    while True:
        with suppress(FileNotFoundError):  # a cgroup of somebody else went away meanwhile
            return look()


def _is_of(line: str, uid: int) -> bool:
    try:
        status = Path(line.rpartition(" ")[2]).read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return False  # it ended while we looked
    return f"\nUid:\t{uid}\t" in status


def parameters(attacks: Iterable[Attack]) -> list[Any]:
    """Give each attack in each of its runtimes, as parameters with a name."""
    return [
        pytest.param(attack, runtime, id=f"{attack}-{runtime}")
        for attack in attacks
        if fits(attack)
        for runtime in attack.runtimes
    ]
