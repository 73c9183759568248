"""What one `map` has in flight: how much more fits, and which result is handed out next.

Only bookkeeping, shared by the client and the asyncio client, which wait each in its own way.
"""

import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from itertools import islice

from producer import chunks
from producer.future import Future
from sandbox_core import Job

#: What may stand for a job: the source alone is a job with the defaults.
Script = Job | str | bytes

#: Jobs in flight where the caller names no number: enough for a score of workers.
DEFAULT_SIZE = 256

#: Jobs in one round trip to Redis; seconds that collecting them may hold up the first of them.
_BATCH = 100
_PATIENCE = 0.005


class Window:
    """The jobs of one `map` that were submitted and whose results were not yet handed out."""

    def __init__(self, size: int, *, ordered: bool, chunksize: int | None = None) -> None:
        for name, number in (("window", size), ("chunksize", chunksize)):
            if number is not None and number < 1:
                raise ValueError(f"{name}: expected a number of jobs from 1, got {number}")
        self.size = size
        self._chunksize = chunksize
        self._ordered = ordered
        self._waiting: dict[Future, Job] = {}  # in the order of submission
        self._limits: Counter[float] = Counter()  # how many of those have which wall limit
        self._done: deque[Future] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def outstanding(self) -> list[Future]:
        """The futures whose results were not handed out."""
        return list(self._waiting)

    @property
    def room(self) -> int:
        """How many jobs to submit next: none until a batch of them fits."""
        free = self.size - len(self._waiting)
        return min(free, _BATCH) if free >= min(_BATCH, self.size // 4 or 1) else 0

    def chunksize(self, more: int) -> int:
        """Give how many of the next `more` jobs may share a message."""
        return self._chunksize or chunks.size(len(self._waiting) + more)

    def sent(self, futures: Iterable[Future]) -> None:
        """Take note of jobs that were submitted."""
        for future in futures:
            if future.job:
                self._waiting[future] = future.job
                self._limits[future.job.limits.wall_time] += 1

    def landed(self, future: Future) -> None:
        """Take note that a job is done."""
        self._done.append(future)

    def ready(self) -> Iterator[tuple[Job, Future]]:
        """Hand out, and forget, what can be handed out now."""
        if self._ordered:
            self._done.clear()
            while self._waiting and (first := next(iter(self._waiting))).done():
                yield self._forget(first), first
        else:
            while self._done:
                future = self._done.popleft()
                yield self._forget(future), future

    def _forget(self, future: Future) -> Job:
        job = self._waiting.pop(future)
        limit = job.limits.wall_time
        self._limits[limit] -= 1
        if not self._limits[limit]:
            del self._limits[limit]
        return job

    @property
    def longest(self) -> float:
        """The largest wall limit, in seconds, of what is in flight."""
        # Asked for with each result: by the limits, of which there are few, and not by the jobs.
        return max(self._limits, default=0.0)


def collect(jobs: Iterator[Script], most: int) -> list[Script]:
    """Take up to `most` from `jobs`, fewer where they are slow to come."""
    until = time.monotonic() + _PATIENCE
    batch: list[Script] = []
    for job in islice(jobs, most):
        batch.append(job)
        if time.monotonic() >= until:
            break
    return batch
