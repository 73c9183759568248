"""docker-compose.yml for real: built, up, healthy, used from outside, scaled, a worker killed, taken down.

Run under `.ci/docker_host.py`, which gives a dockerd of its own with stand-ins for the base images.
"""

import itertools
import json
import os
import secrets
import socket
import subprocess
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from producer import Client, Job, Limits, Result
from sandbox_core import Sandbox

pytestmark = pytest.mark.docker

ROOT = Path(__file__).resolve().parents[2]
#: In docker-compose.yml; the test of the removed ones names each.
CAPABILITIES = ("SYS_ADMIN", "SYS_PTRACE", "SETUID", "SETGID", "SETPCAP", "CHOWN", "KILL")
#: The one directory of the host that a worker's container has.
LOCKS = "/run/sandboxed"
MINUTES = 180.0  # seconds; an emulated or busy host is slow


def ended(client: Client, job_id: str) -> Result:
    """Wait for the result of a job, also where a busy host keeps Redis from answering for some seconds."""
    deadline = time.monotonic() + 3 * MINUTES
    while True:
        try:
            return client.future(job_id).result(timeout=300)
        except ConnectionError:
            assert time.monotonic() < deadline


def wait_until(look: Callable[[], Any], timeout: float = MINUTES) -> Any:
    """Give what `look` gives, as soon as that is true."""
    deadline = time.monotonic() + timeout
    while not (found := look()):
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.2)
    return found


