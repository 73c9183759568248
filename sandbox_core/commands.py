"""The `sandboxed` commands that need no queue: `run`, `doctor`, `schema`.

What they share with `submit` (options, exit codes, messages) is `sandbox_core.options`'s; the jail
itself is `sandbox_core.sandbox`'s, imported when a job is about to run.
"""

import json
import os
import signal
import socket
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import SplitResult, unquote, urlsplit

import click

from sandbox_core import options, wire
from sandbox_core.errors import InvalidJob, SandboxError
from sandbox_core.job import Job, Result, Status

if TYPE_CHECKING:
    from sandbox_core.doctor import Check

_DEFAULT_REDIS = "redis://localhost:6379/0"
_SOCKET_SCHEMES = ("unix", "redis+socket")  # redis-py's name for it, and Celery's
_PING_TIMEOUT = 2.0  # seconds


@click.command(cls=options.JobCommand)
@options.job_options
@click.pass_context
def run(ctx: click.Context, /, *, out: Path | None, as_json: bool, **asked: Any) -> None:
    """Run SCRIPT in a jail on this host, with no queue.

    Standard input, output and error pass through as they come; SCRIPT `-` is read from standard
    input. Options come before SCRIPT: what follows it is the script's own. Sizes take K, M, G.

    Exits with the script's code, 128+N for signal N, 124 at the time limit, 137 at the memory
    limit, 153 at the output limit, 125 when the sandbox itself fails.
    """
    ours_is_input = asked["stdin_file"] is None and asked["script"] != options.STDIN_SCRIPT
    job = options.make_job(**asked)
    options.check_collect(job, out=out, as_json=as_json)
    if os.geteuid() != 0:
        raise SandboxError("run", "building a jail needs root; try: sudo sandboxed run …")
    with _ended_by(signal.SIGTERM, signal.SIGHUP):
        result = _run(job, stdin=0 if ours_is_input else None, relay=not as_json)
    ctx.exit(options.report(result, limits=job.limits, out=out, as_json=as_json, relayed=not as_json))


def _run(job: Job, *, stdin: int | None, relay: bool) -> Result:
    """Run `job` in a jail; a refusal or a failure of the sandbox is a Result here too."""
    from sandbox_core.sandbox import Sandbox  # noqa: PLC0415  # the jail, when one is needed

    stdout, stderr = (1, 2) if relay else (None, None)
    try:
        with Sandbox(runtimes=os.environ.get("SANDBOXED_RUNTIMES")) as sandbox:
            return sandbox.run(job, stdin=stdin, stdout=stdout, stderr=stderr)
    except InvalidJob as error:
        return Result(Status.INVALID_JOB, error=str(error), labels=job.labels)
    except SandboxError as error:
        return Result(Status.INTERNAL_ERROR, error=str(error), labels=job.labels)


@contextmanager
def _ended_by(*numbers: signal.Signals) -> Iterator[None]:
    """Leave by an exception at these signals, so that the jail is taken down on the way out."""

    def leave(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001  # signal's signature
        sys.exit(128 + number)

    former = {number: signal.signal(number, leave) for number in numbers}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@click.command()
def schema() -> None:
    """Print the JSON Schemas of Job and Result, as one object with these two names."""
    click.echo(json.dumps(wire.schemas(), indent=2))


@click.command()
@options.json_flag("Print the checks as JSON.")
@click.pass_context
def doctor(ctx: click.Context, /, *, as_json: bool) -> None:
    """Check this host part by part: what is there, what is missing, and the mend.

    Exits with 1 when a job could not run here.
    """
    from sandbox_core.doctor import checks  # noqa: PLC0415  # it looks at the jail's parts

    url = os.environ.get("SANDBOXED_REDIS_URL", _DEFAULT_REDIS)
    found = [*checks(), _redis_check(url)]
    if as_json:
        click.echo(json.dumps([asdict(check) for check in found]))
    else:
        _print_checks(found)
    ctx.exit(1 if any(check.needed and check.ok is False for check in found) else 0)


def _print_checks(found: list["Check"]) -> None:
    from rich.console import Console  # noqa: PLC0415  # 40 ms that `run` does without
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table("Part", "State", "Found", "Mend")
    for check in found:
        if check.ok is None:
            state = Text("note", "yellow")
        elif check.ok:
            state = Text("ok", "green")
        else:
            state = Text("missing", "bold red") if check.needed else Text("warning", "yellow")
        mend = "" if check.ok else check.mend
        table.add_row(Text(check.name), state, Text(check.found), Text(mend))
    console = Console()
    console.print(table)
    failed = [check.name for check in found if check.needed and check.ok is False]
    if failed:
        console.print(Text(f"A job can't run here: mend {', '.join(failed)}.", "bold red"))
    else:
        console.print(Text("A job can run here.", "green"))


def _redis_check(url: str) -> "Check":
    """Ask the queue's Redis for a sign of life; a job on this host runs without one."""
    from sandbox_core.doctor import Check  # noqa: PLC0415

    parts = urlsplit(url)
    name = parts.path if parts.scheme in _SOCKET_SCHEMES else f"{parts.hostname}:{parts.port or 6379}"
    try:
        answer = _ping(parts)
    except (OSError, ValueError) as error:
        answer = getattr(error, "strerror", None) or str(error)
    return Check(
        name="Redis",
        ok=answer == "+PONG",
        found=f"{name}: {'answers' if answer == '+PONG' else answer}",
        mend="start one, or name it in SANDBOXED_REDIS_URL; `sandboxed up` brings its own",
        needed=False,
    )


def _ping(url: SplitResult) -> str:
    """Give the first line that the server says to PING (after AUTH, where the URL has a password).

    Spoken by hand: a client library would be the only thing of the queue in this package.
    """
    with _connect(url) as server:
        lines = server.makefile("rb")
        words = [unquote(word) for word in (url.username, url.password) if word]
        if url.password:
            server.sendall(_command("AUTH", *words))
            answer = lines.readline(512).decode(errors="replace").strip()
            if answer != "+OK":
                return answer
        server.sendall(_command("PING"))
        return lines.readline(512).decode(errors="replace").strip() or "closed the connection"


def _connect(url: SplitResult) -> socket.socket:
    if url.scheme in _SOCKET_SCHEMES:
        server = socket.socket(socket.AF_UNIX)
        server.settimeout(_PING_TIMEOUT)
        server.connect(unquote(url.path))
        return server
    if url.scheme not in ("redis", "rediss"):
        raise ValueError("its URL should start with redis://, rediss:// or unix://")
    host = url.hostname or "localhost"
    plain = socket.create_connection((host, url.port or 6379), timeout=_PING_TIMEOUT)
    if url.scheme == "redis":
        return plain
    return ssl.create_default_context().wrap_socket(plain, server_hostname=host)


def _command(*words: str) -> bytes:
    """Write a command as Redis reads it (RESP: an array of bulk strings)."""
    encoded = [word.encode() for word in words]
    bulk = b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded)
    return b"*%d\r\n%b" % (len(encoded), bulk)
