"""Two jobs know nothing of each other: not at the same time, not one after the other."""

import fcntl
import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from sandbox_core import Job, Limits, Result, Sandbox, Status
from sandbox_core.sandbox import Cancel
from tests.root.attacks import battery

_SCRIPT_WALL = 20.0 * battery.TIME_FACTOR


@pytest.fixture(scope="module")
def table() -> Iterator[Path]:
    """Have the battery's runtimes: one is shown a directory of canaries, one has modules loaded."""
    with battery.canary() as path:
        yield path


@pytest.fixture(scope="module")
def two(table: Path) -> Iterator[Sandbox]:
    """Two slots, for two jobs at once."""
    with Sandbox(table, slots=2) as sandbox:
        yield sandbox


class Neighbour:
    """A job that runs beside another; `result` is there once it has ended."""

    result: Result | None = None


@pytest.fixture
def neighbour(two: Sandbox) -> Callable[..., AbstractContextManager[Neighbour]]:
    """Have a job run beside the one that is looked at, from the line "up" that it prints."""

    @contextmanager
    def start(source: str, **limits: int) -> Iterator[Neighbour]:
        reader, writer = os.pipe()
        cancel, job = Cancel(), _job(f"{source}\nimport time; time.sleep(600)", **limits)
        found = Neighbour()

        def run() -> None:
            found.result = two.run(job, cancel=cancel, stdout=writer)
            os.close(writer)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            with open(reader, "rb") as output:
                first = output.readline()
                # The output is passed on at the pace of its reader, so there has to be one.
                rest = threading.Thread(target=lambda: [None for _ in output])
                rest.start()
                assert first.startswith(b"up"), "the neighbour did not start"
                yield found
                cancel.set()
                rest.join()
        finally:
            cancel.set()
            thread.join()
            cancel.close()

    return start


def _job(source: str, runtime: str = "python-exec", **limits: int) -> Job:
    attack = battery.Attack(
        "neighbours", "looks", "looks", source, limits={"wall_time": 20.0, **limits}
    )
    return battery.job(attack, runtime)


_PAIRS = battery.pairs()


@pytest.mark.parametrize("pair", _PAIRS, ids=lambda pair: pair["name"])
def test_a_job_does_not_notice_its_neighbour(two, neighbour, pair: dict[str, Any]) -> None:
    """What one has, holds or uses up is not there for the other."""
    with neighbour(pair["theirs"], **pair.get("limits", {})) as other:
        result = two.run(_job(pair["ours"]))

    assert (result.text, result.status) == ("blocked\n", Status.OK), result.stderr.decode()
    assert other.result is not None
    assert b"ESCAPED" not in other.result.stdout


@pytest.mark.parametrize("command", [fcntl.F_GETLK, 36], ids=["F_GETLK", "F_OFD_GETLK"])
@pytest.mark.parametrize("path", battery.LOCKABLE)
def test_a_record_lock_is_not_seen_by_the_neighbour(two, neighbour, path: str, command: int) -> None:
    """Two jobs that work together could talk by locks on what both may open."""
    flags = "os.O_RDWR" if path.startswith("/dev/") else "os.O_RDONLY"
    lock = f"""
import fcntl, os
fd = os.open({path!r}, {flags})
fcntl.lockf(fd, fcntl.LOCK_EX if {flags} == os.O_RDWR else fcntl.LOCK_SH, 1, 77)
print("up", flush=True)
"""
    look = f"""
import fcntl, os, struct
from tools import done, escaped
asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 77, 1, 0)
kind = struct.unpack("hhqqi4x", fcntl.fcntl(os.open({path!r}, {flags}), {command}, asked))[0]
if kind != fcntl.F_UNLCK:
    escaped("the lock of the neighbour is there")
done()
"""
    with neighbour(lock):
        result = two.run(_job(look))

    assert result.text == "blocked\n", result.stderr.decode()


def test_a_neighbour_survives_every_signal(two, neighbour) -> None:
    """Whatever pid, group or thread the other aims at."""
    source = """
import os, signal
from tools import attempt, call, done
for pid in (-1, *range(3, 2000)):
    attempt(pid, lambda: os.kill(pid, signal.SIGKILL))
    if pid > 0:
        attempt(pid, lambda: os.killpg(pid, signal.SIGKILL))
        attempt(pid, lambda: call("tkill", pid, signal.SIGKILL))
done()
"""
    with neighbour("print('up', flush=True)") as other:
        result = two.run(_job(source))

    assert result.text == "blocked\n", result.stderr.decode()
    assert other.result is not None
    assert other.result.status is Status.CANCELLED


