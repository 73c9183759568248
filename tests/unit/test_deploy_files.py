"""What is under deploy/ is accepted by the programs that it is for, and asks for what there is."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from worker.metrics import Metrics
from worker.settings import TABLE

DEPLOY = Path(__file__).parents[2] / "deploy"


def tool(name: str, package: str) -> str:
    """Find a program of Debian's; a missing one is a failure where all must be there."""
    found = shutil.which(name)
    if found is None and os.environ.get("CI") != "true":
        pytest.skip(f"no {name}: apt-get install {package}")
    assert found is not None, f"apt-get install {package}"
    return found


def metric_names() -> set[str]:
    """Give the names that a worker's metrics have."""
    gauges = ("slots", "slots_busy", "taking_jobs", "start_time_seconds")
    metrics = Metrics(lambda: dict.fromkeys([(f"sandboxed_{name}", "") for name in gauges], 0.0))
    metrics.take(
        {"status": "ok", "runtime": "", "queue_time": 1, "setup_time": 1, "wall_time": 1, "cpu_time": 1}
    )
    return {sample.name for family in metrics.registry.collect() for sample in family.samples}


@pytest.mark.parametrize("name", ["alerts.yml", "grafana.json"])
def test_the_metrics_are_the_workers(name: str) -> None:
    """A rule about a metric that nobody has would never fire."""
    asked = set(re.findall(r"\bsandboxed_\w+", (DEPLOY / name).read_text()))

    assert asked
    assert asked <= metric_names()


def test_the_alert_rules_are_valid() -> None:
    """By Prometheus' own check."""
    check = [tool("promtool", "prometheus"), "check", "rules", DEPLOY / "alerts.yml"]
    done = subprocess.run(check, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_has_every_metric() -> None:
    """Each in some panel."""
    dashboard = json.loads((DEPLOY / "grafana.json").read_text())
    asked = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])

    plain = {re.sub(r"_(bucket|sum|count)$", "", name) for name in metric_names()}
    assert [name for name in plain if name not in asked] == []


def test_the_unit_is_valid(tmp_path: Path) -> None:
    """By systemd's own check, which says nothing at all."""
    analyze = tool("systemd-analyze", "systemd")
    command = tmp_path / "sandboxed"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    (tmp_path / "worker.env").touch()
    unit = tmp_path / "sandboxed-worker.service"
    unit.write_text(
        (DEPLOY / unit.name)
        .read_text()
        .replace("/opt/sandboxed/bin/sandboxed", str(command))
        .replace("/etc/sandboxed", str(tmp_path))
    )
    done = subprocess.run(
        [analyze, "verify", "--man=no", unit], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_environment_file_knows_its_settings() -> None:
    """Each line sets one that there is, or would if it were not a comment."""
    names = re.findall(r"^#?(SANDBOXED_\w+)=", (DEPLOY / "worker.env").read_text(), re.MULTILINE)

    assert names
    assert set(names) <= {setting.variable for setting in TABLE.values()}
