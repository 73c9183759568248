"""kombu's Redis channel, with two ways mended in which it ends a worker and the jobs it runs.

Both were met with kombu 5.7.0. It also keeps what kombu makes anew for each command.
"""

import json
import logging
from queue import Empty
from typing import Any

import redis
from kombu.transport.redis import Channel, Transport

logger = logging.getLogger(__name__)


class WorkerChannel(Channel):
    """A channel that a dead Redis closes, but doesn't break, and that drops what is no message."""

    _kept: redis.Redis | None = None

    def _create_client(self, asynchronous: bool = False) -> redis.Redis:  # noqa: FBT001, FBT002  # kombu's signature
        # It takes redis-py 0.16 ms to make a client, twice for each message, and what is to be known of
        # a connection is in its pool, which threads may share.
        if asynchronous:
            alone: redis.Redis = super()._create_client(asynchronous=True)  # type: ignore[no-untyped-call]
            return alone
        if self._kept is None or self._kept.connection_pool is not self.pool:
            self._kept = super()._create_client()  # type: ignore[no-untyped-call]
        return self._kept

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:  # noqa: FBT001, FBT002  # kombu's signature
        # A closed channel still acknowledges and restores what was delivered through it. Where Redis
        # was gone when it was closed, that is an AttributeError ("None has no hostname"), which ends
        # the worker; as the connection error that it is, kombu logs it and reconnects.
        if self.connection is None or self.connection.client is None:
            raise redis.ConnectionError("the channel was closed while Redis was gone")
        parameters: dict[str, Any] = super()._connparams(asynchronous)  # type: ignore[no-untyped-call]
        return parameters

    def _brpop_read(self, **options: Any) -> Any:
        # Whoever may write to the queue may write anything; a worker should not die of it.
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            logger.warning("dropped what is no message from the queue: %s", error)
            raise Empty from None


def mend() -> None:
    """Make every Redis connection of Celery in this process use `WorkerChannel`."""
    Transport.Channel = WorkerChannel
