"""The Celery application (`celery -A worker …` finds it here), and every setting with its reason.

It is made from the environment where this module is imported, which only Celery's commands and the
worker's own do.
"""

import os
import warnings
from typing import Any

import click
from celery import Celery, signals
from celery.exceptions import CPendingDeprecationWarning, SecurityWarning

from sandbox_core.wire import QUEUE
from worker.events import GatherEvents
from worker.settings import Settings, broker_url
from worker.watch import WatchStep

#: Seconds that anything of Redis may take to answer before its connection counts as dead.
_REDIS_TIMEOUT = 30.0
_CONNECT_TIMEOUT = 5.0
_HEALTH_CHECK = 25

#: Seconds from a job's deadline to where something is wrong with the worker itself: making the
#: jail, killing it, and storing a large result are in it.
_GRACE = 60.0


def longest_run(settings: Settings) -> float:
    """Give the seconds after which no job runs any more, its worker's own work included."""
    return settings.max_wall_time + _GRACE


def configuration(settings: Settings) -> dict[str, Any]:
    """Give Celery's settings for what the operator chose."""
    url = broker_url(settings.redis_url)
    is_socket = url.startswith("redis+socket:")
    # A job that runs for longer than this is delivered a second time while it runs (kombu's Redis
    # transport knows no heartbeat), so it is twice the longest that a job may take in all.
    visibility_timeout = 2 * longest_run(settings)
    return {
        # Where the queue and the results are.
        "broker_url": url,
        "result_backend": url,
        # JSON alone, in every direction: a pickle from the queue would be code that root runs.
        "accept_content": ["json"],
        "result_accept_content": ["json"],
        "task_serializer": "json",
        "result_serializer": "json",
        "event_serializer": "json",
        # The queue of the contract, a list of this name in Redis.
        "task_default_queue": QUEUE,
        # The modules with tasks, imported when Celery wants them.
        "include": ["worker.tasks", "worker.chunks", "worker.pairs"],
        #
        # No job is lost, none runs twice.
        #
        # The message is acknowledged when its result is stored; a worker that dies before gives the
        # job back.
        "task_acks_late": True,
        # A pool process killed under a job: the job is run again, not marked as failed. Attempts
        # are counted (worker.ledger), so that this ends.
        "task_reject_on_worker_lost": True,
        # A task that failed is done: its failure is stored. Only a lost worker gives a job back.
        "task_acks_on_failure": True,
        "task_acks_on_timeout": True,
        # No job waits behind another one in a worker while a second worker is idle.
        "worker_prefetch_multiplier": 1,
        # Nor is one fetched ahead: with late acknowledgement one would wait in each pool process.
        "worker_disable_prefetch": True,
        # A dropped connection to Redis doesn't stop a running job: its result can still be stored,
        # and the second delivery waits for it (worker.ledger).
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        #
        # Results.
        #
        # Long enough to fetch a result, short enough that Redis holds them all.
        "result_expires": settings.result_expires,
        # Redis away for a while when a job ends: store its result again, for some minutes.
        "result_backend_always_retry": True,
        "result_backend_max_retries": 30,
        # A failure to run at all must be seen, even by a caller who wants no results.
        "task_store_errors_even_if_ignored": True,
        # STARTED would be one more write for each job, and a job is short.
        "task_track_started": False,
        #
        # Time limits and shutdown.
        #
        # Only a backstop for a hung pool process: the jail's own deadline is what ends a job.
        "task_time_limit": longest_run(settings),
        # After a cold stop (SIGQUIT), jobs of the default length end; the others go back to the
        # queue. Celery sleeps through all of it whenever a job was running, so it is short.
        "worker_soft_shutdown_timeout": 10.0,
        # A pool process starts its jails' interpreters before it counts as alive; 4 s is too little
        # for many of them on few processors.
        "worker_proc_alive_timeout": 60.0,
        # Whatever leaks in a pool process goes with it; a new one costs less than a second.
        "worker_max_tasks_per_child": 10_000,
        #
        # Redis as the broker.
        #
        "broker_transport_options": {
            "visibility_timeout": visibility_timeout,
            # The sweep for messages whose worker died: kombu's own is one in 100 s.
            "unacked_restore_interval": 5,
            "unacked_restore_throttle": 1,
            # Without these a connection that died silently is waited on for ever.
            "socket_timeout": _REDIS_TIMEOUT,
            "socket_connect_timeout": _CONNECT_TIMEOUT,
            "socket_keepalive": True,
            "health_check_interval": _HEALTH_CHECK,
        },
        "broker_connection_timeout": _CONNECT_TIMEOUT,
        # A worker may start before its Redis does, and outlive any outage of it.
        "broker_connection_retry": True,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        # Looks for a kind of queue that only RabbitMQ has.
        "worker_detect_quorum_queues": False,
        #
        # Redis as the result store.
        #
        # Celery documents that both sides should agree on it.
        "result_backend_transport_options": {"visibility_timeout": visibility_timeout},
        "redis_socket_timeout": _REDIS_TIMEOUT,
        "redis_socket_connect_timeout": _CONNECT_TIMEOUT,
        # redis-py has no such option for a unix socket, and says so with a TypeError.
        "redis_socket_keepalive": not is_socket,
        "redis_backend_health_check_interval": _HEALTH_CHECK,
        #
        # What can be watched.
        #
        # `celery -A worker inspect` and `control`; messages are JSON here too.
        "worker_enable_remote_control": True,
        # `celery -A worker events` and Flower show nothing without them.
        "worker_send_task_events": True,
    }


def _worker_starts(**_: Any) -> None:
    from worker.broker import mend  # noqa: PLC0415  # only a worker needs it

    mend()
    # It is root because only root makes jails; what makes that dangerous, pickle, is refused above.
    warnings.filterwarnings("ignore", r"You're running the worker with superuser", SecurityWarning)


def _log_is_set_up(**_: Any) -> None:
    # worker_cancel_long_running_tasks_on_connection_loss was decided above. Only now, since Celery
    # turns such warnings on when it sets up its log.
    warnings.filterwarnings("ignore", r"\s*In Celery 5\.1 we intro", CPendingDeprecationWarning)


signals.celeryd_init.connect(_worker_starts)
signals.celeryd_after_setup.connect(_log_is_set_up)

settings = Settings.from_environment(os.environ)

#: Not the process's current app: importing this changes nothing for a Celery user's own app.
app = Celery("sandboxed", set_as_current=False)
app.conf.update(configuration(settings))
app.user_options["worker"].add(
    click.Option(
        ["--metrics-port"],
        type=click.IntRange(1, 65535),
        help="Serve Prometheus metrics on this port.  [default: $SANDBOXED_METRICS_PORT]",
    )
)
app.steps["worker"].add(WatchStep)
app.steps["consumer"].add(GatherEvents)
