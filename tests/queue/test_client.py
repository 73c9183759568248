"""The client against a real Redis; results are stored by hand, by Celery's own backend."""

import base64
import concurrent.futures
import gc
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from celery import Celery

from producer import Client, Future, Job, Limits, Result, Status
from sandbox_core.wire import ATTEMPTS_PREFIX, CANCEL_PREFIX, QUEUE, RESULT_PREFIX, result_to_json
from worker.settings import broker_url

# Celery's backend, which the tests store results with, calls what redis-py has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")


class Hands:
    """A worker played by hand: takes messages from the queue and stores what the test says."""

    def __init__(self, url: str) -> None:
        self.redis = redis.Redis.from_url(url)
        self.celery = Celery(broker=broker_url(url), backend=broker_url(url), set_as_current=False)

    def take(self, timeout: float = 5) -> dict[str, Any]:
        """Take the next message, with its body read."""
        taken = self.redis.brpop([QUEUE], timeout=timeout)
        assert taken, "nothing was submitted"
        message: dict[str, Any] = json.loads(taken[1])
        message["body"] = json.loads(base64.b64decode(message["body"]))
        return message

    def store(self, job_id: str, result: Any, state: str = "SUCCESS") -> None:
        """Store a result as a worker does."""
        if isinstance(result, Result):
            result = result_to_json(result)
        self.celery.backend.store_result(job_id, result, state)

    def store_silently(self, job_id: str, result: Result) -> None:
        """Store a result whose message on the channel is lost."""
        stored = {"status": "SUCCESS", "result": result_to_json(result)}
        self.redis.set(RESULT_PREFIX + job_id, json.dumps(stored))

    def answer(self, result: Result) -> dict[str, Any]:
        """Take one job and store `result` for it."""
        message = self.take()
        self.store(message["headers"]["id"], result)
        return message


@pytest.fixture
def hands(redis_url: str) -> Iterator[Hands]:
    """Play a worker by hand, at an empty queue."""
    hands = Hands(redis_url)
    hands.redis.delete(QUEUE)
    yield hands
    hands.redis.delete(QUEUE)
    hands.celery.close()
    hands.celery.backend.client.close()
    hands.redis.close()


@pytest.fixture
def client(redis_url: str) -> Iterator[Client]:
    """Make a client with little patience."""
    with Client(redis_url, timeout=5) as client:
        yield client


def in_background(work: Callable[[], object]) -> threading.Thread:
    """Start `work` in a thread."""
    thread = threading.Thread(target=work)
    thread.start()
    return thread


OK = Result(Status.OK, exit_code=0, stdout=b"hi\n")


# What is sent.


def test_a_message_has_every_field_that_celery_sends(client: Client, hands: Hands) -> None:
    """Put in Redis by Celery and by us, the same job differs in nothing that means anything."""
    job = {"source": "print(1)"}
    hands.celery.send_task("sandboxed.run", args=[job], queue=QUEUE)
    client.submit(Job("print(1)"))
    theirs, ours = hands.take(), hands.take()
    ids = [message["headers"]["id"] for message in (theirs, ours)]

    assert ours["headers"].pop("submitted_at") == pytest.approx(time.time(), abs=5)
    assert ours["headers"].pop("argsrepr") == "python · 8 B"
    assert theirs["headers"].pop("argsrepr") == "[{'source': 'print(1)'}]"
    for message, job_id in zip((theirs, ours), ids, strict=True):
        headers, properties = message["headers"], message["properties"]
        assert headers.pop("id") == headers.pop("root_id") == job_id
        assert properties.pop("correlation_id") == job_id
        assert "@" in headers.pop("origin")
        # Both are UUIDs: of whoever waits for the result, and of this delivery.
        for name in ("reply_to", "delivery_tag"):
            assert len(properties.pop(name)) == len(job_id) == 36

    assert ours == theirs


def test_jobs_are_taken_in_the_order_of_submission(client: Client, hands: Hands) -> None:
    """One by one or in a batch, the queue is first in, first out."""
    client.submit("0")
    client.submit_all(["1", "2", "3"])
    client.submit("4")

    assert [hands.take()["body"][0][0]["source"] for _ in range(5)] == list("01234")


def test_a_batch_with_something_that_is_no_job_sends_nothing(client: Client, hands: Hands) -> None:
    """All or none."""
    with pytest.raises(TypeError, match="int"):
        client.submit_all(["pass", 5])  # type: ignore[list-item]

    assert hands.redis.llen(QUEUE) == 0


# What comes back.


def test_run_gives_the_result(client: Client, hands: Hands) -> None:
    """A str is a job of that source."""
    answering = in_background(lambda: hands.answer(OK))

    assert client.run("print('hi')") == OK
    answering.join()


