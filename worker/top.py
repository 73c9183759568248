"""`sandboxed top`: every worker of a queue, live in a terminal, as `inspect sandbox` tells of it."""

import os
import time
from collections.abc import Mapping
from typing import Any

import click

from worker.settings import REDIS_URL, TABLE, Settings
from worker.summary import escaped

#: Seconds that the workers have to answer; one that doesn't is not shown.
_PATIENCE = 1.0
_MOST_JOBS = 20


@click.command()
@click.option(
    "--redis",
    "redis_url",
    metavar="URL",
    help=f"The queue's Redis.  [default: ${REDIS_URL}, else {TABLE['redis_url'].default}]",
)
@click.option(
    "--every",
    type=click.FloatRange(min=0.1),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="How often to look.",
)
@click.option("--once", is_flag=True, help="Look once, print it, and exit.")
@click.pass_context
def top(ctx: click.Context, /, *, redis_url: str | None, every: float, once: bool) -> None:
    """Show the workers of a queue and the jobs that they run, until Ctrl-C.

    Exits with 1 when no worker answers a look with --once.
    """
    if redis_url:
        os.environ[REDIS_URL] = redis_url
    try:
        Settings.from_environment(os.environ)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    from kombu.exceptions import OperationalError  # noqa: PLC0415  # 200 ms that --help does without
    from rich.console import Console  # noqa: PLC0415
    from rich.live import Live  # noqa: PLC0415

    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    try:
        look = _Look()
        if once:
            found = look.again()
            console.print(_shown(found, {}, 0.0))
            ctx.exit(0 if found else 1)
        with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
            former: Mapping[str, Any] = {}
            seen = time.monotonic()
            while True:
                found, now = look.again(), time.monotonic()
                live.update(_shown(found, former, now - seen), refresh=True)
                former, seen = found, now
                time.sleep(every)
    except OperationalError as error:
        raise ConnectionError(f"no Redis to ask the workers through: {error}") from None


class _Look:
    """The workers' answers, by name; sorted, so that lines stay where they are."""

    def __init__(self) -> None:
        from worker.celery import app  # noqa: PLC0415  # reads the environment

        # Asked once, like everything that a person waits for.
        app.conf.broker_connection_retry = False
        self._app = app

    def again(self) -> dict[str, Any]:
        replies = self._app.control.broadcast("sandbox", reply=True, timeout=_PATIENCE)
        answers = {name: answer for reply in replies or () for name, answer in reply.items()}
        return {name: answers[name] for name in sorted(answers) if "slots" in answers[name]}


def _shown(found: Mapping[str, Any], former: Mapping[str, Any], seconds: float) -> Any:
    """Put a look, beside the one `seconds` before it, into tables."""
    from rich import box  # noqa: PLC0415  # 40 ms
    from rich.console import Group  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    workers = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
    for heading in ("Worker", "State"):
        workers.add_column(heading, no_wrap=True)
    for heading in ("Busy", "Jobs/s", "Jobs"):
        workers.add_column(heading, justify="right", no_wrap=True)
    workers.add_column("By status")
    jobs = Table("For", "Worker", "Job", "Id", box=box.SIMPLE_HEAD, pad_edge=False)
    running: list[tuple[float, str, Mapping[str, Any]]] = []
    for name, answer in found.items():
        total = sum(answer["counts"].values())
        before = sum(former[name]["counts"].values()) if name in former else total
        rate = f"{(total - before) / seconds:.1f}" if seconds and total >= before else ""
        statuses = sorted(answer["counts"].items(), key=lambda item: -item[1])
        workers.add_row(
            Text(escaped(name)),
            Text("takes jobs", "green") if answer["taking_jobs"] else Text("drained", "yellow"),
            f"{len(answer['in_flight'])}/{answer['slots']}",
            rate,
            str(total),
            Text(", ".join(f"{count} {escaped(status)}" for status, count in statuses)),
        )
        running += [(job["seconds"], name, job) for job in answer["in_flight"]]
    longest_first = sorted(running, key=lambda item: -item[0])
    for age, name, job in longest_first[:_MOST_JOBS]:
        row = (f"{age:.1f} s", escaped(name), escaped(job["job"], 100), escaped(job["id"]))
        jobs.add_row(*map(Text, row))
    parts: list[Any] = [workers]
    if running:
        parts.append(jobs)
    if not found:
        parts = [Text("no worker answers", "bold red")]
    for name, answer in found.items():
        for error in answer["last_errors"]:
            when = time.strftime("%H:%M:%S", time.localtime(error["at"]))
            parts.append(Text(f"{when} {escaped(name)}: {escaped(error['error'], 200)}", "red"))
    return Group(*parts)