_IDENTITY = """
import json, os
print(json.dumps({
    "namespaces": {kind: os.readlink("/proc/self/ns/" + kind) for kind in ("mnt", "net", "ipc", "uts", "pid", "cgroup")},
    "uid": os.getuid(),
    "tmpfs": [os.stat(path).st_dev for path in ("/box", "/proc")],
    "names": [os.getpid(), os.getsid(0), open("/proc/self/cgroup").read().count("sandboxed"), os.uname().nodename],
}))
"""


def test_two_jobs_share_no_namespace_no_user_and_no_file_system(two, neighbour) -> None:
    """Each has its own of every kind, none of them the host's, and equal names for itself."""
    with neighbour(
        _IDENTITY.replace("print(", "print('up', ", 1) + "\nimport sys; sys.stdout.flush()"
    ) as other:
        ours = json.loads(two.run(_job(_IDENTITY)).stdout)

    assert other.result is not None
    theirs = json.loads(other.result.text.partition("up ")[2])
    for kind, inode in ours["namespaces"].items():
        assert inode not in (theirs["namespaces"][kind], os.readlink(f"/proc/self/ns/{kind}")), kind
    assert ours["uid"] != theirs["uid"]
    assert not set(ours["tmpfs"]) & set(theirs["tmpfs"])
    assert ours["names"] == theirs["names"]


@pytest.mark.parametrize(
    ("source", "limits"),
    [
        ("import os\nos.fork()\nwhile True: pass", {"processes": 2}),
        ("import os\nwhile True: os.write(1, b'x' * 2**16)", {"output": 2**30}),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", {}),
    ],
    ids=["burns", "floods", "stands still"],
)
def test_a_neighbour_that_misbehaves_does_not_hold_up_the_other(
    two, neighbour, source: str, limits: dict[str, int]
) -> None:
    """The result of the one that behaves is there long before the other has ended."""
    with neighbour(f"print('up', flush=True)\n{source}", **limits):
        result = two.run(_job("print('on')"))

    assert result.text == "on\n"
    assert result.wall_time < 3 * battery.TIME_FACTOR


def test_what_lies_in_memory_of_the_host_is_not_told(two) -> None:
    """Which pages of a file somebody else has read, mincore(2) tells only to its owner."""
    source = """
import ctypes, mmap, os
from tools import call, done, escaped
fd = os.open(os.environ["CANARY"] + "/cold", os.O_RDONLY)
pages = os.fstat(fd).st_size // 4096
address = call("mmap", 0, pages * 4096, 1, 1, fd, 0)
found = (ctypes.c_ubyte * pages)()
call("mincore", address, pages * 4096, found)
if not all(page & 1 for page in found):
    escaped(sum(page & 1 for page in found), "of", pages)
done()
"""
    directory = Path(two.runtimes[battery.CANARY].env["CANARY"])
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        file.write(os.urandom(1 << 20))
        file.flush()
        os.fsync(file.fileno())
        os.fchmod(file.fileno(), 0o644)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        result = two.run(
            _job(source.replace("/cold", "/" + os.path.basename(file.name)), battery.CANARY)
        )

    assert result.text == "blocked\n", result.stderr.decode()


_LEAVES = {
    "ends": "",
    "fails": "raise SystemExit(3)",
    "aborts": "os.abort()",
    "is killed": "os.kill(os.getpid(), 9)",
    "runs out of time": "time.sleep(60)",
    "runs out of memory": "x = bytearray(200 << 20)",
    "floods": "os.write(1, b'x' * 2**20)\nos.write(1, b'x' * 2**20)",
}

_RESIDUE = """
import asyncio, builtins, ctypes, decimal, json, locale, logging, os, random, resource, signal, socket, sqlite3
import sys, tempfile, threading, time, uuid
"""

_LEAVE = (
    _RESIDUE
    + """
for path in ("/tmp/left", "/box/left", "/tmp/.left"):
    open(path, "w").write("secret")
os.mkfifo("/tmp/pipe")
os.symlink("/etc/passwd", "/tmp/link")
builtins.left = json.left = sys.left = os.environ["LEFT"] = "secret"
json.dumps = lambda *_, **__: "forged"
builtins.print = lambda *_, **__: None
sys.path.insert(0, "/tmp")
sys.setrecursionlimit(5000)
decimal.getcontext().prec = 3
random.seed(1)
logging.basicConfig(level=1)
logging.addLevelName(50, "left")
socket.setdefaulttimeout(77)
sqlite3.register_adapter(complex, str)
asyncio.set_event_loop(asyncio.new_event_loop())
tempfile.tempdir = "/box/left"
threading.excepthook = print
threading.stack_size(1 << 20)
uuid._last_timestamp = 2 ** 62
os.umask(0)
os.nice(7)
os.chdir("/tmp")
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
signal.setitimer(signal.ITIMER_REAL, 500)
resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
ctypes.CDLL(None).prctl(15, b"left", 0, 0, 0)
ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
if os.fork() == 0:
    os.setsid()
    time.sleep(600)
"""
)

