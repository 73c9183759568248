"""The command `sandboxed doctor`: the host's checks (`sandbox_core.doctor`), and the queue's Redis."""

import json
import os
from dataclasses import asdict

import click
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sandbox_core import options
from sandbox_core.doctor import Check, checks
from worker.settings import REDIS_URL, TABLE

_TIMEOUT = 2.0  # seconds that Redis may take to answer


@click.command()
@options.json_flag("Print the checks as JSON.")
@click.pass_context
def doctor(ctx: click.Context, /, *, as_json: bool) -> None:
    """Check this host part by part: what is there, what is missing, and the mend.

    Exits with 1 when a job could not run here.
    """
    found = [*checks(), _redis()]
    if as_json:
        click.echo(json.dumps([asdict(check) for check in found]))
    else:
        _print_checks(found)
    ctx.exit(1 if any(check.needed and check.ok is False for check in found) else 0)


def _print_checks(found: list[Check]) -> None:
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


def _redis() -> Check:
    """Ask the queue's Redis for a sign of life; a job on this host runs without one."""
    url = os.environ.get(REDIS_URL) or TABLE["redis_url"].default
    name, ok, found = "?", False, ""
    try:
        with redis.Redis.from_url(
            url.replace("redis+socket://", "unix://", 1),  # Celery's name for a socket
            socket_timeout=_TIMEOUT,
            socket_connect_timeout=_TIMEOUT,
            retry=Retry(NoBackoff(), 0),
        ) as client:
            target = client.connection_pool.connection_kwargs
            name = str(target.get("path") or f"{target.get('host')}:{target.get('port')}")
            ok = bool(client.ping())
            found = "answers"
    except redis.AuthenticationError:
        found = "refuses the credentials of its URL"
    except (redis.RedisError, OSError, ValueError) as error:
        found = str(error)
    return Check(
        name="Redis",
        ok=ok,
        found=f"{name}: {found}",
        mend="start one, or name it in SANDBOXED_REDIS_URL; `sandboxed up` brings its own",
        needed=False,
    )
