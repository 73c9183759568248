"""`sandboxed serve`: the time from connecting to its socket to the first byte of a program's output."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import peers
from contender import Contender, Work
from figures import Figure, Scale, compare
from ways import Action, back_to_back

PLAIN_SERVER = Path(__file__).with_name("plain_server.py")
_DEADLINE = 15.0  # seconds
_BREATH = 0.05  # seconds


@contextlib.contextmanager
def server(*words: str) -> Iterator[Action]:
    """Make a contender that asks a server, started as `words` say; SOCKET in them is its path."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as log:
        path = f"{folder}/socket"
        process = subprocess.Popen([path if word == "SOCKET" else word for word in words], stderr=log)
        try:
            until = time.monotonic() + _DEADLINE
            while not os.path.exists(path) or not log.tell():
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"{words[0]} did not start")
                time.sleep(0.05)
            yield lambda: connect(path)
        finally:
            process.terminate()
            process.wait(_DEADLINE)


def connect(path: str) -> float:
    """Give the milliseconds to the first byte; the rest of the answer is taken, too."""
    began = time.perf_counter()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        client.shutdown(socket.SHUT_WR)
        if not client.recv(1).isalpha():
            raise RuntimeError("the server broke off")
        took = (time.perf_counter() - began) * 1000
        while client.recv(1 << 16):
            continue
    time.sleep(_BREATH)  # clients come now and then, and the next jail is made meanwhile
    return took


def first_byte(scale: Scale) -> list[Figure]:
    """Compare `sandboxed serve` with a server that starts an interpreter for each connection."""
    count = scale.jobs_of(15)
    command = str(Path(sys.executable).with_name("sandboxed"))
    script = str(peers.SCRIPT)

    def asked(contender: Contender) -> Work:
        return contender.do(back_to_back, count)

    with (
        Contender(
            "python3 for each connection, no sandbox",
            server,
            *(peers.PYTHON, "-I", "-S", str(PLAIN_SERVER), "SOCKET", script),
        ) as plain,
        Contender("sandboxed serve", server, command, "serve", "--socket", "SOCKET", script) as ours,
    ):
        return compare(
            "a unix socket, connecting to first byte",
            "ms",
            {contender.name: lambda by=contender: asked(by) for contender in (plain, ours)},  # type: ignore[misc]
            scale.rounds_of(8),
        )
