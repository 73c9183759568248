"""Death at any moment leaves nothing that the next start does not clear.

The switches are here and nowhere else: the boot code of a zygote is replaced by one whose tables stop
after a given step, and a supervisor kills itself at a given one of its own calls.
"""

import contextlib
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sandbox_core import Job, Limits, Sandbox, SandboxError, jail, launcher, users

_TABLES = ("ROOT_STEPS", "SEAL_STEPS", "JAIL_STEPS", "START_STEPS")
#: Every step but the last, after which there is nothing of ours to stop in.
_STEPS = [(table, number) for table in _TABLES for number in range(len(getattr(jail, table)))][:-1]

_STUCK = """
import sys
from sandbox_core import launcher
launcher._BOOT = launcher._BOOT.replace("from sandbox_core.zygote", '''
import os, time, sandbox_core.jail as jail
steps = list(jail.{table})
title, step = steps[{number}]
def stop(subject):
    step(subject)
    time.sleep(600)
steps[{number}] = (title, stop)
jail.{table} = tuple(steps)
from sandbox_core.zygote''').replace("; \\nimport", "\\nimport")
from sandbox_core import Job, Limits, Sandbox
with Sandbox() as sandbox:
    print("ready", flush=True)
    sandbox.run(Job("", runtime="python-exec", limits=Limits(wall_time=600, processes={processes})))
"""

_SUICIDAL = """
import os, signal, sys
from sandbox_core import Job, Limits, Sandbox
left = {calls}
def count(frame, event, argument):
    global left
    if event == "call" and "sandbox_core" in frame.f_code.co_filename:
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.setprofile(count)
with Sandbox() as sandbox:
    for limits in (Limits(), Limits(processes=3)):
        sandbox.run(Job("import os, time\\ntry: os.fork()\\nexcept OSError: pass\\ntime.sleep(0.05)", limits=limits))
sys.setprofile(None)
print({calls} - left, flush=True)
"""


def _settled(leftovers, before, *, deadline: float = 1.0):
    """Wait until no process is left, at most a second."""
    end = time.monotonic() + deadline
    while (after := leftovers())["processes"] != before["processes"] and time.monotonic() < end:
        time.sleep(0.02)
    assert after["processes"] == before["processes"]


def _stopped_below(parent: int) -> bool:
    """Whether a process below `parent` sleeps as one does after the step that it stops at."""
    for process in psutil.Process(parent).children(recursive=True):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended while we looked
            if "nanosleep" in Path(f"/proc/{process.pid}/wchan").read_text():
                return True
    return False


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _starts_clean(leftovers, before):
    """Start again: what was left is gone within five seconds, and jobs run."""
    end = time.monotonic() + 5
    while True:
        with Sandbox() as sandbox:
            assert sandbox.run("print('on')").text == "on\n"
        after = leftovers()
        # A child that was just between fork and exec as its parent died keeps the lock on a user id
        # until it has let go of its descriptors.
        if after == before or time.monotonic() > end:
            break
    assert after == before


@pytest.mark.parametrize(("table", "number"), _STEPS)
@pytest.mark.parametrize("processes", [1, 2])
def test_a_supervisor_killed_after_any_step_leaves_nothing(
    leftovers, time_factor, table, number, processes
):
    """In the zygote, in the making of the jail, and in the start of the job."""
    before = leftovers()
    source = _STUCK.format(table=table, number=number, processes=processes)
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE) as supervisor:
        assert supervisor.stdout is not None
        assert supervisor.stdout.readline() == b"ready\n"
        end = time.monotonic() + 20 * time_factor
        while not (stopped := _stopped_below(supervisor.pid)) and time.monotonic() < end:
            time.sleep(0.02)
        assert supervisor.poll() is None
        zygotes = [child.pid for child in psutil.Process(supervisor.pid).children()]
        supervisor.kill()
    _settled(leftovers, before)
    assert stopped
    assert zygotes
    end = time.monotonic() + 1 + 0.1 * time_factor
    while any(map(_runs, zygotes)) and time.monotonic() < end:
        time.sleep(0.02)
    assert not [pid for pid in zygotes if _runs(pid)]

    _starts_clean(leftovers, before)


