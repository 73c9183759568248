"""What a worker does when it, its pool, its Redis or its queue have a fault: no job is lost or doubled."""

import base64
import json
import os
import pickle
import signal
import subprocess
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import psutil
import pytest
import redis
from kombu import Connection

from sandbox_core.wire import ATTEMPTS_PREFIX, QUEUE, RESULT_PREFIX, TASK
from worker import ledger
from worker.settings import broker_url

SLEEP = "import time; time.sleep(2)"


def attempts(worker: Any, job_id: str) -> int:
    """Give how often a job was taken."""
    return int(worker.redis.get(ATTEMPTS_PREFIX + job_id))


def test_a_job_whose_pool_process_is_killed_runs_again(worker: Any) -> None:
    """Once, and at once; the result tells."""
    job_id = worker.send({"source": SLEEP})
    os.kill(worker.pool_process_of(job_id), signal.SIGKILL)
    result = worker.result(job_id)

    assert (result["status"], result["attempts"]) == ("ok", 2)


def test_a_job_whose_zygote_is_killed_runs_again(worker: Any) -> None:
    """The sandbox itself failed, which is what a retry is for."""
    job_id = worker.send({"source": SLEEP})
    pool_process = worker.pool_process_of(job_id)
    deadline = time.monotonic() + 10
    # One that dies before the job was handed over is replaced unnoticed: nothing of it has run. After
    # that, a second jail is made for the job to come, and each jail has an init and one process more.
    while time.monotonic() < deadline:
        if any(len(children(zygote)) >= 4 for zygote in children(pool_process)):
            break
        time.sleep(0.02)
    for zygote in children(pool_process):
        os.kill(zygote, signal.SIGKILL)
    result = worker.result(job_id)

    assert (result["status"], result["attempts"]) == ("ok", 2)


def children(pid: int) -> list[int]:
    """Give the processes that a process has started, the newest last; none where it has ended."""
    with suppress(psutil.NoSuchProcess):
        return [child.pid for child in psutil.Process(pid).children()]
    return []


def test_a_job_that_kills_its_worker_does_not_do_so_for_ever(worker: Any) -> None:
    """After three attempts it ends, and the worker is free."""
    job_id = str(uuid.uuid4())
    worker.redis.set(ATTEMPTS_PREFIX + job_id, 3)
    worker.send({"source": "print(1)", "labels": {"a": "b"}}, task_id=job_id)
    result = worker.result(job_id)

    assert (result["status"], result["attempts"]) == ("internal_error", 3)
    assert "3 times" in result["error"]
    assert result["labels"] == {"a": "b"}


def test_a_job_delivered_again_after_its_end_does_not_run(
    worker: Any, wait_until: Callable[..., Any]
) -> None:
    """Its result stays as it was."""
    job_id = worker.send({"source": "import random; print(random.random())"})
    first = worker.result(job_id)
    worker.send({"source": "import random; print(random.random())"}, task_id=job_id)
    wait_until(lambda: attempts(worker, job_id) == 2)
    wait_until(lambda: not worker.redis.hlen("unacked"))

    assert worker.result(job_id) == first


def test_a_job_delivered_again_while_it_runs_does_not_run_twice(
    worker: Any, wait_until: Callable[..., Any]
) -> None:
    """The second delivery waits, and finds the result of the first."""
    job_id = worker.send({"source": SLEEP})
    worker.pool_process_of(job_id)
    worker.send({"source": SLEEP}, task_id=job_id)
    result = worker.result(job_id)
    wait_until(lambda: not worker.redis.hlen("unacked"))

    assert (result["status"], result["attempts"]) == ("ok", 1)
    assert f"{job_id}] ignored" in worker.log.read_text()


def test_a_lost_connection_does_not_run_a_job_twice(
    worker: Any, wait_until: Callable[..., Any]
) -> None:
    """Celery puts the job back into the queue, while it runs."""
    job_id = worker.send({"source": SLEEP})
    worker.pool_process_of(job_id)
    worker.redis.client_kill_filter(_type="normal", skipme=True)
    worker.redis.client_kill_filter(_type="pubsub")
    result = worker.result(job_id)

    assert (result["status"], result["attempts"]) == ("ok", 1)
    assert worker.run("print(1)")["stdout"] == "1\n"
    wait_until(lambda: not worker.redis.hlen("unacked"))
    assert attempts(worker, job_id) == 2  # the second delivery, which found the result


