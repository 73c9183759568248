"""Stops a running job whose caller has cancelled it; tells when one runs for long.

One thread for each process looks for the callers' flags in Redis and sets the `Cancel` of the job.
It is never the job's own loop that asks: a Redis that doesn't answer must not delay a deadline.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from sandbox_core.sandbox import Cancel
from sandbox_core.wire import CANCEL_PREFIX

logger = logging.getLogger(__name__)

#: Seconds between two looks; with the kill it leaves a cancelled job less than a second.
_INTERVAL = 0.25
#: Seconds a job runs before anybody looks for its flag: most end before, and cost no round trip.
_SETTLED = 0.2
#: Seconds between two lines in the log while Redis does not answer.
_COMPLAIN_EVERY = 30.0


class _Running(NamedTuple):
    job_id: str
    look_from: float  # monotonic seconds
    cancel: Cancel
    settled: Callable[[], None] | None


class Watcher:
    """Watches the cancel flags of the jobs that run in this process.

    `connect` gives the client of redis-py to ask; it is called in the watcher's own thread, which
    is started with the first job.
    """

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._jobs: dict[object, _Running] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._complained = -_COMPLAIN_EVERY

    @contextmanager
    def watching(
        self,
        job_id: str,
        settled: Callable[[], None] | None = None,
        cancel: Cancel | None = None,
    ) -> Iterator[Cancel]:
        """Give a `Cancel` that is set as soon as the job's caller asks, while the block runs.

        `settled` is called in the watcher's thread, again and again, from half a second on. `cancel`
        is what to set for jobs that end together; else the job has one of its own.
        """
        running = _Running(job_id, time.monotonic() + _SETTLED, cancel or Cancel(), settled)
        key = object()  # not the id: the same job may be here twice after a redelivery
        with self._changed:
            self._jobs[key] = running
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="cancel", daemon=True)
                self._thread.start()
            self._changed.notify()
        try:
            yield running.cancel
        finally:
            with self._changed:
                del self._jobs[key]

    def _watch(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs)
            time.sleep(_INTERVAL)
            now = time.monotonic()
            with self._changed:
                settled = [running for running in self._jobs.values() if running.look_from <= now]
            for running in settled:
                if running.settled:
                    running.settled()
            if settled:
                self._look(settled)

    def _look(self, jobs: Sequence[_Running]) -> None:
        try:
            flags = self._connect().mget([CANCEL_PREFIX + running.job_id for running in jobs])
        except Exception as error:  # noqa: BLE001  # whatever Redis has, the next look comes soon
            if time.monotonic() - self._complained >= _COMPLAIN_EVERY:
                self._complained = time.monotonic()
                logger.warning("can't look for cancelled jobs, and go on trying: %s", error)
            return
        for flag, running in zip(flags, jobs, strict=True):
            if flag is not None:
                running.cancel.set()
