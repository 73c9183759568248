"""Clients and programs that do what they should not: the server and its other clients don't notice."""

import fcntl
import os
import resource
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from tests.root.attacks.battery import TIME_FACTOR

SLEEP = b"print('here', flush=True); time.sleep(60)\n"


@pytest.fixture(scope="module")
def hasty(start):
    """Give a server of two workers that gives programs one second."""
    server = start("--workers", "2", "--wall-time", "1")
    yield server
    assert server.ask(b"print(7)") == b"7\n\0"
    assert server.stop() == 0


def test_a_client_that_sends_nothing_holds_up_nobody_for_long(hasty, rest_of):
    """Its program waits for input until its time is over."""
    with hasty.connect() as one, hasty.connect() as two:
        assert hasty.ask(b"print(1)") == b"1\n\0"
        assert rest_of(one) == b"\0"
        assert rest_of(two) == b"\0"


def test_a_client_that_stops_halfway_holds_up_nobody_for_long(hasty, rest_of):
    """Half a line is no line; the program never got it."""
    with hasty.connect() as one, hasty.connect() as two:
        one.sendall(b"print(")
        two.sendall(b"sys.stdin.read()\nhalf")

        assert hasty.ask(b"print(1)") == b"1\n\0"
        assert rest_of(one) == b"\0"
        assert rest_of(two) == b"\0"


def send_for_ever(client: socket.socket) -> None:
    """Send until the server takes no more."""
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        client.sendall(b"more" * (64 << 20))


def test_a_client_that_sends_too_much_still_gets_its_answer(hasty, rest_of):
    """What the program does not read is held back, and dropped when it ends."""
    with hasty.connect() as client:
        client.sendall(b"print('enough')\n")
        send_for_ever(client)

        assert rest_of(client) == b"enough\n\0"


def test_what_comes_after_the_nul_is_nobody_s(hasty, rest_of):
    """Megabytes of it change nothing."""
    with hasty.connect() as client:
        client.sendall(b"print(len(sys.stdin.read()))\nabc\0")
        send_for_ever(client)

        assert rest_of(client) == b"3\n\0"


def test_a_client_that_never_reads_holds_up_nobody_for_long(hasty, until):
    """Whether its program waits for it, or has ended before."""
    before = len(hasty.events())
    with hasty.connect() as one, hasty.connect() as two:
        one.sendall(b"sys.stdout.write('x' * 2_000_000)\0")
        two.sendall(
            b"import fcntl; fcntl.fcntl(1, 1031, 1 << 20) if 0 else None; print('x' * 250_000)\0"
        )

        assert hasty.ask(b"print(1)") == b"1\n\0"
        until(lambda: len(hasty.events()) == before + 3)


def test_the_jail_of_a_client_that_vanishes_dies(server, until):
    """At once, and its worker is free again."""
    before = len(server.events(status="cancelled"))
    with server.connect() as client:
        client.sendall(SLEEP)
        assert client.recv(100) == b"here\n"
    until(lambda: len(server.events(status="cancelled")) == before + 1, 5)


def test_a_client_that_vanishes_while_it_waits_costs_no_jail(start, until):
    """It is passed over when its turn comes."""
    server = start("--workers", "1")
    with server.connect() as first:
        first.sendall(SLEEP)
        assert first.recv(100) == b"here\n"
        for _ in range(5):
            server.connect().close()
    until(lambda: len(server.events(status="left")) == 5)

    assert server.ask(b"print(1)") == b"1\n\0"
    assert server.stop() == 0


