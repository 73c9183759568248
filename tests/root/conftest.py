"""What the tests of real jails share: a sandbox, and the look from outside at what is left.

They need root on Linux. In CI a host that can't run jails fails them; elsewhere they are skipped.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox_core import Job, Limits, Result, Sandbox

#: How many times slower than an ordinary machine this one is; for one that is emulated.
TIME_FACTOR = float(os.environ.get("SANDBOXED_TEST_TIME_FACTOR", "1"))


@pytest.fixture(scope="session")
def time_factor() -> float:
    """By how much a test should stretch the times that it counts on."""
    return TIME_FACTOR


@pytest.fixture(autouse=True, scope="session")
def _root() -> None:
    if os.geteuid() == 0:
        return
    if os.environ.get("CI") == "true":
        pytest.fail("these tests build jails, which takes root")
    pytest.skip("these tests build jails, which takes root")


@pytest.fixture(autouse=True, scope="session")
def _own_temporary_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have temporary files made where nobody else makes any, so that one left behind shows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("tmp")))
        patch.setenv("TMPDIR", tempfile.gettempdir())
        yield


@pytest.fixture(scope="session")
def sandbox(_root: None) -> Iterator[Sandbox]:
    """One sandbox for all tests: jobs must not disturb each other."""
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture(scope="session")
def run(sandbox: Sandbox) -> Callable[..., Result]:
    """Run a script; limits are given beside the fields of the job."""
    limit_names = Limits.__dataclass_fields__

    def run(source: str | bytes, **options: Any) -> Result:
        limits = {name: options.pop(name) for name in list(options) if name in limit_names}
        limits.setdefault("wall_time", Limits().wall_time * TIME_FACTOR)
        return sandbox.run(Job(source, limits=Limits(**limits), **options))

    return run


@pytest.fixture(scope="session")
def leftovers() -> Callable[[], dict[str, list[str]]]:
    """Look for what running jobs can leave on a host."""
    return _leftovers


def _leftovers() -> dict[str, list[str]]:
    """Give what running jobs can leave on a host: processes, cgroups, mounts, descriptors, files."""
    processes = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/status", "rb") as file:
                status = file.read()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
        uid = int(status.partition(b"\nUid:\t")[2].split(None, 1)[0])
        if 60_000 <= uid <= 61_183:
            name = status.split(b"\n", 1)[0].partition(b"\t")[2].decode()
            processes.append(f"{name} /proc/{pid}/status")
    return {
        "processes": processes,
        "cgroups": _cgroups(),
        "mounts": Path("/proc/self/mountinfo").read_text().splitlines(),
        "descriptors": sorted(os.listdir("/proc/self/fd")),
        "files": sorted(os.listdir(tempfile.gettempdir())) + sorted(os.listdir("/dev/shm")),
    }


def _cgroups() -> list[str]:
    while True:
        try:
            return sorted(map(str, Path("/sys/fs/cgroup").glob("**/sandboxed-*")))
        except FileNotFoundError:
            continue  # one of another sandbox vanished under our eyes
