"""The users of Redis in docs/deploy.md: enough for a queue over TLS, and no more."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis
from celery import Celery

from producer import Client, Job
from worker import children
from worker.settings import REDIS_URL, broker_url

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "deploy.md"
NAMES = ("worker", "producer", "flower")
OPENSSL = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"


def lines() -> list[str]:
    """Give the lines of the page's ACL file."""
    return PAGE.read_text().partition("<!-- acl")[2].split("```")[1].strip().splitlines()


class Secure(NamedTuple):
    """A Redis with these users, behind TLS."""

    port: int
    ca: Path
    root: "redis.Redis"

    def url(self, user: str, password: str | None = None) -> str:
        """Give the address as the page writes it."""
        secret = password or user.upper()
        return f"rediss://{user}:{secret}@localhost:{self.port}/0?ssl_ca_certs={self.ca}"

    def client(self, user: str, password: str | None = None) -> "redis.Redis":
        """Give a client of redis-py."""
        return redis.Redis.from_url(self.url(user, password))


@pytest.fixture(scope="module")
def secure(
    _root: None, tmp_path_factory: pytest.TempPathFactory, wait_until: Callable[..., Any]
) -> Iterator[Secure]:
    """Start Debian's Redis, which has TLS, with the page's users and one of our own."""
    server = shutil.which("redis-server")
    if server is None and os.environ.get("CI") != "true":
        pytest.skip("no redis-server with TLS: apt-get install redis-server")
    assert server is not None, "apt-get install redis-server"
    folder = tmp_path_factory.mktemp("redis")
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        [*OPENSSL.split(), "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True
    )
    (folder / "users.acl").write_text("\n".join([*lines(), "user test on >test ~* &* +@all", ""]))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = (
        f"--port 0 --tls-port {port} --bind 127.0.0.1 --tls-cert-file {cert} --tls-key-file {key} "
        f"--tls-ca-cert-file {cert} --tls-auth-clients no --dir {folder} --aclfile {folder}/users.acl "
        "--appendonly yes --maxmemory-policy noeviction"
    )
    with (folder / "log").open("wb") as log:
        process = children.start([server, *options.split()], output=log)
    secure = Secure(
        port, cert, redis.Redis.from_url(f"rediss://test:test@localhost:{port}?ssl_ca_certs={cert}")
    )
    try:
        wait_until(
            lambda: process.poll() is not None or (folder / "log").read_text().count("Ready to accept")
        )
        assert process.poll() is None, (folder / "log").read_text()
        yield secure
    finally:
        secure.root.close()
        children.stop(process, 10)


