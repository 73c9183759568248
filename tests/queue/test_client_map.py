"""`Client.map`: any number of jobs, few in flight, results as they finish.

Jobs are answered by a thread that stores results the way Celery's Redis backend does, so that
thousands of them take no time.
"""

import base64
import itertools
import json
import threading
import time
from collections.abc import Iterable, Iterator

import pytest
import redis

from producer import Client, Job, Limits, Result, Status
from sandbox_core.wire import (
    CANCEL_PREFIX,
    QUEUE,
    RESULT_PREFIX,
    TASK_MANY,
    job_from_json,
    result_to_json,
)


class Answering(threading.Thread):
    """Answers each job with its own source as output, up to eight messages of them backwards.

    A job whose source is "stuck" is never answered.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self._redis = redis.Redis.from_url(url)
        self._ending = threading.Event()
        self.answered = 0

    def run(self) -> None:
        """Answer until stopped."""
        while not self._ending.is_set():
            taken = self._redis.rpop(QUEUE, 8)
            if not taken:
                time.sleep(0.002)
                continue
            with self._redis.pipeline(transaction=False) as pipeline:
                for job_id, job in jobs_of(reversed(taken)):
                    if job.source == "stuck":
                        continue
                    result = Result(Status.OK, stdout=str(job.source).encode(), labels=job.labels)
                    stored = json.dumps({"status": "SUCCESS", "result": result_to_json(result)})
                    key = RESULT_PREFIX + job_id
                    pipeline.set(key, stored, ex=60)
                    pipeline.publish(key, stored)
                    self.answered += 1
                pipeline.execute()

    def stop(self) -> None:
        """End the thread."""
        self._ending.set()
        self.join()
        self._redis.close()


def jobs_of(messages: Iterable[bytes]) -> Iterator[tuple[str, Job]]:
    """Give the jobs in messages, each with its id."""
    for data in messages:
        message = json.loads(data)
        argument = json.loads(base64.b64decode(message["body"]))[0][0]
        single = [{"id": message["headers"]["id"], "job": argument}]
        for entry in argument if message["headers"]["task"] == TASK_MANY else single:
            yield entry["id"], job_from_json(entry["job"])


@pytest.fixture
def server(redis_url: str) -> Iterator[redis.Redis]:
    """Connect to Redis; the queue is empty before and after."""
    with redis.Redis.from_url(redis_url) as server:
        server.delete(QUEUE)
        yield server
        server.delete(QUEUE)


@pytest.fixture
def answering(server: redis.Redis, redis_url: str) -> Iterator[Answering]:
    """Play a quick worker."""
    assert server.llen(QUEUE) == 0
    thread = Answering(redis_url)
    thread.start()
    yield thread
    thread.stop()


@pytest.fixture
def client(redis_url: str) -> Iterator[Client]:
    """Make a client with little patience."""
    with Client(redis_url, timeout=5) as client:
        yield client


@pytest.mark.usefixtures("answering")
def test_each_job_comes_with_its_own_result(client: Client) -> None:
    """Whatever the order in which they finish; a source stands for a job."""
    jobs: list[Job | str] = [Job(f"{n}", labels={"n": str(n)}) for n in range(40)]

    pairs = list(client.map([*jobs, "by its source"]))

    assert len(pairs) == 41
    assert all(job.source == result.text and job.labels == result.labels for job, result in pairs)


@pytest.mark.usefixtures("answering")
def test_ordered_gives_them_in_the_order_of_the_input(client: Client) -> None:
    """Though they finish in another."""
    sources = [str(number) for number in range(500)]

    results = [result.text for _, result in client.map(sources, ordered=True, window=50)]

    assert results == sources


@pytest.mark.usefixtures("answering")
def test_without_order_results_come_as_they_finish(client: Client) -> None:
    """The first one never finishes, and holds up nobody."""
    results = client.map(["stuck", *map(str, range(20))], timeout=0.5)

    assert len(list(itertools.islice(results, 20))) == 20
    with pytest.raises(TimeoutError):
        next(results)


def test_ten_thousand_jobs_are_read_as_results_are_taken(client: Client, answering: Answering) -> None:
    """At no time more are read than the window holds beyond what was handed out."""
    read = 0

    def jobs() -> Iterator[str]:
        nonlocal read
        for number in range(10_000):
            read += 1
            yield str(number)

    window, taken, most = 200, 0, 0
    for _ in client.map(jobs(), window=window):
        most = max(most, read - taken)
        taken += 1

    assert taken == answering.answered == 10_000
    assert window / 2 < most <= window


@pytest.mark.usefixtures("answering")
def test_a_map_that_nobody_reads_stops_at_its_window(client: Client, server: redis.Redis) -> None:
    """Nothing starts before the first result is asked for, and little before the next."""
    source = iter(str(number) for number in range(1000))
    results = client.map(source, window=20)
    time.sleep(0.05)
    assert server.llen(QUEUE) == 0
    next(results)
    time.sleep(0.05)

    assert int(next(source)) <= 20


@pytest.mark.usefixtures("answering")
def test_an_endless_input_gives_results_at_once(client: Client) -> None:
    """There is no end to wait for."""
    results = client.map(map(str, itertools.count()), window=30)

    first = list(itertools.islice(results, 100))

    assert len({job.source for job, _ in first}) == 100


def test_leaving_early_cancels_what_is_in_flight(client: Client, server: redis.Redis) -> None:
    """The jobs end, and a worker that takes their messages finds them ended."""
    with pytest.raises(TimeoutError, match="10 jobs wait"):
        next(client.map(["pass"] * 10, timeout=0.2))

    ids = [json.loads(data)["headers"]["id"] for data in server.lrange(QUEUE, 0, -1)]  # type: ignore[union-attr]
    assert len(ids) == 10
    assert all(server.exists(CANCEL_PREFIX + job_id) for job_id in ids)
    assert client.future(ids[0]).result(0).status is Status.CANCELLED


@pytest.mark.usefixtures("answering")
def test_breaking_out_of_the_loop_cancels_too(client: Client, server: redis.Redis) -> None:
    """The generator is closed when the loop lets go of it."""
    for _ in client.map(["first", *["stuck"] * 5]):
        break

    assert len(list(server.scan_iter(f"{CANCEL_PREFIX}{client._prefix}*"))) == 5


@pytest.mark.usefixtures("answering")
def test_an_input_that_fails_ends_the_map(client: Client, server: redis.Redis) -> None:
    """The caller gets the input's own exception; what is in flight is cancelled."""

    def jobs() -> Iterator[str]:
        yield "stuck"
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        list(client.map(jobs()))

    assert server.llen(QUEUE) == 0


