"""Programs in a package and from outside it: which files, which of them is started, by what.

A program is a file or a folder. It becomes a `Job` without being run or even looked into here: what
is wrong with it is for the jail to find out, except that there may be nothing to start.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from producer.grading.package_files import check_links, fill_in_bytes
from sandbox_core import Job, Limits

#: Runtimes by the suffix of what they run. An operator's others are named with --runtime.
RUNTIMES = {".py": "python", ".py3": "python", ".sh": "sh"}

_PYTHON = ("python", "python-exec")
_MOST_FILES = 2_000
_MOST_BYTES = 64 << 20


class BadProgram(ValueError):
    """There is nothing that could be run; the text says why."""


@dataclass(frozen=True, slots=True)
class Program:
    """Files by their path in the working directory, and which of them is started by which runtime."""

    name: str
    files: Mapping[str, bytes]
    main: str
    runtime: str

    @property
    def python(self) -> bool:
        """Whether it is a script of Python, which compiles or does not."""
        return self.runtime in _PYTHON or self.main.endswith((".py", ".py3"))

    @property
    def digest(self) -> str:
        """Tell this program from any other, by its content."""
        told = hashlib.sha256(f"{self.runtime}\0{self.main}\0".encode())
        for path, content in sorted(self.files.items()):
            told.update(f"{path}\0{len(content)}\0".encode("utf-8", "surrogateescape"))
            told.update(content)
        return told.hexdigest()

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(map(len, self.files.values()))

    def including(self, files: Mapping[str, bytes]) -> "Program":
        """Give the program with files put beside its own, or in their place."""
        if not files:
            return self
        main = next((name for name in ("main.py",) if name in files and self.python), self.main)
        return replace(self, files={**self.files, **files}, main=main)

    def job(
        self,
        limits: Limits,
        *,
        args: tuple[str, ...] = (),
        stdin: bytes = b"",
        files: Mapping[str, bytes] | None = None,
        collect: tuple[str, ...] = (),
    ) -> Job:
        """Give the job that runs it, with more `files` in its working directory.

        The runtime places what it starts under a name of its own (`main.py`); a Python program of
        several files is found under its real name as well, by those of them that import it.
        """
        placed = {**self.files, **(files or {})}
        source = placed.pop(self.main)
        if placed and self.main != "main.py" and self.python:
            placed[self.main] = source
        if self.runtime in _PYTHON and "main.py" in placed:
            raise BadProgram(f"{self.name}: has a main.py beside {self.main}, which is started")
        needed = len(source) + sum(map(len, placed.values()))
        if needed * 2 > limits.disk:
            limits = replace(limits, disk=needed * 2)
        return Job(
            source,
            runtime=self.runtime,
            args=args,
            stdin=stdin,
            files=placed,
            collect=collect,
            limits=limits,
        )


def load_program(
    path: Path,
    *,
    name: str | None = None,
    main: str | None = None,
    runtime: str | None = None,
    constants: dict[str, str] | None = None,
) -> Program:
    """Read a program; `main` and `runtime` say what else would be found out from the names.

    Raises `BadProgram` where it has nothing to start, too many files, or can't be read.
    """
    called = name or path.name
    try:
        if path.is_dir():
            check_links(path)
            files = {os.fspath(found.relative_to(path)): found.read_bytes() for found in _walk(path)}
        else:
            if not path.is_file():
                raise BadProgram(f"{called}: neither a file nor a folder")
            if path.stat().st_size > _MOST_BYTES:
                raise BadProgram(f"{called}: more than {_MOST_BYTES} bytes")
            files = {path.name: path.read_bytes()}
    except OSError as error:
        raise BadProgram(f"{called}: {error.strerror}") from None
    except ValueError as error:
        raise BadProgram(str(error)) from None
    if sum(map(len, files.values())) > _MOST_BYTES:
        raise BadProgram(f"{called}: more than {_MOST_BYTES} bytes")
    files = {place: fill_in_bytes(content, constants or {}) for place, content in files.items()}
    started = main or _main(called, files, runtime)
    if started not in files:
        raise BadProgram(f"{called}: has no file {started}")
    chosen = runtime or ("sh" if started == "run" else RUNTIMES.get(Path(started).suffix))
    if chosen in _PYTHON and re.match(rb"#!.*python2", files[started]):
        raise BadProgram(f"{called}: nothing here runs Python 2")
    if chosen is None:
        raise BadProgram(f"{called}: nothing here runs {Path(started).suffix or 'such'} programs")
    return Program(called, files, started, chosen)


def _walk(folder: Path) -> list[Path]:
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != "__pycache__" and name[0] != ".")
        found += [Path(place, name) for name in sorted(names) if name[0] != "."]
        if len(found) > _MOST_FILES:
            raise BadProgram(f"{folder.name}: more than {_MOST_FILES} files")
    return found


def _main(called: str, files: Mapping[str, bytes], runtime: str | None) -> str:
    """Find the file that is started: the only one, or the one that is called so."""
    if len(files) == 1:
        return next(iter(files))
    for name in ("main.py", "__main__.py", "main.sh", "run"):
        if name in files:
            return name
    top = [name for name in files if "/" not in name and Path(name).suffix in RUNTIMES]
    if runtime is not None and not top:
        top = [name for name in files if "/" not in name]
    if len(top) == 1:
        return top[0]
    if not files:
        raise BadProgram(f"{called}: an empty folder")
    suffixes = sorted({Path(name).suffix for name in files})
    if runtime is None and not set(suffixes) & set(RUNTIMES):
        raise BadProgram(f"{called}: nothing here runs {' or '.join(filter(None, suffixes))} programs")
    raise BadProgram(f"{called}: no main file; name one main.py or __main__.py")