def test_a_result_keeps_every_field_and_every_byte(client: Client, hands: Hands) -> None:
    """Output that is no UTF-8, files, labels, times."""
    result = Result(
        Status.NONZERO_EXIT,
        exit_code=3,
        stdout=b"\xff\x00\xfe",
        stderr="ä".encode(),
        stdout_truncated=True,
        wall_time=0.5,
        cpu_time=None,
        memory=1 << 40,
        files={"a/b.bin": b"\x80", "c.txt": b"text"},
        labels={"who": "Zoë"},
        worker="w@h",
        submitted_at=1.0,
        started_at=2.0,
        finished_at=3.0,
        attempts=2,
    )
    future = client.submit("pass")
    hands.answer(result)

    assert future.result(5) == result


def test_a_result_arrives_without_anybody_waiting(client: Client, hands: Hands) -> None:
    """`done` and callbacks need no wait."""
    called = threading.Event()
    future = client.submit("pass")
    future.add_done_callback(lambda _: called.set())
    assert not future.done()
    hands.answer(OK)

    assert called.wait(5)
    assert future.done()
    assert future.result(0) == OK


def test_futures_work_with_concurrent_futures(client: Client, hands: Hands) -> None:
    """`as_completed` and `wait` take them."""
    futures = client.submit_all(["a", "b", "c"])
    messages = [hands.take() for _ in futures]
    for message in reversed(messages):
        hands.store(message["headers"]["id"], OK)

    done = list(concurrent.futures.as_completed(futures, timeout=5))

    assert {future.id for future in futures} == {future.id for future in done}  # type: ignore[attr-defined]
    assert concurrent.futures.wait(futures, timeout=5).not_done == set()


def test_a_result_whose_message_was_lost_is_found(client: Client, hands: Hands) -> None:
    """Pub/sub promises nothing; the result itself is looked up every second."""
    future = client.submit("pass")
    time.sleep(0.2)  # past the look-up that begins the listening
    assert not future.done()
    hands.store_silently(hands.take()["headers"]["id"], OK)

    assert future.result(3) == OK


def test_results_flow_again_after_the_listening_connection_is_cut(client: Client, hands: Hands) -> None:
    """A new connection subscribes, and looks up what was missed."""
    future = client.submit("pass")
    time.sleep(0.2)
    hands.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    hands.answer(OK)

    assert future.result(3) == OK


def test_a_failure_of_celery_is_an_internal_error(client: Client, hands: Hands) -> None:
    """The worker could not even say what went wrong."""
    future = client.submit(Job("pass", labels={"a": "b"}))
    hands.store(hands.take()["headers"]["id"], RuntimeError("lost"), "FAILURE")

    result = future.result(5)

    assert result.status is Status.INTERNAL_ERROR
    assert result.error == "RuntimeError: lost"
    assert result.labels == {"a": "b"}


def test_a_retry_is_not_the_end(client: Client, hands: Hands) -> None:
    """What Celery stores between two attempts is no result."""
    future = client.submit("pass")
    job_id = hands.take()["headers"]["id"]
    hands.store(job_id, RuntimeError("again"), "RETRY")
    time.sleep(0.2)
    assert not future.done()
    hands.store(job_id, OK)

    assert future.result(5) == OK


def test_two_clients_get_each_their_own(client: Client, hands: Hands, redis_url: str) -> None:
    """Two in one process, and many threads on one of them."""
    with Client(redis_url, timeout=5) as other:
        pairs = [
            (f"{name} {number}", client_of.submit(f"{name} {number}"))
            for number in range(5)
            for name, client_of in (("one", client), ("other", other))
        ]
        for _ in pairs:
            message = hands.take()
            source = message["body"][0][0]["source"]
            hands.store(message["headers"]["id"], Result(Status.OK, stdout=source.encode()))

        assert all(future.result(5).text == source for source, future in pairs)


def test_threads_share_a_client(client: Client, hands: Hands) -> None:
    """Eight threads wait at once, each gets the answer to its own question."""
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            if hands.redis.llen(QUEUE):
                message = hands.take()
                source = message["body"][0][0]["source"]
                hands.store(message["headers"]["id"], Result(Status.OK, stdout=source.encode()))
            else:
                time.sleep(0.001)

    serving = in_background(serve)
    try:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            sources = [f"job {number}" for number in range(80)]
            results = list(pool.map(client.run, sources))
    finally:
        stop.set()
        serving.join()

    assert [result.text for result in results] == sources


# Futures made later, from an id.


def test_an_id_is_enough_to_wait_for_a_job_of_another_client(
    client: Client, hands: Hands, redis_url: str
) -> None:
    """Before it is done, and after."""
    with Client(redis_url) as submitter:
        job_id = submitter.submit("pass").id
    before = client.future(job_id)
    assert (before.id, before.job, before.done()) == (job_id, None, False)
    time.sleep(0.3)
    started = time.monotonic()
    hands.answer(OK)

    assert before.result(5) == OK
    assert time.monotonic() - started < 0.5  # published, not looked up
    assert client.future(job_id).result(0) == OK


