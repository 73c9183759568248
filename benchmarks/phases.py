"""Where one job's microseconds go, phase by phase: `make bench` with --phases does this alone.

The production code knows nothing of this. What the supervisor does is wrapped here, by name. What a
zygote and a job do happens in processes that begin with an exec and see little of the host, so these
are given a copy of `sandbox_core` with a few lines added, which take the time of each step; the job's
script prints what they took. All clocks are CLOCK_MONOTONIC, which is one for all processes.

Rows are in the order of their beginning, which counts from the call of `Sandbox.run`. Those of the
next jail are on nobody's way unless its job comes at once; with --pause 0 it does. Where a machine is
busy, the CPU time and the tenth of the jobs that were fastest say more than the median.
"""

import argparse
import ast
import bisect
import importlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

#: What the supervisor does: module, name in it, and what to call it. A name that is gone is told.
_SUPERVISOR = (
    ("sandbox", "Sandbox.run", "Sandbox.run, all of it"),
    ("slot", "Slot._standing_ready", "take the jail that stands ready"),
    ("slot", "Slot._made_now", "make a jail, since none stands ready"),
    ("supervisor", "Supervision.__init__", "make its supervision"),
    ("supervisor", "Supervision._hand_over", "hand the job over"),
    ("slot", "_Successor.make", "make the next jail's cgroups and streams"),
    ("cgroups", "_V1Hierarchy.create", "… its cgroups (v1)"),
    ("cgroups", "_V1Cgroup.limit", "… their limits (v1)"),
    ("cgroups", "_V2Hierarchy.create", "… its cgroup (v2)"),
    ("cgroups", "_V2Cgroup.limit", "… its limits (v2)"),
    ("supervisor", "Supervision._watch", "watch the job, to its end"),
    ("supervisor", "Supervision._wait", "… wait in poll"),
    ("supervisor", "Supervision._keep_limits", "… keep the limits"),
    ("slot", "_Successor.order", "order the rest of the next jail"),
    ("supervisor", "Supervision._result", "make the result"),
    ("streams", "Capture.drain", "… drain the streams"),
    ("supervisor", "Jail.facts", "… read the counters"),
    ("supervisor", "judge", "… judge"),
    ("supervisor", "collect", "… collect files"),
    ("supervisor", "Jail.close", "take the jail down"),
    ("cgroups", "_V1Cgroup.remove", "… remove its cgroups (v1)"),
    ("cgroups", "_V2Cgroup.remove", "… remove its cgroup (v2)"),
)

#: Added to the copy of `jail.py`, which is imported by all processes of a jail.
_TIMED = """

import sys, time
sys._phases = []


def _timed(who, title, step):
    def timed(*given, **named):
        began, cpu = time.monotonic(), time.thread_time()
        try:
            return step(*given, **named)
        finally:
            sys._phases.append((who, title, began, time.monotonic(), time.thread_time() - cpu))
    return timed


JAIL_STEPS = tuple((title, _timed("next job", title, step)) for title, step in JAIL_STEPS)
START_STEPS = tuple((title, _timed("job", title, step)) for title, step in START_STEPS)
"""

#: Added to that of `zygote.py`. A job inherits what its zygote has noted since the last fork.
_TIMED_ZYGOTE = """

from sandbox_core.jail import _timed


def _noting(fork):
    def noting(*given, **named):
        began, cpu = time.monotonic(), time.thread_time()
        made = fork(*given, **named)
        if made[2]:
            sys._phases.clear()
            cpu = time.thread_time() - cpu
            what = ("zygote", "fork the next job and its init", began, time.monotonic(), cpu)
        else:
            what = ("next job", "born", began, time.monotonic(), time.thread_time())
        sys._phases.append(what)
        return made
    return noting


Zygote._fork = _noting(Zygote._fork)
Zygote._reap = _timed("zygote", "reap the job, end its init, tell", Zygote._reap)
_end_init = _timed("zygote", "… end its init", _end_init)
_report_ready = _timed("next job", "report that it is ready", _report_ready)
"""

#: Its own last phase is noted before the print, which is the last that the supervisor hears of it.
_SCRIPT = """import sys, time
began = time.monotonic()
print("Hello, world!")
sys._phases.append(("job", "the script", began, time.monotonic(), 0.0))
print(sys._phases)
"""


class Phase(NamedTuple):
    """Something that was done once, from and to when (seconds, CLOCK_MONOTONIC)."""

    who: str
    title: str
    began: float
    ended: float
    cpu: float  # seconds of its thread