def _calls_of_a_whole_run() -> int:
    source = _SUICIDAL.format(calls=10**9)
    run = subprocess.run([sys.executable, "-c", source], capture_output=True, check=True)
    return int(run.stdout)


def test_a_supervisor_killed_at_random_moments_leaves_nothing(leftovers):
    """At twenty of its own calls, drawn anew each time."""
    before = leftovers()
    seed = random.randrange(10**6)
    # How often it looks whether the job has ended is not the same each time.
    moments = random.Random(seed).sample(range(1, int(0.75 * _calls_of_a_whole_run())), 20)
    for calls in moments:
        run = subprocess.run(
            [sys.executable, "-c", _SUICIDAL.format(calls=calls)], capture_output=True, check=False
        )
        assert run.returncode == -signal.SIGKILL, (seed, calls, run.stderr)
        _settled(leftovers, before)
    _starts_clean(leftovers, before)


_LIVING = """
from sandbox_core import Job, Limits, Sandbox
with Sandbox() as sandbox:
    sandbox.run("")
    print("ready", flush=True)
    print(sandbox.run("import time; time.sleep(2); print(7)").text, flush=True)
"""


def test_a_start_touches_nothing_of_a_living_supervisor():
    """Jobs of one go on while others start and die."""
    command = [sys.executable, "-c", _LIVING]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as living:
        assert living.stdout is not None
        living.stdout.readline()
        for _ in range(3):
            with Sandbox(slots=2) as sandbox:
                assert sandbox.run("print(1)").ok
        assert living.stdout.readline() == "7\n"


def test_a_step_that_fails_means_that_no_job_runs(monkeypatch, leftovers):
    """Whichever step it is, its title is in the error, and nothing is left."""
    boot = launcher._BOOT
    for table, number in _STEPS:
        title = getattr(jail, table)[number][0]
        broken = (
            f"import sandbox_core.jail as jail\nsteps = list(jail.{table})\n"
            f"def fail(_): raise OSError(5, 'broken on purpose')\n"
            f"steps[{number}] = (steps[{number}][0], fail)\njail.{table} = tuple(steps)\n"
            "from sandbox_core.zygote import main"
        )
        monkeypatch.setattr(
            launcher,
            "_BOOT",
            boot.replace("from sandbox_core.zygote import main;", f"\n{broken}\n")
            .replace("; \n", "\n")
            .replace("\n main(", "\nmain("),
        )
        before = leftovers()
        with Sandbox() as sandbox, pytest.raises(SandboxError) as raised:
            sandbox.run(Job("print('ran')", runtime="python-exec", limits=Limits(wall_time=5)))
        assert raised.value.step == title
        assert leftovers() == before


def _outcome(sandbox):
    try:
        return sandbox.run("print(1)").status
    except SandboxError as error:
        return str(error)


def test_a_host_without_users_left_is_told():
    """Another sandbox has them all but one; what this one began with is let go of."""
    held = [user for uid in range(users.FIRST, users.LAST + 1) if (user := users.hold_one(uid))]
    held.pop().close()
    try:
        with pytest.raises(SandboxError, match="are taken; run fewer workers"):
            Sandbox()
    finally:
        for user in held:
            user.close()

    with Sandbox() as sandbox:
        assert sandbox.run("print('on')").text == "on\n"


def test_a_host_without_descriptors_left_is_told(leftovers):
    """The error says so; when there are some again, jobs run, and none has leaked."""
    with Sandbox(ahead=False) as sandbox:
        sandbox.run("")
        before = leftovers()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest_free = os.dup(0)
        os.close(lowest_free)
        outcomes = []
        for room in range(0, 48, 2):
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + room, hard))
            try:
                outcomes.append(_outcome(sandbox))
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert sandbox.run("print(1)").ok
        after = leftovers()

    assert all(outcome == "ok" or "Too many open files" in outcome for outcome in outcomes), outcomes
    assert "ok" in outcomes
    assert outcomes[0] != "ok"
    assert len(after.pop("descriptors")) == len(before.pop("descriptors"))
    assert after == before
