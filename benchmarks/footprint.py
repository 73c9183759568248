"""Memory: what a slot adds, warm and idle."""

import contextlib
import os
import statistics
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import family
import peers
import queues
from contender import Contender, Work
from figures import Aim, Figure, Scale

from sandbox_core import Job, Sandbox

_FEW, _MANY = 1, 5
_AIM = (Aim("value", 12),)


@contextlib.contextmanager
def sandbox(slots: int) -> Iterator[int]:
    """Make a contender with a `Sandbox` whose slots have all run a job; give the process to look at."""
    with Sandbox(slots=slots) as made, ThreadPoolExecutor(slots) as pool:
        # Longer than it takes for the others to begin, so that each slot has one.
        list(pool.map(made.run, [Job("import time; time.sleep(0.3)")] * slots))
        list(pool.map(made.run, [Job(peers.SCRIPT.read_bytes())] * slots * 10))
        yield os.getpid()


@contextlib.contextmanager
def worker(slots: int) -> Iterator[int]:
    """Make a contender with a worker whose slots have all run a job; give its main process."""
    with queues.ours(slots=slots) as queue:
        for _ in queue.client.map(["import time; time.sleep(0.3)"] * slots, chunksize=1):
            continue
        assert queue.worker is not None
        yield queue.worker


def look(pid: int) -> Work:
    """Give the PSS of a process and its descendants (MiB), as the one sample of a turn."""
    return Work(1, 0.0, [family.memory(pid)])


def rows(scale: Scale) -> list[Figure]:
    """Measure what the slots after the first add to a `Sandbox` and to a worker."""
    figures = []
    for name, make in (("of a Sandbox", sandbox), ("of a worker, with its pool process", worker)):
        added = []
        for _ in range(scale.rounds_of(3) // 3):
            with Contender("few", make, _FEW) as few, Contender("many", make, _MANY) as many:
                more = many.do(look).times[0] - few.do(look).times[0]
                added.append(more / (_MANY - _FEW))
        figures.append(
            Figure(
                "memory that a slot adds (PSS), warm and idle",
                name,
                "MiB",
                statistics.median(added),
                aims=_AIM,
                samples=[added],
            )
        )
    return figures
