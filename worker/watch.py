"""What can be watched of a worker, tied to Celery's life: reports, metrics, the format of its log."""

import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

from celery import bootsteps, signals
from celery.worker import state as worker_state

from sandbox_core.options import EXIT_SANDBOX_FAILED
from worker import logs
from worker.control import taking_jobs
from worker.metrics import Metrics
from worker.reports import Reports
from worker.settings import Settings


class Watch:
    """The reports and metrics of this worker.

    `reports` is for every process of it, `metrics` for the main one.
    """

    def __init__(self, settings: Settings) -> None:
        self.reports = Reports()
        self.metrics = Metrics(self._gauges)
        self._settings = settings
        self._worker: Any = None
        self._started_at = 0.0
        self._stop: Callable[[], None] | None = None
        signals.worker_init.connect(self._worker_init)
        signals.after_setup_logger.connect(self._log_is_set_up)
        signals.after_setup_task_logger.connect(self._log_is_set_up)

    def start(self, worker: Any, port: int | None) -> None:
        """Take the pool's reports from here on, and serve Prometheus on `port`."""
        self._worker, self._started_at = worker, time.time()
        self.reports.listen(self.metrics.take)
        port = port or self._settings.metrics_port
        if port is not None:
            address = self._settings.metrics_address
            try:
                self._stop = self.metrics.serve(address, port)
            except OSError as error:
                refuse(f"can't serve metrics on {address} port {port}: {error}")

    def stop(self) -> None:
        """Answer no more scrapes."""
        if self._stop is not None:
            self._stop()
            self._stop = None

    def _worker_init(self, **_: Any) -> None:
        self.reports.open()  # before the pool forks

    def _log_is_set_up(self, logger: Any, **_: Any) -> None:
        logs.set_up(logger, self._settings.log_format)

    def _gauges(self) -> dict[tuple[str, str], float]:
        consumer = getattr(self._worker, "consumer", None)
        return {
            ("sandboxed_slots", "Jobs that this worker can run at once."): self._worker.concurrency,
            ("sandboxed_slots_busy", "Jobs that it runs now."): len(worker_state.active_requests),
            ("sandboxed_taking_jobs", "1 while it takes jobs, 0 when drained or without Redis."): float(
                consumer is not None and taking_jobs(consumer)
            ),
            ("sandboxed_start_time_seconds", "When it started (Unix time)."): self._started_at,
        }


class WatchStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery ships no types
    """Starts what is watched once the pool has forked, so that no thread is there before."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, metrics_port: int | None = None, **options: Any) -> None:
        super().__init__(worker, **options)
        self._port = metrics_port

    def start(self, worker: Any) -> None:
        """Start it; ends the worker where the port is taken."""
        from worker.tasks import jails, watch  # noqa: PLC0415  # which import this module

        watch.metrics.expect(jails.found["runtimes"])
        watch.start(worker, self._port)

    def stop(self, worker: Any) -> None:  # noqa: ARG002  # Celery's signature
        """Stop it."""
        from worker.tasks import watch  # noqa: PLC0415  # as above

        watch.stop()


def refuse(why: str) -> NoReturn:
    """End the worker before it serves, with the reason in one line."""
    print(f"sandboxed: {' '.join(why.split())}", file=sys.stderr, flush=True)  # noqa: T201
    # SystemExit, since Celery logs an Exception of a signal's receiver and goes on.
    raise SystemExit(EXIT_SANDBOX_FAILED)
