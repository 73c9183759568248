"""The `sandboxed` commands of the queue: `submit`, `result`, `cancel`.

Options, exit codes and messages are those of `sandboxed run` (`sandbox_core.options`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from producer.client import Client
from sandbox_core import options

redis_option = click.option(
    "--redis",
    "redis_url",
    metavar="URL",
    help="The queue's Redis.  [default: $SANDBOXED_REDIS_URL, else redis://localhost:6379/0]",
)


class _Failure(click.ClickException):
    """The queue could not do its work."""

    exit_code = options.EXIT_SANDBOX_FAILED


def _timeout_option(told: str) -> Callable[[Any], Any]:
    return click.option("--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help=told)


@click.command(cls=options.JobCommand)
@redis_option
@_timeout_option("Wait so long for the result, then cancel.  [default: the wall time and 60]")
@click.option("--no-wait", is_flag=True, help="Print the job's id and leave it to `result`.")
@options.job_options
@click.pass_context
def submit(
    ctx: click.Context,
    /,
    *,
    redis_url: str | None,
    timeout: float | None,
    no_wait: bool,
    out: Path | None,
    as_json: bool,
    **asked: Any,
) -> None:
    """Run SCRIPT through the queue.

    Standard input is read to its end and sent along; SCRIPT `-` is read from standard input.
    Options come before SCRIPT: what follows it is the script's own. Sizes take K, M, G.

    Exits with the script's code, 128+N for signal N, 124 at the time limit, 137 at the memory
    limit, 153 at the output limit, 125 when the sandbox or the queue fails. Ctrl-C cancels the job.
    """
    job = options.make_job(read_stdin=True, **asked)
    if not no_wait:
        options.check_collect(job, out=out, as_json=as_json)
    with open_client(redis_url) as client:
        if no_wait:
            click.echo(client.submit(job).id)
            return
        result = client.run(job, timeout)
    ctx.exit(options.report(result, limits=job.limits, out=out, as_json=as_json))


@click.command()
@redis_option
@_timeout_option("Wait so long for the result; 0 only looks.  [default: 60]")
@options.out_option
@options.json_option
@click.argument("job_id", metavar="ID")
@click.pass_context
def result(
    ctx: click.Context,
    /,
    *,
    redis_url: str | None,
    timeout: float | None,
    out: Path | None,
    as_json: bool,
    job_id: str,
) -> None:
    """Wait for a submitted job and show its result, as `submit` does."""
    with open_client(redis_url) as client:
        ended = client.future(job_id).result(timeout)
    ctx.exit(options.report(ended, out=out, as_json=as_json))


@click.command()
@redis_option
@click.argument("job_id", metavar="ID")
@click.pass_context
def cancel(ctx: click.Context, /, *, redis_url: str | None, job_id: str) -> None:
    """Stop a submitted job, queued or running; exits with 1 where it was done already."""
    with open_client(redis_url) as client:
        if client.cancel(job_id):
            return
    click.echo(f"sandboxed: job {job_id} was done already", err=True)
    ctx.exit(1)


@contextmanager
def open_client(redis_url: str | None) -> Iterator[Client]:
    """Give a client whose failures are one line at the shell."""
    try:
        client = Client(redis_url)
    except ValueError as error:
        where = "--redis" if redis_url else "$SANDBOXED_REDIS_URL"
        raise click.UsageError(f"{where}: {str(error).removeprefix('url: ')}") from None
    with client:
        try:
            yield client
        except (PermissionError, RuntimeError) as error:
            raise _Failure(str(error)) from None