def docker(*arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """Run `docker`."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done


class Composed:
    """The project, up in containers."""

    def __init__(self, env_file: Path) -> None:
        made = subprocess.run(
            [ROOT / "deploy" / "passwords"], check=True, capture_output=True, text=True
        )
        env_file.write_text(made.stdout)
        self.secrets = dict(line.split("=") for line in made.stdout.split())
        self.project = f"sbx{secrets.token_hex(4)}"
        self.ports = {}
        for name in ("REDIS", "FLOWER"):
            with socket.create_server(("127.0.0.1", 0)) as free:
                self.ports[name] = free.getsockname()[1]
        self._env_file = env_file
        # A short longest job, so that a lost one is given to another worker soon.
        self._settings = {"SANDBOXED_MAX_WALL_TIME": "12"}
        self._settings |= {f"SANDBOXED_{name}_PORT": str(port) for name, port in self.ports.items()}
        self.orphan = ""

    def __call__(self, *arguments: str) -> str:
        """Run `docker-compose`."""
        done = subprocess.run(
            ["docker-compose", "--env-file", self._env_file, "-p", self.project, *arguments],
            cwd=ROOT,
            env={
                **os.environ,
                **{f"SANDBOXED_{name}_PORT": str(port) for name, port in self.ports.items()},
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def url(self, user: str = "producer") -> str:
        """Give the address of its Redis, for one of its users."""
        secret = self.secrets[f"SANDBOXED_{user.upper()}_PASSWORD"]
        return f"redis://{user}:{secret}@127.0.0.1:{self.ports['REDIS']}/0"

    def containers(self, service: str) -> list[str]:
        """Give the containers of a service that run."""
        return self("ps", "-q", service).split()

    def healthy(self, service: str, count: int = 1) -> bool:
        """Whether so many containers of a service run, and are well by their own health check."""
        found = self.containers(service)
        form = "{{.State.Health.Status}}"
        states = docker("inspect", "-f", form, *found).stdout.split() if found else []
        return states == ["healthy"] * count


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    """Bring everything up, and take it down to the last volume."""
    if "DOCKER_HOST" not in os.environ:
        if os.environ.get("CI") == "true":
            pytest.fail("no dockerd: .ci/docker_host.py COMMAND")
        pytest.skip("no dockerd: .ci/docker_host.py COMMAND")
    project = Composed(tmp_path_factory.mktemp("compose") / "env")
    try:
        project("build", "worker")
        project("up", "-d")
        yield project
    finally:
        project("down", "-v", "-t", "60", "--remove-orphans")
    assert (
        docker("ps", "-aq", "--filter", f"label=com.docker.compose.project={project.project}").stdout
        == ""
    )
    assert project.project not in docker("volume", "ls").stdout + docker("network", "ls").stdout


def test_all_is_healthy(composed: Composed) -> None:
    """By each one's own health check; the worker's runs a job."""
    for service in ("redis", "flower", "worker"):
        wait_until(lambda service=service: composed.healthy(service))


def test_friendly_and_hostile_jobs_from_outside(composed: Composed) -> None:
    """As on a bare host."""
    hostile = ROOT / "examples" / "hostile"
    limits = Limits(wall_time=3, processes=8)
    with Client(composed.url(), timeout=MINUTES) as client:
        assert ended(client, client.submit("print(6 * 7)").id).text == "42\n"
        jobs = {
            name: client.submit(Job((hostile / f"{name}.py").read_bytes(), limits=limits)).id
            for name in ("endless_loop", "memory_hog", "output_flood", "segfault", "snoop", "fork_bomb")
        }
        found = {name: ended(client, job_id).status for name, job_id in jobs.items()}

    assert found == {
        "endless_loop": "time_limit",
        "memory_hog": "memory_limit",
        "output_flood": "output_limit",
        "segfault": "signaled",
        "snoop": "ok",
        "fork_bomb": "ok",
    }


def test_a_workers_container_has_little(composed: Composed) -> None:
    """Not privileged, a read-only root, no socket of Docker's, of the host its kernel and the locks."""
    (container,) = composed.containers("worker")
    (found,) = json.loads(docker("inspect", container).stdout)

    assert found["HostConfig"]["Privileged"] is False
    assert found["HostConfig"]["ReadonlyRootfs"] is True
    assert found["HostConfig"]["CapDrop"] == ["ALL"]
    assert sorted(found["HostConfig"]["CapAdd"]) == sorted(CAPABILITIES)
    assert [(mount["Source"], mount["Destination"]) for mount in found["Mounts"]] == [(LOCKS, LOCKS)]


def test_flower_wants_its_password(composed: Composed) -> None:
    """And shows summaries, no sources, to who has it."""
    with Client(composed.url(), timeout=MINUTES) as client:
        job_id = client.submit(Job("print('OUT' + 'PUT') # HIDDEN", labels={"course": "cs1"})).id
        assert ended(client, job_id).ok

    def page(path: str, password: str | None) -> str:
        request = urllib.request.Request(f"http://127.0.0.1:{composed.ports['FLOWER']}{path}")
        if password:
            login = b64encode(f"flower:{password}".encode()).decode()
            request.add_header("Authorization", f"Basic {login}")
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310  # ours
            text: str = answer.read().decode()
        return text

    for wrong in (None, "guess"):
        with pytest.raises(urllib.error.HTTPError, match="401"):
            page("/tasks", wrong)
    password = composed.secrets["SANDBOXED_FLOWER_PASSWORD"]
    shown = wait_until(
        lambda: (
            (text := page("/api/tasks", password)) and "ok \\u00b7 " in text and job_id in text and text
        )
    )
    assert json.loads(shown)[job_id]["args"] == "python · 29 B · course=cs1"
    for text in (shown, page(f"/task/{job_id}", password), page("/tasks", password)):
        assert "HIDDEN" not in text
        assert "OUTPUT" not in text


def test_no_two_jobs_on_the_host_are_of_one_user(composed: Composed) -> None:
    """In several containers, and on the host itself: the kernel counts the processes of each user."""
    composed("up", "-d", "--scale", "worker=3")
    wait_until(lambda: composed.healthy("worker", 3))
    job = Job("import os, time; time.sleep(4); print(os.getuid())", limits=Limits(wall_time=12))
    with Client(composed.url(), timeout=MINUTES) as client, Sandbox() as sandbox:
        futures = [client.submit(job) for _ in range(8)]
        here = sandbox.run(job)
        there = [ended(client, future.id) for future in futures]

    at_once = [
        (one, other)
        for one, other in itertools.combinations(there, 2)
        if one.started_at < other.finished_at and other.started_at < one.finished_at
    ]
    assert [one for one, other in at_once if one.worker != other.worker]
    assert [(one, other) for one, other in at_once if one.text == other.text] == []
    assert here.text not in [result.text for result in there]


def test_a_worker_is_killed_under_a_job(composed: Composed) -> None:
    """One of three; what becomes of the job is the last test's, since it takes a while."""
    wait_until(lambda: composed.healthy("worker", 3))
    address = composed.url("worker")
    with (
        Client(composed.url(), timeout=MINUTES) as client,
        Celery(broker=address, backend=address, set_as_current=False) as app,
    ):
        job = Job("import time; time.sleep(10); print('done')", limits=Limits(wall_time=12))
        composed.orphan = client.submit(job).id

        def victim() -> str:
            answers = app.control.broadcast("sandbox", reply=True, timeout=1) or []
            workers = {name: answer for reply in answers for name, answer in reply.items()}
            running = [
                name
                for name, answer in workers.items()
                if composed.orphan in [job["id"] for job in answer["in_flight"]]
            ]
            return running[0].removeprefix("celery@") if running else ""

        killed = wait_until(victim, timeout=10)
        docker("kill", "--signal", "KILL", killed)

    state = docker("inspect", "-f", "{{.State.ExitCode}}", killed).stdout.strip()
    assert state == "137"


@pytest.mark.parametrize(
    ("without", "told"),
    [
        *((capability, capability) for capability in CAPABILITIES),
        (LOCKS, LOCKS),
        ("/tmp", "temporary directory found in ['/tmp'"),
        ("seccomp", "pivot"),
    ],
)
def test_nothing_that_is_granted_is_spare(composed: Composed, without: str, told: str) -> None:
    """Without any one of the options the worker refuses to start, and names what is missing."""
    options = ["--cap-drop", "ALL", "--read-only"]
    for capability in CAPABILITIES:
        options += ["--cap-add", capability] if capability != without else []
    options += ["--tmpfs", "/tmp"] if without != "/tmp" else []
    options += ["--volume", f"{LOCKS}:{LOCKS}"] if without != LOCKS else []
    if without != "seccomp":
        options += ["--security-opt", f"seccomp={ROOT}/deploy/seccomp.json"]
    network = f"{composed.project}_default"
    done = docker("run", "--rm", "--network", network, *options, "sandboxed", check=False)

    assert done.returncode == 125
    assert told in done.stderr + done.stdout


def test_the_job_of_the_killed_worker_ends_once(composed: Composed) -> None:
    """Elsewhere, when the queue's time for it is over: twice the longest run (docs/deploy.md)."""
    with Client(composed.url(), timeout=MINUTES) as client:
        result = ended(client, composed.orphan)

    assert result.text == "done\n"
    assert result.attempts == 2
