"""Measure what a jail costs, and what goes through the queue: `make bench`.

Each contender is a process of its own, in a cgroup that counts its CPU; those that are compared take
turns in rounds (`figures.py`). A mark beside a figure says whether it is what the project aims at.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import footprint
import jails
import phases
import queues
import serving
import soak
from figures import Figure, Scale, Which
from rich.console import Console
from rich.table import Table

#: What is measured, by the names that --only takes.
GROUPS: dict[str, Callable[[Scale], list[Figure]]] = {
    "latency": jails.latency,
    "throughput": jails.throughput,
    "program": jails.program,
    "packages": jails.packages,
    "serve": serving.first_byte,
    "queue": queues.rows,
    "publishing": queues.publishing,
    "memory": footprint.rows,
    "pools": queues.pools,
    "one-slot": queues.one_slot,
}
#: What a plain run leaves out: the first downloads, the others answer questions of design.
EXTRA = ("packages", "pools", "one-slot")

_WIDTH = 128  # characters that the table takes

QUICK = Scale(rounds=0.3, jobs=0.6)


def show(figures: list[Figure]) -> None:
    """Print the figures as a table."""
    table = Table(caption="CPU: milliseconds a job, of the contender / of the whole machine meanwhile")
    table.add_column(no_wrap=True)
    for heading in ("median", "p99", "÷ first", "p99 ÷ first", "CPU"):
        table.add_column(heading, justify="right", no_wrap=True)
    for group in dict.fromkeys(figure.group for figure in figures):
        table.add_section()
        table.add_row(f"[bold]{group}")
        for figure in (figure for figure in figures if figure.group == group):
            table.add_row(*_cells(figure))
    terminal = Console()
    terminal.width = max(terminal.width, _WIDTH)
    terminal.print(table)


def _cells(figure: Figure) -> list[str]:
    return [
        f"  {figure.name}",
        f"{_number(figure.value)} {figure.unit}{_aim(figure, 'value')}",
        _number(figure.p99),
        f"{_number(figure.ratio)}{_aim(figure, 'ratio')}",
        f"{_number(figure.p99_ratio)}{_aim(figure, 'p99_ratio')}",
        f"{_number(figure.cpu)} / {_number(figure.machine)}" if figure.cpu is not None else "",
    ]


def _number(value: float | None) -> str:
    """Write three digits of it, more where it is large."""
    return "" if value is None else f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"  # noqa: PLR2004


def _aim(figure: Figure, which: Which) -> str:
    judged = figure.judged(which)
    if judged is None:
        return ""
    aim, met = judged
    return f"  [{'green' if met else 'red'}]{'✓' if met else '✗'} {aim}[/]"


def host() -> dict[str, object]:
    """Describe where this was measured."""
    return {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg(),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def main() -> None:
    """Measure, print, and write the samples where they are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write figures and samples to FILE")
    parser.add_argument(
        "--only", action="append", choices=GROUPS, help="measure this group; may be given again"
    )
    parser.add_argument(
        "--packages", action="store_true", help="measure a job with numpy too, which is downloaded"
    )
    parser.add_argument(
        "--soak",
        type=int,
        metavar="JOBS",
        help="run so many jobs through one worker, and see what grows",
    )
    parser.add_argument("--phases", action="store_true", help="show where one job's microseconds go")
    parser.add_argument("--quick", action="store_true", help="a fifth of the jobs; only for a look")
    given = parser.parse_args()
    if given.soak:
        sys.exit(not soak.soak(given.soak, queues.SLOTS, min(given.soak // 10 + 2, 1000)))
    if given.phases:
        phases.profile(jobs=300, pause=0.02)
        return
    chosen = given.only or [name for name in GROUPS if name not in EXTRA]
    if given.packages and "packages" not in chosen:
        chosen.append("packages")
    before = host()
    figures: list[Figure] = []
    for name in chosen:
        figures += GROUPS[name](QUICK if given.quick else Scale())
    show(figures)
    if given.json:
        written = {"host": before, "figures": [asdict(figure) for figure in figures]}
        given.json.write_text(json.dumps(written, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