@pytest.fixture(scope="module")
def flower(secure: Secure, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start Flower as its user, and give its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (tmp_path_factory.mktemp("flower") / "log").open("wb") as log:
        process = children.start(
            [
                sys.executable,
                "-m",
                "celery",
                "-A",
                "worker",
                "flower",
                "--address=127.0.0.1",
                f"--port={port}",
            ],
            env={**os.environ, REDIS_URL: secure.url("flower"), "FLOWER_UNAUTHENTICATED_API": "1"},
            output=log,
        )
    yield f"http://127.0.0.1:{port}"
    children.stop(process, 10)


def test_a_queue_works_with_them(
    secure: Secure, flower: str, start_worker: Callable[..., Any], wait_until: Callable[..., Any]
) -> None:
    """Producer, plain Celery, worker, `inspect` and Flower, each as its user; Redis refused none."""
    worker = start_worker("-c", "2", url=secure.url("worker"), ready=False)
    wait_until(lambda: " ready." in worker.log.read_text(), timeout=60)
    assert worker.celery.control.ping(timeout=30, limit=1)
    with Client(secure.url("producer")) as client:
        assert client.run("print(6 * 7)").text == "42\n"
        jobs = [Job(f"print({n})") for n in range(5)]
        assert sorted(result.text for _, result in client.map(jobs)) == [f"{n}\n" for n in range(5)]
        future = client.submit("import time; time.sleep(5)")
        wait_until(lambda: secure.root.exists(f"sandboxed:attempts:{future.id}"))
        assert future.cancel()
        assert future.result().status == "cancelled"
    address = broker_url(secure.url("producer"))
    with Celery(broker=address, backend=address, set_as_current=False) as app:
        sent = app.send_task("sandboxed.run", args=[{"source": "print(1)"}], queue="sandboxed")
        assert sent.get(timeout=30)["status"] == "ok"
        app.backend.result_consumer.stop()

    # Flower hears of tasks from when it is connected.
    wait_until(lambda: worker.run("print(2)") and flower_knows(flower), timeout=60)
    assert worker.stop() == 0
    # redis-py introduces itself, and goes on where it may not.
    refused = [
        (entry["username"], entry["reason"], entry["object"])
        for entry in secure.root.acl_log()
        if not entry["object"].startswith("client")
    ]
    assert refused == []


def flower_knows(flower: str) -> bool:
    """Whether Flower shows a task, as its summary."""
    with urllib.request.urlopen(f"{flower}/api/tasks", timeout=10) as answer:  # noqa: S310  # ours
        tasks = json.load(answer).values()
    return any(
        task["args"] == "python · 8 B" and task["result"].startswith("ok · ")
        for task in tasks
        if task["result"]
    )


@pytest.mark.parametrize(
    ("user", "command"),
    [
        *((user, command) for user in NAMES for command in ("FLUSHALL", "CONFIG GET dir", "KEYS *", "ACL LIST", "SHUTDOWN", "MONITOR", "SAVE", "GET secrets")),
        ("producer", "HGETALL unacked"),
        ("producer", "HGET unacked x"),
        ("producer", "RPOP sandboxed"),
        ("producer", "LRANGE sandboxed 0 -1"),
        ("producer", "DEL celery-task-meta-x"),
        ("producer", "SET sandboxed:running:x y"),
        ("flower", "GET celery-task-meta-x"),
        ("flower", "GET sandboxed:cancel:x"),
        ("flower", "LRANGE sandboxed 0 -1"),
    ],
)  # fmt: skip
def test_they_may_do_no_more(secure: Secure, user: str, command: str) -> None:
    """What a stolen password opens is what its owner needs."""
    with closing(secure.client(user)) as client, pytest.raises(redis.exceptions.NoPermissionError):
        client.execute_command(*command.split())
    secure.root.acl_log_reset()


def test_nobody_else_is_let_in(secure: Secure) -> None:
    """Neither without a name, nor with a wrong password, nor without TLS, nor under another CA."""
    with pytest.raises(redis.exceptions.AuthenticationError):
        secure.client("worker", "guess").ping()
    bare = redis.Redis(port=secure.port, ssl=True, ssl_ca_certs=str(secure.ca), host="localhost")
    with pytest.raises(redis.exceptions.AuthenticationError):
        bare.ping()
    with pytest.raises(redis.exceptions.ConnectionError):
        redis.Redis(port=secure.port).ping()
    unchecked = secure.url("producer").partition("?")[0]
    told = pytest.raises(ConnectionError, match=f"localhost:{secure.port}")
    with Client(unchecked) as client, told as raised:
        client.run("print(1)", timeout=5)
    assert "PRODUCER" not in str(raised.value)
    secure.root.acl_log_reset()


def test_the_containers_have_the_same_users() -> None:
    """But for where the passwords come from."""
    compose = (ROOT / "docker-compose.yml").read_text()
    there = [re.sub(r">\S+", "", line) for line in re.findall(r"- --user (.*)", compose)]
    here = [re.sub(r">\S+", "", line.removeprefix("user ")) for line in lines()]

    assert [" ".join(line.split()) for line in there] == [" ".join(line.split()) for line in here]
