"""The server of `sandboxed serve` as a process: its socket file, its signals, its program."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox_core import sockets
from tests.root.attacks.battery import TIME_FACTOR

NOBODY = 65534


def test_a_stale_socket_file_is_replaced(start, tmp_path: Path):
    """As a server that was killed leaves it."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "socket"))
    server = start("--workers", "1", folder=tmp_path)

    assert server.ask(b"print(1)") == b"1\n\0"
    assert server.stop() == 0


@pytest.mark.parametrize("crowd", [0, 3], ids=["idle", "with a full line"])
def test_a_live_server_s_socket_is_left_alone(sandboxed, tmp_path: Path, crowd: int):
    """The second server says so and goes."""
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(path)
        live.listen(1)
        clients = [socket.socket(socket.AF_UNIX) for _ in range(crowd)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex(path)
        (tmp_path / "main.py").write_text("", encoding="utf-8")
        done = subprocess.run(
            [sandboxed, "serve", "--socket", path, str(tmp_path / "main.py")],
            capture_output=True,
            timeout=30 * TIME_FACTOR,
            check=False,
        )
        for client in clients:
            client.close()

        assert done.returncode == 125
        assert b"another server" in done.stderr
        assert stat.S_ISSOCK(os.stat(path).st_mode)


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path):
    """Somebody's data."""
    path = tmp_path / "data"
    path.write_text("mine", encoding="utf-8")
    with pytest.raises(RuntimeError, match="no socket"):
        sockets.listen(str(path), mode=0o600, group=None, backlog=1)

    assert path.read_text(encoding="utf-8") == "mine"


def test_a_socket_that_another_has_taken_over_is_not_removed(tmp_path: Path):
    """A server removes its own file only."""
    path = str(tmp_path / "socket")
    first = sockets.listen(path, mode=0o600, group=None, backlog=1)
    os.unlink(path)
    second = sockets.listen(path, mode=0o600, group=None, backlog=1)
    first.close()

    assert os.path.exists(path)
    second.close()
    assert not os.path.exists(path)


def as_user(uid: int, groups: list[int], path: str) -> str:
    """Connect as another user; give what the server answers, or the error."""
    program = (
        "import os, socket, sys\n"
        f"os.setgroups({groups}); os.setgid(65534); os.setuid({uid})\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        "try:\n"
        f"    s.connect({path!r}); s.sendall(b'print(1)\\0'); print(s.makefile('rb').read())\n"
        "except OSError as e:\n"
        "    print(type(e).__name__)\n"
    )
    interpreter = os.path.realpath(sys.executable)
    done = subprocess.run([interpreter, "-I", "-S", "-c", program], capture_output=True, check=True)
    return done.stdout.decode().strip()


@pytest.fixture
def open_folder(tmp_path: Path):
    """Give a folder that every user can reach."""
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(0o755)
    return tmp_path


def test_the_mode_and_the_group_say_who_may_connect(start, open_folder: Path, until):
    """Peers outside are refused: by the kernel, and by the server whatever became of the file."""
    server = start("--workers", "1", "--mode", "660", "--group", "4242", folder=open_folder)
    found = os.stat(server.path)

    assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o660, 4242)
    assert as_user(NOBODY, [], server.path) == "PermissionError"
    assert as_user(NOBODY, [4242], server.path) == r"b'1\n\x00'"
    os.chmod(server.path, 0o666)  # noqa: S103  # somebody was careless
    assert as_user(NOBODY, [], server.path) in ("b''", "ConnectionResetError", "BrokenPipeError")
    until(lambda: server.events(status="refused", uid=NOBODY))
    assert server.stop() == 0


def test_without_a_word_only_the_owner_may_connect(server):
    """Who is root."""
    assert stat.S_IMODE(os.stat(server.path).st_mode) == 0o600


def test_sigterm_lets_finish_what_runs(start, until, rest_of):
    """And takes nobody else."""
    server = start("--workers", "1")
    with server.connect() as client, server.connect() as late:
        client.sendall(b"print('here', flush=True); print(sys.stdin.read())\n")
        assert client.recv(100) == b"here\n"
        server.process.send_signal(signal.SIGTERM)
        until(lambda: server.events("stopping"))
        client.sendall(b"to the end\0")

        assert rest_of(client) == b"to the end\n\0"
        assert server.process.wait(30) == 0
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            late.sendall(b"x" * (16 << 20))
    assert not os.path.exists(server.path)


def test_sighup_reads_the_program_anew(start, until):
    """One that does not compile is not taken."""
    server = start("--workers", "2", main="print('old')")
    assert server.ask(b"") == b"old\n\0"
    server.main.write_text("print('new'", encoding="utf-8")
    server.process.send_signal(signal.SIGHUP)
    until(lambda: server.events("not reloaded"))
    assert server.ask(b"") == b"old\n\0"
    server.main.write_text("print('new')", encoding="utf-8")
    server.process.send_signal(signal.SIGHUP)
    until(lambda: server.events("reloaded"))

    assert {server.ask(b"") for _ in range(4)} == {b"new\n\0"}
    assert server.stop() == 0


