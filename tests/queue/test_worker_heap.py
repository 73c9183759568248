"""What the processes of a worker's pool inherit stays out of the garbage collector's way."""

import subprocess
import sys

SCRIPT = """
import gc
from celery import signals
from worker import heap

heap.keep_shared()
signals.worker_before_create_process.send(None)
first = gc.get_freeze_count()
signals.worker_before_create_process.send(None)  # for a process that takes another's place
kept = [[] for _ in range(1000)]
assert first > 10_000, first
assert gc.get_freeze_count() == first
signals.worker_process_init.send(None)
assert gc.get_freeze_count() >= first + len(kept)
"""


def test_the_heap_is_frozen_before_the_first_fork_and_in_each_process() -> None:
    """And not again before later forks, when jobs are under way."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0, done.stderr
