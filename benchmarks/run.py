"""Measure what a jail costs, and what goes through the queue: `make bench`.

Contenders that are compared take turns in rounds, in a new random order each time, so that whatever
else the machine does meets all of them alike. A figure is the median of its rounds; the ratio is
the median of the rounds' own ratios, each against the baseline of the same round.
"""

import argparse
import contextlib
import json
import os
import platform
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from producer import Client
from sandbox_core import Job, Sandbox
from worker import children
from worker.redis_server import EmbeddedRedis
from worker.settings import REDIS_URL

SCRIPT = Path(__file__).resolve().parent.parent / "examples" / "scripts" / "hello.py"
SLOTS = 2
STOP_DEADLINE = 15.0  # seconds
PLAIN_SERVER = Path(__file__).with_name("plain_server.py")
BREATH = 0.05  # seconds


@dataclass(frozen=True, slots=True)
class Figure:
    """One contender's samples, and how it compares with the first of its group."""

    group: str
    name: str
    unit: str
    median: float
    low: float  # the first quartile
    high: float  # the third
    ratio: float
    samples: list[float]


def compare(
    group: str, unit: str, rounds: int, contenders: dict[str, Callable[[], float]]
) -> list[Figure]:
    """Let the contenders take turns; the first of them is the baseline."""
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    for measure in contenders.values():
        measure()  # once for nothing: what is made on first use is not what is measured
    for _ in range(rounds):
        for name in random.sample(list(contenders), len(contenders)):
            samples[name].append(contenders[name]())
    baseline = samples[next(iter(contenders))]
    figures = []
    for name, taken in samples.items():
        low, median, high = statistics.quantiles(taken, n=4)
        ratio = statistics.median(a / b for a, b in zip(taken, baseline, strict=True))
        figures.append(Figure(group, name, unit, median, low, high, ratio, taken))
    return figures


def milliseconds(action: Callable[[], object]) -> Callable[[], float]:
    """Give what measures how long `action` takes."""

    def measure() -> float:
        began = time.perf_counter()
        action()
        return (time.perf_counter() - began) * 1000

    return measure


def rate(count: int, action: Callable[[], object]) -> Callable[[], float]:
    """Give what measures how many of its `count` jobs `action` does in a second."""

    def measure() -> float:
        began = time.perf_counter()
        action()
        return count / (time.perf_counter() - began)

    return measure


def plain() -> None:
    """Run the script with no jail, in the interpreter that the jails have."""
    interpreter = os.path.realpath(sys.executable)  # past the virtual environment, as the jails do
    # -S: the jails have no site-packages, whose start-up hooks may take longer than the script.
    subprocess.run([interpreter, "-I", "-S", SCRIPT], check=True, capture_output=True)


def sandboxed(sandbox: Sandbox, runtime: str) -> None:
    """Run the script in a jail."""
    result = sandbox.run(Job(SCRIPT.read_bytes(), runtime=runtime))
    if not result.ok:
        raise RuntimeError(f"the script ended as {result.status}: {result.stderr!r}")


def latency(rounds: int) -> list[Figure]:
    """Compare the time from asking for one run of the script to its result."""
    with Sandbox() as sandbox:
        return compare(
            "one script, one at a time",
            "ms",
            rounds,
            {
                "plain subprocess.run": milliseconds(plain),
                "Sandbox, python": milliseconds(lambda: sandboxed(sandbox, "python")),
                "Sandbox, python-exec": milliseconds(lambda: sandboxed(sandbox, "python-exec")),
            },
        )


