"""Two jobs at the same time in two jails, the output of each the input of the other.

Pipes between our own two supervisors, not between the jails: each jail has the streams that every jail
has, and each stream is counted and bounded as always.
"""

import contextlib
import os
import threading
from collections.abc import Callable

from sandbox_core.job import Job, Result

#: Runs one job with these descriptors as its input and output.
Run = Callable[[Job, int, int], Result]


def run_pair(run: Run, first: Job, second: Job) -> tuple[Result, Result, bool]:
    """Run both jobs to their end, and say whether the second ended first.

    `run` is called in two threads. As soon as one job has ended the other reads end of file, and its
    writing fails as to any closed pipe; so what ends in consequence ends later.
    """
    to_second, from_first = os.pipe()
    to_first, from_second = os.pipe()
    ended: list[int] = []
    results: dict[int, Result] = {}
    errors: list[BaseException] = []

    def serve(number: int, job: Job, reading: int, writing: int) -> None:
        try:
            results[number] = run(job, reading, writing)
        except BaseException as error:  # noqa: BLE001  # raised again by the caller's thread
            errors.append(error)
        finally:
            ended.append(number)
            for descriptor in (reading, writing):
                with contextlib.suppress(OSError):
                    os.close(descriptor)

    other = threading.Thread(target=serve, args=(1, second, to_second, from_second))
    other.start()
    serve(0, first, to_first, from_first)
    other.join()
    if errors:
        raise errors[0]
    return results[0], results[1], ended[0] == 1
