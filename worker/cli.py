"""The `sandboxed` commands that serve a queue: `worker`, and `up` with all that a try-out needs."""

import importlib
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType

import click

from worker.children import Children
from worker.redis_server import EmbeddedRedis, RedisServerError
from worker.settings import REDIS_URL, Settings

#: Seconds between two looks at whether everything still runs.
_POLL = 0.2
#: What Flower's list of tasks shows unless $FLOWER_TASKS_COLUMNS says otherwise: a job's two short
#: lines are `args` and `result`, which Flower itself leaves out.
_COLUMNS = "name,uuid,state,args,result,received,runtime,worker"
#: Seconds that Flower has to end, and a worker beyond the longest job that it may have.
_GRACE = 10.0


@click.command(context_settings={"ignore_unknown_options": True})
@click.option(
    "--redis",
    "redis_url",
    metavar="URL",
    help=f"The queue's Redis.  [default: ${REDIS_URL}, else redis://localhost:6379/0]",
)
@click.argument("celery_options", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def worker(ctx: click.Context, *, redis_url: str | None, celery_options: tuple[str, ...]) -> None:
    """Start a worker with the settings of the project.

    Celery's own options pass through, such as --concurrency 4, --pool threads or --loglevel INFO
    (which is the default here); `celery -A worker worker --help` lists them.

    Exits with 125 when this host can't run jobs.
    """
    if redis_url:
        os.environ[REDIS_URL] = redis_url
    _settings(os.environ)
    if {"-D", "--detach"} & set(celery_options):
        raise click.UsageError("it stays in the foreground; a service manager detaches it")
    if not any(option.startswith(("-l", "--loglevel")) for option in celery_options):
        celery_options = ("--loglevel", "INFO", *celery_options)
    ctx.exit(_celery(["worker", *celery_options]))


@click.command()
@click.option(
    "--redis",
    "redis_url",
    metavar="URL",
    help=f"A Redis that runs.  [default: ${REDIS_URL}, else one of its own]",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=5555,
    show_default=True,
    help="Flower's port on 127.0.0.1.",
)
@click.option(
    "-c",
    "--concurrency",
    type=click.IntRange(1),
    metavar="COUNT",
    help="Jobs at once.  [default: one for each CPU]",
)
def up(*, redis_url: str | None, port: int, concurrency: int | None) -> None:
    """Start Redis (its own unless one is named), a worker and Flower, until Ctrl-C.

    Ctrl-C or SIGTERM stop all of them when the running jobs have ended; a second one at once.
    Nothing is left behind: the jobs and results of its own Redis go with it.
    """
    url = redis_url or os.environ.get(REDIS_URL)
    if url:
        _settings({**os.environ, REDIS_URL: url})
    with _counted_signals() as told, ExitStack() as stack:
        if not url:
            try:
                url = stack.enter_context(EmbeddedRedis()).url
            except RedisServerError as error:
                raise click.ClickException(str(error)) from None
            # Only here: the address of somebody else's Redis may have a password in it.
            click.echo(f"In other shells:  export {REDIS_URL}='{url}'")
        env = {**os.environ, REDIS_URL: url}
        wall_time = _settings(env).max_wall_time
        children = Children()
        stack.callback(children.stop, hurry=lambda: len(told) > 1)
        click.echo(f"Redis   {_shown(url)}")
        options = [] if concurrency is None else ["--concurrency", str(concurrency)]
        children.start(
            "the worker",
            _command("worker", "--loglevel", "INFO", *options),
            env=env,
            grace=wall_time + _GRACE,
        )
        click.echo("worker  starts now; its log follows")
        if importlib.util.find_spec("flower") is None:
            click.echo("Flower  is not installed; to have it: pip install 'sandboxed[flower]'")
        else:
            # Its /metrics ask nobody for a password, so it is for this host alone.
            address = ("--address=127.0.0.1", f"--port={port}", "--logging=error")
            columns = {"FLOWER_TASKS_COLUMNS": _COLUMNS}
            children.start("Flower", _command("flower", *address), env={**columns, **env}, grace=_GRACE)
            click.echo(f"Flower  http://127.0.0.1:{port}")
        click.echo("Ctrl-C stops everything.\n")
        while not told:
            if died := children.first_to_end():
                raise click.ClickException(f"{died}; everything else is stopped too")
            time.sleep(_POLL)
        click.echo("stopping, when the running jobs have ended (Ctrl-C again: at once)")


@contextmanager
def _counted_signals() -> Iterator[Sequence[int]]:
    """Give the list of the signals so far that asked us to end; they do nothing else meanwhile."""
    told: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  # signal's signature
        told.append(number)

    former = {
        number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield told
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _settings(env: Mapping[str, str]) -> Settings:
    try:
        return Settings.from_environment(env)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _shown(url: str) -> str:
    """Give `url` without its password."""
    from kombu.utils.url import maybe_sanitize_url  # noqa: PLC0415  # kombu, when it is needed

    return str(maybe_sanitize_url(url))


def _command(*arguments: str) -> list[str]:
    # -P: a folder `worker` or `celery` where the command happens to be called is not ours.
    return [sys.executable, "-P", "-m", "worker.cli", *arguments]


def _celery(arguments: Sequence[str]) -> int:
    """Be `celery -A worker ARGUMENTS`, with this package as `worker` whatever the folder; its code.

    Celery imports its application from the current folder first, but not what is imported already.
    """
    from celery.bin.celery import celery  # noqa: PLC0415  # for the commands that run it

    importlib.import_module("worker.celery")
    code = celery.main(
        ["-A", "worker.celery:app", *arguments],
        prog_name="celery",
        standalone_mode=False,
        auto_envvar_prefix="CELERY",
    )
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    sys.exit(_celery(sys.argv[1:]))
