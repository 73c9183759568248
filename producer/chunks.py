"""Which jobs of a `map` travel together: several in one message cost the queue little more than one.

A worker runs the jobs of a chunk one after the other in one slot, so a chunk must not keep work from
a slot that is idle, and must not run for long. The worker sees to the latter too (worker.chunks):
where the jobs turn out to be slow, it puts what it has not begun back into the queue.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from sandbox_core import Job

#: Messages that the jobs in flight are spread over, at least: work for as many slots.
_SPREAD = 16

#: The most that one chunk holds: jobs; seconds of their wall limits together, which is what a worker
#: allows a single job where its operator says nothing; characters of JSON.
_JOBS = 100
_WALL_TIME = 60.0
_CHARACTERS = 256 * 1024


class Entry(NamedTuple):
    """One job on its way: its id, itself, and itself as JSON."""

    job_id: str
    job: Job
    text: str


def size(in_flight: int) -> int:
    """Give how many jobs a chunk may have where so many are in flight, its own included."""
    return max(1, min(in_flight // _SPREAD, _JOBS))


def divide(entries: Iterable[Entry], most: int) -> Iterator[list[Entry]]:
    """Put up to `most` jobs at a time together, fewer where their limits or sizes say so."""
    chunk: list[Entry] = []
    wall_time, characters = 0.0, 0
    for entry in entries:
        wall_time += entry.job.limits.wall_time
        characters += len(entry.text)
        if chunk and (len(chunk) >= most or wall_time > _WALL_TIME or characters > _CHARACTERS):
            yield chunk
            chunk, wall_time, characters = [], entry.job.limits.wall_time, len(entry.text)
        chunk.append(entry)
    if chunk:
        yield chunk
