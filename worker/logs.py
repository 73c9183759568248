"""The log of a worker: one line a job, for people or as JSON, in place of Celery's two or three."""

import json
import logging
from functools import partial
from typing import Any

from celery.app.trace import LOG_RECEIVED, LOG_SUCCESS

#: What Celery says of every task, and the line of `worker.reports` says better.
_SAID_BETTER = {"celery.app.trace": LOG_SUCCESS, "celery.worker.strategy": LOG_RECEIVED}


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


def _is_not(message: str, record: logging.LogRecord) -> bool:
    return record.msg != message