def first_byte(rounds: int) -> list[Figure]:
    """Compare the time from connecting to a unix socket to the first byte of the program's output."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as servers:
        plain_path, path = f"{folder}/plain", f"{folder}/sandboxed"
        interpreter = os.path.realpath(sys.executable)
        command = Path(sys.executable).with_name("sandboxed")
        for socket_path, words in (
            (plain_path, [interpreter, "-I", "-S", PLAIN_SERVER, plain_path, SCRIPT]),
            (path, [command, "serve", "--socket", path, SCRIPT]),
        ):
            servers.enter_context(serving(socket_path, words))
        return compare(
            "connecting to a unix socket, to the first byte",
            "ms",
            rounds,
            {
                "python3 for each connection, no sandbox": lambda: connect(plain_path),
                "sandboxed serve": lambda: connect(path),
            },
        )


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
    time.sleep(BREATH)  # clients come now and then, and the next jail is made meanwhile
    return took


@contextlib.contextmanager
def serving(path: str, words: list[str | Path]) -> Iterator[None]:
    """Have a server at the socket `path` for the while."""
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(words, stderr=log)
        try:
            while not os.path.exists(path) or not log.tell():
                if server.poll() is not None:
                    raise RuntimeError(f"{words[0]} did not start")
                time.sleep(0.05)
            yield
        finally:
            server.terminate()
            server.wait(STOP_DEADLINE)


def throughput(rounds: int, jobs: int) -> list[Figure]:
    """Compare how many scripts are done in a second, some at a time."""
    with (
        Sandbox(slots=SLOTS) as sandbox,
        ThreadPoolExecutor(SLOTS) as pool,
        queue() as url,
        Client(url) as client,
    ):

        def through_threads(action: Callable[[], None]) -> Callable[[], float]:
            return rate(jobs, lambda: list(pool.map(lambda _: action(), range(jobs))))

        def through_queue() -> None:
            source = SCRIPT.read_bytes()
            for _, result in client.map(Job(source) for _ in range(jobs)):
                if not result.ok:
                    raise RuntimeError(f"the script ended as {result.status}: {result.error}")

        return compare(
            f"many scripts, {SLOTS} at a time",
            "jobs/s",
            rounds,
            {
                "plain subprocess.run": through_threads(plain),
                "Sandbox, python": through_threads(lambda: sandboxed(sandbox, "python")),
                "the queue, Client.map": rate(jobs, through_queue),
            },
        )


@contextlib.contextmanager
def queue() -> Iterator[str]:
    """Give the address of a queue with a worker of as many jobs at a time."""
    with EmbeddedRedis() as redis, tempfile.TemporaryFile() as log:
        worker = children.start(
            [sys.executable, "-P", "-m", "worker.cli", "worker", "-c", str(SLOTS), "-l", "WARNING"],
            env={**os.environ, REDIS_URL: redis.url},
            output=log,
        )
        try:
            yield redis.url
        finally:
            children.stop(worker, STOP_DEADLINE)


def show(figures: list[Figure]) -> None:
    """Print the figures as a table."""
    table = Table()
    table.add_column()
    for heading in ("Median", "Quartiles", "Ratio"):
        table.add_column(heading, justify="right", no_wrap=True)
    for group in dict.fromkeys(figure.group for figure in figures):
        table.add_section()
        table.add_row(f"[bold]{group}")
        for figure in (figure for figure in figures if figure.group == group):
            table.add_row(
                f"  {figure.name}",
                f"{figure.median:.1f} {figure.unit}",
                f"{figure.low:.1f} … {figure.high:.1f}",
                f"{figure.ratio:.2f}",
            )
    Console().print(table)


def main() -> None:
    """Measure, print, and write the samples where they are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the samples to FILE")
    parser.add_argument("--rounds", type=int, default=40, help="of the latency [40]")
    parser.add_argument("--jobs", type=int, default=100, help="in a round of the throughput [100]")
    given = parser.parse_args()
    figures = [
        *latency(given.rounds),
        *first_byte(given.rounds),
        *throughput(max(given.rounds // 8, 2), given.jobs),
    ]
    show(figures)
    if given.json:
        host = {
            "python": platform.python_version(),
            "kernel": platform.release(),
            "cpus": os.cpu_count(),
        }
        written = {"host": host, "figures": [asdict(figure) for figure in figures]}
        given.json.write_text(json.dumps(written, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
