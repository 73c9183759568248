"""What Celery's main process takes for a job, and what it may show of one: that it is there.

Celery keeps a text of a task's arguments for its logs, for `inspect` and for events. For a job that
would be the beginning of the script, so the text is made here, whatever the sender put there.
"""

from typing import Any

from celery.exceptions import InvalidTaskError
from celery.worker.request import Request
from celery.worker.strategy import default

from worker.summary import described


def strategy(task: Any, app: Any, consumer: Any, **options: Any) -> Any:
    """Give Celery's handler of a task's messages, with a look at each message before it.

    What is no message of a task raises `InvalidTaskError`: Celery drops it and goes on. Met further
    in, it would be an exception that ends the worker, and leaves the message for the next one.
    """
    handle = default(task, app, consumer, **options)

    def look_and_handle(message: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(message.headers.get("id"), str):
            raise InvalidTaskError("the id of the task is no string")
        match message.payload:
            case [list(), dict(), dict() | None]:
                return handle(message, *args, **kwargs)
        raise InvalidTaskError("the body is not [args, kwargs, options] (Celery's protocol 2)")

    return look_and_handle


class JobRequest(Request):  # type: ignore[misc]  # Celery ships no types
    """A message with a job."""

    def __init__(self, message: Any, **options: Any) -> None:
        super().__init__(message, **options)
        self._argsrepr = self._request_dict["argsrepr"] = described(self._args)
        self._kwargsrepr = self._request_dict["kwargsrepr"] = "{}"
        # The sender's name for the task would be a label in Flower's metrics, which anybody may read.
        self.name = self.type
        self._request_dict["shadow"] = None
        # The sender's time limits would be obeyed. A job's limits are in the job; Celery's stay
        # what the worker's settings say.
        self.time_limits = (None, None)

    def info(self, safe: bool = True) -> dict[str, Any]:  # noqa: ARG002, FBT001, FBT002  # Celery's signature
        """Give what `inspect` shows, which asks for the arguments themselves."""
        told: dict[str, Any] = super().info(safe=True)
        return told
