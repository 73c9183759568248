"""What the tests of `sandboxed serve` share: servers as a user starts them, and bare clients."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox_core import Limits
from tests.root.attacks.battery import TIME_FACTOR

SANDBOXED = str(Path(sys.executable).with_name("sandboxed"))
SOON = 30.0 * TIME_FACTOR  # seconds

#: Runs the first line that the client sends; the rest is its input.
OBEDIENT = "import os, sys, time\nexec(sys.stdin.buffer.readline())\n"


class Served:
    """A running `sandboxed serve`."""

    def __init__(
        self, folder: Path, main: str, *options: str, named: str | None = None, **more: Any
    ) -> None:
        self.path = str(folder / "socket")
        self.main = folder / "main.py"
        self.main.write_text(main, encoding="utf-8")
        self.log_file = folder / "log"
        self._logs = "stderr" not in more
        options = _in_its_time(options)
        words = [SANDBOXED, "serve", "--socket", self.path, *options, named or str(self.main)]
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(words, **{"stderr": log, **more})
        until(lambda: self._answers() or self.process.poll() is not None)

    def _answers(self) -> bool:
        """Whether it serves; where its log is not ours to read, the socket has to do."""
        return bool(self.events("serving")) if self._logs else os.path.exists(self.path)

    def events(self, kind: str = "connection", **fields: Any) -> list[dict[str, Any]]:
        """Give the events of a kind in its log, those with certain fields."""
        lines = self.log_file.read_text(encoding="utf-8").splitlines()
        events = [json.loads(line) for line in lines if line.startswith("{")]
        return [
            event
            for event in events
            if event["event"] == kind and all(event.get(name) == fields[name] for name in fields)
        ]

    def connect(self) -> socket.socket:
        """Give a connection to it."""
        client = socket.socket(socket.AF_UNIX)
        client.connect(self.path)  # which waits for a place in the line, as long as there is no timeout
        client.settimeout(SOON)
        return client

    def ask(self, sent: bytes) -> bytes:
        """Send all of it and its end, and give the whole answer."""
        with self.connect() as client:
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
            return rest_of(client)

    def stop(self) -> int:
        """Ask it to end; give its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(SOON)


def _in_its_time(options: tuple[str, ...]) -> tuple[str, ...]:
    """Give a program on a slow host as much more time; a short one that it is to use up, less so."""
    if TIME_FACTOR == 1:
        return options
    if "--wall-time" not in options:
        return ("--wall-time", str(Limits().wall_time * TIME_FACTOR), *options)
    words = list(options)
    place = words.index("--wall-time") + 1
    words[place] = str(float(words[place]) * max(TIME_FACTOR / 3, 1))
    return tuple(words)


def rest_of(client: socket.socket) -> bytes:
    """Read up to the end of file."""
    pieces = []
    while piece := client.recv(1 << 16):
        pieces.append(piece)
    return b"".join(pieces)


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait for something to become true: so many seconds on an ordinary host."""
    end = time.monotonic() + seconds * TIME_FACTOR
    while not condition():
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.02)


@pytest.fixture(name="until", scope="session")
def _until() -> Callable[..., None]:
    return until


@pytest.fixture(name="rest_of", scope="session")
def _rest_of() -> Callable[[socket.socket], bytes]:
    return rest_of


@pytest.fixture(scope="session")
def sandboxed() -> str:
    """Give the command itself."""
    return SANDBOXED


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Served]]:
    """Start servers of a program that does what its client's first line says, or of another."""
    servers = []

    def start(*options: str, main: str = OBEDIENT, folder: Path | None = None, **more: Any) -> Served:
        server = Served(folder or tmp_path_factory.mktemp("serve"), main, *options, **more)
        servers.append(server)
        return server

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.process.send_signal(signal.SIGKILL)
            server.process.wait()


@pytest.fixture(scope="session")
def server(start: Callable[..., Served]) -> Iterator[Served]:
    """Give one server with the defaults, which whatever the tests do must not disturb."""
    server = start()
    yield server
    assert server.ask(b"print(7)") == b"7\n\0"
    assert server.process.poll() is None
    assert server.stop() == 0
    assert not os.path.exists(server.path)
