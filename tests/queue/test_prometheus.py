"""A real Prometheus scrapes a worker: what it then answers is held against the jobs that were run.

It is Debian's, with the project's own alert rules. The dashboard's queries are put to it as well.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.parse
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from sandbox_core.wire import ATTEMPTS_PREFIX

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"

SLEEPER = {"source": "import time; time.sleep(60)", "limits": {"wall_time": 50}}
#: Each way to end that a script has by itself.
SCRIPTS: list[dict[str, Any]] = [
    {"source": "print(1)"},
    {"source": "import time; time.sleep(0.3)"},
    {"source": "sum(range(2_000_000))", "runtime": "python-exec"},
    {"source": "exit 3", "runtime": "sh"},
    {"source": "import os; os.kill(os.getpid(), 11)"},
    {"source": "while True: pass", "limits": {"wall_time": 0.6}},
    {"source": "b'x' * 10**9", "limits": {"memory": 32 << 20}},
    {"source": "while True: print('x' * 1000)", "limits": {"output": 5000}},
]
QUEUED_SINCE = 1.0  # Unix seconds, a long time ago


class Prometheus:
    """A Prometheus that runs, and what it answers."""

    def __init__(self, port: int, process: "subprocess.Popen[bytes]") -> None:
        self.process = process
        self._port = port

    def get(self, path: str, **parameters: str) -> Any:
        """Ask its HTTP API, and give the data of the answer."""
        query = urllib.parse.urlencode(parameters)
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{query}"
        with urllib.request.urlopen(url, timeout=10) as answer:  # ours
            found = json.load(answer)
        assert found["status"] == "success", found
        return found["data"]

    def ask(self, expression: str) -> dict[tuple[str, ...], float]:
        """Give what an expression is now, by the values of its labels in the order of their names."""
        return {
            tuple(value for _, value in sorted(one["metric"].items())): float(one["value"][1])
            for one in self.get("query", query=expression)["result"]
        }

    def number(self, expression: str) -> float | None:
        """Give the one value of an expression, whatever its labels."""
        values = list(self.ask(expression).values())
        assert len(values) < 2, values
        return values[0] if values else None

    def firing(self) -> set[str]:
        """Give the names of the alerts that fire."""
        alerts = self.get("alerts")["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}


@pytest.fixture
def scraped_port(free_port: Callable[[], int]) -> int:
    """Give the port of the worker that Prometheus scrapes."""
    return free_port()


@pytest.fixture
def prometheus(
    scraped_port: int, tmp_path: Path, free_port: Callable[[], int], wait_until: Callable[..., Any]
) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes often, and goes by the project's alert rules."""
    binary = shutil.which("prometheus")
    if binary is None and os.environ.get("CI") != "true":
        pytest.skip("no prometheus: apt-get install prometheus")
    assert binary is not None, "apt-get install prometheus"
    config = {
        "global": {
            "scrape_interval": "250ms",
            "scrape_timeout": "250ms",
            "evaluation_interval": "500ms",
        },
        "rule_files": [str(DEPLOY / "alerts.yml")],
        "scrape_configs": [
            {"job_name": "sandboxed", "static_configs": [{"targets": [f"127.0.0.1:{scraped_port}"]}]}
        ],
    }
    path = tmp_path / "prometheus.yml"
    path.write_text(json.dumps(config))  # JSON is YAML, too
    port = free_port()
    command = [
        binary,
        f"--config.file={path}",
        f"--storage.tsdb.path={tmp_path / 'prometheus'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    log = tmp_path / "prometheus.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    running = Prometheus(port, process)

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return bool(running.get("status/runtimeinfo"))
        except OSError:
            return False

    try:
        wait_until(answers, 60)
        yield running
    finally:
        process.terminate()
        process.wait(30)


def processes_of(ancestor: int) -> set[int]:
    """Give all processes below one; none where it has ended."""
    with suppress(psutil.NoSuchProcess):
        return {process.pid for process in psutil.Process(ancestor).children(recursive=True)}
    return set()


def jails_of(users: set[int]) -> set[str]:
    """Give the cgroups there are for the jobs of these users."""
    names = {path.name for path in Path("/sys/fs/cgroup").glob("**/sandboxed-*")}
    return {name for name in names if name.split("-")[1].isdigit() and int(name.split("-")[1]) in users}


def kill_under_a_job(worker: Any, wait_until: Callable[..., Any]) -> int:
    """Kill a worker while it runs a job, and give how many jails it leaves."""
    worker.running(worker.send(SLEEPER))
    users: set[int] = set()

    def settled() -> bool:
        nonlocal users
        before, users = users, users_below(worker.process.pid)
        time.sleep(0.5)
        return users == before != set()

    wait_until(settled)  # it has its jail, and the next one stands ready
    processes = processes_of(worker.process.pid)
    worker.process.kill()
    worker.process.wait()
    wait_until(lambda: not any(Path(f"/proc/{process}").exists() for process in processes))
    return len(jails_of(users))


def users_below(ancestor: int) -> set[int]:
    """Give the users, besides root, that processes below one are of."""
    users = {0}
    for process in processes_of(ancestor):
        with suppress(FileNotFoundError):  # it ended while we looked
            users.add(Path(f"/proc/{process}").stat().st_uid)
    return users - {0}


def run_all(worker: Any) -> list[tuple[str, dict[str, Any]]]:
    """Have jobs end in every way there is; give the runtime and the result of each."""
    sent = [(job.get("runtime", "python"), worker.send(job)) for job in SCRIPTS]
    # A sender that tells since when the job has waited, as `producer` does.
    header = {"submitted_at": QUEUED_SINCE}
    sent += [("python", worker.send({"source": "print(2)"}, headers=header)) for _ in range(2)]
    # A runtime that no worker has is none that is counted by its name.
    sent.append(("unknown", worker.send({"source": "", "runtime": "nobody's whim"})))
    # A job under which workers have died as often as they may.
    lost = str(uuid.uuid4())
    worker.redis.set(ATTEMPTS_PREFIX + lost, 3)
    sent.append(("python", worker.send({"source": ""}, task_id=lost)))
    return [(runtime, worker.result(job_id)) for runtime, job_id in sent]


def fail_the_sandbox(worker: Any, wait_until: Callable[..., Any]) -> dict[str, Any]:
    """Kill the interpreters that stand ready below a job, which is then tried again; give its result."""
    job_id = worker.send({"source": "import time; time.sleep(1.5)"})
    pool_process = worker.pool_process_of(job_id)

    def zygotes() -> set[int]:
        return {process for process in processes_of(pool_process) if len(processes_of(process)) >= 4}

    for zygote in wait_until(zygotes):
        os.kill(zygote, signal.SIGKILL)
    result: dict[str, Any] = worker.result(job_id)
    assert (result["status"], result["attempts"]) == ("ok", 2)
    return result


def check_histogram(prometheus: Prometheus, name: str, seconds: list[float]) -> None:
    """Hold a histogram against the values that are in it, bucket by bucket."""
    buckets = {
        float(le): count for (le,), count in prometheus.ask(f"sum by (le) ({name}_bucket)").items()
    }

    assert len(buckets) > 10
    assert buckets == {le: sum(value <= le for value in seconds) for le in buckets}
    assert prometheus.number(f"{name}_count") == len(seconds)
    assert prometheus.number(f"{name}_sum") == pytest.approx(sum(seconds))


def test_prometheus_tells_what_was_run(
    start_worker: Callable[..., Any],
    prometheus: Prometheus,
    scraped_port: int,
    wait_until: Callable[..., Any],
) -> None:
    """Every figure, after jobs of every status, a failure of the sandbox, and a worker that was killed."""
    left = kill_under_a_job(start_worker("-c", "1"), wait_until)
    assert left > 0
    worker = start_worker("-c", "2", "--metrics-port", str(scraped_port))
    # Scraped before its first job: Prometheus sees growth between two scrapes only.
    wait_until(lambda: prometheus.number("sandboxed_slots") == 2)
    assert prometheus.number("sandboxed_slots_busy") == 0

    results = run_all(worker)
    results.append(("python", fail_the_sandbox(worker, wait_until)))
    sleeper = worker.send(SLEEPER)
    wait_until(lambda: prometheus.number("sandboxed_slots_busy") == 1)
    worker.redis.set(f"sandboxed:cancel:{sleeper}", 1, ex=60)
    results.append(("python", worker.result(sleeper)))
    wait_until(lambda: prometheus.number("sum(sandboxed_jobs_total)") == len(results))
    wait_until(lambda: prometheus.number("sandboxed_slots_busy") == 0)

    counted = prometheus.ask("sum by (runtime, status) (sandboxed_jobs_total) > 0")
    assert counted == Counter((runtime, result["status"]) for runtime, result in results)
    assert {status for _, status in counted} == {
        *("ok", "nonzero_exit", "signaled", "time_limit", "memory_limit", "output_limit"),
        *("cancelled", "invalid_job", "internal_error"),
    }
    ran = [result for _, result in results if result["status"] not in ("invalid_job", "internal_error")]
    check_histogram(prometheus, "sandboxed_job_wall_seconds", [result["wall_time"] for result in ran])
    check_histogram(prometheus, "sandboxed_job_cpu_seconds", [result["cpu_time"] for result in ran])
    # How long is not in a result, and nothing that could be foretold.
    assert prometheus.number("sandboxed_job_setup_seconds_count") == len(ran)
    assert prometheus.number('sandboxed_job_setup_seconds_bucket{le="+Inf"}') == len(ran)
    assert 0 < (prometheus.number("sandboxed_job_setup_seconds_sum") or 0) < 60 * len(ran)
    # Of the jobs whose sender told, which were beyond the last bucket.
    assert prometheus.number("sandboxed_job_queue_seconds_count") == 2
    assert prometheus.number('sandboxed_job_queue_seconds_bucket{le="300.0"}') == 0
    assert prometheus.number("sandboxed_retries_total") == 1
    assert prometheus.number("sandboxed_leftovers_reaped_total") == left
    assert prometheus.number("sandboxed_taking_jobs") == 1
    assert prometheus.number('up{job="sandboxed"}') == 1

    check_what_is_deployed(prometheus, wait_until)
    worker.celery.control.broadcast("drain", reply=True, timeout=10, limit=1)
    wait_until(lambda: prometheus.number("sandboxed_taking_jobs") == 0)
    assert worker.stop() == 0
    wait_until(lambda: prometheus.number('up{job="sandboxed"}') == 0)


def check_what_is_deployed(prometheus: Prometheus, wait_until: Callable[..., Any]) -> None:
    """Each alert rule is evaluated, those fire that should; each query of the dashboard has an answer."""
    wait_until(
        lambda: prometheus.firing() >= {"SandboxedInternalErrors", "SandboxedLeftovers"}, timeout=30
    )
    assert prometheus.firing() == {"SandboxedInternalErrors", "SandboxedLeftovers"}
    (group,) = prometheus.get("rules")["groups"]
    assert {rule["health"] for rule in group["rules"]} == {"ok"}
    there = set(prometheus.get("label/__name__/values"))
    for name in ("alerts.yml", "grafana.json"):
        assert set(re.findall(r"\bsandboxed_\w+", (DEPLOY / name).read_text())) <= there
    dashboard = json.loads((DEPLOY / "grafana.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            assert prometheus.ask(target["expr"]), target["expr"]
