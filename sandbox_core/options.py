"""The words that the `sandboxed` commands share at the shell.

The options that describe a job, the job that they make, and what becomes of its result: output,
exit code, one line on stderr, collected files. Pure: what runs the job (a jail here, or a queue) is
the command's affair, so that submitting one needs neither Linux nor root.
"""

import contextlib
import json
import os
import posixpath
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from sandbox_core import wire
from sandbox_core.job import Job, Limits, Result, Status

_Command = TypeVar("_Command", bound=Callable[..., Any])

#: The script that is read from standard input, as `python3 -` does.
STDIN_SCRIPT = "-"

EXIT_USAGE = 2
EXIT_TIME_LIMIT = 124
EXIT_SANDBOX_FAILED = 125
EXIT_MEMORY_LIMIT = 137
EXIT_OUTPUT_LIMIT = 153
EXIT_INTERRUPTED = 130

_EXIT_CODES = {
    Status.OK: 0,
    Status.TIME_LIMIT: EXIT_TIME_LIMIT,
    Status.MEMORY_LIMIT: EXIT_MEMORY_LIMIT,
    Status.OUTPUT_LIMIT: EXIT_OUTPUT_LIMIT,
    Status.CANCELLED: EXIT_INTERRUPTED,
    Status.INVALID_JOB: EXIT_USAGE,
    Status.INTERNAL_ERROR: EXIT_SANDBOX_FAILED,
}

# Written out, since the caller's machine need not number its signals as the worker's Linux does
# (signal(7), the x86 and ARM column).
# fmt: off
_SIGNALS = (
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE",
    "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM", "STKFLT",
    "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU",
    "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
)
# fmt: on
_SIGNAL_ALIASES = {"IOT": 6, "CLD": 17, "POLL": 29, "UNUSED": 31}
# glibc keeps the first two real-time signals of the kernel to itself.
_REAL_TIME = {"RTMIN": 34, "RTMAX": 64}

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def size(value: str) -> int:
    """Give the bytes in `value`, a whole number: `4096`, or `64K`, `64M`, `1G` (powers of 1024)."""
    found = re.fullmatch(r"([0-9]{1,19})([KMG]?)", value.upper())
    if not found:
        raise click.BadParameter(f"{value!r} is no size; write bytes, or 64K, 64M, 1G")
    return int(found[1]) * _UNITS[found[2]]


def pair(value: str) -> tuple[str, str]:
    """Give the two sides of the first `=` in `K=V`."""
    name, equals, text = value.partition("=")
    if not equals or not name:
        raise click.BadParameter(f"{value!r} should be NAME=VALUE")
    return name, text


def placed_file(value: str) -> tuple[str, str]:
    """Give the path in the jail and the path here from `PATH` or `PATH=LOCAL`."""
    path, equals, local = value.partition("=")
    if equals:
        return path, local
    placed = posixpath.normpath(path)
    if placed.startswith(("/", "..")):
        name = posixpath.basename(placed)
        raise click.BadParameter(f"say where it goes in the jail: --file {name}={path}")
    return placed, path


class JobCommand(click.Command):
    """A command that takes options before SCRIPT only: what follows is the script's own."""

    allow_interspersed_args = False


def _option(*names: str, **settings: Any) -> Callable[[_Command], _Command]:
    return click.option(*names, **settings)


def _apply(*decorators: Callable[[_Command], _Command]) -> Callable[[_Command], _Command]:
    """Make one decorator of several, so that `--help` lists them in this order."""

    def decorate(command: _Command) -> _Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


def json_flag(told: str) -> Callable[[_Command], _Command]:
    """Make the option `--json`, whose help is `told` and whose parameter is `as_json`."""
    return _option("--json", "as_json", is_flag=True, help=told)


def size_text(count: int) -> str:
    """Write bytes as the shell takes them: `64M` for 67108864."""
    for unit in "GMK":
        if count and count % _UNITS[unit] == 0:
            return f"{count // _UNITS[unit]}{unit}"
    return str(count)


_DEFAULTS = Limits()

#: One option for each field of `Limits`, by that name; None where it is not given.
limit_options = _apply(
    _option(
        "--wall-time",
        type=float,
        metavar="SECONDS",
        help=f"Time the job may take.  [default: {_DEFAULTS.wall_time:g}]",
    ),
    _option(
        "--cpu-time",
        type=float,
        metavar="SECONDS",
        help="CPU time, user plus system.  [default: the wall time]",
    ),
    _option(
        "--memory",
        type=size,
        metavar="SIZE",
        help=f"All memory of the jail, its files included.  [default: {size_text(_DEFAULTS.memory)}]",
    ),
    _option(
        "--processes",
        type=int,
        metavar="COUNT",
        help=f"Processes and threads.  [default: {_DEFAULTS.processes}]",
    ),
    _option(
        "--output",
        type=size,
        metavar="SIZE",
        help=f"Bytes of stdout and of stderr, each.  [default: {size_text(_DEFAULTS.output)}]",
    ),
    _option(
        "--disk",
        type=size,
        metavar="SIZE",
        help=f"Bytes in the working directory.  [default: {size_text(_DEFAULTS.disk)}]",
    ),
    _option(
        "--open-files",
        type=int,
        metavar="COUNT",
        help=f"Descriptors.  [default: {_DEFAULTS.open_files}]",
    ),
)

