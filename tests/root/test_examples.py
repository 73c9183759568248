"""The examples end as their table, their README and the demo say that they do."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sandbox_core import Result, Sandbox, Status
from sandbox_core.sandbox import Cancel
from tests.root.attacks.battery import TIME_FACTOR
from worker.demo import EXAMPLES, Example, load_examples

ROOT = EXAMPLES.parent
BIN = Path(sys.executable).parent
ALL = load_examples()
#: A row of a table in the README: | what it does | `command` | exit code |
ROWS = re.findall(
    r"^\| [^|]+ \| `(.+)` \| (\d+) \|$",
    (EXAMPLES / "README.md").read_text(encoding="utf-8"),
    re.MULTILINE,
)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """Give one sandbox to all of them."""
    with Sandbox() as made:
        yield made


@pytest.mark.parametrize("example", ALL, ids=lambda example: example.name)
def test_an_example_ends_as_its_table_says(sandbox: Sandbox, example: Example) -> None:
    """Status, exit code or signal, output and files."""
    cancel = Cancel()
    timer = threading.Timer(example.cancel_after or 60 * TIME_FACTOR, cancel.set)
    timer.start()
    job = example.job
    if example.status is not Status.TIME_LIMIT:
        limits = replace(job.limits, wall_time=job.limits.wall_time * TIME_FACTOR)
        job = replace(job, limits=limits)
    try:
        result = sandbox.run(job, cancel=cancel)
    except ValueError as error:
        result = Result(Status.INVALID_JOB, error=str(error))
    finally:
        timer.cancel()

    assert example.mismatch(result) is None


def test_the_table_shows_every_status_that_a_script_can_bring_about() -> None:
    """All but the sandbox's own failure."""
    assert {example.status for example in ALL} == set(Status) - {Status.INTERNAL_ERROR}


def test_every_script_is_in_the_table_and_in_the_readme() -> None:
    """But for the module that another one imports."""
    scripts = {*EXAMPLES.glob("scripts/*.py"), *EXAMPLES.glob("hostile/*.py")}
    scripts.remove(EXAMPLES / "scripts" / "shapes.py")

    assert {example.script for example in ALL} == scripts
    assert {name for row, _ in ROWS for name in re.findall(r"\S+\.py(?= |$)", row)} >= {
        str(path.relative_to(ROOT)) for path in scripts
    }


@pytest.mark.parametrize(("command", "code"), ROWS, ids=lambda value: value.rpartition("/")[2])
def test_a_command_of_the_readme_exits_as_it_says(tmp_path: Path, command: str, code: str) -> None:
    """Typed as it stands, in the checkout; where the machine is slow, with more time."""
    if TIME_FACTOR != 1 and "--wall-time" not in command:
        command = command.replace("sandboxed run", f"sandboxed run --wall-time {6 * TIME_FACTOR}")
    done = subprocess.run(  # noqa: S602  # a README's commands are for a shell
        command.replace("/tmp/collected", str(tmp_path)),
        shell=True,
        cwd=ROOT,
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=30 * TIME_FACTOR,
        check=False,
    )

    assert done.returncode == int(code), done.stderr.decode()
    if "--collect" in command:
        assert sorted(path.name for path in tmp_path.glob("reports/*")) == ["means.csv", "means.json"]
