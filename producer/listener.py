"""Delivers results: one thread for a client, however many jobs are outstanding.

Celery's Redis backend publishes each result on a channel named after the job. The ids of one client
begin alike, so that one pattern hears them all and no job costs a subscription; so do the ids that a
caller derives from what the jobs are. Jobs of others that it waits for are subscribed to one by one.
Published messages can be lost (a reconnect, a full buffer), so what is outstanding is also looked up:
when listening has begun, and every second.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING

from producer import outcome
from producer.address import Address
from producer.connection import Connection
from producer.future import Future
from sandbox_core.wire import RESULT_PREFIX

if TYPE_CHECKING:
    from redis.client import PubSub

#: Seconds between two looks at what is outstanding; keys that one command asks for, and one look.
_SWEEP_EVERY = 1.0
_SWEEP_CHUNK = 500
_SWEEP_MOST = 10_000

#: Seconds that an answer may take here; seconds after which a lost Redis fails what is outstanding
#: (a restart takes less); seconds between two tries. Even one that hangs is told within 5 in all.
_ANSWER = 1.5
_LOST_AFTER = 3.5
_RETRY_EVERY = 0.1

#: Seconds that closing waits for the thread, which may be waiting for a Redis that hangs.
_GOODBYE = 0.5

#: Seconds; a shorter read could give up in the middle of a long message.
_SHORTEST_READ = 0.1


class Listener:
    """Gives every watched future its result, or the error that kept it away."""

    def __init__(self, address: Address, prefix: str) -> None:
        self._connection = Connection(address, answer=_ANSWER)
        self._prefix = prefix
        self._lock = threading.Lock()
        self._outstanding: dict[str, Future] = {}
        self._families = {prefix}  # the beginnings of ids, each of which one pattern covers
        self._foreign: set[str] = set()  # ids that no pattern covers
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()
        self._pubsub: PubSub | None = None
        self._answered = 0.0  # monotonic time of the last sign of life from Redis

    def watch(self, futures: Iterable[Future]) -> None:
        """Deliver the results of `futures` from now on."""
        with self._lock:
            for future in futures:
                self._outstanding[future.id] = future
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._run, name="sandboxed results", daemon=True)
                self._thread.start()

    def watch_foreign(self, future: Future) -> None:
        """Deliver the result of another client's job; follow it with a message on `wake_channel`."""
        with self._lock:
            self._foreign.add(future.id)
        self.watch([future])

    def follow(self, families: set[str]) -> bool:
        """Hear of jobs whose ids begin alike; where that is new, do as for `watch_foreign`."""
        with self._lock:
            new = families - self._families
            self._families |= new
        return bool(new)

    @property
    def wake_channel(self) -> str:
        """Where a message rouses the thread, which alone may use its connection to subscribe."""
        return f"{RESULT_PREFIX}{self._prefix}wake"

    def find(self, job_id: str) -> Future | None:
        """Give the watched future of a job."""
        return self._outstanding.get(job_id)

    def forget(self, futures: Iterable[Future]) -> None:
        """Stop watching `futures`."""
        with self._lock:
            for future in futures:
                self._outstanding.pop(future.id, None)
                self._foreign.discard(future.id)

    def deliver(self, job_id: str, stored: bytes | None) -> bool:
        """Hand what is stored for a job to its future; say whether that ended it."""
        future = self._outstanding.get(job_id)
        if future is None or not stored:
            return False
        result = outcome.read(stored, future.job)
        if result is None:
            return False
        if self._take(job_id):
            future.set_result(result)
        return True

    def close(self) -> None:
        """Stop the thread; what is outstanding fails with `RuntimeError`."""
        self._closed.set()
        connection = self._pubsub and self._pubsub.connection
        if connection:
            connection.disconnect()  # ends the read that the thread is in
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=_GOODBYE)
        self._fail(
            lambda future: RuntimeError(
                f"the client was closed before job {future.id} was done; "
                "another client's future(id) can wait for it"
            )
        )

    def _take(self, job_id: str) -> Future | None:
        """Remove a future from the outstanding; only one caller gets it."""
        with self._lock:
            self._foreign.discard(job_id)
            return self._outstanding.pop(job_id, None)

    def _fail(self, describe: Callable[[Future], Exception]) -> None:
        for job_id in list(self._outstanding):
            if future := self._take(job_id):
                future.set_exception(describe(future))

    def _run(self) -> None:
        """Listen until closed, over as many connections as it takes."""
        self._answered = time.monotonic()
        while not self._closed.is_set():
            try:
                with self._connection.speaking():
                    self._listen()
            except Exception as error:  # noqa: BLE001  # whatever it is, no wait may hang on it
                if self._is_lost(error) and self._give_up(error):
                    return
                self._closed.wait(_RETRY_EVERY)
        self._connection.close()

    def _is_lost(self, error: Exception) -> bool:
        """Say whether to give up: not while Redis may be starting again, nor while we close."""
        if self._closed.is_set():
            return False
        silence = time.monotonic() - self._answered
        return silence >= _LOST_AFTER or not isinstance(error, ConnectionError)

    def _give_up(self, error: Exception) -> bool:
        """Fail what is outstanding; say whether the thread may end, as the next job starts one."""
        self._fail(lambda future: _lost(future, error))
        with self._lock:
            if self._outstanding:
                return False
            self._thread = None
            return True

    def _listen(self) -> None:
        """Listen on one connection, until it fails or has to be replaced."""
        pubsub = self._pubsub = self._connection.pubsub()
        with contextlib.closing(pubsub):
            followed: set[str] = set()
            subscribed: set[str] = set()
            heard = True
            sweep_at = time.monotonic() + _SWEEP_EVERY
            while not self._closed.is_set():
                followed = self._follow(pubsub, followed)
                subscribed = self._subscribe(pubsub, subscribed)
                wait = sweep_at - time.monotonic()
                if wait <= 0:
                    found = self._sweep()
                    if found and not heard:
                        return  # results were published, and this connection brought none
                    heard = False
                    sweep_at = time.monotonic() + _SWEEP_EVERY
                    continue
                message = pubsub.get_message(timeout=max(wait, _SHORTEST_READ))
                if message is None:
                    continue
                heard = True
                self._answered = time.monotonic()
                if message["type"] in ("message", "pmessage"):
                    job_id = message["channel"].decode().removeprefix(RESULT_PREFIX)
                    self.deliver(job_id, message["data"])
                elif message["type"] in ("subscribe", "psubscribe"):
                    sweep_at = 0.0  # what was stored before this was in place

    def _follow(self, pubsub: "PubSub", followed: set[str]) -> set[str]:
        """Subscribe to the patterns that are new."""
        if self._families == followed:
            return followed
        with self._lock:
            wanted = set(self._families)
        pubsub.psubscribe(*(f"{RESULT_PREFIX}{family}*" for family in wanted - followed))
        return wanted

    def _subscribe(self, pubsub: "PubSub", subscribed: set[str]) -> set[str]:
        """Bring the subscriptions to single jobs up to date."""
        if self._foreign == subscribed:
            return subscribed
        with self._lock:
            wanted = set(self._foreign)
        if new := wanted - subscribed:
            pubsub.subscribe(*(RESULT_PREFIX + job_id for job_id in new))
        if old := subscribed - wanted:
            pubsub.unsubscribe(*(RESULT_PREFIX + job_id for job_id in old))  # type: ignore[no-untyped-call]  # redis-py
        return wanted

    def _sweep(self) -> int:
        """Look up what is outstanding; give how many jobs that ended."""
        with self._lock:
            job_ids = list(islice(self._outstanding, _SWEEP_MOST))
        found = 0
        for start in range(0, len(job_ids), _SWEEP_CHUNK):
            chunk = job_ids[start : start + _SWEEP_CHUNK]
            for job_id, stored in zip(chunk, self._connection.fetch(chunk), strict=True):
                found += self.deliver(job_id, stored)
        self._answered = time.monotonic()
        return found


def _lost(future: Future, error: Exception) -> Exception:
    """Give each future an exception of its own: raising one adds to its traceback."""
    hint = f"job {future.id} may still run; future(id) of a client waits for it again"
    kind = type(error) if isinstance(error, ConnectionError | PermissionError) else RuntimeError
    return kind(f"{error} ({hint})")
