"""What application code imports to have scripts run: submit, wait, map, cancel.

    from producer import Client, Job

    with Client() as client:
        print(client.run("print('hello')").text)

Importing this package imports neither Celery nor redis-py nor the jail; redis-py is loaded by the
first command that needs a connection, asyncio by the first use of `AsyncClient`.
"""

from typing import TYPE_CHECKING, Any

from producer.client import Client
from producer.future import Future
from sandbox_core import Job, Limits, Result, Status

if TYPE_CHECKING:
    from producer.aio import AsyncClient, AsyncFuture

__all__ = ["AsyncClient", "AsyncFuture", "Client", "Future", "Job", "Limits", "Result", "Status"]


def __getattr__(name: str) -> Any:
    if name in ("AsyncClient", "AsyncFuture"):
        from producer import aio  # noqa: PLC0415  # asyncio, for those who use it

        return getattr(aio, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
