"""Reads a problem: a package (legacy or 2025-09, a folder or a zip), or a folder of inputs and answers.

Everything is checked before anything runs: `PackageError`, in one line that names the file.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from producer.grading.comparison import UnknownFlag, check_flags
from producer.grading.expectations import submissions_of
from producer.grading.metadata import Metadata, number, read_metadata
from producer.grading.package_files import PackageError, entries, fill_in_bytes, find_folder, read
from producer.grading.problem import FunctionTests, Group, Problem
from producer.grading.programs import BadProgram, Program, load_program
from producer.grading.testdata import read_plain, read_root

_INCLUDES = ("default", "python", "python3")


def load_problem(
    problem: str | os.PathLike[str], *, validator: str | os.PathLike[str] | None = None
) -> Problem:
    """Read the problem at a path and check it; `PackageError` says what is wrong with it.

    `validator` names an output validator to use in place of the package's, which may be of a kind
    that nothing here runs; "default" is the default validator. Close the problem, or use it in `with`:
    what came in an archive is unpacked meanwhile.
    """
    folder, unpacked = find_folder(problem)
    try:
        loaded = _load(folder, Path(problem), validator)
    except BaseException:
        if unpacked is not None:
            Problem("", folder, Metadata(""), None, unpacked=unpacked).close()  # type: ignore[arg-type]
        raise
    if unpacked is None:
        return loaded
    loaded._finalizer.detach()  # noqa: SLF001  # the copy has a finalizer of its own
    return replace(loaded, unpacked=unpacked)


def _refuse_both(folder: Path, root: Group) -> None:
    """Refuse tests of both kinds, of which one would not be run."""
    if any(root.tests()):
        raise PackageError(f"{folder / 'tests.py'}: stands beside tests of inputs and answers")


def _load(folder: Path, named: Path, validator: str | os.PathLike[str] | None) -> Problem:
    name = named.resolve().stem if named.is_file() else folder.resolve().name
    functions = _function_tests(folder)
    if not (folder / "problem.yaml").is_file():
        metadata = Metadata(name)
        root = read_plain(folder, optional=functions is not None)
        if functions is not None:
            _refuse_both(folder, root)
        return Problem(
            name,
            folder,
            metadata,
            root,
            validators=_chosen(validator) if validator else (),
            time_limit=_timelimit_file(folder),
            plain=True,
            functions=functions,
        )
    metadata = read_metadata(folder / "problem.yaml")
    root = read_root(folder, metadata, optional=functions is not None)
    if functions is not None:
        _refuse_both(folder, root)
    validators = _chosen(validator) if validator else _validators(folder, metadata)
    if not validators:
        for test in root.tests():
            try:
                check_flags(test.flags)
            except UnknownFlag as error:
                raise PackageError(f"{test.input_path}: {error}") from None
    include = _include(folder, metadata)
    submissions, notes = submissions_of(folder, metadata)
    return Problem(
        name,
        folder,
        metadata,
        root,
        validators=validators,
        include=include,
        submissions=submissions,
        time_limit=_timelimit_file(folder) or metadata.time_limit,
        functions=functions,
        notes=notes,
    )


def _timelimit_file(folder: Path) -> float | None:
    """Read DOMjudge's `.timelimit`: seconds, and nothing else."""
    path = folder / ".timelimit"
    if not path.is_file():
        return None
    value = number(path, "time limit", read(path).decode("utf-8", "replace").strip())
    if value <= 0:
        raise PackageError(f"{path}: expected a number of seconds above 0")
    return value


def _chosen(validator: str | os.PathLike[str]) -> tuple[Program, ...]:
    if os.fspath(validator) == "default":
        return ()
    try:
        return (load_program(Path(validator)),)
    except BadProgram as error:
        raise PackageError(str(error)) from None


def _validators(folder: Path, metadata: Metadata) -> tuple[Program, ...]:
    if metadata.legacy and not metadata.custom_validator:
        return ()
    several, single = folder / "output_validators", folder / "output_validator"
    if single.is_dir() and not metadata.legacy:
        inside = entries(single)
        paths = inside if len(inside) == 1 and inside[0].is_dir() else [single]
    else:
        paths = entries(several)
    if not paths and (metadata.custom_validator or metadata.interactive):
        where = several if metadata.legacy else single
        raise PackageError(f"{where}: the problem has a validator of its own, which is not there")
    if not paths and metadata.passes > 1:
        raise PackageError(f"{single}: a multi-pass problem needs a validator of its own")
    found = []
    for path in paths:
        try:
            found.append(load_program(path, constants=metadata.constants))
        except BadProgram as error:
            instead = "--validator names another to use in its place, or default"
            raise PackageError(f"{path.parent}: {error}; {instead}") from None
    return tuple(found)


def _include(folder: Path, metadata: Metadata) -> Mapping[str, bytes]:
    files: dict[str, bytes] = {}
    for language in _INCLUDES:
        for path in sorted((folder / "include" / language).rglob("*")):
            if path.is_file():
                place = str(path.relative_to(folder / "include" / language))
                files[place] = fill_in_bytes(read(path), metadata.constants)
    return files


def _function_tests(folder: Path) -> FunctionTests | None:
    path = folder / "tests.py"
    if not path.is_file():
        return None
    beside = {
        found.name: read(found)
        for found in entries(folder)
        if found.is_file() and found.suffix == ".py" and found.name != "tests.py"
    }
    return FunctionTests(read(path), beside)
