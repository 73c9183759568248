"""What Celery's Redis backend stores about a task, read as a `Result`.

The backend stores one JSON object for each task and publishes the same bytes
(celery.backends.redis.RedisBackend._set). A script that fails is a SUCCESS with a Result inside;
Celery's own FAILURE and REVOKED mean that no Result was ever made.
"""

import json
import time
from dataclasses import replace
from typing import Any

from sandbox_core import Job, Result, Status
from sandbox_core.wire import result_from_json, result_to_json

#: Seconds that a result stays in Redis, as Celery's result_expires has it by default.
EXPIRES = 24 * 60 * 60


def read(stored: bytes, job: Job | None) -> Result | None:
    """Give the Result that `stored` holds, or None while the task has not ended.

    `job`, where it is known, lends its labels to a Result that no worker could write.
    """
    try:
        meta = json.loads(stored)
        state = meta["status"]
        if state == "SUCCESS":
            return result_from_json(meta["result"])
    except (ValueError, TypeError, KeyError) as error:
        return _without_worker(job, Status.INTERNAL_ERROR, f"the stored result is damaged: {error}")
    if state == "FAILURE":
        return _without_worker(job, Status.INTERNAL_ERROR, _exception_text(meta.get("result")))
    if state == "REVOKED":
        reason = _exception_text(meta.get("result"))
        return _without_worker(job, Status.CANCELLED, f"revoked in Celery ({reason})")
    return None


def cancelled(job_id: str, job: Job | None, submitted_at: float | None) -> bytes:
    """Give what to store for a job that is cancelled before any worker took it."""
    result = Result(
        status=Status.CANCELLED,
        labels=job.labels if job else {},
        submitted_at=submitted_at,
        finished_at=time.time(),
        attempts=0,
    )
    meta: dict[str, object] = {
        "status": "SUCCESS",
        "result": result_to_json(result),
        "traceback": None,
        "children": [],
        "date_done": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
        "task_id": job_id,
    }
    return json.dumps(meta).encode("ascii")


def _without_worker(job: Job | None, status: Status, error: str) -> Result:
    result = Result(status=status, error=error, attempts=0)
    return replace(result, labels=job.labels) if job else result


def _exception_text(described: Any) -> str:
    """Put the exception that Celery describes as an object into words."""
    if not isinstance(described, dict):
        return str(described)
    message = described.get("exc_message", "")
    if isinstance(message, list):
        message = ", ".join(str(item) for item in message)
    return f"{described.get('exc_type', 'unknown error')}: {message}"
