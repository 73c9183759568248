#!/usr/bin/env python3
"""Run the worker as the service that deploy/ describes, under systemd as the first process.

    .ci/cgroup2_vm.py --systemd .venv/bin/python .ci/systemd_unit.py

Installs the unit, as a drop-in has it run from this checkout; then: jobs pass; a stop in the middle of
a job stores its result; a kill leaves nothing after the restart. Ends with 0 where all of it holds.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
UNIT = "sandboxed-worker.service"
URL = "redis://127.0.0.1:6379/0"
PLACE = "/opt/checkout"
SLEEPER = "import time; time.sleep(20); print('slept')"

DROP_IN = f"""[Service]
ExecStart=
ExecStart={PLACE}/.venv/bin/python -P -m worker.cli worker -l INFO -c 1
Environment=PYTHONPATH={PLACE} PYTHONDONTWRITEBYTECODE=1
# The checkout's interpreter may be below /root.
ProtectHome=read-only
StandardOutput=file:/dev/ttyS0
StandardError=file:/dev/ttyS0
"""


def run(*command: str) -> str:
    """Run a command for its output."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def wait_until(look: Callable[[], object], what: str) -> None:
    """Wait for something; everything takes long in an emulated machine."""
    deadline = time.monotonic() + 300
    while not look():
        if time.monotonic() > deadline:
            show = ("systemctl", "status", "--no-pager", "--full", "-n", "60", UNIT)
            subprocess.run(show, check=False)
            sys.exit(f"systemd_unit: no {what}")
        time.sleep(0.5)
    print(f"{time.monotonic():.0f} s: {what}", flush=True)


def leftovers() -> list[str]:
    """Give the cgroups and processes of jobs."""
    cgroups = [str(path) for path in Path("/sys/fs/cgroup").rglob("sandboxed-6*")]
    owned = [path for path in Path("/proc").glob("[0-9]*") if _uid(path) >= 60_000]  # noqa: PLR2004
    return [*cgroups, *map(str, owned)]


def _uid(process: Path) -> int:
    try:
        return process.stat().st_uid
    except FileNotFoundError:
        return 0


def main() -> None:
    """Do all of it."""
    sys.path.insert(0, str(HERE))
    from producer import Client, Job, Limits  # noqa: PLC0415  # of the checkout

    os.makedirs(PLACE)
    run("mount", "--bind", str(HERE), PLACE)
    os.makedirs("/etc/sandboxed", exist_ok=True)
    Path("/etc/sandboxed/worker.env").write_text(f"SANDBOXED_REDIS_URL={URL}\n")
    units = Path("/run/systemd/system")
    # Without what a whole system starts first, and an emulated machine takes minutes for.
    unit = (HERE / "deploy" / UNIT).read_text()
    unit = re.sub(r"^(Wants|After)=.*\n", "", unit, flags=re.MULTILINE)
    (units / UNIT).write_text(unit.replace("[Unit]\n", "[Unit]\nDefaultDependencies=no\n"))
    (units / f"{UNIT}.d").mkdir()
    (units / f"{UNIT}.d" / "checkout.conf").write_text(DROP_IN)
    redis = subprocess.Popen(["redis-server", "--save", ""], stdout=subprocess.DEVNULL)
    run("systemctl", "daemon-reload")
    run("systemctl", "start", "--no-block", UNIT)
    wait_until(
        lambda: "active" in run("systemctl", "show", "-p", "ActiveState", "--value", UNIT).split(),
        "a start",
    )
    long = Limits(wall_time=60)
    with Client(URL, timeout=300) as client:
        assert client.run(Job("print(6 * 7)", limits=long)).text == "42\n"
        wait_until(lambda: True, "a job passed")

        future = client.submit(Job(SLEEPER, limits=long))
        wait_until(leftovers, "a job that runs")
        time.sleep(2)
        run("systemctl", "stop", UNIT)
        assert client.future(future.id).result(timeout=5).text == "slept\n"
        assert leftovers() == []
        wait_until(lambda: True, "a stop that stored the result")

        run("systemctl", "start", UNIT)
        assert client.run(Job("print(1)", limits=long)).text == "1\n"
        before = run("systemctl", "show", "-p", "MainPID", UNIT)
        client.submit(Job(SLEEPER, limits=long))
        wait_until(lambda: any("sandboxed-6" in one for one in leftovers()), "a job that runs")
        time.sleep(2)
        run("systemctl", "kill", "-s", "KILL", UNIT)
        wait_until(
            lambda: run("systemctl", "show", "-p", "MainPID", UNIT) not in (before, "MainPID=0\n"),
            "a restart",
        )
        assert client.run(Job("print(2)", limits=long)).text == "2\n"
    # A jail that stands ready for the next job is none that was left.
    run("systemctl", "stop", UNIT)
    wait_until(lambda: leftovers() == [], "nothing left")
    redis.terminate()
    print("systemd_unit: all of it holds", flush=True)


if __name__ == "__main__":
    main()
