"""The submissions that were named: files, folders, globs, and folders of students."""

import glob
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from producer.grading.expectations import annotated, answers_in
from producer.grading.package_files import entries
from producer.grading.problem import Problem, Submission
from producer.grading.programs import RUNTIMES, BadProgram, load_program

_MAINS = ("main.py", "__main__.py", "main.sh", "run")


class NoSuchSubmission(ValueError):
    """A name stands for nothing; the text says which."""


def find_submissions(
    problem: Problem, named: Iterable[str | os.PathLike[str]], runtime: str | None = None
) -> list[Submission]:
    """Give the submissions that `named` stands for, and the package's own where nothing is named.

    A file is a program. So is a folder, if it has a main file, a single program file, or files that
    import each other; any other folder holds one submission in each of its entries. One that can't be
    run is in the list, too, and says why.
    """
    names = list(named)
    if not names:
        return list(problem.submissions)
    own = {_real(problem.folder / "submissions" / one.name): one for one in problem.submissions}
    found: list[Submission] = []
    taken: set[str] = set()
    for path in _paths(names):
        if (known := own.get(_real(path))) and runtime is None:
            submission = known
        else:
            submission = _read(problem, path, _called(path, taken), runtime)
        taken.add(submission.name)
        found.append(submission)
    return found


def _paths(names: Iterable[str | os.PathLike[str]]) -> Iterator[Path]:
    for name in names:
        text = os.fspath(name)
        path = Path(text)
        if path.exists():
            yield from _programs(path)
        elif glob.has_magic(text):
            matches = sorted(glob.glob(text, recursive=True))
            if not matches:
                raise NoSuchSubmission(f"{text}: matches nothing")
            for match in matches:
                yield from _programs(Path(match))
        else:
            raise NoSuchSubmission(f"{text}: there is no such file or folder")


def _programs(path: Path) -> list[Path]:
    """Give the programs that a file or folder is."""
    if not path.is_dir() or _is_program(path):
        return [path]
    inside = [found for found in entries(path) if found.name != "__pycache__"]
    if not inside:
        raise NoSuchSubmission(f"{path}: an empty folder")
    programs = [found for found in inside if found.is_dir() or found.suffix in RUNTIMES]
    return programs or inside


def _is_program(folder: Path) -> bool:
    files = [found for found in entries(folder) if found.is_file()]
    if any(found.name in _MAINS for found in files):
        return True
    programs = [found for found in files if found.suffix in RUNTIMES]
    folders = [
        found
        for found in entries(folder)
        if found.is_dir() and any(inner.suffix in RUNTIMES for inner in found.rglob("*"))
    ]
    if len(programs) == 1 and not folders:
        return True
    modules = "|".join(re.escape(found.stem) for found in (*programs, *folders))
    pattern = re.compile(rf"^\s*(?:from|import)\s+(?:{modules})\b".encode(), re.MULTILINE)
    return bool(modules) and any(pattern.search(_start(found)) for found in programs)


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(1 << 16)
    except OSError:
        return b""


def _called(path: Path, taken: set[str]) -> str:
    """Give the shortest end of a path that is not yet another's name."""
    parts = path.resolve().parts if path.name in ("", "..") else path.parts
    for count in range(1, len(parts) + 1):
        if (name := "/".join(parts[-count:])) not in taken:
            return name
    number = 2
    while f"{path} ({number})" in taken:
        number += 1
    return f"{path} ({number})"


def _read(problem: Problem, path: Path, name: str, runtime: str | None) -> Submission:
    try:
        program = load_program(path, name=name, runtime=runtime)
    except BadProgram as error:
        if "submit-answer" in problem.metadata.types:
            return Submission(name, None, answers=answers_in(path))
        return Submission(name, None, problem=str(error))
    limit = problem.metadata.code
    if limit is not None and program.size > limit * 1024:
        return Submission(name, None, problem=f"{name}: more than {limit} KiB of source")
    return Submission(name, program, annotated(program.files, None))


def _real(path: Path) -> str:
    return os.path.realpath(path)