def test_five_thousand_connections_at_once_break_nothing(start):
    """The line takes as many as it may, the kernel turns the others away or has them wait."""
    server = start("--backlog", "1000")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 6000), hard))
    turned_away = 0
    try:
        with ExitStack() as clients:
            for _ in range(5000):
                client = clients.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                turned_away += client.connect_ex(server.path) != 0
            open_files = len(os.listdir(f"/proc/{server.process.pid}/fd"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert turned_away >= 3000
    assert open_files < 500
    assert server.ask(b"print(1)") == b"1\n\0"
    assert server.stop() == 0


def test_descriptors_that_are_passed_over_are_closed_at_once(server, rest_of):
    """While the program still runs; they come with bytes, which count."""
    read_end, write_end = os.pipe()
    with server.connect() as client:
        socket.send_fds(
            client, [b"print('here', flush=True); print(sys.stdin.read())\n"], [write_end] * 50
        )
        os.close(write_end)
        assert client.recv(100) == b"here\n"
        assert os.read(read_end, 1) == b""  # nobody holds the other end any more
        client.sendall(b"input\0")

        assert rest_of(client) == b"input\n\0"
    os.close(read_end)


def refused(sandboxed: str, folder: Path, *words: str) -> str:
    """Start a server that does not start; give its one line."""
    done = subprocess.run(
        [sandboxed, "serve", "--socket", str(folder / "socket"), *words],
        capture_output=True,
        text=True,
        timeout=30 * TIME_FACTOR,
        check=False,
    )
    assert done.returncode != 0
    assert done.stderr.count("\n") == 1
    assert not (folder / "socket").exists()
    return done.stderr


def test_a_program_that_is_missing_is_refused_at_the_start(sandboxed, tmp_path: Path):
    """With the reason."""
    assert "No such file" in refused(sandboxed, tmp_path, str(tmp_path / "none.py"))


def test_a_program_that_can_t_be_read_is_refused_at_the_start(sandboxed, tmp_path: Path):
    """With the reason."""
    assert "Is a directory" in refused(sandboxed, tmp_path, str(tmp_path))


def test_a_program_that_does_not_compile_is_refused_at_the_start(sandboxed, tmp_path: Path):
    """With the place."""
    main = tmp_path / "main.py"
    main.write_text("x = 1\nif x\n", encoding="utf-8")
    told = refused(sandboxed, tmp_path, str(main))

    assert "line 2" in told
    assert "SyntaxError" in told


def test_a_log_on_a_full_disk_costs_lines_only(start):
    """Nobody can read them; everybody is served."""
    with open("/dev/full", "wb") as full:
        server = start("--workers", "1", stderr=full)
    for number in range(3):
        assert server.ask(b"print(%d)" % number) == b"%d\n\0" % number
    assert server.stop() == 0


def test_a_log_that_nobody_reads_holds_up_nobody(start):
    """A full pipe is passed by."""
    server = start("--workers", "1", stderr=subprocess.PIPE)
    fcntl.fcntl(server.process.stderr, fcntl.F_SETPIPE_SZ, 4096)
    for number in range(30):
        assert server.ask(b"") == b"\0", number
    os.set_blocking(server.process.stderr.fileno(), False)
    assert server.process.stderr.read(1 << 20)
    server.process.stderr.close()
    assert server.stop() == 0


def test_a_full_disk_in_the_jail_is_the_program_s_own(server):
    """It is told so; the next has an empty one."""
    fill = b"open('f', 'wb').write(bytes(20 << 20))\n"

    assert server.ask(b"import errno\n") == b"\0"
    assert server.ask(fill) == b"\0"
    assert server.ask(b"print(os.listdir())") == b"['main.py']\n\0"


def test_without_a_free_descriptor_the_server_lives_on(start, until):
    """Whoever comes then waits or is told nothing; those who come later are served."""
    server = start("--workers", "2")
    pid = server.process.pid
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir(f"/proc/{pid}/fd")))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (highest + 2, hard))
    for _ in range(4):
        with server.connect() as client:
            client.settimeout(TIME_FACTOR)
            try:
                client.sendall(b"print(1)\0")
                assert b"1\n\0".startswith(client.recv(100))
            except (TimeoutError, ConnectionError):
                continue  # it waits, or was let go at some moment before its answer
    assert server.process.poll() is None
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))

    until(lambda: server.ask(b"print(1)") == b"1\n\0")
    assert server.stop() == 0


def test_a_jail_that_is_killed_from_outside_is_replaced(start, until):
    """With its zygote: the next client is served by another."""
    server = start("--workers", "1")
    for _ in range(3):
        kill_children(server.process.pid, until)
        assert server.ask(b"print(1)") == b"1\n\0"
    with server.connect() as client:
        client.sendall(SLEEP)
        assert client.recv(100) == b"here\n"
        kill_children(server.process.pid, until)
        assert client.recv(100) == b""  # broken off, without the NUL of an end
    until(lambda: server.events(status="internal_error"))

    assert server.ask(b"print(1)") == b"1\n\0"
    assert server.stop() == 0


def kill_children(pid: int, until) -> None:
    """Kill every process that `pid` has started, and wait for the end of each."""
    killed = psutil.Process(pid).children()
    assert killed
    for child in killed:
        child.kill()
    until(lambda: not any(runs(child.pid) for child in killed))


def runs(pid: int) -> bool:
    """Whether a process is there, and more than a notice of its end."""
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
        )
    except FileNotFoundError:
        return False


def test_the_server_stays_as_it_is_over_many_connections(start, until):
    """Its descriptors and processes; `benchmarks/soak_serve.py` has more of them, and looks at memory."""
    server = start("--workers", "3")

    def descriptors() -> int:
        return len(os.listdir(f"/proc/{server.process.pid}/fd"))

    for _ in range(10):
        server.ask(b"print(1)")
    before, processes = descriptors(), len(psutil.Process(server.process.pid).children())
    for number in range(100):
        assert server.ask(b"print(%d)" % number) == b"%d\n\0" % number
    # Between two connections a jail may be in the making, which has some of its own.
    until(lambda: descriptors() < before + 30)
    assert len(psutil.Process(server.process.pid).children()) == processes
    assert server.stop() == 0
