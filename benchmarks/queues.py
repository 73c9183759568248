"""The queue: jobs one by one and in chunks, beside a Celery task that runs the script with no jail.

A contender here is the client, its Redis and its worker together, so its CPU is that of all three.
`run.py` has the rows of `rows` and `publishing`, and with `--pools` those of Celery's pools.
"""

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import family
import peers
from celery import Celery
from contender import Contender, Work
from figures import Aim, Contenders, Figure, Scale, compare

from producer import Client, Job
from sandbox_core import Sandbox
from worker import children
from worker.redis_server import EmbeddedRedis
from worker.settings import REDIS_URL, broker_url

HERE = Path(__file__).resolve().parent
SLOTS = 2
_STOP_DEADLINE = 15.0  # seconds
_PATIENCE = 60.0  # seconds

#: The task of the baseline, and the queue that it is taken from; `bare_worker.py` has it.
BARE = "bare.run"
_BARE_NAME = "a Celery task with plain subprocess.run"
_ONE_BY_ONE, _MAPPED = "the queue, one by one", "the queue, Client.map"


@dataclass(frozen=True, slots=True)
class Bare:
    """A queue of plain Celery."""

    app: Celery
    worker: int | None  # its main process


@dataclass(frozen=True, slots=True)
class Ours:
    """A queue of ours."""

    client: Client
    worker: int | None  # its main process
    url: str


@contextlib.contextmanager
def bare() -> Iterator[Bare]:
    """Make the baseline: a worker of plain Celery that runs scripts with no jail."""
    command = ("celery", "-A", "bare_worker", "worker", "-c", str(SLOTS))
    with EmbeddedRedis() as redis, worker(redis.url, *command) as pid:
        app = _celery(redis.url)
        app.conf.task_default_queue = "bare"
        _until_it_answers(app)
        yield Bare(app, pid)


@contextlib.contextmanager
def ours(*options: str, slots: int = SLOTS) -> Iterator[Ours]:
    """Make a queue with a worker of ours."""
    command = ("worker.cli", "worker", "-c", str(slots), *options)
    with EmbeddedRedis() as redis, worker(redis.url, *command) as pid, Client(redis.url) as client:
        for _, result in client.map(["pass"] * 10 * slots, chunksize=1):
            check(result)
        yield Ours(client, pid, redis.url)


def jobs_run(url: str) -> int:
    """Give how many jobs the worker of a queue has run."""
    (answer,) = _celery(url).control.broadcast("sandbox", reply=True, timeout=30, limit=1)
    (told,) = answer.values()
    return sum(told["counts"].values())


@contextlib.contextmanager
def unserved_bare() -> Iterator[Bare]:
    """Make a queue that nobody takes jobs from, for Celery to send to."""
    with EmbeddedRedis() as redis:
        yield Bare(_celery(redis.url), None)


@contextlib.contextmanager
def unserved() -> Iterator[Ours]:
    """Make a queue that nobody takes jobs from, for our client to send to."""
    with EmbeddedRedis() as redis, Client(redis.url) as client:
        yield Ours(client, None, redis.url)


@contextlib.contextmanager
def worker(url: str, *command: str) -> Iterator[int]:
    """Start a worker by the Python module and arguments `command`; give its process."""
    with tempfile.TemporaryFile() as log:
        process = children.start(
            [sys.executable, "-P", "-m", *command, "-l", "WARNING"],
            env={**os.environ, REDIS_URL: url, "PYTHONPATH": str(HERE)},
            output=log,
        )
        try:
            yield process.pid
        finally:
            children.stop(process, _STOP_DEADLINE)


def _celery(url: str) -> Celery:
    return Celery(broker=broker_url(url), backend=broker_url(url), set_as_current=False)


def _until_it_answers(app: Celery) -> None:
    deadline = time.monotonic() + _STOP_DEADLINE
    while not app.control.ping(timeout=0.2):
        if time.monotonic() > deadline:
            raise RuntimeError("the worker of the baseline does not answer")


def check(result: object) -> None:
    """Raise for a job that did not end well."""
    if not getattr(result, "ok", False):
        raise RuntimeError(f"a job went wrong: {result}")


# What a contender does in a turn.


def through_bare(queue: Bare, count: int) -> Work:
    """Run the script without a jail, as a Celery task."""
    source = peers.SCRIPT.read_text(encoding="utf-8")

    def action() -> None:
        sent = [queue.app.send_task(BARE, args=[source]) for _ in range(count)]
        for result in sent:
            if result.get(timeout=_PATIENCE)["exit_code"]:
                raise RuntimeError("the script failed")

    return _timed(count, action, queue.worker)


def through_map(queue: Ours, count: int, chunksize: int | None) -> Work:
    """Run the script in jails, through the queue."""
    source = peers.SCRIPT.read_bytes()

    def action() -> None:
        for _, result in queue.client.map((Job(source) for _ in range(count)), chunksize=chunksize):
            check(result)

    return _timed(count, action, queue.worker)


