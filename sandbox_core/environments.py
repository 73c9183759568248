"""Environments: a Python's packages beside its standard library, built from PyPI for one runtime.

An environment is a virtual environment as `python3 -m venv` makes it, so a script finds its packages as
it would there. Those of a table's runtimes stand in a directory beside it: `runtimes.toml.d/NAME`.
The table itself is read in `sandbox_core.runtimes`; here its entries are written.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from sandbox_core.errors import SandboxError

#: With one process there can be one thread: numerical libraries must not start others as they load.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

_BUILD = "build the environment"
_WRITE = "write the runtimes table"
_BUILD_TIMEOUT = 1800.0
_STAMP = "requirements.json"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
#: A table's header, by the first part of its name.
_HEADER = re.compile(r"\s*\[\s*\"?([A-Za-z0-9_-]+)\"?\s*[.\]]")


def directory(table: Path, name: str) -> Path:
    """Give the place of the environment of the table's runtime `name`, which is a plain word."""
    if not _NAME.fullmatch(name):
        raise SandboxError(_BUILD, f"{name!r}: a name is letters, digits, - and _")
    return Path(f"{os.path.abspath(table)}.d") / name


def check_place(path: Path) -> None:
    """Raise `ValueError` for what a jail can't show: something of its own is there."""
    top = Path(os.path.normpath(path)).parts[1:2]
    if top and top[0] in ("box", "tmp", "proc", "dev"):
        raise ValueError(f"site_packages: {path} can't be shown in a jail, which has its own /{top[0]}")


def interpreter(environment: Path) -> Path:
    """Give the Python of an environment; `ValueError` if there is none."""
    python = environment / "bin" / "python3"
    if not (environment / "pyvenv.cfg").is_file() or not os.access(python, os.X_OK):
        raise ValueError(f"site_packages: {environment} is no virtual environment")
    return python


def shown(environment: Path, version: tuple[int, int]) -> tuple[str, ...]:
    """Give the parts of an environment that a jail needs; `ValueError` if it can't show them."""
    check_place(environment)
    packages = environment / "lib" / f"python{version[0]}.{version[1]}" / "site-packages"
    if not packages.is_dir():
        raise ValueError(f"site_packages: {packages} is not there")
    parts = [interpreter(environment), environment / "pyvenv.cfg", packages]
    if (environment / "lib64").is_symlink():
        parts.append(environment / "lib64" / packages.relative_to(environment / "lib"))
    return tuple(map(str, parts))


def built(table: Path, name: str, requirements: tuple[str, ...]) -> Path:
    """Give the environment of these requirements; `ValueError` if it is not there as they say."""
    environment = directory(table, name)
    try:
        stamp = json.loads((environment / _STAMP).read_text(encoding="utf-8"))
    except FileNotFoundError:
        stamp = None
    if stamp != list(requirements):
        raise ValueError(
            f"site_packages: {environment} was not built for {' '.join(requirements)}: "
            f"sandboxed runtime add {name} --table {table}"
        )
    return environment


def check_requirements(requirements: tuple[str, ...]) -> tuple[str, ...]:
    """Give them back; `ValueError` for none, and for what pip would take as an option."""
    if not requirements:
        raise ValueError("site_packages: expected at least one requirement")
    for requirement in requirements:
        if not requirement or not (requirement[0].isalnum()):
            raise ValueError(f"site_packages: {requirement!r} is no requirement")
    return requirements


