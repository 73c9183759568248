"""The memory of a worker's processes: what the pool inherits stays shared, and is not looked through.

A pool process is a fork that begins with all of Celery, some hundred thousand objects. The garbage
collector writes to each of them when it looks, which makes a copy of every page (20 MiB a process),
and takes tens of milliseconds each time. So what is there when the pool forks is frozen (gc.freeze): it
lives as long as the process anyway.
"""

import gc
from functools import cache
from typing import Any

from celery import signals


def keep_shared() -> None:
    """Freeze what is there before the first fork, and in each process what it began with."""
    signals.worker_before_create_process.connect(_before_fork, weak=False)
    signals.worker_process_init.connect(_begun, weak=False)


def _before_fork(**_: Any) -> None:
    _freeze_once()


@cache
def _freeze_once() -> None:
    # Once: later on there are jobs under way, which are garbage soon.
    gc.collect()
    gc.freeze()


def _begun(**_: Any) -> None:
    gc.freeze()
