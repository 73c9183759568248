"""The connection to Redis: the few commands that a producer gives, and what their errors mean.

Nothing of redis-py comes out of here: its exceptions become Python's own, with a text that names
the address and never the credentials. redis-py is imported by the first command, since it costs
more than all the rest of this package.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from producer.address import Address
from sandbox_core.wire import ATTEMPTS_PREFIX, CANCEL_PREFIX, QUEUE, RESULT_PREFIX

if TYPE_CHECKING:
    from redis import Redis
    from redis.client import PubSub

#: Seconds: together with `_ANSWER`, an address where nothing answers is told within 5.
_CONNECT = 2.0
_ANSWER = 2.5

#: Ends jobs wherever they are, in one step that no worker can come between: for each a key that the
#: worker which runs it looks at, and, where no worker has taken it yet, its result.
#: KEYS: cancel, attempts and result of each. ARGV: seconds to keep them, then a result for each.
_CANCEL = """
local states = {}
for i = 1, #KEYS, 3 do
    local n = (i + 2) / 3
    local stored = redis.call('GET', KEYS[i + 2])
    local status = stored and string.match(stored, '"status": ?"(%u+)"')
    if status == 'SUCCESS' or status == 'FAILURE' or status == 'REVOKED' then
        states[n] = 'done'
    else
        redis.call('SET', KEYS[i], '1', 'EX', ARGV[1])
        if redis.call('EXISTS', KEYS[i + 1]) == 0 then
            redis.call('SET', KEYS[i + 2], ARGV[n + 1], 'EX', ARGV[1])
            redis.call('PUBLISH', KEYS[i + 2], ARGV[n + 1])
            states[n] = 'queued'
        else
            states[n] = 'running'
        end
    end
end
return states
"""

#: What an ACL has to give. Channels as a whole, since Redis compares the pattern that a client
#: listens to with the rights literally, not as what it matches.
_RIGHTS = (
    "a producer needs ~sandboxed* ~celery-task-meta-* &* +@read +@write +@pubsub +@scripting "
    "+@connection"
)


class Standing(NamedTuple):
    """What Redis knows about one job: its stored result, how often it was taken, all who wait."""

    stored: bytes | None
    attempts: int
    queue_length: int


class Connection:
    """A pool of connections to one Redis, opened when first needed; safe to share among threads.

    `answer` is how many seconds a reply may take. Every method raises `ConnectionError` where Redis
    is not reached, `PermissionError` where it refuses the credentials, `RuntimeError` otherwise.
    """

    def __init__(self, address: Address, answer: float = _ANSWER) -> None:
        self.address = address
        self._answer = answer
        self._opened: Redis | None = None

    def push(self, messages: Sequence[bytes]) -> None:
        """Append `messages` to the queue, all or none, in one round trip."""
        with self.speaking() as redis:
            redis.lpush(QUEUE, *messages)

    def fetch(self, job_ids: Sequence[str]) -> list[bytes | None]:
        """Give what is stored for each job."""
        with self.speaking() as redis:
            stored = redis.mget([RESULT_PREFIX + job_id for job_id in job_ids])
            return cast("list[bytes | None]", stored)

    def standing(self, job_id: str) -> Standing:
        """Ask all that there is to know about one job."""
        with self.speaking() as redis, redis.pipeline(transaction=False) as pipeline:
            pipeline.get(RESULT_PREFIX + job_id)
            pipeline.get(ATTEMPTS_PREFIX + job_id)
            pipeline.llen(QUEUE)
            stored, attempts, length = pipeline.execute()
            return Standing(stored, int(attempts or 0), length)

    def cancel(self, results: dict[str, bytes], expires: int) -> list[str]:
        """Cancel jobs; `results` has what to store for one that is still queued.

        Gives for each whether it was `queued`, `running`, or `done` and so not cancelled.
        """
        if not results:
            return []
        keys = [
            prefix + job_id
            for job_id in results
            for prefix in (CANCEL_PREFIX, ATTEMPTS_PREFIX, RESULT_PREFIX)
        ]
        with self.speaking() as redis:
            states = redis.eval(_CANCEL, len(keys), *keys, expires, *results.values())
            return [state.decode() for state in cast("list[bytes]", states)]

    def publish(self, channel: str) -> None:
        """Send an empty message to those who listen on `channel`."""
        with self.speaking() as redis:
            redis.publish(channel, b"")

    def pubsub(self) -> "PubSub":
        """Give a connection to listen with; use it inside `speaking`."""
        return cast("PubSub", self._redis().pubsub())  # type: ignore[no-untyped-call]  # redis-py

    def close(self) -> None:
        """Close every connection; another command opens a new one."""
        if self._opened is not None:
            self._opened.close()

    @contextmanager
    def speaking(self) -> Iterator["Redis"]:
        """Give redis-py's client; what it raises inside comes out as one of Python's own errors."""
        redis = self._redis()
        from redis.exceptions import RedisError  # noqa: PLC0415  # loaded by the line above

        try:
            yield redis
        except (RedisError, OSError) as error:
            # `from None`: what Redis says about credentials may name the user.
            raise self._explain(error) from None

    def _redis(self) -> "Redis":
        if self._opened is None:
            import redis  # noqa: PLC0415  # 0.1 s, on the first command
            from redis.backoff import NoBackoff  # noqa: PLC0415
            from redis.retry import Retry  # noqa: PLC0415

            settings: dict[str, Any] = {
                "socket_connect_timeout": _CONNECT,
                "socket_timeout": self._answer,
                # One try: a retry could push a job twice, and would take longer than we promise. A
                # connection that Redis closed meanwhile is noticed and replaced without one.
                "retry": Retry(NoBackoff(), 0),
                "protocol": 2,  # one round trip less, and any server understands it
            }
            opened = redis.Redis.from_url(self.address.url, **settings)
            try:
                opened.connection_pool.make_connection()
            except (TypeError, ValueError) as error:
                raise ValueError(f"url: redis-py does not take one of its options: {error}") from None
            self._opened = opened
        return self._opened

    def _explain(self, error: Exception) -> Exception:
        """Say what `error`, one of redis-py's or the system's, means to the caller."""
        from redis import exceptions  # noqa: PLC0415

        at = f"Redis at {self.address.name}"
        if isinstance(error, PermissionError | ConnectionError) and at in str(error):
            return error  # already explained by an inner `speaking`
        if isinstance(error, exceptions.NoPermissionError):
            # From Redis 7.2 on the text begins with the name of the user.
            reason = re.sub(r"^User \S+ has", "this user has", str(error))
            return PermissionError(f"{at} does not allow that: {reason}; {_RIGHTS}")
        if isinstance(
            error,
            exceptions.AuthenticationError
            | exceptions.AuthorizationError
            | exceptions.AuthenticationWrongNumberOfArgsError,
        ):
            return PermissionError(
                f"{at} refuses the credentials that its URL gives (or lacks): {error}"
            )
        if isinstance(error, exceptions.OutOfMemoryError):
            return RuntimeError(
                f"{at} is full (its maxmemory is reached) and took nothing; "
                "results make room as they expire"
            )
        if isinstance(error, exceptions.ConnectionError | exceptions.TimeoutError | OSError):
            return ConnectionError(f"{at} can't be reached: {_reason(error)}; is it running?")
        return RuntimeError(f"{at} refuses: {error}")


def _reason(error: BaseException) -> str:
    """Find the system's own words where a connection failed: redis-py wraps them in its own."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return str(error)
