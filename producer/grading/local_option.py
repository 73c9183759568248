"""Where a command of grading runs its jobs: the queue of `--redis`, or jails here with `--local`."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import click

from producer.cli import open_client
from producer.grading.dispatch import Dispatcher, Jails, LocalDispatcher, QueueDispatcher

local_option = click.option("--local", is_flag=True, help="Run in jails on this host, with no queue.")


@contextmanager
def open_dispatcher(ctx: click.Context, redis_url: str | None, *, local: bool) -> Iterator[Dispatcher]:
    """Open what the options say; failures of a queue are one line at the shell."""
    if not local:
        with open_client(redis_url) as client:
            yield QueueDispatcher(client)
        return
    if redis_url:
        raise click.UsageError("--local needs no queue: leave out --redis")
    # What can build jails is handed over by the group, since nothing here knows how.
    opener: Callable[[], AbstractContextManager[Jails]] = ctx.obj
    with opener() as jails:
        yield LocalDispatcher(jails)
