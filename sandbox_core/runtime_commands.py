"""The `sandboxed runtime` commands: adding a Python with packages to the runtimes table, and back."""

import json
import os
import sys
from pathlib import Path

import click

from sandbox_core import environments
from sandbox_core.errors import SandboxError
from sandbox_core.job import Job, Limits
from sandbox_core.runtimes import Runtimes

_TABLE = click.option(
    "--table",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="SANDBOXED_RUNTIMES",
    show_envvar=True,
    help="The runtimes table (TOML).",
)

#: Room for the largest packages; the one process can start no thread.
_IMPORTING = Limits(wall_time=120.0, memory=2 << 30)


@click.group()
def runtime() -> None:
    """List, add and remove the runtimes that jobs can name."""


@runtime.command("list")
@_TABLE
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
def list_runtimes(table: Path | None, *, as_json: bool) -> None:
    """Show the runtimes, built-in ones and the table's."""
    offered = Runtimes(table)
    rows = [
        {
            "name": name,
            "command": list(offered[name].command),
            "warm": offered[name].warm,
            "preload": list(offered[name].preload),
        }
        for name in offered.names()
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    width = max(len(str(row["name"])) for row in rows)
    for row in rows:
        one = offered[str(row["name"])]
        kind = "warm" if one.warm else "exec"
        loaded = f"  with {' '.join(one.preload)}" if one.preload else ""
        click.echo(f"{one.name:{width}}  {kind}  {' '.join(one.command)}{loaded}")


@runtime.command()
@click.argument("name")
@_TABLE
@click.option("--packages", help="What to install from PyPI: names or requirements, with commas.")
@click.option("--prefix", help="The Python to build it with; without it, the one that runs this.")
@click.option("--preload", help="Modules to load before a job comes; else those of the packages.")
def add(
    name: str, table: Path | None, packages: str | None, prefix: str | None, preload: str | None
) -> None:
    """Build an environment for the runtime NAME, and write it into the table.

    The packages come from PyPI as pip is configured here, as wheels, into an environment of the
    runtime's own beside the table. Without --packages it is built anew from what the table says.
    Workers offer it when they are started again.
    """
    path = _existing(table)
    if name in Runtimes().names():
        raise click.UsageError(f"{name!r} is built in; choose another name")
    before = environments.load(path).get(name, {})
    entry = {key: value for key, value in before.items() if key != "command"}
    asked = before.get("site_packages", [])
    if packages is not None:
        asked = [part for part in map(str.strip, packages.split(",")) if part]
    if not isinstance(asked, list):
        raise click.UsageError(f"[{name}] has an environment that is not ours: {asked}")
    try:
        requirements = environments.check_requirements(tuple(asked))
    except ValueError as error:
        raise click.UsageError("name what to install: --packages numpy,pandas") from error
    if prefix is not None:
        entry["prefix"] = os.path.abspath(prefix)
    python = f"{entry['prefix']}/bin/python3" if "prefix" in entry else _own_python()
    if os.geteuid() != 0:
        raise SandboxError("add the runtime", "it takes root; try: sudo sandboxed runtime add …")
    place = environments.build(python, path, name, requirements)
    entry["site_packages"] = list(requirements)
    if preload is not None:
        entry["preload"] = [part for part in map(str.strip, preload.split(",")) if part]
    elif packages is not None or "preload" not in entry:
        entry.pop("preload", None)
        environments.write_entry(path, name, entry)
        entry["preload"] = _fit_to_preload(path, name, environments.modules(place, requirements))
    environments.write_entry(path, name, entry)
    Runtimes(path)  # says what is wrong with it, if anything is
    loaded = ", ".join(entry["preload"]) or "nothing"
    click.echo(f"{name}: {', '.join(requirements)} in {place}; {loaded} loaded before a job comes")


@runtime.command()
@click.argument("name")
@_TABLE
def remove(name: str, table: Path | None) -> None:
    """Take the runtime NAME out of the table, and remove what `add` built for it."""
    path = _existing(table)
    if name not in environments.load(path):
        raise SandboxError("remove the runtime", f"{path} has no [{name}]")
    environments.write_entry(path, name, None)
    environments.discard(path, name)


def _fit_to_preload(table: Path, name: str, modules: list[str]) -> list[str]:
    """Give those modules that can be imported in a jail, and with one thread."""
    from sandbox_core.sandbox import Sandbox  # noqa: PLC0415  # the jail, when one is needed

    with Sandbox(table) as sandbox:
        return [
            module
            for module in modules
            if sandbox.run(Job(f"import {module}", runtime=name, limits=_IMPORTING)).ok
        ]


def _existing(table: Path | None) -> Path:
    if table is None:
        raise click.UsageError("name the table: --table runtimes.toml, or set SANDBOXED_RUNTIMES")
    return table


def _own_python() -> str:
    return str(getattr(sys, "_base_executable", None) or sys.executable)