def send_bare(queue: Bare, count: int) -> Work:
    """Send jobs as Celery does; nobody takes them."""
    argument = {"source": peers.SCRIPT.read_text(encoding="utf-8")}

    def action() -> None:
        for _ in range(count):
            queue.app.send_task("sandboxed.run", args=[argument], queue="nobody")

    work = _timed(count, action, None)
    queue.app.backend.client.delete("nobody")
    return work


def send(queue: Ours, count: int, chunksize: int) -> Work:
    """Put jobs into a queue that nobody serves, as many at a time as `map` does; let go of them."""
    source = peers.SCRIPT.read_bytes()
    futures = []

    def action() -> None:
        for _ in range(0, count, 100):
            futures.extend(queue.client.submit_chunks([Job(source) for _ in range(100)], chunksize))

    work = _timed(len(range(0, count, 100)) * 100, action, None)
    queue.client.cancel_all(futures)
    return work


def in_a_loop(sandbox: Sandbox, count: int) -> Work:
    """Run the script in a `Sandbox`, with no queue."""
    job = Job(peers.SCRIPT.read_bytes())

    def action() -> None:
        for _ in range(count):
            check(sandbox.run(job))

    return _timed(count, action, None)


def _timed(count: int, action: Callable[[], None], main: int | None) -> Work:
    """Do `count` jobs; tell where their CPU time went."""
    before = _parts(main)
    began = time.perf_counter()
    action()
    work = Work(count, time.perf_counter() - began)
    after = _parts(main)
    return replace(work, parts={name: after[name] - before[name] for name in before})


def _parts(main: int | None) -> dict[str, float]:
    if main is None:
        return {}
    names = {"client": os.getpid(), "main process": main}
    for pid in family.children(os.getpid()):
        if Path(f"/proc/{pid}/comm").read_text().startswith("redis"):
            names["Redis"] = pid
    for number, pid in enumerate(sorted(set(family.children(main)))):
        names[f"pool process {number}"] = pid
    return {name: family.cpu_time(pid) for name, pid in names.items()}


# What is compared.


def rows(scale: Scale) -> list[Figure]:
    """Compare jobs through the queue with Celery tasks that run the script bare."""
    jobs = scale.jobs_of(250)
    with Contender("Celery", bare) as celery, Contender("queue", ours) as queue:
        return compare(
            f"through the queue, {SLOTS} slots",
            "jobs/s",
            {
                _BARE_NAME: lambda: celery.do(through_bare, jobs),
                _ONE_BY_ONE: lambda: queue.do(through_map, jobs, 1),
                _MAPPED: lambda: queue.do(through_map, jobs, None),
            },
            scale.rounds_of(6),
            {
                _ONE_BY_ONE: (Aim("ratio", 2.2, at_least=True),),
                _MAPPED: (Aim("ratio", 3.5, at_least=True),),
            },
        )


def publishing(scale: Scale) -> list[Figure]:
    """Compare putting jobs into the queue."""
    jobs = scale.jobs_of(300)
    with Contender("Celery", unserved_bare) as celery, Contender("Client", unserved) as client:
        return compare(
            "publishing",
            "jobs/s",
            {
                "Celery, send_task": lambda: celery.do(send_bare, jobs),
                "Client, one job a message": lambda: client.do(send, jobs * 10, 1),
                "Client, as Client.map sends": lambda: client.do(send, jobs * 10, 16),
            },
            scale.rounds_of(6),
            {"Client, as Client.map sends": (Aim("ratio", 10, at_least=True),)},
        )


def pools(scale: Scale) -> list[Figure]:
    """Compare Celery's pools as the place where slots hang."""
    jobs = scale.jobs_of(250)
    with contextlib.ExitStack() as stack:
        contenders: dict[str, Callable[[], Work]] = {}
        for pool in ("prefork", "threads", "solo"):
            queue = stack.enter_context(Contender(pool, ours, "-P", pool))
            for name, size in (("one by one", 1), ("chunks", None)):
                contenders[f"{pool}, {name}"] = lambda by=queue, size=size: (  # type: ignore[misc]
                    by.do(through_map, jobs, size)
                )
        name = f"Celery's pools, {SLOTS} slots (solo has one)"
        return compare(name, "jobs/s", contenders, scale.rounds_of(6))


def one_slot(scale: Scale) -> list[Figure]:
    """Compare one slot of the queue with `Sandbox.run` in a loop: what is between them is ours."""
    jobs = scale.jobs_of(250)
    with Contender("Sandbox", Sandbox) as sandbox, Contender("queue", one) as queue:
        contenders: Contenders = {
            "Sandbox.run": lambda: sandbox.do(in_a_loop, jobs),
            _ONE_BY_ONE: lambda: queue.do(through_map, jobs, 1),
            _MAPPED: lambda: queue.do(through_map, jobs, None),
        }
        return compare("one slot", "jobs/s", contenders, scale.rounds_of(6))


def one() -> contextlib.AbstractContextManager[Ours]:
    """Make a queue with one slot."""
    return ours(slots=1)
