"""What no linter looks for: modules that say what they are for, of a readable size, finished."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("sandbox_core", "worker", "producer", "tests", "examples", "benchmarks", "docs", "deploy")
TEXTS = {".py", ".md", ".toml", ".yml", ".sh", ".service", ".json"}

#: Programs that are graded: some of them are broken on purpose.
GRADED = ROOT / "tests" / "data"

SOURCES = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.py")
    if not path.is_relative_to(GRADED)
)
FILES = sorted(
    {
        *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*")),
        *ROOT.glob("*"),
        ROOT / ".ci" / "run",
    }
)
READ = [
    path
    for path in FILES
    if path.is_file() and (path.suffix in TEXTS or path.name in ("Makefile", "Dockerfile", "run"))
]

#: The brackets keep this file from being the first to be found.
UNFINISHED = re.compile(r"\b(?:[T]ODO|[F]IXME|[H]ACK)\b")
#: A path that exists on somebody's machine only.
MACHINE = re.compile(r"/[w]ork/|/home/[a-z]+/|/[U]sers/|\.[p]yenv\b")
SWALLOWED = re.compile(r"except[^\n]*:\n\s+pass\b")
MOST_LINES = 500


def short(path: Path) -> str:
    """Name a file as a reader of the repository does."""
    return str(path.relative_to(ROOT))


def test_there_is_something_to_look_at() -> None:
    """A folder that was moved would pass every test below."""
    assert len(SOURCES) > 20
    assert ROOT / "Makefile" in READ


@pytest.mark.parametrize("path", SOURCES, ids=short)
def test_a_module_says_what_it_is_for(path: Path) -> None:
    """In its docstring."""
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", SOURCES, ids=short)
def test_a_module_is_short_enough_to_be_read(path: Path) -> None:
    """What is longer does more than one thing."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("path", READ, ids=short)
def test_a_file_is_finished(path: Path) -> None:
    """No notes to oneself, no paths of one machine."""
    text = path.read_text(encoding="utf-8")

    assert UNFINISHED.findall(text) == []
    assert MACHINE.findall(text) == []


@pytest.mark.parametrize("path", SOURCES, ids=short)
def test_no_error_is_swallowed(path: Path) -> None:
    """What may be ignored is named with `contextlib.suppress`."""
    assert SWALLOWED.findall(path.read_text(encoding="utf-8")) == []
