"""The project's own commands for `celery -A worker inspect` and `control`.

    celery -A worker inspect sandbox            slots, runtimes, jobs in flight, walls, counts, errors
    celery -A worker control drain | resume     take no more jobs; take them again
    celery -A worker control recycle            new warm interpreters before the next jobs

Importing this module registers them with Celery. They run in a worker's main process, and look at what
is there only in one.
"""

import time
from typing import Any

from celery.worker import state as worker_state
from celery.worker.control import control_command, inspect_command, ok

from sandbox_core.wire import QUEUE


@inspect_command()  # type: ignore[untyped-decorator]  # Celery ships no types
def sandbox(state: Any) -> dict[str, Any]:
    """Slots, runtimes, jobs in flight, walls, cgroup, counts by status, last internal errors."""
    from worker.tasks import jails, watch  # noqa: PLC0415  # they are there in a worker

    now = time.time()
    return {
        "slots": state.consumer.controller.concurrency,
        "taking_jobs": taking_jobs(state.consumer),
        "in_flight": [
            {
                "id": request.id,
                "job": request._argsrepr,  # noqa: SLF001  # public nowhere; ours (worker.requests)
                "seconds": round(now - request.time_start, 3) if request.time_start else 0.0,
            }
            for request in list(worker_state.active_requests)
        ],
        "counts": watch.metrics.counts(),
        "last_errors": watch.metrics.last_errors(),
        **jails.found,
    }


@control_command()  # type: ignore[untyped-decorator]
def drain(state: Any) -> dict[str, str]:
    """Take no more jobs from the queue; those that run go on to their end."""
    if taking_jobs(state.consumer):
        state.consumer.cancel_task_queue(QUEUE)
    return dict(ok(f"takes no more jobs; {len(worker_state.active_requests)} in flight"))


@control_command()  # type: ignore[untyped-decorator]
def resume(state: Any) -> dict[str, str]:
    """Take jobs from the queue again."""
    state.consumer.add_task_queue(QUEUE)
    return dict(ok("takes jobs"))


@control_command()  # type: ignore[untyped-decorator]
def recycle(state: Any) -> dict[str, str]:  # noqa: ARG001  # Celery's signature
    """Start new warm interpreters before the next jobs, such as after an upgrade of one."""
    from worker.tasks import jails  # noqa: PLC0415  # as above

    jails.recycle()
    return dict(ok("every slot makes a new interpreter before its next job"))


def taking_jobs(consumer: Any) -> bool:
    """Whether a worker takes jobs from the queue now."""
    tasks = consumer.task_consumer  # None while Redis is away
    return tasks is not None and bool(tasks.consuming_from(QUEUE))
