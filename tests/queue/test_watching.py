"""What can be watched of a worker: `inspect`, `control`, metrics, its log, `sandboxed top`."""

import base64
import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from worker.settings import REDIS_URL

SLEEPER = {
    "source": "import time; time.sleep(60) # HIDDEN",
    "labels": {"course": "cs1"},
    "limits": {"wall_time": 50},
}


def celery(url: str, *arguments: str) -> Any:
    """Run `celery -A worker` as an operator does, and give its answer."""
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "worker", *arguments, "--json"],
        env={**os.environ, REDIS_URL: url},
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (answer,) = json.loads(done.stdout).values()
    return answer


def ask(worker: Any, command: str) -> Any:
    """Broadcast a command as that program does, without the second that it takes to start."""
    ((answer,),) = [
        reply.values()
        for reply in worker.celery.control.broadcast(command, reply=True, timeout=10, limit=1)
    ]
    return answer


def scrape(port: int) -> dict[tuple[str, ...], float]:
    """Give the samples of a worker's metrics, by name and sorted values of their labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


# inspect and control


def test_inspect_sandbox_tells_what_a_worker_is_at(worker: Any, wait_until: Callable[..., Any]) -> None:
    """Slots, runtimes, walls, the cgroup version, counts, and the jobs in flight without sources."""
    before = ask(worker, "sandbox")["counts"].get("nonzero_exit", 0)
    worker.run("raise SystemExit(1)")
    job_id = worker.send(SLEEPER)
    worker.pool_process_of(job_id)
    found = celery(worker.url, "inspect", "sandbox")
    worker.redis.set(f"sandboxed:cancel:{job_id}", 1, ex=60)

    assert found["slots"] == 2
    assert found["taking_jobs"] is True
    assert {"python", "python-exec", "sh"} <= set(found["runtimes"])
    assert found["walls"]["no new privileges"]
    assert found["cgroup"].startswith(("v1", "v2"))
    assert found["counts"]["nonzero_exit"] == before + 1
    (job,) = found["in_flight"]
    assert (job["id"], job["job"]) == (job_id, "python · 36 B · course=cs1")
    assert job["seconds"] > 0
    assert "HIDDEN" not in json.dumps(found)
    assert worker.result(job_id)["status"] == "cancelled"
    wait_until(lambda: ask(worker, "sandbox")["counts"].get("cancelled"))


def test_a_drained_worker_takes_no_job_until_it_resumes(
    start_worker: Callable[..., Any], wait_until: Callable[..., Any]
) -> None:
    """What runs goes on to its end; what waits is not lost."""
    worker = start_worker("-c", "1")
    running = worker.send({"source": "import time; time.sleep(2)"})
    worker.pool_process_of(running)
    assert ask(worker, "drain")["ok"].startswith("takes no more jobs")
    waiting = worker.send({"source": "print('waited')"})

    assert worker.result(running)["status"] == "ok"
    assert ask(worker, "sandbox")["taking_jobs"] is False
    # It asks Redis for a job each second, if it does.
    with pytest.raises(AssertionError, match="nothing happened"):
        worker.result(waiting, timeout=2.5)
    ask(worker, "drain")  # twice is as good as once
    ask(worker, "resume")
    ask(worker, "resume")
    assert worker.result(waiting)["stdout"] == "waited\n"
    wait_until(lambda: not worker.redis.hlen("unacked"))
    assert worker.stop() == 0


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_recycling_makes_new_interpreters(start_worker: Callable[..., Any], pool: str) -> None:
    """The next job is forked from another one; a job that runs meanwhile is left alone."""
    worker = start_worker("-c", "1", "-P", pool)

    def zygotes() -> set[int]:
        return {
            int(path.parent.name)
            for path in Path("/proc").glob("[0-9]*/status")
            if descends(int(path.parent.name), worker.process.pid) and is_zygote(path.parent)
        }

    worker.run("print(1)")
    before = zygotes()
    assert before
    job_id = worker.send({"source": "import time; time.sleep(1.5)"})
    worker.running(job_id) if pool == "prefork" else None
    ask(worker, "recycle")
    assert worker.result(job_id)["status"] == "ok"
    assert worker.run("print(2)")["stdout"] == "2\n"

    assert zygotes()
    assert not zygotes() & before
    assert worker.stop() == 0


def descends(pid: int, ancestor: int) -> bool:
    """Whether a process is below another."""
    while pid > 1 and pid != ancestor:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return False
        pid = int(stat.rpartition(")")[2].split()[1])
    return pid == ancestor


def is_zygote(process: Path) -> bool:
    """Whether a process is the first of a pid namespace below ours."""
    try:
        status = (process / "status").read_text()
    except OSError:
        return False
    (line,) = [line for line in status.splitlines() if line.startswith("NSpid:")]
    return len(line.split()) == 3 and line.split()[-1] == "1"


# Metrics


def test_metrics_are_of_the_jobs_that_ran(
    start_worker: Callable[..., Any], wait_until: Callable[..., Any], free_port: Callable[[], int]
) -> None:
    """Jobs by status and runtime, histograms that add up, slots; from every process of the pool."""
    port = free_port()
    worker = start_worker("-c", "2", "--metrics-port", str(port))
    jobs = [
        worker.send({"source": "import time; time.sleep(0.2)"}, headers={"submitted_at": 1.0})
        for _ in range(4)
    ]
    jobs.append(worker.send({"source": "exit 3", "runtime": "sh"}))
    jobs.append(worker.send({"source": "", "runtime": "nobody's whim"}))
    for job_id in jobs:
        worker.result(job_id)

    def counted() -> dict[tuple[str, ...], float] | None:
        found = scrape(port)
        jobs_seen = sum(value for key, value in found.items() if key[0] == "sandboxed_jobs_total")
        return found if jobs_seen == 6 and not found[("sandboxed_slots_busy",)] else None

    seen = wait_until(counted)
    assert seen[("sandboxed_jobs_total", "ok", "python")] == 4
    assert seen[("sandboxed_jobs_total", "nonzero_exit", "sh")] == 1
    assert seen[("sandboxed_jobs_total", "invalid_job", "unknown")] == 1
    assert seen[("sandboxed_job_wall_seconds_count",)] == 5
    assert seen[("sandboxed_job_wall_seconds_sum",)] > 0.8
    assert seen[("sandboxed_job_cpu_seconds_count",)] == 5
    assert seen[("sandboxed_job_setup_seconds_count",)] == 5
    assert seen[("sandboxed_job_queue_seconds_count",)] == 4
    assert seen[("sandboxed_slots",)] == 2
    assert seen[("sandboxed_taking_jobs",)] == 1
    assert seen[("sandboxed_retries_total",)] == 0
    job_id = worker.send(SLEEPER)
    wait_until(lambda: scrape(port)[("sandboxed_slots_busy",)] == 1)
    worker.redis.set(f"sandboxed:cancel:{job_id}", 1, ex=60)
    worker.result(job_id)
    assert worker.stop() == 0


def test_a_port_that_is_taken_is_told(start_worker: Callable[..., Any]) -> None:
    """In one line, with 125: a worker that can't be watched as asked does not serve."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        worker = start_worker("-c", "1", ready=False, SANDBOXED_METRICS_PORT=str(port))
        code = worker.process.wait(60)

    assert code == 125
    assert f"sandboxed: can't serve metrics on 127.0.0.1 port {port}: " in worker.log.read_text()