def test_a_worker_outlives_its_redis(
    start_worker: Callable[..., Any], tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    """A job that runs while Redis dies has its result stored when it is back."""
    with Server(tmp_path, wait_until) as server:
        worker = start_worker("-c", "1", url=server.url)
        job_id = worker.send({"source": SLEEP})
        worker.pool_process_of(job_id)
        server.kill()
        time.sleep(1)
        server.start()

        assert worker.result(job_id)["attempts"] == 1
        assert worker.run("print(1)")["stdout"] == "1\n"
        assert worker.stop() == 0


class Server:
    """A Redis that can be killed and started again with what it had."""

    def __init__(self, folder: Path, wait_until: Callable[..., Any]) -> None:
        self.folder = folder
        self.wait_until = wait_until
        self.url = f"unix://{folder}/redis"

    def start(self) -> None:
        """Start it; what it has written is read again."""
        from worker.redis_server import server_binary  # noqa: PLC0415  # for this one test

        self.process = subprocess.Popen(
            [
                *(server_binary(), "--port", "0", "--unixsocket", f"{self.folder}/redis"),
                *("--dir", str(self.folder), "--appendonly", "yes", "--appendfsync", "always"),
            ],
            stdout=subprocess.DEVNULL,
        )
        with redis.Redis.from_url(self.url) as client:
            self.wait_until(lambda: answers(client))

    def kill(self) -> None:
        """End it without warning."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def answers(client: Any) -> bool:
    """Whether a Redis is there, with all that it had."""
    try:
        return bool(client.ping())
    except (redis.ConnectionError, redis.BusyLoadingError):
        return False


def test_pickle_is_refused(worker: Any, tmp_path: Path, wait_until: Callable[..., Any]) -> None:
    """The worker is root, and a pickle would be its code."""
    ran = tmp_path / "ran"

    class Attack:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.system, (f"touch {ran}",)

    job_id = str(uuid.uuid4())
    with Connection(broker_url(worker.url)) as connection:
        connection.Producer().publish(
            pickle.dumps(([Attack()], {}, {})),
            content_type="application/x-python-serialize",
            content_encoding="binary",
            routing_key=QUEUE,
            headers={"task": TASK, "id": job_id},
        )
    wait_until(lambda: not worker.redis.llen(QUEUE) and not worker.redis.hlen("unacked"))

    assert worker.run("print(1)")["stdout"] == "1\n"
    assert not ran.exists()
    assert worker.redis.get(RESULT_PREFIX + job_id) is None


def message(**headers: object) -> dict[str, Any]:
    """Give a message as kombu writes it, with the headers of a task that plain Celery would send."""
    body = base64.b64encode(json.dumps([[{"source": "# HIDDEN"}], {}, {}]).encode()).decode()
    return {
        "body": body,
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"task": TASK, "id": str(uuid.uuid4()), "argsrepr": "HIDDEN", **headers},
        "properties": {
            "body_encoding": "base64",
            "delivery_info": {"exchange": "", "routing_key": QUEUE},
            "delivery_tag": str(uuid.uuid4()),
        },
    }


@pytest.mark.parametrize(
    "poison",
    [
        "garbage # HIDDEN",
        json.dumps({**message(), "body": base64.b64encode(b'{"a": "HIDDEN"}').decode()}),
        json.dumps({**message(), "body": base64.b64encode(b"not JSON: HIDDEN").decode()}),
        json.dumps({**message(), "content-type": "application/x-yaml"}),
        json.dumps({**message(), "headers": {"argsrepr": "HIDDEN"}}),
        json.dumps({**message(), "body": base64.b64encode(b"17").decode()}),
        json.dumps(message(id={"a": 1})),
        json.dumps(message(timelimit=["never", "ever"])),
        json.dumps(message(eta="yesterday")),
        json.dumps(message(task="unknown")),
    ],
    ids="garbage object text yaml bare number id timelimit eta unknown".split(),
)
def test_a_poisoned_message_does_not_end_the_worker(
    worker: Any, poison: str, wait_until: Callable[..., Any]
) -> None:
    """It is dropped, and does not come back; its content is told nobody, in a line of the log neither."""
    told = len(worker.log.read_text())
    worker.redis.lpush(QUEUE, poison)
    wait_until(lambda: not worker.redis.llen(QUEUE) and not worker.redis.hlen("unacked"))

    assert worker.run("print(1)")["stdout"] == "1\n"
    assert worker.process.poll() is None
    assert "HIDDEN" not in worker.log.read_text()[told:]


# The ledger by itself.


def test_a_mark_of_a_dead_process_is_taken_over(worker: Any) -> None:
    """One of another host is waited for; its end is near."""
    client, job_id = worker.redis, str(uuid.uuid4())
    process = subprocess.Popen(["sleep", "60"])
    here, _, _, name = ledger.new_runner().split(" ")
    started = Path(f"/proc/{process.pid}/stat").read_text().split()[21]
    dead = f"{here} {process.pid} {started} {name}"
    ledger.take(client, job_id, dead, longest=60, expires=60)

    assert take(client, job_id).running
    process.kill()
    process.wait()
    assert not take(client, job_id).running
    client.set(ledger.RUNNING_PREFIX + job_id, dead.replace(here, "elsewhere"))
    assert take(client, job_id).running


def test_asking_the_ledger_again_is_no_second_delivery(worker: Any) -> None:
    """The answer may be lost on its way, and then the same run asks once more."""
    job_id, runner = str(uuid.uuid4()), ledger.new_runner()
    for _ in range(2):
        taken = ledger.take(worker.redis, job_id, runner, longest=60, expires=60)

    assert not taken.running


def take(client: Any, job_id: str) -> ledger.Taken:
    """Take a job as this process does."""
    return ledger.take(client, job_id, ledger.new_runner(), longest=60, expires=60)