@pytest.mark.usefixtures("answering")
def test_a_slow_input_holds_up_no_result(client: Client) -> None:
    """What is there is submitted, and its result given, before the input has more."""
    given: list[str] = []

    def jobs() -> Iterator[str]:
        for number in range(4):
            time.sleep(0.05)
            given.append(str(number))
            yield str(number)

    lag = [len(given) - int(job.source) for job, _ in client.map(jobs())]

    assert max(lag) <= 2


@pytest.mark.usefixtures("answering")
def test_an_empty_input_gives_nothing(client: Client) -> None:
    """And waits for nothing."""
    assert list(client.map([])) == []


@pytest.mark.parametrize("window", [1, 2, 3, 7])
@pytest.mark.usefixtures("answering")
def test_small_windows_work(client: Client, window: int) -> None:
    """One at a time is a window too."""
    assert len(list(client.map(map(str, range(20)), window=window))) == 20


def test_wrong_arguments_are_told_at_once(client: Client) -> None:
    """Not at the first result."""
    with pytest.raises(ValueError, match="window"):
        client.map([], window=0)
    with pytest.raises(TypeError, match="one source text"):
        client.map("print(1)")


def test_patience_counts_from_the_last_result(client: Client, answering: Answering) -> None:
    """A long list takes longer than its timeout as a whole."""

    def jobs() -> Iterator[Job]:
        for number in range(6):
            time.sleep(0.1)
            yield Job(str(number), limits=Limits(wall_time=1))

    assert len(list(client.map(jobs(), timeout=0.3))) == answering.answered == 6
