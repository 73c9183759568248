"""What the tests of the queue share: a real Redis, a real worker, and plain Celery to talk to it."""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from celery.result import AsyncResult, denied_join_result

from sandbox_core.wire import QUEUE, RESULT_PREFIX, TASK
from worker.redis_server import EmbeddedRedis
from worker.settings import REDIS_URL, broker_url

#: Names a Redis to use instead of one of our own; the tests of the worker take its database 15.
TEST_REDIS = "SANDBOXED_TEST_REDIS_URL"


class Worker:
    """A `celery -A worker worker` that runs, and what a test asks of it.

    `url` is its Redis, `celery` a plain application of Celery and `redis` a client for that Redis.
    """

    def __init__(self, url: str, log: Path, *options: str, **env: str) -> None:
        self.url = url
        self.log = log
        self.redis = redis.Redis.from_url(url)
        address = broker_url(url)
        self.celery = Celery(broker=address, backend=address, set_as_current=False)
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "worker", "worker", "-l", "INFO", *options],
                env={**os.environ, REDIS_URL: url, **env},
                stdout=output,
                stderr=output,
                cwd=Path(__file__).resolve().parents[2],
            )

    def wait_until_ready(self) -> None:
        """Return as soon as it answers."""
        ping = self.celery.control.ping
        # A busy host takes its time for the imports alone.
        wait_until(lambda: self.process.poll() is not None or ping(timeout=0.2), 60)
        assert self.process.poll() is None, self.log.read_text()

    def send(self, *args: object, task_id: str | None = None, **options: Any) -> str:
        """Send a task with these arguments as any program could, and give its id."""
        # Nobody waits by Celery's own means, so it need not listen, at a Redis that a test may kill.
        with denied_join_result():
            sent: AsyncResult[Any] = self.celery.send_task(
                TASK, args=args, queue=QUEUE, task_id=task_id, ignore_result=False, **options
            )
        return str(sent.id)

    def result(self, job_id: str, timeout: float = 15) -> dict[str, Any]:
        """Wait for the result of a job, looking where Celery stores it."""
        stored = wait_until(lambda: self._stored(job_id), timeout)
        assert stored["status"] == "SUCCESS", stored
        found: dict[str, Any] = stored["result"]
        return found

    def _stored(self, job_id: str) -> Any:
        record = self.redis.get(RESULT_PREFIX + job_id)
        stored = json.loads(record) if record else {}
        return stored if stored.get("status") in ("SUCCESS", "FAILURE", "REVOKED") else None

    def run(self, source: str, **fields: Any) -> dict[str, Any]:
        """Send a job and wait for its result."""
        return self.result(self.send({"source": source, **fields}))

    def running(self, job_id: str) -> dict[str, Any]:
        """Wait until a job runs, and give what `celery inspect active` tells of it."""

        def look() -> dict[str, Any] | None:
            inspect = self.celery.control.inspect(timeout=1, limit=1)  # the first answer is all
            for requests in (inspect.active() or {}).values():
                for request in requests:
                    if request["id"] == job_id and request["worker_pid"]:
                        return dict(request)
            return None

        found: dict[str, Any] = wait_until(look)
        return found

    def pool_process_of(self, job_id: str) -> int:
        """Wait until a job runs, and give the process that runs it."""
        return int(self.running(job_id)["worker_pid"])

    def stop(self) -> int:
        """Ask it to end, as a service manager does, and give its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def close(self) -> None:
        """Make sure that it is gone, and let go of the connections to Redis."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.celery.backend.result_consumer.stop()
        self.celery.backend.client.close()
        self.celery.close()
        self.redis.close()


def wait_until(look: Callable[[], Any], timeout: float = 15) -> Any:
    """Give what `look` gives, as soon as that is true."""
    deadline = time.monotonic() + timeout
    while not (found := look()):
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)
    return found


@pytest.fixture(name="wait_until", scope="session")
def _wait_until() -> Callable[..., Any]:
    """Wait for something: `wait_until(look, timeout=15)`."""
    return wait_until


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Find a port that nobody listens on."""

    def free_port() -> int:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port: int = free.getsockname()[1]
        return port

    return free_port


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """Give the address of a Redis that no worker serves."""
    if url := os.environ.get(TEST_REDIS):
        yield url
        return
    with EmbeddedRedis() as server:
        yield server.url


@pytest.fixture(scope="session")
def worker_redis_url() -> Iterator[str]:
    """Give the address of the Redis that the worker of the tests serves."""
    if url := os.environ.get(TEST_REDIS):
        parts = url.partition("?")[0]
        assert parts.startswith(("redis://", "rediss://")), f"{TEST_REDIS} has to be one over TCP"
        url = "/".join(parts.split("/")[:3]) + "/15"
        with redis.Redis.from_url(url) as client:
            client.flushdb()
        yield url
        return
    with EmbeddedRedis() as server:
        yield server.url


@pytest.fixture(scope="session")
def _root() -> None:
    if os.geteuid() == 0:
        return
    if os.environ.get("CI") == "true":
        pytest.fail("a worker builds jails, which takes root")
    pytest.skip("a worker builds jails, which takes root")


@pytest.fixture(scope="session")
def worker(
    _root: None, worker_redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Worker]:
    """Give a worker for two jobs at a time, the same for all tests."""
    running = Worker(worker_redis_url, tmp_path_factory.mktemp("worker") / "log", "-c", "2")
    try:
        running.wait_until_ready()
        yield running
        assert running.stop() == 0, running.log.read_text()
    finally:
        running.close()


@pytest.fixture
def start_worker(_root: None, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Start a worker of the test's own: `start_worker("-P", "solo", NAME="value")`.

    Each has a Redis of its own, unless `url` names one.
    """
    numbers = itertools.count()
    with EmbeddedRedis() as server, _closing() as workers:

        def start(*options: str, url: str = server.url, ready: bool = True, **env: str) -> Worker:
            running = Worker(url, tmp_path / f"log{next(numbers)}", *options, **env)
            workers.append(running)
            if ready:
                running.wait_until_ready()
            return running

        yield start


@contextmanager
def _closing() -> Iterator[list[Worker]]:
    workers: list[Worker] = []
    try:
        yield workers
    finally:
        for running in workers:
            running.close()
