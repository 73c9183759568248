"""Two jobs at the same time in two jails, the output of each the input of the other.

Pipes between our own two supervisors, not between the jails: each jail has the streams that every jail
has, and each stream is counted and bounded as always.
"""

import contextlib
import os
import threading
from collections.abc import Callable
from typing import NamedTuple

from sandbox_core.job import Job, Result

#: Runs one job with these descriptors as its input and output.
Run = Callable[[Job, int, int], Result]


class PairResult(NamedTuple):
    """What became of two jobs that ran as a pair."""

    first: Result
    second: Result
    second_ended_first: bool


def run_pair(
    runs: tuple[Run, Run], first: Job, second: Job, *, stop: Callable[[], object]
) -> PairResult:
    """Run both jobs to their end; what either raises is raised once both have ended.

    Each of `runs` is called in a thread of its own. As soon as one job has ended the other reads end
    of file, and its writing fails as to any closed pipe; so what ends in consequence ends later. Where
    one of them raises, `stop` is called, which is to end the other.
    """
    to_second, from_first = os.pipe()
    to_first, from_second = os.pipe()
    ended: list[int] = []
    results: dict[int, Result] = {}
    errors: list[BaseException] = []

    def serve(number: int, job: Job, reading: int, writing: int) -> None:
        try:
            results[number] = runs[number](job, reading, writing)
        except BaseException as error:  # noqa: BLE001  # raised again by the caller's thread
            errors.append(error)
            stop()
        finally:
            ended.append(number)
            for descriptor in (reading, writing):
                with contextlib.suppress(OSError):
                    os.close(descriptor)

    other = threading.Thread(target=serve, args=(1, second, to_second, from_second))
    other.start()
    try:
        serve(0, first, to_first, from_first)
        other.join()
    except BaseException:
        stop()  # Ctrl-C: nothing of the pair goes on without us
        other.join()
        raise
    if errors:
        raise errors[0]
    return PairResult(results[0], results[1], ended[0] == 1)
