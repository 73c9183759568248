"""What goes over the socket of `sandboxed serve`, from clients written with nothing but a socket."""

import socket
import subprocess
import threading
from pathlib import Path

import pytest

from tests.root.attacks.battery import TIME_FACTOR

ECHO = b"sys.stdout.buffer.write(sys.stdin.buffer.read())\n"


def test_nothing_is_a_whole_input(server):
    """A client that only says that it has nothing to say gets the program's end."""
    assert server.ask(b"") == b"\0"


def test_the_end_of_file_ends_the_input(server):
    """The program reads all that was sent before it."""
    assert server.ask(ECHO + b"all of it") == b"all of it\0"


def test_a_nul_ends_the_input(server, rest_of):
    """Without the connection being half closed, and what follows is nobody's."""
    with server.connect() as client:
        client.sendall(ECHO + b"before\0after")

        assert rest_of(client) == b"before\0"


def test_the_input_may_come_byte_by_byte(server, rest_of):
    """The pieces in which it comes mean nothing."""
    with server.connect() as client:
        for byte in ECHO + b"abc\0":
            client.send(bytes([byte]))

        assert rest_of(client) == b"abc\0"


def test_the_two_talk_while_the_program_runs(server, rest_of):
    """Each answer is there before the next question is asked."""
    with server.connect() as client:
        client.sendall(b"[print(line.upper(), end='', flush=True) for line in sys.stdin]\n")
        for word in (b"one\n", b"two\n"):
            client.sendall(word)
            assert client.recv(100) == word.upper()
        client.sendall(b"\0")

        assert rest_of(client) == b"\0"


def test_nul_bytes_in_the_output_are_output(server):
    """The last one is the end, and only the last."""
    assert server.ask(b"sys.stdout.write('a\\0b\\0\\0')") == b"a\0b\0\0\0"


def test_ten_megabytes_go_each_way(server):
    """At the same time, byte for byte."""
    content = bytes(range(1, 251)) * 40_000
    answers = []
    with server.connect() as client:
        reader = threading.Thread(
            target=lambda: answers.extend(iter(lambda: client.recv(1 << 16), b""))
        )
        reader.start()
        client.sendall(ECHO + content + b"\0")
        reader.join()

    assert b"".join(answers) == content + b"\0"


def test_a_program_that_takes_too_long_is_ended(start, until):
    """Its client has what it wrote, and the NUL."""
    server = start("--wall-time", "0.5", "--workers", "1")

    assert server.ask(b"print('so far', flush=True); time.sleep(60)") == b"so far\n\0"
    until(lambda: server.events(status="time_limit"))


def test_every_connection_has_a_fresh_jail(server):
    """Nothing of one is there for the next."""
    look = b"print(os.listdir('/box'), os.listdir('/tmp')); open('/tmp/x', 'w'); open('/box/x', 'w')"
    answers = {server.ask(look) for _ in range(6)}

    assert answers == {b"['main.py'] []\n\0"}


def test_many_clients_each_have_their_own_answer(server):
    """Two hundred at once, for five workers; each sends what no other does."""
    answers = {}

    def ask(number: int) -> None:
        answers[number] = server.ask(ECHO + f"{number}:".encode() * (number * 7))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert answers == {number: f"{number}:".encode() * (number * 7) + b"\0" for number in range(200)}


def test_those_who_wait_are_answered_in_order(start, until, rest_of):
    """By one worker, in the order in which they came."""
    server = start("--workers", "1")
    clients = [server.connect() for _ in range(10)]
    for number, client in reversed(list(enumerate(clients))):
        client.sendall(b"print(%d)\0" % number)
    answers = [rest_of(client) for client in clients]
    for client in clients:
        client.close()

    assert answers == [b"%d\n\0" % number for number in range(10)]
    until(lambda: len(server.events()) == len(clients))
    ids = [event["id"] for event in server.events()]
    assert ids == sorted(ids)


@pytest.mark.parametrize(
    ("errors", "answer", "logged"),
    [("log", b"1\n3\n\0", "2\n"), ("merge", b"1\n2\n3\n\0", None), ("drop", b"1\n3\n\0", None)],
)
def test_standard_error_goes_where_it_was_told_to(start, until, errors, answer, logged):
    """Into the log, to the client in its place among the output, or nowhere."""
    server = start("--stderr", errors, "--workers", "1")
    program = b"[print(n, file=(sys.stdout, sys.stderr)[n == 2], flush=True) for n in (1, 2, 3)]"

    assert server.ask(program) == answer
    until(server.events)
    assert server.events()[0].get("stderr") == logged


def test_a_line_of_the_log_says_how_a_connection_ended(server, until):
    """With its times and memory, as JSON."""
    server.ask(b"sys.exit(42)")
    until(lambda: server.events(exit_code=42))
    event = server.events(exit_code=42)[0]

    assert event["status"] == "nonzero_exit"
    assert event["uid"] == 0
    assert event["wall_time"] > 0
    assert event["cpu_time"] > 0
    assert event["memory"] > 0


def test_a_traceback_is_in_the_log_and_not_in_the_answer(server, until):
    """The end of what the program wrote to standard error."""
    assert server.ask(b"raise ValueError('this one')") == b"\0"
    until(lambda: [event for event in server.events() if "this one" in event.get("stderr", "")])


# The client of ours.


def connect(sandboxed: str, path: str, sent: bytes) -> "subprocess.CompletedProcess[bytes]":
    """Run `sandboxed connect`."""
    words = [sandboxed, "connect", "--socket", path]
    return subprocess.run(words, input=sent, capture_output=True, timeout=30 * TIME_FACTOR, check=False)


def test_connect_is_a_client(server, sandboxed):
    """Its input goes there, the answer without the closing NUL comes to its output."""
    content = b"line\0" + bytes(range(256)) * 1000
    program = b"sys.stdout.buffer.write(bytes(range(256)) * 1000 + b'\\0')\n"
    done = connect(sandboxed, server.path, program + content)

    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == bytes(range(256)) * 1000 + b"\0"


def test_connect_says_when_nobody_is_there(sandboxed, tmp_path: Path):
    """In one line."""
    done = connect(sandboxed, str(tmp_path / "none"), b"")

    assert done.returncode == 125
    assert done.stderr.count(b"\n") == 1


def test_connect_says_when_the_server_breaks_off(sandboxed, tmp_path: Path):
    """An answer without its end is none."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()

        def answer() -> None:
            client, _ = listening.accept()
            client.sendall(b"half an ans")
            client.close()

        thread = threading.Thread(target=answer)
        thread.start()
        done = connect(sandboxed, str(tmp_path / "s"), b"")
        thread.join()

    assert (done.returncode, done.stdout) == (125, b"half an ans")
    assert b"broke off" in done.stderr
