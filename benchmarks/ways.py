"""Ways to do a job over and over: back to back, at a steady rate, several at a time.

An `action` does the job once. It may give the milliseconds that count, where those are not all of its
time.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from contender import Work

Action = Callable[[], float | None]


def timed(action: Action) -> float:
    """Do it once and give how long it took (ms)."""
    began = time.perf_counter()
    told = action()
    return (time.perf_counter() - began) * 1000 if told is None else told


def back_to_back(action: Action, count: int) -> Work:
    """Do it `count` times, each as soon as the last one is done."""
    began = time.perf_counter()
    times = [timed(action) for _ in range(count)]
    return Work(count, time.perf_counter() - began, times)


def at_a_rate(action: Action, count: int, per_second: float) -> Work:
    """Do it `count` times, so many in a second, whatever each of them takes."""
    began = time.perf_counter()
    times = []
    for number in range(count):
        time.sleep(max(began + number / per_second - time.perf_counter(), 0.0))
        times.append(timed(action))
    return Work(count, time.perf_counter() - began, times)


def at_once(action: Action, threads: int, seconds: float) -> Work:
    """Do it in so many threads at once, over and over, for so long."""
    began = time.perf_counter()

    def work() -> int:
        count = 0
        while time.perf_counter() - began < seconds:
            action()
            count += 1
        return count

    with ThreadPoolExecutor(threads) as pool:
        jobs = sum(future.result() for future in [pool.submit(work) for _ in range(threads)])
    return Work(jobs, time.perf_counter() - began)
