"""The command `sandboxed evaluate`."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from producer.cli import redis_option
from producer.grading.evaluate import DEFAULT_KS, Evaluation
from producer.grading.evaluate import evaluate as evaluate_file
from producer.grading.evaluate_jobs import Broken, Settings
from producer.grading.evaluate_problems import BadInput
from producer.grading.local_option import local_option, open_dispatcher
from sandbox_core import options

EXIT_BROKEN = 3
_WALL_TIME = 3.0  # seconds, as HumanEval has it


class _Broken(click.ClickException):
    """A file that can't be used, or a job that could not be run."""

    exit_code = EXIT_BROKEN


def _ks(text: str) -> tuple[int, ...]:
    try:
        ks = tuple(int(part) for part in text.split(","))
    except ValueError:
        ks = ()
    if not ks or min(ks) < 1:
        raise click.BadParameter(f"{text!r} is no list of numbers such as 1,10,100")
    return ks


@click.command()
@redis_option
@local_option
@click.option(
    "--isolated",
    is_flag=True,
    help="Run each function and its checks in two jails that exchange plain values only.",
)
@click.option(
    "--runs", type=click.IntRange(min=1), default=1, help="Judge everything so often.  [default: 1]"
)
@click.option(
    "--k",
    "ks",
    type=_ks,
    default=",".join(map(str, DEFAULT_KS)),
    metavar="K,…",
    show_default=True,
    help="The k of pass@k.",
)
@click.option(
    "--runtime", default="python", metavar="NAME", show_default=True, help="What runs the programs."
)
@click.option("--out", metavar="FILE", help="Where the results go.  [default: SAMPLES_results.jsonl]")
@options.limit_options
@options.json_flag("Print the figures as JSON.")
@click.argument("problems", type=click.Path(exists=True, dir_okay=False))
@click.argument("samples", type=click.Path(exists=True, dir_okay=False))
@click.pass_context
def evaluate(
    ctx: click.Context,
    /,
    *,
    redis_url: str | None,
    local: bool,
    isolated: bool,
    runs: int,
    ks: tuple[int, ...],
    runtime: str,
    out: str | None,
    as_json: bool,
    problems: str,
    samples: str,
    **limits: float | None,
) -> None:
    """Judge SAMPLES of a code model against PROBLEMS, and estimate pass@k.

    Both are JSON lines, plain or .gz: HumanEval's, EvalPlus's or MBPP's. A sample passes when its
    task's checks come to their end and raise nothing within the wall time, 3 s unless given. Each
    sample, with its result, goes to SAMPLES_results.jsonl. Killed and started again, only what is
    missing runs.

    Exits with 0 when all was judged, 2 for bad usage, 3 for a file that can't be used or a job that
    could not be run, 125 when the sandbox or the queue fails.
    """
    if limits["wall_time"] is None:
        limits["wall_time"] = _WALL_TIME
    settings = Settings(options.make_limits(**limits), runtime)
    try:
        with open_dispatcher(ctx, redis_url, local=local) as dispatcher, _progress() as progress:
            found = evaluate_file(
                problems,
                samples,
                dispatcher,
                isolated=isolated,
                runs=runs,
                ks=ks,
                settings=settings,
                out=out,
                progress=progress,
            )
    except (BadInput, Broken) as error:
        raise _Broken(str(error)) from None
    click.echo(json.dumps(found.as_json()) if as_json else _told(found))


def _told(found: Evaluation) -> str:
    lines = [f"{found.passed} of {found.samples} samples passed ({found.programs} programs)"]
    if found.attempted < found.problems:
        lines.append(f"{found.attempted} of {found.problems} problems have samples")
    for k, value in found.pass_at.items():
        line = f"pass@{k}  {value:.4f}"
        if len(found.runs) > 1:
            each = [run[k] for run in found.runs]
            line += f"  from {min(each):.4f} to {max(each):.4f} in {len(each)} runs"
        lines.append(line)
    if len(found.runs) > 1:
        lines.append(f"{found.agreement:.2%} of the programs did alike in every run")
    lines.append(f"results: {found.results}")
    return "\n".join(lines)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], Any]]:
    """Show a bar with rate and time left on standard error, where somebody watches."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich import progress  # noqa: PLC0415  # for those who watch
    from rich.console import Console  # noqa: PLC0415

    columns = (
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
