"""Importing the producer is cheap, and takes in nothing of the worker's side."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import producer

#: All that the producer may know of sandbox_core: the vocabulary of a job.
VOCABULARY = {
    "sandbox_core",
    "sandbox_core.errors",
    "sandbox_core.job",
    "sandbox_core.options",
    "sandbox_core.wire",
}
SOURCES = sorted(Path(producer.__file__).parent.glob("*.py"))


def loaded(statement: str) -> set[str]:
    """Give the modules that a fresh interpreter has after `statement`."""
    code = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_producer_loads_nothing_heavy() -> None:
    """No Celery, no redis-py, no asyncio, nothing of the jail."""
    modules = loaded("import producer")

    assert not modules & {"asyncio", "celery", "click", "ctypes", "kombu", "redis", "worker"}
    assert {name for name in modules if name.startswith("sandbox_core")} <= VOCABULARY


def test_making_a_client_opens_nothing() -> None:
    """A client may be made where no Redis is; only its first command needs one."""
    modules = loaded("import producer; producer.Client('redis://nowhere.invalid')")

    assert "redis" not in modules


def test_the_cli_loads_nothing_of_the_jail_or_the_worker() -> None:
    """`sandboxed submit` needs the queue's side alone."""
    modules = loaded("import producer.cli")

    assert not modules & {"celery", "ctypes", "kombu", "worker"}
    assert {name for name in modules if name.startswith("sandbox_core")} <= VOCABULARY


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_a_module_of_the_producer_imports_the_vocabulary_alone(source: Path) -> None:
    """What is imported lazily counts too."""
    names = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names.add(str(node.module))
            if node.module == "sandbox_core":
                names |= {f"sandbox_core.{alias.name}" for alias in node.names if alias.name.islower()}

    assert {name for name in names if name.startswith("sandbox_core")} <= VOCABULARY
    assert not {name.split(".")[0] for name in names} & {"celery", "kombu", "worker"}


def test_the_names_of_the_contract_are_there() -> None:
    """One import gives all that an application needs."""
    for name in producer.__all__:
        assert getattr(producer, name).__name__ == name