_LOOK = (
    _RESIDUE
    + """
status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
print(json.dumps({
    "tmp": os.listdir("/tmp"), "box": sorted(os.listdir("/box")), "cwd": os.getcwd(),
    "builtins": sorted(vars(builtins)), "json": sorted(vars(json)), "sys": hasattr(sys, "left"),
    "environment": sorted(os.environ.items()), "path": sys.path, "recursion": sys.getrecursionlimit(),
    "precision": decimal.getcontext().prec, "umask": os.umask(0o22), "nice": os.nice(0),
    "pids": [name for name in os.listdir("/proc") if name.isdigit()], "processors": len(os.sched_getaffinity(0)),
    "signals": [status[name].strip() for name in ("SigBlk", "SigIgn", "SigPnd", "ShdPnd")],
    "name": status["Name"], "dumpable": ctypes.CDLL(None).prctl(3, 0, 0, 0, 0),
    "limits": [resource.getrlimit(number) for number in range(16)],
    "timer": signal.getitimer(signal.ITIMER_REAL), "open": sorted(os.listdir("/proc/self/fd")),
    "main": sorted(name for name in globals() if name.startswith("l")), "modules": len(sys.modules),
    "mounts": len(open("/proc/self/mountinfo").readlines()),
    "log": [logging.root.level, len(logging.root.handlers), logging.getLevelName(50)],
    "sockets": socket.getdefaulttimeout(), "adapters": sorted(map(str, sqlite3.adapters)),
    "loop": asyncio.get_event_loop_policy()._local._loop is None, "temporary": tempfile.tempdir,
    "threads": [threading.excepthook.__name__, threading.stack_size(), threading.active_count()],
    "timestamp": uuid._last_timestamp,
}))
"""
)


@pytest.mark.parametrize("runtime", battery.PYTHONS)
@pytest.mark.parametrize("way", _LEAVES)
def test_a_job_finds_nothing_of_the_one_before(table: Path, runtime: str, way: str) -> None:
    """However that one ended and whatever it changed: files, interpreter, process, environment."""
    limits = Limits(processes=2, wall_time=_SCRIPT_WALL)
    short = Limits(processes=2, wall_time=0.7 * battery.TIME_FACTOR)
    look = Job(_LOOK, runtime=runtime, limits=limits)
    with Sandbox(table) as sandbox:
        fresh = sandbox.run(look)
        left = sandbox.run(
            Job(
                f"{_LEAVE}\n{_LEAVES[way]}",
                runtime=runtime,
                limits=short if way == "runs out of time" else limits,
            )
        )
        again = sandbox.run(look)

    assert fresh.ok, fresh.stderr.decode()
    assert b"Traceback" not in left.stderr, left.stderr.decode()
    assert left.ok == (way == "ends")
    assert json.loads(again.stdout) == json.loads(fresh.stdout)


_CHANCE = """
import os, random, secrets, ssl, tempfile, uuid
values = [random.random(), random.getrandbits(64), uuid.uuid4(), uuid.uuid1(), secrets.token_hex(16),
          ssl.RAND_bytes(16).hex(), os.urandom(16).hex(), tempfile.mktemp(), tempfile.mkdtemp(),
          next(tempfile._get_candidate_names()), random.SystemRandom().random()]
print("\\n".join(map(str, values)))
"""


@pytest.mark.parametrize("runtime", battery.PYTHONS)
def test_chance_is_never_the_same_twice(table: Path, runtime: str) -> None:
    """What is drawn in one job is not drawn in another, from any of the interpreter's sources."""
    limits = Limits(memory=256 * 2**20, wall_time=_SCRIPT_WALL)
    with Sandbox(table) as sandbox:
        rows = [
            sandbox.run(Job(_CHANCE, runtime=runtime, limits=limits)).text.splitlines()
            for _ in range(30)
        ]

    assert {len(row) for row in rows} == {11}
    for column in zip(*rows, strict=True):
        assert len(set(column)) == 30
