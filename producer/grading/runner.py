"""What runs the jobs of grading: a queue, or jails on this host."""

from collections.abc import Iterable, Iterator
from typing import Protocol

from sandbox_core import Job, Result


class Runner(Protocol):
    """Runs many jobs; `producer.Client` is one."""

    def map(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Result]]:
        """Give each job with its result, as they finish; read no more jobs than are under way."""
        ...