def test_an_id_of_our_own_is_the_same_future(client: Client) -> None:
    """While it is not done, there is one future for a job."""
    future = client.submit("pass")

    assert client.future(future.id) is future


# Waits end.


def test_a_wait_that_is_over_tells_how_the_job_stands(client: Client, hands: Hands) -> None:
    """How many wait, where, and what may be missing."""
    futures = client.submit_all(["pass"] * 3)

    with pytest.raises(
        TimeoutError, match=r"within 0\.2 s: at least 3 jobs wait .*is a worker running"
    ):
        futures[0].result(0.2)

    for _ in futures:
        hands.take()
    with pytest.raises(TimeoutError, match="is empty"):
        futures[0].result(0)
    hands.redis.set(ATTEMPTS_PREFIX + futures[0].id, 1)
    with pytest.raises(TimeoutError, match="a worker has taken it"):
        futures[0].result(0)


def test_a_wait_without_a_timeout_ends_by_the_clients_own(hands: Hands, redis_url: str) -> None:
    """The job's wall limit, and the client's timeout on top."""
    with Client(redis_url, timeout=0.1) as client:
        future = client.submit(Job("pass", limits=Limits(wall_time=0.2)))
        started = time.monotonic()

        with pytest.raises(TimeoutError, match=r"within 0\.3 s"):
            future.result()

    assert 0.3 <= time.monotonic() - started < 2
    assert hands.redis.llen(QUEUE) == 1


def test_run_cancels_the_job_that_nobody_waits_for_any_more(client: Client, hands: Hands) -> None:
    """The caller of `run` has no id to cancel it by."""
    with pytest.raises(TimeoutError):
        client.run("pass", timeout=0.1)

    assert hands.redis.exists(CANCEL_PREFIX + hands.take()["headers"]["id"])


def test_exception_tells_what_result_would_raise(client: Client, hands: Hands) -> None:
    """None where there is a result."""
    future = client.submit("pass")
    with pytest.raises(TimeoutError):
        future.exception(0.05)
    hands.answer(OK)

    assert future.exception(5) is None


# Its end.


def test_a_closed_client_fails_what_is_outstanding(redis_url: str) -> None:
    """A wait must not last until its timeout for nothing."""
    with Client(redis_url) as client:
        future = client.submit("pass")

    with pytest.raises(RuntimeError, match="closed"):
        future.result()
    with pytest.raises(RuntimeError, match="closed"):
        client.submit("pass")
    client.close()


def test_closing_ends_the_thread_at_once(redis_url: str) -> None:
    """Though it is in the middle of a read."""
    with Client(redis_url) as client:
        client.submit("pass")
        time.sleep(0.1)
        started = time.monotonic()
    assert time.monotonic() - started < 0.5
    assert not [thread for thread in threading.enumerate() if thread.name == "sandboxed results"]


def test_a_client_that_is_dropped_leaves_no_thread(hands: Hands, redis_url: str) -> None:
    """Without `with` or `close`, once its futures are done."""
    future = Client(redis_url).submit("pass")
    hands.answer(OK)
    future.result(5)
    del future
    gc.collect()

    deadline = time.monotonic() + 3
    while [thread for thread in threading.enumerate() if thread.name == "sandboxed results"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


_FORKING = """
import os, sys
from producer import Client
client = Client(timeout=5)
client.run("parent before")
child = os.fork()
if child == 0:
    os._exit(0 if client.run("child").ok else 1)
client.run("parent after")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_client_works_on_both_sides_of_a_fork(hands: Hands, redis_url: str) -> None:
    """A server that forks its workers may have made the client before."""
    process = subprocess.Popen(
        [sys.executable, "-c", _FORKING], env=os.environ | {"SANDBOXED_REDIS_URL": redis_url}
    )
    try:
        sources = {hands.answer(OK)["body"][0][0]["source"] for _ in range(3)}
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
    assert sources == {"parent before", "parent after", "child"}


def test_a_future_shows_its_id_and_no_source(client: Client) -> None:
    """It ends up in logs."""
    future: Future = client.submit("secret")

    assert repr(future) == f"<Future {future.id} outstanding>"
    assert "secret" not in repr(client)


def test_ids_that_can_not_be_told_apart_are_refused(redis_url: str) -> None:
    """Or one of the two who wait for the same would wait in vain."""
    known = str(uuid.uuid4())
    with Client(redis_url) as client:
        for ids in ([known, known], [known.upper(), None], ['a"b', None]):
            with pytest.raises(ValueError, match="ids: "):
                client.submit_chunks(["1", "2"], 1, ids)
        future = client.submit_chunks(["1"], 1, [known])[0]
        with pytest.raises(ValueError, match="waited for already"):
            client.submit_chunks(["1"], 1, [known])
        assert client.cancel_all([future]) == 1
