"""Imports go one way: the jail knows no queue, the worker no producer, the producer no jail.

The imports are read with `ast`, so that one which runs only now and then is seen too.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sandbox_core

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("sandbox_core", "worker", "producer")

#: What describes a job, without running one.
VOCABULARY = {
    "sandbox_core",
    "sandbox_core.errors",
    "sandbox_core.job",
    "sandbox_core.options",
    "sandbox_core.wire",
}
QUEUE_LIBRARIES = {"celery", "kombu", "redis", "flower", "billiard"}


def modules(package: str) -> list[Path]:
    """Give the files of a package."""
    return sorted((ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    """Give the dotted name of a module."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def statements(tree: ast.AST) -> Iterator[ast.stmt]:
    """Give the imports in `tree`, without those that are there for the type checker alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif not (
            isinstance(node, ast.If)
            and isinstance(node.test, ast.Name)
            and node.test.id == "TYPE_CHECKING"
        ):
            yield from statements(node)


def imports(path: Path) -> set[str]:
    """Give the modules that the file imports; a name taken from `sandbox_core` is its module's."""
    found = set()
    for node in statements(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
            continue
        assert isinstance(node, ast.ImportFrom)
        assert not node.level, f"{path}: an import relative to its package hides what it imports"
        module = node.module or ""
        for alias in node.names:
            home = getattr(sandbox_core, "_HOMES", {}).get(alias.name)
            if module == "sandbox_core" and home:
                found.add(f"sandbox_core.{home}")
            elif (ROOT / module.replace(".", "/") / f"{alias.name}.py").is_file():
                found.add(f"{module}.{alias.name}")
            else:
                found.add(module)
    return found


def top(name: str) -> str:
    """Give the package of a module."""
    return name.partition(".")[0]


def offences(package: str, allowed: set[str], refused: set[str]) -> list[str]:
    """Give the imports of a package that are of ours but not allowed, or refused by name."""
    ours = set(PACKAGES) - {package}
    return [
        f"{name_of(path)} imports {name}"
        for path in modules(package)
        for name in sorted(imports(path))
        if (top(name) in ours and name not in allowed and top(name) not in allowed)
        or top(name) in refused
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_the_packages_are_where_this_test_looks(package: str) -> None:
    """A package that was moved would pass every test below."""
    assert len(modules(package)) > 1


def test_the_jail_knows_no_queue() -> None:
    """It runs a job for anybody who asks."""
    assert offences("sandbox_core", set(), QUEUE_LIBRARIES) == []


def test_the_worker_knows_no_producer() -> None:
    """It stands on the jail alone."""
    assert offences("worker", {"sandbox_core"}, {"producer"}) == []


def test_the_producer_knows_the_vocabulary_alone() -> None:
    """It runs where no jail could."""
    assert offences("producer", VOCABULARY, {"worker"}) == []


@pytest.mark.parametrize("name", sorted(VOCABULARY))
def test_the_vocabulary_needs_nothing_but_itself(name: str) -> None:
    """The standard library, and click for the options."""
    path = ROOT / name.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")

    foreign = {
        imported
        for imported in imports(path)
        if imported not in VOCABULARY
        and top(imported) not in sys.stdlib_module_names
        and top(imported) != "click"
    }
    assert foreign == set()


def loaded_by(code: str) -> set[str]:
    """Give the modules that a fresh interpreter has loaded after running `code`."""
    listed = f"{code}\nimport sys\nsys.stderr.write('\\n' + ' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", listed], check=True, capture_output=True, text=True, cwd=ROOT
    )
    return set(done.stderr.rpartition("\n")[2].split())


def command(*words: str) -> str:
    """Give code that runs the `sandboxed` command to its end."""
    return (
        "import contextlib; from sandbox_core.cli import main\n"
        f"with contextlib.suppress(SystemExit): main({list(words)!r})"
    )


def test_importing_the_producer_loads_no_jail() -> None:
    """Nor does anything that it imports."""
    loaded = loaded_by("import producer; producer.Client, producer.Job")

    assert {name for name in loaded if top(name) == "sandbox_core"} <= VOCABULARY
    assert not {"worker"} & {top(name) for name in loaded}


@pytest.mark.parametrize("word", ["submit", "evaluate"])
def test_submitting_loads_no_jail(word: str) -> None:
    """`sandboxed submit` works where none can be built, and so does what sends many jobs."""
    loaded = loaded_by(command(word, "--help"))

    assert "producer.cli" in loaded
    assert {name for name in loaded if top(name) == "sandbox_core"} <= {
        *VOCABULARY,
        "sandbox_core.cli",
    }


@pytest.mark.parametrize("words", [("--help",), ("--version",), ("run", "--help"), ("schema",)])
def test_a_command_loads_no_queue_that_it_does_not_use(words: tuple[str, ...]) -> None:
    """Each is loaded when called, so that none waits for Celery."""
    loaded = {top(name) for name in loaded_by(command(*words))}

    assert not loaded & {*QUEUE_LIBRARIES, "worker", "producer", "rich"}


def test_an_offence_would_be_seen(tmp_path: Path) -> None:
    """This test reads imports wherever they stand."""
    path = tmp_path / "module.py"
    path.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import flower\n"
        "def f():\n    try:\n        import celery.app\n    finally:\n"
        "        from sandbox_core import Sandbox, wire\n",
        encoding="utf-8",
    )

    assert imports(path) == {"typing", "celery.app", "sandbox_core.sandbox", "sandbox_core.wire"}
