"""One jail: how long a job takes in it, and how many are done in a second."""

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import peers
from contender import Contender
from figures import Aim, Contenders, Figure, Scale, compare
from ways import Action, at_a_rate, at_once, back_to_back

from sandbox_core import Job, Limits, Sandbox, environments

SLOTS = 2
PLAIN = "plain subprocess.run"

_NUMPY = "import numpy\nprint(int(numpy.arange(10).sum()))\n"
#: Room for a large package; the default is a small script's.
_NUMPY_LIMITS = Limits(memory=1 << 30)

_AT_RATE = 10.0  # jobs in a second
_LATENCY = (Aim("ratio", 0.12), Aim("p99_ratio", 0.4))


@contextlib.contextmanager
def plain(command: tuple[str, ...]) -> Iterator[Action]:
    """Make a contender that runs a program as it is, or in somebody else's jail."""
    yield peers.plain(command)


@contextlib.contextmanager
def sandboxed(job: Job, table: str | None = None, slots: int = 1) -> Iterator[Action]:
    """Make a contender that runs `job` in a fresh jail each time."""
    with Sandbox(table, slots=slots) as sandbox:

        def action() -> None:
            result = sandbox.run(job)
            if not result.ok:
                raise RuntimeError(f"the job did not end well: {result}")

        yield action


def latency(scale: Scale) -> list[Figure]:
    """Compare the time from asking for one run of a script to its result."""
    source = peers.SCRIPT.read_bytes()
    with contextlib.ExitStack() as stack:
        contenders = {PLAIN: stack.enter_context(Contender(PLAIN, plain, peers.SCRIPT_COMMAND))}
        for runtime in ("python", "python-exec"):
            name = f"Sandbox, {runtime}"
            contenders[name] = stack.enter_context(
                Contender(name, sandboxed, Job(source, runtime=runtime))
            )
        for name, jailer in peers.jailers().items():
            contenders[name] = stack.enter_context(
                Contender(name, plain, (*jailer, *peers.SCRIPT_COMMAND))
            )
        steady = [PLAIN, "Sandbox, python"]
        few, count = scale.jobs_of(20), scale.jobs_of(40)
        return [
            *compare(
                "a one-line script, back to back",
                "ms",
                _turns(contenders, list(contenders), back_to_back, count),
                scale.rounds_of(10),
                {"Sandbox, python": _LATENCY},
            ),
            *compare(
                f"the same, {_AT_RATE:g} in a second",
                "ms",
                _turns(contenders, steady, at_a_rate, few, _AT_RATE),
                scale.rounds_of(14),
                {"Sandbox, python": _LATENCY},
            ),
        ]


def throughput(scale: Scale) -> list[Figure]:
    """Compare how many scripts are done in a second, some at a time."""
    source = peers.SCRIPT.read_bytes()
    with contextlib.ExitStack() as stack:
        contenders = {PLAIN: stack.enter_context(Contender(PLAIN, plain, peers.SCRIPT_COMMAND))}
        for runtime in ("python", "python-exec"):
            name = f"Sandbox, {runtime}"
            contenders[name] = stack.enter_context(
                Contender(name, sandboxed, Job(source, runtime=runtime), None, SLOTS)
            )
        for name, jailer in peers.jailers().items():
            contenders[name] = stack.enter_context(
                Contender(name, plain, (*jailer, *peers.SCRIPT_COMMAND))
            )
        return compare(
            f"a one-line script, {SLOTS} at a time",
            "jobs/s",
            _turns(contenders, list(contenders), at_once, SLOTS, 0.6 * scale.jobs),
            scale.rounds_of(8),
            {"Sandbox, python": (Aim("ratio", 3, at_least=True),)},
        )


def program(scale: Scale) -> list[Figure]:
    """Compare the time of the smallest of programs, with bubblewrap's if that is installed."""
    ours = "Sandbox, a program's runtime"
    with contextlib.ExitStack() as stack:
        contenders = {
            name: stack.enter_context(Contender(name, plain, (*jailer, peers.TRUE)))
            for name, jailer in peers.jailers().items()
        }
        table = Path(stack.enter_context(tempfile.TemporaryDirectory()), "runtimes.toml")
        table.write_text(f'[true]\ncommand = ["{peers.TRUE}"]\n', encoding="utf-8")
        contenders[ours] = stack.enter_context(
            Contender(ours, sandboxed, Job("", runtime="true"), str(table))
        )
        contenders[PLAIN] = stack.enter_context(Contender(PLAIN, plain, (peers.TRUE,)))
        aims = {ours: (Aim("ratio", 0.75),)} if peers.BUBBLEWRAP in contenders else {}
        return compare(
            "/bin/true, back to back",
            "ms",
            _turns(contenders, list(contenders), back_to_back, scale.jobs_of(40)),
            scale.rounds_of(8),
            aims,
        )


def packages(scale: Scale) -> list[Figure]:
    """Compare a job that imports numpy, loaded ahead, with the same without a jail; installs numpy."""
    ours = "Sandbox, numpy loaded ahead"
    with contextlib.ExitStack() as stack:
        # Not in /tmp, of which a jail has its own.
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp"))
        table = Path(folder, "runtimes.toml")
        command = Path(sys.executable).with_name("sandboxed")
        subprocess.run(
            [command, "runtime", "add", "numpy", "--table", table, "--packages", "numpy"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        python = environments.interpreter(environments.directory(table, "numpy"))
        contenders = {
            PLAIN: stack.enter_context(Contender(PLAIN, plain, (str(python), "-I", "-c", _NUMPY))),
            ours: stack.enter_context(
                Contender(
                    ours, sandboxed, Job(_NUMPY, runtime="numpy", limits=_NUMPY_LIMITS), str(table)
                )
            ),
        }
        return compare(
            "a script that imports numpy",
            "ms",
            _turns(contenders, list(contenders), back_to_back, scale.jobs_of(10)),
            scale.rounds_of(6),
            {ours: (Aim("ratio", 0.05),)},
        )


def _turns(contenders: dict[str, Contender], names: list[str], *way: object) -> Contenders:
    return {name: lambda name=name: contenders[name].do(*way) for name in names}  # type: ignore[misc]
