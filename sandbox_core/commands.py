"""The `sandboxed` commands that need no queue: `run`, `schema`.

What they share with `submit` (options, exit codes, messages) is `sandbox_core.options`'s; the jail
itself is `sandbox_core.sandbox`'s, imported when a job is about to run.
"""

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click

from sandbox_core import options, wire
from sandbox_core.errors import InvalidJob, SandboxError
from sandbox_core.job import Job, Result, Status


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
    with ended_by(signal.SIGTERM, signal.SIGHUP):
        result = _run(job, stdin=0 if ours_is_input else None, relay=not as_json)
    ctx.exit(options.report(result, limits=job.limits, out=out, as_json=as_json, relayed=not as_json))


def _run(job: Job, *, stdin: int | None, relay: bool) -> Result:
    """Run `job` in a jail; a refusal or a failure of the sandbox is a Result here too."""
    from sandbox_core.sandbox import Sandbox  # noqa: PLC0415  # the jail, when one is needed

    stdout, stderr = (1, 2) if relay else (None, None)
    try:
        with Sandbox(runtimes=os.environ.get("SANDBOXED_RUNTIMES"), ahead=False) as sandbox:
            return sandbox.run(job, stdin=stdin, stdout=stdout, stderr=stderr)
    except InvalidJob as error:
        return Result(Status.INVALID_JOB, error=str(error), labels=job.labels)
    except SandboxError as error:
        return Result(Status.INTERNAL_ERROR, error=str(error), labels=job.labels)


@contextmanager
def ended_by(*numbers: signal.Signals) -> Iterator[None]:
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
