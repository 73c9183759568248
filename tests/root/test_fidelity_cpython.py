"""CPython's own tests as the judge: a warm jail fails in nothing that an exec jail does not also fail.

And all that fails in an exec jail fails at a wall, which `cpython/walls.toml` names.
"""

import importlib.util
import json
import os
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

import pytest

from sandbox_core import Job, Limits, Sandbox
from tests.root.attacks.battery import TIME_FACTOR

_HERE = Path(__file__).parent / "cpython"
_TABLE = tomllib.loads((_HERE / "walls.toml").read_text())
_LIMITS = Limits(
    wall_time=240.0 * TIME_FACTOR,
    cpu_time=120.0 * TIME_FACTOR,
    memory=512 << 20,
    processes=32,
    open_files=256,
    disk=64 << 20,
    output=8 << 20,
)


@pytest.fixture(autouse=True, scope="module")
def _has_tests() -> None:
    if importlib.util.find_spec("test.test_json") is None:
        missing = (
            "this Python comes without its own tests: on Debian, apt-get install libpython3-testsuite"
        )
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)


@pytest.fixture(scope="module")
def jails() -> Iterator[Sandbox]:
    """Make a sandbox of its own: a test of signals or threads may well upset its interpreter."""
    with Sandbox(slots=2) as sandbox:
        yield sandbox


def failures(jails: Sandbox, module: str, runtime: str) -> dict[str, str]:
    """Run a module of CPython's tests; give the end of the traceback of each that fails."""
    source = (_HERE / "run_module.py").read_text()
    job = Job(source, args=(module,), runtime=runtime, limits=_LIMITS, collect=("failures.json",))
    result = jails.run(job)
    assert result.ok, (result.status, result.stderr[-2000:])
    report = json.loads(result.files["failures.json"])
    assert report["run"] > 10
    return {name: text.strip()[-600:] for name, text in report["failed"].items()}


def wall(test: str, text: str) -> str | None:
    """Give the wall that a test fails at, if that is what happened."""
    for entry in _TABLE["wall"]:
        if any(fnmatchcase(test, pattern) for pattern in entry["tests"]) and any(
            says in text for says in entry["says"]
        ):
            return str(entry["name"])
    return None


@pytest.mark.parametrize("module", _TABLE["modules"])
def test_warm_jails_fail_in_nothing_new(jails, module):
    """What fails by chance, of a clock on a busy machine, passes one time of three."""
    found: dict[str, str] | None = None
    for _ in range(3):
        with ThreadPoolExecutor(2) as pool:
            fresh, warm = pool.map(partial(failures, jails, module), ("python-exec", "python"))
        failed = {
            **{test: text for test, text in fresh.items() if wall(test, text) is None},
            **{f"warm only: {test}": text for test, text in warm.items() if test not in fresh},
        }
        found = {test: text for test, text in failed.items() if found is None or test in found}
        if not found:
            break

    assert found == {}


def test_the_table_explains_nothing_by_name_alone():
    """A test that is in the table and fails in another way is a failure."""
    test = "test.test_io.CIOTest.test_large_file_ops"

    assert wall(test, "OSError: [Errno 27] File too large") is not None
    assert wall(test, "AssertionError: 1 != 2") is None
    assert wall("test.test_io.CIOTest.test_another", "OSError: [Errno 27] File too large") is None
