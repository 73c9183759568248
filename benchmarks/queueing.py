"""Measure the queue: jobs one by one and in chunks, beside a Celery task that runs the script bare.

`rows()` is what `make bench` calls. By hand: `--pools` compares Celery's pools, `--bare` shows what
the queue itself costs above `Sandbox.run`.
"""

import argparse
import contextlib
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from celery import Celery

from producer import Client, Job
from sandbox_core import Sandbox
from worker import children
from worker.redis_server import EmbeddedRedis
from worker.settings import REDIS_URL, broker_url

SCRIPT = Path(__file__).resolve().parent.parent / "examples" / "scripts" / "hello.py"
HERE = Path(__file__).resolve().parent
SLOTS = 2
STOP_DEADLINE = 15.0  # seconds

#: The task of the baseline, and the queue that it is taken from; `bare_worker.py` has it.
BARE = "bare.run"

Row = tuple[str, str, str, list[float], list[float]]


@contextlib.contextmanager
def bare_queue() -> Iterator[Celery]:
    """Give a Celery application with a worker that runs scripts with no jail: the baseline."""
    command = ("celery", "-A", "bare_worker", "worker", "-c", str(SLOTS))
    with EmbeddedRedis() as redis, _worker(*command, url=redis.url):
        url = broker_url(redis.url)
        app = Celery(broker=url, backend=url, set_as_current=False)
        app.conf.task_default_queue = "bare"
        _until_it_answers(app)
        yield app


@contextlib.contextmanager
def queue(*options: str, slots: int = SLOTS) -> Iterator[str]:
    """Give the address of a queue with a worker of ours."""
    with EmbeddedRedis() as redis:
        command = ("worker.cli", "worker", "-c", str(slots), *options)
        with _worker(*command, url=redis.url), Client(redis.url) as client:
            client.run("pass")
            yield redis.url


@contextlib.contextmanager
def _worker(*command: str, url: str) -> Iterator[None]:
    with tempfile.TemporaryFile() as log:
        process = children.start(
            [sys.executable, "-P", "-m", *command, "-l", "WARNING"],
            env={**os.environ, REDIS_URL: url, "PYTHONPATH": str(HERE)},
            output=log,
        )
        try:
            yield
        finally:
            children.stop(process, STOP_DEADLINE)


def _until_it_answers(app: Celery) -> None:
    deadline = time.monotonic() + STOP_DEADLINE
    while not app.control.ping(timeout=0.2):
        if time.monotonic() > deadline:
            raise RuntimeError("the worker of the baseline does not answer")


def jobs_per_second(count: int, action: Callable[[], object]) -> float:
    """Give how many of its `count` jobs `action` does in a second."""
    began = time.perf_counter()
    action()
    return count / (time.perf_counter() - began)


def through_bare(app: Celery, count: int) -> float:
    """Run the script without a jail, as a Celery task."""
    source = SCRIPT.read_text(encoding="utf-8")

    def action() -> None:
        sent = [app.send_task(BARE, args=[source]) for _ in range(count)]
        for result in sent:
            if result.get(timeout=60)["exit_code"]:
                raise RuntimeError("the script failed")

    return jobs_per_second(count, action)


def through_map(client: Client, count: int, chunksize: int | None) -> float:
    """Run the script in jails, through the queue."""
    source = SCRIPT.read_bytes()

    def action() -> None:
        for _, result in client.map((Job(source) for _ in range(count)), chunksize=chunksize):
            if not result.ok:
                raise RuntimeError(f"the script ended as {result.status}: {result.error}")

    return jobs_per_second(count, action)


def publish_celery(app: Celery, count: int) -> float:
    """Send jobs as Celery does; nobody takes them."""
    argument = {"source": SCRIPT.read_text(encoding="utf-8")}

    def action() -> None:
        for _ in range(count):
            app.send_task("sandboxed.run", args=[argument], queue="nobody")

    rate = jobs_per_second(count, action)
    app.backend.client.delete("nobody")
    return rate