def test_a_socket_from_the_service_manager_is_served(sandboxed, tmp_path: Path):
    """It is there before the server and stays after it."""
    path = str(tmp_path / "socket")
    main = tmp_path / "main.py"
    main.write_text("print(input().upper())", encoding="utf-8")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        fd = listening.fileno()
        manager = (
            f"import os, sys; os.dup2({fd}, 3); os.set_inheritable(3, True)\n"
            "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')\n"
            "os.execv(sys.argv[1], sys.argv[1:])\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", manager, sandboxed, "serve", "--workers", "1", str(main)],
            pass_fds=[fd],
            stderr=subprocess.DEVNULL,
        )
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(30 * TIME_FACTOR)
            client.connect(path)
            client.sendall(b"hello\0")
            with client.makefile("rb") as answer:
                assert answer.read() == b"HELLO\n\0"
        process.terminate()
        assert process.wait(30) == 0
        assert os.path.exists(path)


@pytest.fixture(params=["/tmp", "/var/tmp"])
def distribution(request) -> Iterator[Path]:
    """Make a Python distribution of the user's own, with a program and a module.

    In a place where a jail has something of its own, so that it is not shown there, and in another.
    """
    with tempfile.TemporaryDirectory(dir=request.param) as folder:
        yield made(Path(folder, "python"))


def prefix_of(distribution: Path) -> bytes:
    """Give where its programs find it."""
    return b"/usr" if distribution.is_relative_to("/tmp") else os.fsencode(distribution)


def made(prefix: Path) -> Path:
    """Make a distribution whose library is, by links, that of the Python that runs this."""
    (prefix / "bin").mkdir(parents=True)
    (prefix / "lib").mkdir()
    shutil.copy(os.path.realpath(sys.executable), prefix / "bin" / "python3")
    library = Path(sysconfig.get_path("stdlib"))
    (prefix / "lib" / library.name).symlink_to(library)
    for shared in Path(sys.base_prefix, "lib").glob("libpython*.so*"):
        (prefix / "lib" / shared.name).symlink_to(shared.resolve())
    (prefix / "bin" / "own.py").write_text("NAME = 'own module'", encoding="utf-8")
    program = "import os, sys, own; print(__file__, own.NAME, sys.prefix, input(), os.listdir('/box'))"
    (prefix / "bin" / "main.py").write_text(program, encoding="utf-8")
    return prefix


@pytest.mark.parametrize("inside", [True, False], ids=["as the jail sees it", "as the host does"])
def test_a_distribution_of_the_user_s_own_brings_its_program(start, distribution: Path, inside, until):
    """A path inside it, run in its place with its neighbours."""
    main = "/usr/bin/main.py" if inside else str(distribution / "bin" / "main.py")
    folder = distribution.parent
    server = start("--python", str(distribution), "--workers", "1", folder=folder, named=main)

    prefix = prefix_of(distribution)
    assert server.ask(b"hi") == b"/usr/bin/main.py own module %b hi []\n\0" % prefix
    (distribution / "bin" / "new.py").write_text("print('new')", encoding="utf-8")
    os.replace(distribution / "bin" / "new.py", distribution / "bin" / "main.py")
    server.process.send_signal(signal.SIGHUP)
    until(lambda: server.events("reloaded"))
    assert server.ask(b"hi") == b"new\n\0"
    assert server.stop() == 0


def test_a_distribution_runs_a_program_of_the_host_too(start, distribution: Path):
    """Placed in /box as any script is."""
    server = start("--python", str(distribution), "--workers", "1", folder=distribution.parent)

    assert server.ask(b"print(__file__, sys.prefix)") == b"/box/main.py %b\n\0" % prefix_of(
        distribution
    )
    assert server.stop() == 0


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["x.py"], b"--socket"),
        (["--socket", "/nowhere/at/all/s", "x.py"], b"/nowhere/at/all/s"),
        (["--socket", "s" * 300, "x.py"], b"too long"),
        (["--socket", "s", "--mode", "999", "x.py"], b"999"),
        (["--socket", "s", "--group", "no such group", "x.py"], b"no such group"),
        (["--socket", "s", "--workers", "0", "x.py"], b"--workers"),
        (["--socket", "s", "--wall-time", "-1", "x.py"], b"--wall-time"),
        (["--socket", "s", "--python", "/etc", "x.py"], b"/etc/bin/python3"),
    ],
    ids=lambda value: value.decode() if isinstance(value, bytes) else "",
)
def test_bad_usage_is_told_in_one_line(sandboxed, tmp_path: Path, words: list[str], reason: bytes):
    """And nothing is left of the attempt."""
    (tmp_path / "x.py").write_text("", encoding="utf-8")
    done = subprocess.run(
        [sandboxed, "serve", *words],
        capture_output=True,
        timeout=30 * TIME_FACTOR,
        check=False,
        cwd=tmp_path,
    )

    assert done.returncode in (2, 125)
    assert reason in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert os.listdir(tmp_path) == ["x.py"]