# The log


def test_a_job_has_one_line_in_the_log(worker: Any) -> None:
    """With all that can be said of it, and nothing that came from its script."""
    job_id = worker.send({"source": "print('OUT' + 'PUT'); exit(3) # HIDDEN", "labels": {"a": "b\nc"}})
    worker.result(job_id)
    log = worker.log.read_text()

    (line,) = [line for line in log.splitlines() if job_id in line]
    assert f"job {job_id} · nonzero_exit · 0." in line
    assert r" · python · 38 B · a=b\nc · exit code 3 · CPU 0." in line
    assert "HIDDEN" not in log
    assert "OUTPUT" not in log


def test_the_log_as_json(start_worker: Callable[..., Any]) -> None:
    """Each line is an object; that of a job has what a person is told, and more, as fields."""
    worker = start_worker("-c", "1", SANDBOXED_LOG_FORMAT="json")
    job_id = worker.send({"source": "exit(3)", "labels": {"course": "cs1\u2028\x1b"}})
    worker.result(job_id)
    assert worker.stop() == 0
    text = worker.log.read_text()

    records = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    (record,) = [record for record in records if record.get("job", {}).get("id") == job_id]
    job = record["job"]
    assert record["level"] == "info"
    assert (job["status"], job["runtime"], job["exit_code"]) == ("nonzero_exit", "python", 3)
    assert job["labels"] == {"course": r"cs1\u2028\x1b"}
    assert 0 < job["cpu_time"] < 10
    assert not [record for record in records if "succeeded in" in record["message"]]


# sandboxed top


def test_top_shows_the_workers_and_their_jobs(worker: Any) -> None:
    """Once, for a script; a person's terminal is drawn anew every two seconds."""
    job_id = worker.send(SLEEPER)
    worker.pool_process_of(job_id)
    done = top(worker.url)
    worker.redis.set(f"sandboxed:cancel:{job_id}", 1, ex=60)

    assert done.returncode == 0, done.stderr
    assert "celery@" in done.stdout
    assert "takes jobs" in done.stdout
    assert "1/2" in done.stdout
    assert "python · 36 B · course=cs1" in done.stdout
    assert "HIDDEN" not in done.stdout
    assert worker.result(job_id)["status"] == "cancelled"


def test_top_without_a_worker_says_so(redis_url: str) -> None:
    """With exit code 1; and without Redis, with 125 and the reason in one line."""
    done = top(redis_url)
    lost = top("unix:///nowhere/redis.sock")

    assert (done.returncode, done.stdout.strip()) == (1, "no worker answers")
    assert lost.returncode == 125
    assert len(lost.stderr.strip().splitlines()) == 1


def top(url: str) -> "subprocess.CompletedProcess[str]":
    """Run `sandboxed top --once`."""
    return subprocess.run(
        [sys.executable, "-m", "sandbox_core.cli", "top", "--once", "--redis", url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_events_of_many_jobs_travel_together(start_worker: Callable[..., Any]) -> None:
    """A monitor hears of every job, in fewer messages than there are jobs."""
    running = start_worker("-c", "2")
    with running.redis.pubsub() as channel:
        channel.psubscribe("*celeryev*")
        ids = [running.send({"source": "pass"}) for _ in range(40)]
        for job_id in ids:
            running.result(job_id)
        assert running.stop() == 0, running.log.read_text()
        messages = 0
        ended: list[str] = []
        while message := channel.get_message(timeout=1):
            if message["type"] == "pmessage" and b"task" in message["channel"]:
                messages += 1
                body = base64.b64decode(json.loads(message["data"])["body"])
                ended += [
                    event["uuid"] for event in json.loads(body) if event["type"] == "task-succeeded"
                ]

    assert sorted(ended) == sorted(ids)
    assert messages < len(ids)