def submit(client: Client, count: int, chunksize: int) -> float:
    """Put jobs into a queue that nobody serves, some hundreds at a time, and let go of them."""
    source = SCRIPT.read_bytes()
    futures = []

    def action() -> None:
        left = count
        while left:
            step = min(left, 500)
            futures.extend(client.submit_chunks([Job(source) for _ in range(step)], chunksize))
            left -= step

    rate = jobs_per_second(count, action)
    client.cancel_all(futures)
    return rate


def rows(rounds: int = 5, jobs: int = 400) -> list[Row]:
    """Give (group, name, unit, samples, ratios to the group's baseline) for each contender."""
    with (
        bare_queue() as app,
        queue() as url,
        Client(url) as client,
        EmbeddedRedis() as idle,
        Client(idle.url) as nobody,
    ):
        unserved = Celery(
            broker=broker_url(idle.url), backend=broker_url(idle.url), set_as_current=False
        )
        through = {
            "a Celery task with plain subprocess.run": lambda: through_bare(app, jobs),
            "the queue, one by one": lambda: through_map(client, jobs, 1),
            "the queue, Client.map": lambda: through_map(client, jobs, None),
        }
        publishing = {
            "Celery, send_task": lambda: publish_celery(unserved, jobs),
            "Client, one by one": lambda: submit(nobody, jobs * 10, 1),
            "Client, in chunks": lambda: submit(nobody, jobs * 10, 10),
        }
        return [
            *_compare(f"through the queue, {SLOTS} slots", through, rounds),
            *_compare("publishing", publishing, rounds),
        ]


def pools(rounds: int, jobs: int) -> list[Row]:
    """Compare Celery's pools as the place where slots hang."""
    with contextlib.ExitStack() as stack:
        contenders: dict[str, Callable[[], float]] = {}
        for pool in ("prefork", "threads", "solo"):
            url = stack.enter_context(queue("-P", pool))
            client = stack.enter_context(Client(url))
            for name, chunksize in (("one by one", 1), ("chunks", None)):
                contenders[f"{pool}, {name}"] = lambda client=client, chunksize=chunksize: (  # type: ignore[misc]
                    through_map(client, jobs, chunksize)
                )
        return _compare(f"pools, {SLOTS} slots (solo has one)", contenders, rounds)


def bare(rounds: int, jobs: int) -> list[Row]:
    """Compare one slot of the queue with `Sandbox.run` in a loop: what is between them is ours."""
    source = SCRIPT.read_bytes()
    with Sandbox() as sandbox, queue(slots=1) as url, Client(url) as client:

        def directly() -> None:
            for _ in range(jobs):
                sandbox.run(Job(source))

        contenders = {
            "Sandbox.run": lambda: jobs_per_second(jobs, directly),
            "the queue, one by one": lambda: through_map(client, jobs, 1),
            "the queue, Client.map": lambda: through_map(client, jobs, None),
        }
        return _compare("one slot", contenders, rounds)


def _compare(group: str, contenders: dict[str, Callable[[], float]], rounds: int) -> list[Row]:
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    for measure in contenders.values():
        measure()  # what is made on first use is not what is measured
    for _ in range(rounds):
        for name in random.sample(list(contenders), len(contenders)):
            samples[name].append(contenders[name]())
    baseline = samples[next(iter(contenders))]
    return [
        (group, name, "jobs/s", taken, [a / b for a, b in zip(taken, baseline, strict=True)])
        for name, taken in samples.items()
    ]


def main() -> None:
    """Measure what is asked for, and print it."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--pools", action="store_true", help="compare prefork, threads and solo")
    parser.add_argument("--bare", action="store_true", help="compare with Sandbox.run, one slot")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=400, help="in each round [400]")
    given = parser.parse_args()
    measure = pools if given.pools else bare if given.bare else rows
    for group, name, unit, samples, ratios in measure(given.rounds, given.jobs):
        middle, ratio = statistics.median(samples), statistics.median(ratios)
        print(f"{group:32} {name:42} {middle:9.0f} {unit}  {ratio:6.2f}")


if __name__ == "__main__":
    main()
