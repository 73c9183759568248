"""The Celery message that asks for one job, made by hand.

Celery's own `apply_async` costs many times what the message itself does and sends one at a time; a
message that is only bytes can be pushed by the hundred. Protocol 2, in kombu's envelope for Redis:
https://docs.celeryq.dev/en/stable/internals/protocol.html, celery.app.amqp.AMQP.as_task_v2,
kombu.transport.virtual.Channel. A test compares it with what Celery sends.
"""

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from functools import cache

from sandbox_core import Job
from sandbox_core.job import content_bytes
from sandbox_core.wire import QUEUE, SUBMITTED_AT, TASK, TASK_MANY, TASK_PAIR, job_to_json

#: Characters of an id (which has the form of a UUID) that all jobs of one client share, by default.
FAMILY = len("12345678-1234-4123-")

#: Characters that a summary may have: it travels in every event that a monitor listens to.
_SUMMARY = 200

#: A message's body around its argument: no keyword arguments, no canvas.
_BODY = '[[%s], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'

#: Everything around the body, as JSON with places to fill in: made once, since it is most of the
#: work. What is filled in between quotes needs none of JSON's escapes.
_ENVELOPE = json.dumps(
    {
        "body": "%(body)s",
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": "%(task)s",
            "id": "%(job_id)s",
            "shadow": None,
            "eta": None,
            "expires": None,
            "group": None,
            "group_index": None,
            "retries": 0,
            "timelimit": [None, None],
            "root_id": "%(job_id)s",
            "parent_id": None,
            "argsrepr": "%(summary)s",
            "kwargsrepr": "{}",
            "origin": "%(origin)s",
            "ignore_result": "%(ignore_result)s",
            "replaced_task_nesting": 0,
            "stamped_headers": None,
            "stamps": {},
            SUBMITTED_AT: "%(submitted_at)s",
        },
        "properties": {
            "correlation_id": "%(job_id)s",
            "reply_to": "%(reply_to)s",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": QUEUE},
            "priority": 0,
            "body_encoding": "base64",
            # The key under which kombu keeps a message until it is acknowledged: used only once.
            "delivery_tag": "%(delivery_tag)s",
        },
    }
)
for _place in ("summary", "origin", "submitted_at", "ignore_result"):
    _ENVELOPE = _ENVELOPE.replace(f'"%({_place})s"', f"%({_place})s")

_to_json = json.JSONEncoder(ensure_ascii=False).encode


def encode(job: Job, job_id: str, submitted_at: float, reply_to: str, text: str | None = None) -> bytes:
    """Give the message for `job`, ready to be pushed to the list `wire.QUEUE`.

    `job_id` and `reply_to` are UUIDs, `submitted_at` is Unix seconds, `text` is the job's
    `job_text` where that is there already.
    """
    text = text or job_text(job)
    return _message(TASK, job_id, text, summary(job), submitted_at=submitted_at, reply_to=reply_to)


def encode_chunk(entries: Sequence[tuple[str, str]], submitted_at: float, reply_to: str) -> bytes:
    """Give one message for several jobs, each as its id and its `job_text`; `encode` has the rest."""
    argument = ", ".join(f'{{"id": "{job_id}", "job": {text}}}' for job_id, text in entries)
    told = f"{len(entries)} jobs · {len(argument)} characters"
    argument = f"[{argument}]"
    return _message(TASK_MANY, new_id(), argument, told, submitted_at=submitted_at, reply_to=reply_to)


def encode_pair(
    first: tuple[str, str], second: tuple[str, str], submitted_at: float, reply_to: str
) -> bytes:
    """Give one message for two jobs that talk, each as its id and its `job_text`."""
    entries = (f'{{"id": "{job_id}", "job": {text}}}' for job_id, text in (first, second))
    argument = '{{"first": {}, "second": {}}}'.format(*entries)
    told = f"a pair of jobs · {len(argument)} characters"
    return _message(TASK_PAIR, new_id(), argument, told, submitted_at=submitted_at, reply_to=reply_to)


def job_text(job: Job) -> str:
    """Give `job` as JSON."""
    return _to_json(job_to_json(job))


def _message(
    task: str, task_id: str, argument: str, told: str, *, submitted_at: float, reply_to: str
) -> bytes:
    message = _ENVELOPE % {
        "body": base64.b64encode((_BODY % argument).encode()).decode("ascii"),
        "task": task,
        "job_id": task_id,
        "summary": json.dumps(told),
        "origin": json.dumps(_origin(os.getpid())),
        # What holds several jobs has no result besides theirs; a single one leaves that to the worker.
        "ignore_result": "null" if task == TASK else "true",
        "submitted_at": json.dumps(submitted_at),
        "reply_to": reply_to,
        "delivery_tag": new_id(),
    }
    return message.encode("ascii")


def summary(job: Job) -> str:
    """Describe `job` in one line for monitors: `python · 412 B · course=cs1`, never its source."""
    parts = [job.runtime, f"{len(content_bytes(job.source))} B"]
    parts += [f"{name}={value}" for name, value in job.labels.items()]
    line = " · ".join(parts)
    if not line.isprintable():
        line = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in line)
    return line if len(line) <= _SUMMARY else line[: _SUMMARY - 1] + "…"


def new_id() -> str:
    """Make a random UUID (RFC 9562, version 4), without the 4 ms of importing `uuid`."""
    digits = os.urandom(16).hex()
    variant = "89ab"[int(digits[16], 16) % 4]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def named_id(family: str, name: str) -> str:
    """Make the id that a name has in a family: the same each time, in the form of a random UUID."""
    digits = hashlib.sha256(f"{family} {name}".encode()).hexdigest()
    variant = "89ab"[int(digits[0], 16) % 4]
    return f"{family[:FAMILY]}{variant}{digits[1:4]}-{digits[4:16]}"


@cache
def _origin(pid: int) -> str:
    """Name this process in the form of a Celery node."""
    import socket  # noqa: PLC0415  # 4 ms that importing a vocabulary should not take

    return f"producer{pid}@{socket.gethostname()}"