def profile(jobs: int, pause: float) -> None:
    """Run jobs in an interpreter that has the copy of `sandbox_core`, and print their phases."""
    package = Path(importlib.import_module("sandbox_core").__file__ or "").parent
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "sandbox_core")
        shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
        os.chmod(folder, 0o755)  # noqa: S103  # the jails, another user's, read it
        for name, more in (("jail.py", _TIMED), ("zygote.py", _TIMED_ZYGOTE)):
            with (copy / name).open("a", encoding="utf-8") as file:
                file.write(more)
        command = (sys.executable, str(Path(__file__).resolve()), "--inside", str(jobs), str(pause))
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": folder})


def _inside(jobs: int, pause: float) -> None:
    from sandbox_core.job import Job  # noqa: PLC0415  # the copy
    from sandbox_core.sandbox import Sandbox  # noqa: PLC0415

    phases: list[Phase] = []
    for module, name, title in _SUPERVISOR:
        _wrap(importlib.import_module(f"sandbox_core.{module}"), name, title, phases)
    with Sandbox() as sandbox:
        for number in range(jobs + 20):
            if number == 20:  # noqa: PLR2004  # what is made on first use is made
                phases.clear()
            result = sandbox.run(Job(_SCRIPT))
            if not result.ok:
                raise RuntimeError(f"the job ended as {result.status}: {result.stderr!r}")
            phases += map(Phase._make, ast.literal_eval(result.text.splitlines()[1]))
            time.sleep(pause)
    _show(phases)


def _wrap(module: Any, name: str, title: str, phases: list[Phase]) -> None:
    *outer, last = name.split(".")
    owner = module
    for part in outer:
        owner = getattr(owner, part, None)
    step: Callable[..., Any] | None = getattr(owner, last, None)
    if step is None:
        print(f"there is no {module.__name__}.{name} any more: {title}")
        return

    def timed(*given: Any, **named: Any) -> Any:
        began, cpu = time.monotonic(), time.thread_time()
        try:
            return step(*given, **named)
        finally:
            used = time.thread_time() - cpu
            phases.append(Phase("supervisor", title, began, time.monotonic(), used))

    setattr(owner, last, timed)


class _Row:
    """One phase, over all runs: when it began after the run did, how long it took, its CPU time."""

    def __init__(self) -> None:
        self.offsets: dict[float, float] = {}  # by the beginning of the run
        self.lengths: dict[float, float] = {}
        self.cpu: dict[float, float] = {}

    def add(self, run: float, phase: Phase) -> None:
        """Take note of the phase; one that comes again in the same run is more of the same."""
        began = max(phase.began, run)  # a job waits for its description since before the run
        self.offsets.setdefault(run, began - run)
        self.lengths[run] = self.lengths.get(run, 0.0) + phase.ended - began
        self.cpu[run] = self.cpu.get(run, 0.0) + phase.cpu

    def __str__(self) -> str:
        lengths = sorted(self.lengths.values())
        fast = lengths[len(lengths) // 10]
        numbers = (*map(statistics.median, (self.offsets.values(), lengths)), fast)
        told = "".join(f"{number * 1e6:9.0f}" for number in numbers)
        cpu = statistics.median(self.cpu.values())
        return f"{told}{cpu * 1e6:9.0f}" if cpu else f"{told}{'':9}"


def _show(phases: list[Phase]) -> None:
    """Print the medians of every phase, relative to the beginning of the run it falls into."""
    runs = sorted(phase.began for phase in phases if phase.title.startswith("Sandbox.run"))
    rows: dict[tuple[str, str], _Row] = {}
    for phase in [*phases, *_ends(phases)]:
        # What a job does belongs to the run that waits for it.
        at = phase.ended if phase.who == "job" else phase.began
        if place := bisect.bisect(runs, at):
            rows.setdefault((phase.who, phase.title), _Row()).add(runs[place - 1], phase)
    print(f"{'from':>9}{'median':>9}{'fastest':>9}{'CPU':>9}   (µs; {len(runs)} jobs)")
    for (who, title), row in sorted(
        rows.items(), key=lambda item: statistics.median(item[1].offsets.values())
    ):
        print(f"{row}   {who:10} {title}")


def _ends(phases: list[Phase]) -> list[Phase]:
    """Give the phases between the end of each script and the moment that its zygote sees its end."""
    reaped = sorted(phase.began for phase in phases if phase.title.startswith("reap the job"))
    ends = [phase.ended for phase in phases if phase.title == "the script"]
    return [
        Phase("job", "print, the interpreter's end, exit", end, reaped[place], 0.0)
        for end in ends
        if (place := bisect.bisect(reaped, end)) < len(reaped)
    ]


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--pause", type=float, default=0.02, help="seconds between two jobs [0.02]")
    parser.add_argument("--inside", nargs=2, metavar=("JOBS", "PAUSE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        _inside(int(given.inside[0]), float(given.inside[1]))
    else:
        profile(given.jobs, given.pause)


if __name__ == "__main__":
    main()