def build(python: str, table: Path, name: str, requirements: tuple[str, ...]) -> Path:
    """Build the environment of a runtime with the interpreter `python`; give its place.

    Packages come as wheels, so that none of their code runs here. What was there before is replaced
    once the new one is complete. Raises `SandboxError` with the last words of what failed.
    """
    place = directory(table, name)
    try:
        check_place(place)
    except ValueError as error:
        raise SandboxError(_BUILD, f"{error}; move the table") from error
    fresh = place.with_name(f"{name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _call([python, "-I", "-m", "venv", "--without-pip", str(fresh)])
        pip = [*_pip(python), "--python", f"{fresh}/bin/python3"]
        _call([*pip, "install", "-q", "--only-binary", ":all:", "--no-input", *requirements])
        (fresh / _STAMP).write_text(json.dumps(list(requirements)), encoding="utf-8")
        shutil.rmtree(place, ignore_errors=True)
        fresh.rename(place)
    except OSError as error:
        raise SandboxError(_BUILD, str(error)) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        _remove_if_empty(place.parent)
    return place


def modules(environment: Path, requirements: tuple[str, ...]) -> list[str]:
    """Give the modules of the packages that were asked for, by what is written of them: none is run."""
    wanted = {_canonical(re.split(r"[^A-Za-z0-9._-]", requirement)[0]) for requirement in requirements}
    found = set()
    for packages in environment.glob("lib/python*/site-packages"):
        for package in metadata.distributions(path=[str(packages)]):
            if _canonical(package.name) in wanted:
                found |= {_module(file.parts) for file in package.files or ()}
    return sorted(name for name in found if name.isidentifier() and not name.startswith("_"))


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()  # packaging.python.org, Names and normalization


def _module(file: tuple[str, ...]) -> str:
    """Give the name of the module at the top that a file is, or nothing."""
    if len(file) == 1 and file[0].endswith((".py", ".so")):
        return file[0].partition(".")[0]
    return file[0] if file[1:] == ("__init__.py",) else ""


def discard(table: Path, name: str) -> None:
    """Remove the environment of the table's runtime `name`, if it has one there."""
    shutil.rmtree(directory(table, name), ignore_errors=True)
    _remove_if_empty(directory(table, name).parent)


def _remove_if_empty(path: Path) -> None:
    with suppress(OSError):  # others are in it, or it never was
        path.rmdir()


def _pip(python: str) -> list[str]:
    """Give a pip that can install into other environments: our own, else the interpreter's."""
    for candidate in (sys.executable, python):
        command = [candidate, "-m", "pip"]
        if subprocess.run([*command, "--version"], capture_output=True, check=False).returncode == 0:
            return command
    raise SandboxError(_BUILD, f"neither {sys.executable} nor {python} has pip: install it for one")


def _call(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=_BUILD_TIMEOUT,
            umask=0o022,  # jobs read it as another user
        )
    except subprocess.TimeoutExpired as error:
        raise SandboxError(_BUILD, str(error)) from error
    if done.returncode != 0:
        words = done.stderr.strip() or done.stdout.strip() or f"it exited with {done.returncode}"
        raise SandboxError(_BUILD, words[-500:])
    return done.stdout


# The table as text: others' entries and their comments stay as they are.


def load(table: Path) -> dict[str, Any]:
    """Give the entries of a table; none if there is no such file."""
    try:
        with table.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise SandboxError("read the runtimes table", f"{table}: {error}") from error


def write_entry(table: Path, name: str, entry: dict[str, Any] | None) -> None:
    """Put the entry `name` into the table, in the place of one of that name; None removes it.

    Raises `SandboxError` and leaves the file alone if the table is not written in a way that this
    understands.
    """
    expected = {key: value for key, value in load(table).items() if key != name}
    text = table.read_text(encoding="utf-8") if table.exists() else ""
    result = _without(text, name)
    if entry is not None:
        expected[name] = entry
        lines = [f"{key} = {_toml(value)}" for key, value in entry.items()]
        result = "\n".join([*([result, ""] if result else []), f"[{name}]", *lines])
    result = f"{result}\n" if result else ""
    try:
        understood = tomllib.loads(result) == expected
    except tomllib.TOMLDecodeError:
        understood = False
    if not understood:
        raise SandboxError(_WRITE, f"{table}: [{name}] is written in a way that only you can change")
    fresh = Path(f"{table}.new")
    try:
        fresh.write_text(result, encoding="utf-8")
        fresh.chmod(table.stat().st_mode & 0o7777 if table.exists() else 0o644)
        fresh.replace(table)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise SandboxError(_WRITE, str(error)) from error


def _without(text: str, name: str) -> str:
    """Leave out the entry `name` and its sub-tables; comments above the next one are the next one's."""
    kept: list[str] = []
    notes: list[str] = []  # of our entry's lines, the comments and empty lines at the end
    ours = False
    for line in text.splitlines(keepends=True):
        if header := _HEADER.match(line):
            ours = header[1] == name
        if not ours:
            kept += [*notes, line]
            notes = []
        elif line.strip() and not line.startswith("#"):
            notes = []
        else:
            notes.append(line)
    return "".join([*kept, *notes]).rstrip("\n")


def _toml(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        pairs = ", ".join(f"{json.dumps(key)} = {_toml(entry)}" for key, entry in value.items())
        return f"{{ {pairs} }}"
    # A JSON string, number or truth value is one of TOML too, unless it has a DEL in it.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