#: Where collected files go, and JSON in place of the job's own output: `out` and `as_json`.
out_option = _option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write the collected files below DIR.",
)
json_option = json_flag("Print the Result as JSON; exit with 0 when the sandbox did its work.")

#: What a job is given beside its script: `env`, `files`, `runtime`.
env_option = _option(
    "--env",
    type=pair,
    metavar="K=V",
    multiple=True,
    help="A variable for the script; repeatable.",
)
file_option = _option(
    "--file",
    "files",
    type=placed_file,
    metavar="PATH[=LOCAL]",
    multiple=True,
    help="A file for the working directory; repeatable.",
)
runtime_option = _option(
    "--runtime",
    default="python",
    metavar="NAME",
    show_default=True,
    help="What runs the script.",
)

#: All that describes a job: what `make_job` takes. `out` and `as_json` are the command's own.
job_options = _apply(
    limit_options,
    _option(
        "--stdin",
        "stdin_file",
        metavar="FILE",
        help="The script's standard input.  [default: ours]",
    ),
    env_option,
    file_option,
    _option(
        "--collect",
        metavar="GLOB",
        multiple=True,
        help="Files to fetch from the working directory; repeatable.",
    ),
    out_option,
    runtime_option,
    _option(
        "--label",
        "labels",
        type=pair,
        metavar="K=V",
        multiple=True,
        help="A note of yours, given back in the Result; repeatable.",
    ),
    json_option,
    click.argument("script"),
    click.argument("args", nargs=-1, type=click.UNPROCESSED),
)


