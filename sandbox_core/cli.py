"""The `sandboxed` command: a table of its subcommands, loaded when called, and how it fails.

Each subcommand lives beside what it drives. The table names them as text, so that `sandboxed
--help` imports none of them and `sandboxed submit` imports no code of the jail.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import click

from sandbox_core.errors import SandboxError
from sandbox_core.options import EXIT_INTERRUPTED, EXIT_SANDBOX_FAILED, EXIT_USAGE


@dataclass(frozen=True, slots=True)
class _Lazy:
    """Where a subcommand is found (`module:attribute`) and what `--help` says of it."""

    place: str
    short_help: str


_COMMANDS = {
    "run": _Lazy("sandbox_core.commands:run", "Run a script in a jail on this host, no queue."),
    "repl": _Lazy("sandbox_core.programs:repl", "A jailed interactive interpreter."),
    "serve": _Lazy("sandbox_core.programs:serve", "Run a program for each connection to a socket."),
    "connect": _Lazy("sandbox_core.programs:connect", "The client of serve."),
    "submit": _Lazy("producer.cli:submit", "Run a script through the queue."),
    "result": _Lazy("producer.cli:result", "Wait for a submitted job and show its result."),
    "cancel": _Lazy("producer.cli:cancel", "Stop a submitted job."),
    "evaluate": _Lazy(
        "producer.grading.evaluate_command:evaluate", "Judge a code model's samples: pass@k."
    ),
    "grade": _Lazy(
        "producer.grading.grade_command:grade", "Judge submissions against a problem's tests."
    ),
    "worker": _Lazy("worker.cli:worker", "Start a worker; Celery's own options pass through."),
    "up": _Lazy("worker.cli:up", "Start Redis, a worker and Flower, until Ctrl-C."),
    "top": _Lazy("worker.top:top", "Show the workers of a queue, live."),
    "demo": _Lazy("worker.demo:demo", "Run friendly and hostile scripts through a queue."),
    "doctor": _Lazy("worker.doctor:doctor", "Check this host part by part."),
    "runtime": _Lazy("sandbox_core.runtime_commands:runtime", "List, add and remove runtimes."),
    "schema": _Lazy("sandbox_core.commands:schema", "Print the JSON Schemas of Job and Result."),
}


class _Sandboxed(click.Group):
    """The group: subcommands by the table, and every failure in one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  # click's signature
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name].place.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in _COMMANDS:
            ctx.fail(f"no command {args[0]!r}; the commands are {', '.join(_COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  # click's signature
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.short_help) for name, lazy in _COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(EXIT_INTERRUPTED)  # here, since click's own answer prints a blank line

    def main(  # type: ignore[override]  # one way of being called is enough
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        extra["standalone_mode"] = False
        _open_closed_streams()
        try:
            code = super().main(args, prog_name or "sandboxed", **extra)
        except click.UsageError as error:
            where = error.ctx.command_path if error.ctx else "sandboxed"
            text = error.format_message().rstrip(".")
            _end(f"{where}: {text} (see: {where} --help)", EXIT_USAGE)
        except click.ClickException as error:
            _end(f"sandboxed: {error.format_message()}", error.exit_code)
        except (SandboxError, OSError) as error:  # a queue that is away is a ConnectionError
            _end(f"sandboxed: {error}", EXIT_SANDBOX_FAILED)
        except click.Abort:
            sys.exit(EXIT_INTERRUPTED)
        sys.exit(code if isinstance(code, int) else 0)


def _open_closed_streams() -> None:
    """Put the null device where a standard stream was closed.

    Else the next file that is opened, whatever it is, would be what a script's output is passed to.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:  # so Python says that it found the descriptor closed
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115  # for good


def _end(line: str, code: int) -> NoReturn:
    click.echo(" ".join(line.split()), err=True)
    try:
        sys.stdout.flush()
    except OSError:
        # What can't be written would be tried, and complained of, once more at the very end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


@click.group("sandboxed", cls=_Sandboxed, invoke_without_command=True, no_args_is_help=False)
@click.version_option(package_name="sandboxed", message="%(prog)s %(version)s")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Run untrusted scripts, each in a fresh jail: on this host, or through a queue."""
    ctx.obj = _open_local_runner
    if ctx.invoked_subcommand is None:
        ctx.fail(f"name a command: {', '.join(_COMMANDS)}")


def _open_local_runner() -> Any:
    """Open what runs many jobs here, for a command (`ctx.obj`) that may not know of jails itself."""
    return importlib.import_module("sandbox_core.local").LocalRunner()


if __name__ == "__main__":
    main()
