"""Celery's events of jobs, sent some at a time: otherwise each is a message, and a job has three.

Celery gathers those of one turn of its loop only. A monitor loses nothing by hearing of a job a tenth
of a second later; the worker's main process, which all slots wait for, has a third less to do.
"""

from typing import Any

from celery import bootsteps

#: Seconds that an event may wait for others; how many are sent at once, at most.
_WAIT = 0.1
_MOST = 200


class GatherEvents(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery ships no types
    """Has the consumer's events wait a little, so that many of them travel together."""

    requires = ("celery.worker.consumer.events:Events",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._waiting = False

    def start(self, consumer: Any) -> None:
        """Take over from Celery, at the start and after each reconnection."""
        self._waiting = False
        events = consumer.event_dispatcher
        if consumer.hub is None or not events.on_send_buffered:
            return  # a pool of threads has no loop; its events go out one by one
        events.buffer_limit = _MOST

        def send() -> None:
            self._waiting = False
            if consumer.event_dispatcher is events:
                events.flush()

        def gather() -> None:
            if _stops(consumer):
                send()  # the loop does not turn any more
            elif not self._waiting:
                self._waiting = True
                consumer.hub.call_later(_WAIT, send)

        events.on_send_buffered = gather

    def stop(self, consumer: Any) -> None:
        """Send what has been gathered, if this is the end and not a connection that was lost."""
        if _stops(consumer) and consumer.event_dispatcher is not None:
            consumer.event_dispatcher.flush()


def _stops(consumer: Any) -> bool:
    return consumer.blueprint.state in (bootsteps.CLOSE, bootsteps.TERMINATE)
