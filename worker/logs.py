"""The log of a worker: one line a job, for people or as JSON, in place of Celery's two or three.

What is no job is one line too, without its content: a misspelt task's would be a source.
"""

import json
import logging
from functools import partial
from typing import Any

from celery.app.trace import LOG_RECEIVED, LOG_SUCCESS
from celery.worker.consumer import consumer

from worker.summary import escaped

#: What Celery says of every task, and the line of `worker.reports` says better.
_SAID_BETTER = {"celery.app.trace": LOG_SUCCESS, "celery.worker.strategy": LOG_RECEIVED}

#: What Celery says of a message that it drops, with all of the message: what a line of ours says, and
#: which of the arguments tells why, if that is known.
_DROPPED = {
    consumer.UNKNOWN_FORMAT: ("it is no task's", None),
    consumer.UNKNOWN_TASK_ERROR: ("there is no task", 0),
    consumer.INVALID_TASK_ERROR: ("it is no task's", 0),
    consumer.MESSAGE_DECODE_ERROR: ("it can't be decoded", 0),
}
_MOST_OF_A_REASON = 200


class JsonFormatter(logging.Formatter):
    """A line of JSON for each record; that of a job has it under `job`."""

    def format(self, record: logging.LogRecord) -> str:
        """Write `record`."""
        written: dict[str, Any] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        if job := getattr(record, "job", None):
            written["job"] = job
        if record.exc_info:
            written["exception"] = self.formatException(record.exc_info)
        return json.dumps(written, ensure_ascii=False)


def set_up(logger: logging.Logger, log_format: str) -> None:
    """Give the handlers of `logger`, which Celery has just made, their format."""
    if log_format == "json":
        for handler in logger.handlers:
            handler.setFormatter(JsonFormatter())
    for name, message in _SAID_BETTER.items():
        chatty = logging.getLogger(name)
        if not chatty.filters:
            chatty.addFilter(partial(_is_not, message))
    if not consumer.logger.filters:
        consumer.logger.addFilter(_without_content)


def _is_not(message: str, record: logging.LogRecord) -> bool:
    return record.msg != message


def _without_content(record: logging.LogRecord) -> bool:
    if record.msg in _DROPPED and isinstance(record.args, tuple):
        why, place = _DROPPED[record.msg]
        reason = "" if place is None else f": {escaped(str(record.args[place]), _MOST_OF_A_REASON)}"
        record.msg, record.args = "dropped a message: %s%s", (why, reason)
        record.exc_info = None
    return True
