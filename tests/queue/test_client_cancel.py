"""Cancelling, as Redis sees it: queued, running, done, and what is stored for each.

No worker runs; what one would store is stored by hand.
"""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from celery import Celery

from producer import Client, Job, Result, Status
from sandbox_core.wire import ATTEMPTS_PREFIX, CANCEL_PREFIX, QUEUE, RESULT_PREFIX, result_to_json
from worker.settings import broker_url

OK = Result(Status.OK, exit_code=0, stdout=b"hi\n")


@pytest.fixture
def server(redis_url: str) -> Iterator[redis.Redis]:
    """Connect to Redis; the queue is empty before and after."""
    with redis.Redis.from_url(redis_url) as server:
        server.delete(QUEUE)
        yield server
        server.delete(QUEUE)


@pytest.fixture
def client(redis_url: str) -> Iterator[Client]:
    """Make a client with little patience."""
    with Client(redis_url, timeout=5) as client:
        yield client


def store(server: redis.Redis, job_id: str, result: Any, state: str = "SUCCESS") -> None:
    """Store and publish a result."""
    if isinstance(result, Result):
        result = result_to_json(result)
    stored = json.dumps({"status": state, "result": result})
    server.set(RESULT_PREFIX + job_id, stored)
    server.publish(RESULT_PREFIX + job_id, stored)


def test_a_queued_job_ends_at_once_when_it_is_cancelled(client: Client, server: redis.Redis) -> None:
    """No worker is needed for that; one that comes later finds the result."""
    future = client.submit(Job("pass", labels={"a": "b"}))

    assert future.cancel()
    result = future.result(1)
    assert (result.status, result.labels, result.attempts) == (Status.CANCELLED, {"a": "b"}, 0)
    assert result.submitted_at is not None
    assert future.cancelled()
    assert server.get(CANCEL_PREFIX + future.id) == b"1"
    assert server.ttl(CANCEL_PREFIX + future.id) == 86400
    assert server.ttl(RESULT_PREFIX + future.id) == 86400


def test_a_running_job_is_left_to_its_worker_to_end(client: Client, server: redis.Redis) -> None:
    """The key tells the worker; the result is the worker's."""
    future = client.submit("pass")
    server.set(ATTEMPTS_PREFIX + future.id, 1)

    assert future.cancel()
    time.sleep(0.1)
    assert not future.done()
    assert server.get(CANCEL_PREFIX + future.id) == b"1"
    store(server, future.id, Result(Status.CANCELLED))
    assert future.result(5).status is Status.CANCELLED


def test_a_job_that_is_done_is_not_cancelled(client: Client, server: redis.Redis) -> None:
    """Neither with the future at hand, nor by the id alone."""
    future = client.submit("pass")
    store(server, future.id, OK)
    future.result(5)

    assert not future.cancel()
    assert not client.cancel(future.id)
    assert not future.cancelled()
    assert future.result(0) == OK
    assert not server.exists(CANCEL_PREFIX + future.id)


def test_a_failure_that_celery_stored_is_not_overwritten(client: Client, server: redis.Redis) -> None:
    """A script's output can't pass for Celery's own status either."""
    failed, running = client.submit_all(["a", "b"])
    store(server, failed.id, {"exc_type": "RuntimeError"}, "FAILURE")
    store(server, running.id, {"stdout": '"status": "SUCCESS"'}, "STARTED")

    assert not client.cancel(failed.id)
    assert client.cancel(running.id)


def test_a_retry_waiting_in_the_queue_is_cancelled_by_its_worker(
    client: Client, server: redis.Redis
) -> None:
    """It was taken before, so the ledger of attempts knows it."""
    future = client.submit("pass")
    store(server, future.id, {"exc_type": "RuntimeError"}, "RETRY")
    server.set(ATTEMPTS_PREFIX + future.id, 1)

    assert future.cancel()
    assert not future.done()


def test_an_id_is_enough_to_cancel(client: Client, redis_url: str) -> None:
    """Another process can do it."""
    future = client.submit("pass")
    with Client(redis_url) as other:
        assert other.cancel(future.id)

    assert future.result(1).status is Status.CANCELLED


def test_celery_reads_a_cancelled_job_too(client: Client, redis_url: str) -> None:
    """Whoever waits through Celery gets the same result."""
    future = client.submit("pass")
    future.cancel()
    app = Celery(backend=broker_url(redis_url), set_as_current=False)

    assert app.AsyncResult(future.id).get(timeout=5)["status"] == "cancelled"
    app.backend.result_consumer.stop()
    app.backend.client.close()
