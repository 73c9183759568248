"""The jails of a worker process: one `Sandbox` for each, following Celery's pools.

prefork makes a `Sandbox` of one slot in every pool process; solo is one such process; threads share
a `Sandbox` with a slot for each. A worker on a host that can't make one doesn't start.
"""

import mmap
import tempfile
import threading
from typing import Any

from celery import concurrency, signals

from sandbox_core.errors import SandboxError
from sandbox_core.sandbox import Sandbox
from worker.reports import Reports
from worker.settings import Settings
from worker.watch import refuse

_THREADS = "celery.concurrency.thread"
#: Pools by the module of their class, each with one job at a time in a process.
_ONE_JOB = ("celery.concurrency.prefork", "celery.concurrency.solo")


class Jails:
    """This process's `Sandbox`, made on first need; `close` it, and the next need makes another."""

    def __init__(self, settings: Settings, reports: Reports) -> None:
        self.slots = 1
        #: What `check` has found on this host, for `inspect`.
        self.found: dict[str, Any] = {}
        self._settings = settings
        self._reports = reports
        # How often `recycle` was called: memory that a pool's processes share with the main one.
        self._recycled = mmap.mmap(-1, 8)
        self._heeded = bytes(8)
        self._sandbox: Sandbox | None = None
        self._lock = threading.Lock()

    def open(self) -> Sandbox:
        """Give the `Sandbox`; `SandboxError` where this host can't have one."""
        with self._lock:
            if self._sandbox is None:
                self._sandbox = self._make(self.slots)
                self._reports.reaped(self._sandbox.reaped)
                self._heeded = self._recycled[:]
            if self._heeded != self._recycled[:]:
                self._heeded = self._recycled[:]
                self._sandbox.recycle()
            return self._sandbox

    def recycle(self) -> None:
        """Have every process of the worker make new warm interpreters before its next job."""
        self._recycled[:] = (int.from_bytes(self._recycled[:], "big") + 1).to_bytes(8, "big")

    def close(self) -> None:
        """Take down all jails of this process."""
        with self._lock:
            if self._sandbox is not None:
                self._sandbox.close()
                self._sandbox = None

    def check(self) -> None:
        """Make a `Sandbox` and look at its walls; `SandboxError` or `ValueError` say what is amiss."""
        with self._make(1) as sandbox:
            walls = sandbox.self_test()
            self._reports.reaped(sandbox.reaped)
            self.found = {
                "runtimes": sandbox.runtimes.names(),
                "cgroup": sandbox.hierarchy.description,
                "walls": {wall.name: wall.found for wall in walls},
            }

    def _make(self, slots: int) -> Sandbox:
        return Sandbox(runtimes=self._settings.runtimes, slots=slots, maxima=self._settings.maxima)


def follow_celery(jails: Jails) -> None:
    """Open and close `jails` with Celery's pools, and refuse to start where there can be none."""

    def worker_init(sender: Any, **_: Any) -> None:
        pool = _module(sender.pool_cls)
        if pool not in (*_ONE_JOB, _THREADS):
            refuse(f"the pool {pool.rpartition('.')[2]} can't run jobs; use prefork or threads")
        try:
            tempfile.gettempdir()  # where Celery's pool keeps a file; the error names the places
            jails.check()
        except (SandboxError, ValueError, OSError) as error:
            refuse(f"this host can't run jobs: {error}")

    def celeryd_after_setup(instance: Any, **_: Any) -> None:
        # The concurrency is known from here on; a pool of processes has not forked yet.
        if _module(instance.pool_cls) == _THREADS:
            jails.slots = instance.concurrency
            jails.open()

    def worker_process_init(**_: Any) -> None:
        jails.open()  # now, so that the first job doesn't wait for it

    def close(**_: Any) -> None:
        jails.close()

    for signal, receiver in (
        (signals.worker_init, worker_init),
        (signals.celeryd_after_setup, celeryd_after_setup),
        (signals.worker_process_init, worker_process_init),
        (signals.worker_process_shutdown, close),
        (signals.worker_shutdown, close),
    ):
        signal.connect(receiver, weak=False)


def _module(pool: Any) -> str:
    """Name the module of a pool that may be a class or one of Celery's aliases."""
    module: str = concurrency.get_implementation(pool).__module__
    return module
