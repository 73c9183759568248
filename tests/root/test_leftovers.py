"""Nothing stays behind: not after many jobs, not after any kill."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sandbox_core import Job, Limits, Sandbox, SandboxError

#: One of each way to end, so that each way of cleaning up is taken.
_MIXED = [
    Job("print('fine')"),
    Job("import sys; sys.exit(3)"),
    Job("import os; os.abort()"),
    Job("while True: print('x' * 999)", limits=Limits(output=10_000)),
    Job("x = bytearray(100 * 2**20)", limits=Limits(memory=32 * 2**20)),
    Job("while True: pass", limits=Limits(wall_time=0.1)),
    Job(
        "import os, time\nfor _ in range(3):\n  if os.fork() == 0: time.sleep(60)",
        limits=Limits(processes=4),
    ),
    Job("open('f', 'w').write('x' * 5000)", collect=("f",)),
]


@pytest.fixture
def many(time_factor):
    """As many jobs as show a leak; fewer where each takes half a second."""
    return 200 if time_factor == 1 else 48


def test_200_jobs_in_a_row_leave_nothing(leftovers, many):
    """No process, cgroup, mount, descriptor or temporary file."""
    with Sandbox(ahead=False) as sandbox:
        sandbox.run("")
        before = leftovers()
        for number in range(many):
            sandbox.run(_MIXED[number % len(_MIXED)])

        assert leftovers() == before


def _await_standing(sandbox):
    """Wait until the jails that were ordered for later jobs stand."""
    for slot in sandbox._slots:
        for jail in slot._standing.values():
            assert jail.await_ready()


def test_200_jobs_with_jails_standing_ready_leave_no_more_than_these(leftovers, many):
    """Two of them at most, and none once the sandbox is closed."""
    at_first = leftovers()
    with Sandbox() as sandbox:
        for job in _MIXED:
            sandbox.run(job)
        _await_standing(sandbox)
        before = leftovers()
        for number in range(many):
            sandbox.run(_MIXED[number % len(_MIXED)])
        _await_standing(sandbox)
        after = leftovers()

        assert len(after["processes"]) == len(at_first["processes"]) + 2
        for what in ("cgroups", "mounts", "files"):
            assert len(after[what]) == len(before[what])
        assert len(after["descriptors"]) == len(before["descriptors"])
    assert leftovers() == at_first


def test_200_jobs_eight_at_a_time_leave_nothing(leftovers, many):
    """Jobs that run together each get their own output and leave nothing either."""
    with Sandbox(slots=8, ahead=False) as sandbox, ThreadPoolExecutor(8) as threads:
        list(threads.map(sandbox.run, [Job("import time; time.sleep(0.3)")] * 16))
        before = leftovers()
        jobs = [
            _MIXED[number % len(_MIXED)] if number % 2 else Job(f"print({number})")
            for number in range(many)
        ]
        results = list(threads.map(sandbox.run, jobs))

        assert leftovers() == before
    for number, result in enumerate(results):
        if number % 2 == 0:
            assert result.text == f"{number}\n"


def test_a_storm_of_crashes_leaves_nothing(leftovers, many, time_factor):
    """Each in native code, four at a time: no core is dumped, none is left, and jobs go on."""
    limits = Limits(wall_time=Limits().wall_time * time_factor)
    crash = Job("import ctypes; ctypes.string_at(0)", collect=("core*",), limits=limits)
    with Sandbox(slots=4, ahead=False) as sandbox, ThreadPoolExecutor(4) as threads:
        list(threads.map(sandbox.run, [Job("import time; time.sleep(0.3)", limits=limits)] * 8))
        before = leftovers()
        results = list(threads.map(sandbox.run, [crash] * many))

        assert {(result.signal, *result.files) for result in results} == {("SIGSEGV",)}
        assert leftovers() == before
        assert sandbox.run("print('on')").text == "on\n"


def test_a_closed_sandbox_leaves_nothing(leftovers):
    """Not its zygotes, not its locks."""
    before, others = leftovers(), _locks_we_hold()
    with Sandbox(slots=2) as sandbox:
        sandbox.run("")
        sandbox.run(Job(":", runtime="sh"))
        held = _locks_we_hold() - others

    assert leftovers() == before
    assert held
    # Somebody else may hold one of the same name by now.
    assert not [path for path, inode in held if path.exists() and path.stat().st_ino == inode]


def _locks_we_hold() -> set[tuple[Path, int]]:
    """Give the files by which this process holds users for jobs, with their inodes."""
    held = set()
    for name in os.listdir("/proc/self/fd"):
        path = Path(f"/proc/self/fd/{name}").resolve()
        if path.is_relative_to("/run/sandboxed"):
            held.add((path, path.stat().st_ino))
    return held


def _zygotes_of(supervisor: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            if f"\nPPid:\t{supervisor}\n" in status.read_text():
                found.append(int(status.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
    return found


def test_a_killed_zygote_ends_its_job_and_is_replaced(leftovers):
    """The job is not judged, nothing of it stays, and the next one runs."""
    with Sandbox(ahead=False) as sandbox, ThreadPoolExecutor(1) as threads:
        others = set(_zygotes_of(os.getpid()))
        sandbox.run("")
        before = leftovers()
        (zygote,) = set(_zygotes_of(os.getpid())) - others
        running = threads.submit(
            sandbox.run, Job("import time; time.sleep(30)", limits=Limits(wall_time=40))
        )
        time.sleep(0.5)
        os.kill(zygote, signal.SIGKILL)

        with pytest.raises(SandboxError):
            running.result(timeout=10)
        after = leftovers()
        assert (after["processes"], after["cgroups"]) == (before["processes"], before["cgroups"])
        assert sandbox.run("print('on')").text == "on\n"
        assert leftovers() == before


@pytest.mark.parametrize("ahead", [True, False])
def test_a_zygote_that_died_idle_is_replaced_unnoticed(ahead):
    """Nothing of the job has run, so it is simply run."""
    with Sandbox(ahead=ahead) as sandbox:
        before = set(_zygotes_of(os.getpid()))
        sandbox.run("")
        (zygote,) = set(_zygotes_of(os.getpid())) - before
        os.kill(zygote, signal.SIGKILL)
        os.waitid(os.P_PID, zygote, os.WEXITED | os.WNOWAIT)

        assert sandbox.run("print('on')").text == "on\n"


def test_a_jail_that_died_waiting_is_replaced_unnoticed(leftovers):
    """Its process was killed, by an operator or for want of memory, before its job had come."""
    with Sandbox() as sandbox:
        before = leftovers()["processes"]
        sandbox.run("")
        _await_standing(sandbox)
        (waiting,) = set(leftovers()["processes"]) - set(before)
        os.kill(int(waiting.split("/")[2]), signal.SIGKILL)
        time.sleep(0.2)  # until its zygote has reaped it

        assert sandbox.run("print('on')").text == "on\n"


_SUPERVISOR = """
from sandbox_core import Job, Limits, Sandbox
with Sandbox() as sandbox:
    sandbox.run("")
    print("ready", flush=True)
    sandbox.run(Job("import os, time\\nos.fork()\\ntime.sleep(300)", limits=Limits(wall_time=400, processes=3)))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_supervisor_takes_its_jobs_along(leftovers, time_factor, number):
    """Processes are gone within a second; what the kernel keeps, the next supervisor clears."""
    before = leftovers()
    supervisor = subprocess.Popen(
        [sys.executable, "-c", _SUPERVISOR], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    with supervisor:
        assert supervisor.stdout is not None
        supervisor.stdout.readline()
        time.sleep(0.5 + 0.05 * time_factor)
        there = len(leftovers()["processes"])
        supervisor.send_signal(number)
        supervisor.wait(timeout=10)
    time.sleep(1)

    # Two of the job, and the jails that stood ready: for one like the first, and for one like it.
    assert there == len(before["processes"]) + 4
    assert leftovers()["processes"] == before["processes"]
    with Sandbox() as sandbox:
        assert sandbox.run("print('on')").text == "on\n"
    assert leftovers() == before