def make_limits(**given: float | None) -> Limits:
    """Make the limits that `limit_options` describe; bad usage where they are none."""
    try:
        return Limits(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    except ValueError as error:
        raise click.UsageError(_as_option(str(error))) from None


def make_job(
    *,
    script: str,
    args: tuple[str, ...],
    stdin_file: str | None,
    env: tuple[tuple[str, str], ...],
    files: tuple[tuple[str, str], ...],
    collect: tuple[str, ...],
    runtime: str,
    labels: tuple[tuple[str, str], ...],
    read_stdin: bool = False,
    **limits: float | None,
) -> Job:
    """Make the job that `job_options` describe, with the files that they name read.

    With `read_stdin` the job's input is all of ours where no `--stdin` names another, unless a
    person would have to type it or the script itself comes that way.

    Raises `click.UsageError` for what can't be read and for what is no job.
    """
    if script == STDIN_SCRIPT and stdin_file == STDIN_SCRIPT:
        raise click.UsageError("the script and --stdin can't both be read from standard input")
    source = _read(script, "the script")
    if stdin_file is not None:
        stdin = _read(stdin_file, "--stdin")
    elif read_stdin and script != STDIN_SCRIPT and not sys.stdin.isatty():
        stdin = sys.stdin.buffer.read()
    else:
        stdin = b""
    placed = {path: _read(local, "--file", standard_input=False) for path, local in files}
    chosen = make_limits(**limits)
    try:
        return Job(
            source,
            runtime=runtime,
            args=args,
            stdin=stdin,
            env=dict(env),
            files=placed,
            collect=collect,
            limits=chosen,
            labels=dict(labels),
        )
    except ValueError as error:
        raise click.UsageError(_as_option(str(error))) from None


def check_collect(job: Job, *, out: Path | None, as_json: bool) -> None:
    """Refuse a job whose collected files would go nowhere."""
    if job.collect and out is None and not as_json:
        raise click.UsageError("--collect needs --out DIR (or --json) to put the files in")


def _read(path: str, what: str, *, standard_input: bool = True) -> bytes:
    try:
        if standard_input and path == "-":
            return sys.stdin.buffer.read()
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise click.UsageError(f"can't read {what} {path!r}: {reason}") from None


def _as_option(text: str) -> str:
    """Name the option where a message names the field: `limits.wall_time` is `--wall-time`."""
    return re.sub(r"\blimits\.([a-z_]+)", lambda found: "--" + found[1].replace("_", "-"), text)


# What becomes of a result.


def report(
    result: Result,
    *,
    limits: Limits | None = None,
    out: Path | None = None,
    as_json: bool = False,
    relayed: bool = False,
) -> int:
    """Show a result at the shell and give the exit code of the command.

    The job's output goes to ours (unless it was `relayed` as it came), collected files go below
    `out`, what needs a word gets one line on stderr; with `as_json` the Result is printed instead
    of the output.
    """
    if as_json:
        click.echo(json.dumps(wire.result_to_json(result)))
    elif not relayed:
        for stream, content in ((sys.stdout, result.stdout), (sys.stderr, result.stderr)):
            stream.buffer.write(content)
            stream.flush()
    code = exit_code(result)
    if as_json and result.status not in (Status.INVALID_JOB, Status.INTERNAL_ERROR):
        code = 0  # the Result tells the rest
    elif line := message(result, limits):
        click.echo(line, err=True)
    if out is not None:
        try:
            write_files(result.files, out)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            click.echo(f"sandboxed: can't write the collected files to {out}: {reason}", err=True)
            return EXIT_SANDBOX_FAILED
    return code


def exit_code(result: Result) -> int:
    """Give the exit code that stands for `result` at the shell."""
    if result.status is Status.NONZERO_EXIT:
        return EXIT_SANDBOX_FAILED if result.exit_code is None else result.exit_code
    if result.status is Status.SIGNALED:
        number = _signal_number(result.signal or "")
        return EXIT_SANDBOX_FAILED if number is None else 128 + number
    return _EXIT_CODES[result.status]


def message(result: Result, limits: Limits | None = None) -> str | None:
    """Give the line for stderr that says what ended the job; None where the script did itself.

    With the job's `limits` it says which one was met, and its value.
    """
    status = result.status
    if status in (Status.OK, Status.NONZERO_EXIT):
        return None
    if status is Status.SIGNALED:
        told = f"killed by {result.signal}"
    elif status in (Status.INVALID_JOB, Status.INTERNAL_ERROR):
        told = f"{status.replace('_', ' ')}: {result.error or 'no reason given'}"
    else:
        told = status.replace("_", " ")
        if limits is not None and (met := _limit_met(result, limits)):
            told = f"{told}: {met}"
    return "sandboxed: " + " ".join(told.split())


def _limit_met(result: Result, limits: Limits) -> str | None:
    if result.status is Status.MEMORY_LIMIT:
        return size_text(limits.memory)
    if result.status is Status.OUTPUT_LIMIT:
        return f"{size_text(limits.output)} on stdout or stderr"
    if result.status is Status.TIME_LIMIT:
        if result.wall_time < limits.wall_time:
            return f"{limits.effective_cpu_time:g} s of CPU time"
        return f"{limits.wall_time:g} s"
    return None


def _signal_number(name: str) -> int | None:
    """Give the number that Linux gives a signal's name (`SIGSEGV`, `SIGRTMIN+3`, `SIG33`, `33`)."""
    short = name.upper().removeprefix("SIG")
    if short in _SIGNALS:
        return _SIGNALS.index(short) + 1
    if short in _SIGNAL_ALIASES:
        return _SIGNAL_ALIASES[short]
    if found := re.fullmatch(r"(RTMIN|RTMAX)([+-][0-9]{1,2})?", short):
        return _REAL_TIME[found[1]] + int(found[2] or 0)
    return int(short) if re.fullmatch(r"[0-9]{1,2}", short) else None


def write_files(contents: Mapping[str, bytes], out: Path) -> None:
    """Write collected files below the folder `out`, which is made if need be.

    Nothing that the result says is trusted: a path that leads out of the folder raises `ValueError`
    before anything is written, and a symbolic link inside the folder is never followed.
    """
    for path in contents:
        if "\0" in path or any(part in ("", ".", "..") for part in path.split("/")):
            raise ValueError(f"{path!r} is no path below it")
    out.mkdir(parents=True, exist_ok=True)
    for path, content in contents.items():
        *folders, name = path.split("/")
        with contextlib.ExitStack() as opened:
            folder = _open_folder(out, opened)
            for part in folders:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, dir_fd=folder)
                folder = _open_folder(part, opened, inside=folder)
            _write_new(name, content, folder)


def _open_folder(path: str | Path, opened: contextlib.ExitStack, inside: int | None = None) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | (0 if inside is None else os.O_NOFOLLOW)
    folder = os.open(path, flags, dir_fd=inside)
    opened.callback(os.close, folder)
    return folder


def _write_new(name: str, content: bytes, folder: int) -> None:
    # Made anew, so that a link, a pipe or another file's second name is replaced, not written to.
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(name, flags, 0o666, dir_fd=folder), "wb") as file:
        file.write(content)
