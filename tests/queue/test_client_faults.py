"""What goes wrong between the client and Redis: told in the client's own words, within seconds.

Each test has a Redis server of its own, to stop, to restart or to fill.
"""

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from producer import Client, Result, Status, connection
from sandbox_core.wire import RESULT_PREFIX, result_to_json
from worker.redis_server import server_binary

PASSWORD = "s3cret-pass"  # noqa: S105  # of a server that lives for one test
USER = "s3cret-user"

#: Seconds in which an unreachable Redis is told.
SOON = 5


class Server:
    """A Redis server that can be killed and started again with its data."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "r.sock"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        """Start the server and wait until it answers."""
        fixed = ["--port", "0", "--dir", str(self._folder), "--appendonly", "yes", "--save", ""]
        self._process = subprocess.Popen(
            [server_binary(), *fixed, "--unixsocket", str(self.path), *options],
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        while True:
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(str(self.path)) == 0:
                    return
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server."""
        assert self._process is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """Kill the server, as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @property
    def url(self) -> str:
        """Its address."""
        return f"unix://{self.path}"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Start a server for one test."""
    server = Server(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def closed_port() -> int:
    """Find a port where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Listen on a port, and never say a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


VERBS: dict[str, Callable[[Client], object]] = {
    "run": lambda client: client.run("pass"),
    "submit": lambda client: client.submit("pass"),
    "map": lambda client: list(client.map(["pass"])),
    "cancel": lambda client: client.cancel("some-id"),
    "future": lambda client: client.future("some-id"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_closed_port_is_told_at_once(verb: str, closed_port: int) -> None:
    """With the address and the reason, and nothing of the credentials."""
    url = f"redis://{USER}:{PASSWORD}@127.0.0.1:{closed_port}/3"
    started = time.monotonic()
    with Client(url) as client, pytest.raises(ConnectionError) as caught:
        VERBS[verb](client)

    assert time.monotonic() - started < 1
    assert f"127.0.0.1:{closed_port}/3" in str(caught.value)
    assert "refused" in str(caught.value)
    assert "s3cret" not in f"{caught.value!r} {client!r} {caught.value.__cause__!r}"


def test_a_socket_that_never_answers_is_told_within_seconds(silent_port: int) -> None:
    """The connection is made, and then nothing; all verbs at once, since each takes its time."""

    def use(verb: Callable[[Client], object]) -> float:
        started = time.monotonic()
        with (
            Client(f"redis://127.0.0.1:{silent_port}") as client,
            pytest.raises(ConnectionError, match=rf"127\.0\.0\.1:{silent_port}/0.*[Tt]imeout"),
        ):
            verb(client)
        return time.monotonic() - started

    with ThreadPoolExecutor(len(VERBS)) as pool:
        assert max(pool.map(use, VERBS.values())) < SOON


def test_a_socket_that_is_not_there_is_named_by_its_path(tmp_path: Path) -> None:
    """Celery's form of the URL is as good."""
    with (
        Client(f"redis+socket://{tmp_path}/none.sock?virtual_host=2") as client,
        pytest.raises(ConnectionError, match=rf"{tmp_path}/none\.sock\?db=2 .*No such file"),
    ):
        client.submit("pass")


def test_a_host_that_has_no_address_is_told(tmp_path: Path) -> None:
    """The resolver's words, not redis-py's."""
    del tmp_path
    with (
        Client("redis://nowhere.invalid") as client,
        pytest.raises(ConnectionError, match=r"nowhere\.invalid:6379/0"),
    ):
        client.submit("pass")


@pytest.mark.parametrize("login", ["", f":{PASSWORD}x@", f"{USER}:{PASSWORD}@"])
def test_wrong_credentials_are_told_without_being_shown(login: str, server: Server) -> None:
    """None, a wrong password, a user that is not known."""
    server.kill()
    server.start("--requirepass", PASSWORD)
    url = f"unix://{login}{server.path}"
    for verb in VERBS.values():
        with Client(url) as client, pytest.raises(PermissionError, match="credentials") as caught:
            verb(client)

        assert str(server.path) in str(caught.value)
        assert "s3cret" not in f"{caught.value!r} {caught.value.__cause__!r} {client!r}"


def test_a_user_without_the_right_is_told_what_is_missing(server: Server) -> None:
    """The command, not the name."""
    with redis.Redis.from_url(server.url) as admin:
        admin.acl_setuser(
            USER, enabled=True, passwords=["+pw"], keys=["*"], categories=["+@all"], commands=["-lpush"]
        )
    with (
        Client(f"unix://{USER}:pw@{server.path}") as client,
        pytest.raises(PermissionError, match="lpush") as caught,
    ):
        client.submit("pass")

    assert "s3cret" not in str(caught.value)


def test_a_user_who_may_not_listen_fails_the_wait_at_once(server: Server) -> None:
    """Not after the timeout."""
    with redis.Redis.from_url(server.url) as admin:
        admin.acl_setuser(
            USER, enabled=True, passwords=["+pw"], keys=["*"], categories=["+@all", "-@pubsub"]
        )
    with (
        Client(f"unix://{USER}:pw@{server.path}") as client,
        pytest.raises(PermissionError, match="psubscribe") as caught,
    ):
        client.submit("pass").result()

    assert "s3cret" not in str(caught.value)


def test_the_rights_that_are_named_are_enough(server: Server) -> None:
    """All verbs work with them, on a Redis with other things in it."""
    with redis.Redis.from_url(server.url) as admin:
        rights = connection._RIGHTS.partition("needs ")[2].split()
        admin.execute_command("ACL", "SETUSER", USER, "on", ">pw", *rights)
    with Client(f"unix://{USER}:pw@{server.path}", timeout=5) as client:
        future, cancelled = client.submit_all(["pass", "pass"])
        with pytest.raises(TimeoutError):
            future.result(0)
        assert cancelled.cancel()
        assert cancelled.result().status is Status.CANCELLED
        store(server.url, future.id)
        assert future.result().ok
        assert client.future(future.id).done()
        assert not client.cancel(future.id)
        with Client(server.url) as other:
            theirs = client.future(other.submit("pass").id)
            store(server.url, theirs.id)
            assert theirs.result().ok


def test_a_full_redis_is_told(server: Server) -> None:
    """The job was not queued."""
    with Client(server.url) as client, redis.Redis.from_url(server.url) as admin:
        admin.config_set("maxmemory", 1)
        with pytest.raises(RuntimeError, match="full"):
            client.submit("pass")
        admin.config_set("maxmemory", 0)
        assert admin.llen("sandboxed") == 0


def test_an_option_that_redis_py_does_not_know_is_a_value_error(server: Server) -> None:
    """A misspelt option of the URL is not a lost connection."""
    with Client(f"{server.url}?sokket_timeout=3") as client, pytest.raises(ValueError, match="url"):
        client.submit("pass")


def store(url: str, job_id: str) -> None:
    """Store and publish a result."""
    stored = json.dumps({"status": "SUCCESS", "result": result_to_json(Result(Status.OK))})
    with redis.Redis.from_url(url) as server:
        server.set(RESULT_PREFIX + job_id, stored)
        server.publish(RESULT_PREFIX + job_id, stored)


def test_a_wait_outlives_a_restart_of_redis(server: Server) -> None:
    """The job is in its append-only file, and the result comes over a new connection."""
    with Client(server.url, timeout=5) as client:
        future = client.submit("pass")
        time.sleep(0.2)
        server.kill()
        server.start()
        threading.Timer(0.5, store, (server.url, future.id)).start()

        assert future.result(5).ok
        assert client.submit("pass").id


def test_a_result_that_was_stored_while_we_were_cut_off_is_found(server: Server) -> None:
    """Nothing is published a second time."""
    with Client(server.url, timeout=5) as client:
        future = client.submit("pass")
        time.sleep(0.2)
        server.kill()
        time.sleep(0.5)
        server.start()
        store(server.url, future.id)

        assert future.result(5).ok


def test_a_redis_that_dies_while_waiting_is_told_within_seconds(server: Server) -> None:
    """And the client is as good as new when it is back."""
    with Client(server.url) as client:
        future = client.submit("pass")
        time.sleep(0.2)
        server.kill()
        started = time.monotonic()
        with pytest.raises(ConnectionError, match=f"{server.path}.*{future.id} may still run"):
            future.result()
        assert time.monotonic() - started < SOON

        server.start()
        again = client.future(future.id)
        store(server.url, future.id)
        assert again.result(5).ok


def test_a_redis_that_hangs_while_waiting_is_told_within_seconds(server: Server) -> None:
    """No connection breaks; there is only silence."""
    with Client(server.url) as client:
        future = client.submit("pass")
        time.sleep(0.2)
        server.signal(signal.SIGSTOP)
        started = time.monotonic()
        try:
            with pytest.raises(ConnectionError):
                future.result()
            waited = time.monotonic() - started
        finally:
            server.signal(signal.SIGCONT)

    assert waited < SOON


def test_a_short_silence_of_redis_goes_unnoticed(server: Server) -> None:
    """A fork of a large server, a slow disk."""
    with Client(server.url, timeout=5) as client:
        future = client.submit("pass")
        time.sleep(0.2)
        server.signal(signal.SIGSTOP)
        threading.Timer(1.2, server.signal, (signal.SIGCONT,)).start()
        threading.Timer(1.4, store, (server.url, future.id)).start()

        assert future.result(5).ok
