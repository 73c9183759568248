"""The counts of a worker, for Prometheus and for `inspect`: kept in its main process alone.

The pool's processes report each job (`worker.reports`), so that there is one registry, whatever the
pool, and nothing of it on disk.
"""

import threading
import time
from collections import Counter as Tally
from collections import deque
from collections.abc import Callable, Collection, Iterator
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    start_http_server,
)
from prometheus_client.core import GaugeMetricFamily, Metric

from sandbox_core.job import Status
from worker.reports import Record

#: From the shortest job to the longest that the maxima allow by default.
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_HISTOGRAMS = {
    "queue_time": ("sandboxed_job_queue_seconds", "From submission to when a worker took the job."),
    "setup_time": (
        "sandboxed_job_setup_seconds",
        "What the worker spent on a job besides its wall time: Redis, making the jail, its removal.",
    ),
    "wall_time": ("sandboxed_job_wall_seconds", "From the script's start to its end."),
    "cpu_time": ("sandboxed_job_cpu_seconds", "CPU time, user and system, of all in the jail."),
}
_KEPT_ERRORS = 5
_UNKNOWN = "unknown"


class Metrics:
    """What has been counted since the worker started.

    `gauges` gives, by name and help text, what is looked up at each scrape.
    """

    def __init__(self, gauges: Callable[[], dict[tuple[str, str], float]]) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # series that nobody asks for
        self.registry = CollectorRegistry()
        self._gauges = gauges
        self._jobs = Counter(
            "sandboxed_jobs",
            "Jobs that have a result, by status and runtime.",
            ("status", "runtime"),
            registry=self.registry,
        )
        self._retries = Counter(
            "sandboxed_retries",
            "Times that the sandbox failed a job, which was tried again.",
            registry=self.registry,
        )
        self._reaped = Counter(
            "sandboxed_leftovers_reaped",
            "Jails of dead workers that were cleared away.",
            registry=self.registry,
        )
        self._histograms = {
            field: Histogram(name, told, buckets=_SECONDS, registry=self.registry)
            for field, (name, told) in _HISTOGRAMS.items()
        }
        self._lock = threading.Lock()
        self._by_status: Tally[str] = Tally()
        self._errors: deque[dict[str, Any]] = deque(maxlen=_KEPT_ERRORS)
        self._runtimes: Collection[str] = ()
        self.registry.register(self)

    def expect(self, runtimes: Collection[str]) -> None:
        """Count the jobs of these runtimes by name, and those of others as of an unknown one.

        Each count is there from the start, as 0: Prometheus sees no growth in one that appears as 1,
        and the first failure would alert nobody.
        """
        self._runtimes = runtimes
        for runtime in (*runtimes, _UNKNOWN):
            for status in Status:
                self._jobs.labels(status.value, runtime)

    def take(self, record: Record) -> None:
        """Count one report."""
        if "reaped" in record:
            self._reaped.inc(record["reaped"])
            return
        if "error" in record:
            with self._lock:
                self._errors.append({"at": time.time(), "id": record["id"], "error": record["error"]})
        if "retry" in record:
            self._retries.inc()
            return
        # A name that no runtime has would make a series of its own for each caller's whim.
        runtime = record["runtime"] if record["runtime"] in self._runtimes else _UNKNOWN
        self._jobs.labels(record["status"], runtime).inc()
        with self._lock:
            self._by_status[record["status"]] += 1
        ran = record["status"] not in (Status.INVALID_JOB, Status.INTERNAL_ERROR)
        for field, histogram in self._histograms.items():
            if record[field] is not None and (ran or field == "queue_time"):
                histogram.observe(record[field])

    def collect(self) -> Iterator[Metric]:
        """Give the gauges to the registry, which calls this for each scrape."""
        for (name, told), value in self._gauges().items():
            yield GaugeMetricFamily(name, told, value)

    def counts(self) -> dict[str, int]:
        """Give how many jobs ended in each status."""
        with self._lock:
            return dict(self._by_status)

    def last_errors(self) -> list[dict[str, Any]]:
        """Give the last failures of the sandbox itself: when (Unix seconds), which job, why."""
        with self._lock:
            return list(self._errors)

    def serve(self, address: str, port: int) -> Callable[[], None]:
        """Answer Prometheus on `port` until what is returned is called; `OSError` if it is taken."""
        server, thread = start_http_server(port, address, self.registry)

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return stop
