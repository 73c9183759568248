"""The command `sandboxed grade`."""

import contextlib
import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import click

from producer.cli import redis_option
from producer.grading.grader import Asked, events, report_of
from producer.grading.grading import key
from producer.grading.loading import load_problem
from producer.grading.local_option import local_option, open_dispatcher
from producer.grading.model import Report, SubmissionReport, Verdict
from producer.grading.package_files import PackageError
from producer.grading.problem import Problem, Submission
from producer.grading.progress import showing
from producer.grading.report_json import report_to_json
from producer.grading.sources import NoSuchSubmission, find_submissions
from producer.grading.state import State, StateError
from sandbox_core import options

EXIT_NOT_AS_EXPECTED = 1
EXIT_BROKEN = 3

_FORMATS = {
    "html": "Write a page for a browser.",
    "junit": "Write JUnit XML.",
    "csv": "Write CSV, one row a submission and test.",
    "gradescope": "Write Gradescope's results.json.",
    "json": "Write JSON; `sandboxed grade --schema` prints its schema.",
}


class _Broken(click.ClickException):
    """The package can't be used, or judging went wrong."""

    exit_code = EXIT_BROKEN


class _Failure(click.ClickException):
    """The queue could not do its work."""

    exit_code = options.EXIT_SANDBOX_FAILED


def _report_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for name, told in reversed(_FORMATS.items()):
        command = click.option(
            f"--{name}", f"to_{name}", metavar="FILE", help=f"{told} - is standard output."
        )(command)
    return command


def _print_schema(ctx: click.Context, param: click.Parameter, value: bool) -> None:  # noqa: ARG001, FBT001  # click's signature
    if value:
        from producer.grading.report_json import schema  # noqa: PLC0415  # for this option alone

        click.echo(json.dumps(schema(), indent=2))
        ctx.exit(0)


@click.command()
@redis_option
@local_option
@click.option("--all", "everything", is_flag=True, help="Run every test, whatever came before it.")
@click.option("--check", is_flag=True, help="Exit with 1 where a submission is not as expected.")
@click.option(
    "--state", "state_file", metavar="FILE", help="Keep what is done there, and go on from it."
)
@click.option(
    "--for",
    "audience",
    type=click.Choice(["teacher", "student"]),
    default="teacher",
    help="Whether reports show what is hidden.  [default: teacher]",
)
@click.option("--runtime", metavar="NAME", help="What runs the submissions.  [default: by suffix]")
@click.option(
    "--validator",
    metavar="PATH",
    help="Use this output validator in place of the package's; `default` is the default one.",
)
@options.limit_options
@_report_options
@click.option(
    "--schema",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_schema,
    help="Print the JSON Schema of --json.",
)
@click.argument("problem")
@click.argument("submissions", nargs=-1)
@click.pass_context
def grade(
    ctx: click.Context,
    /,
    *,
    redis_url: str | None,
    local: bool,
    everything: bool,
    check: bool,
    state_file: str | None,
    audience: str,
    runtime: str | None,
    validator: str | None,
    problem: str,
    submissions: tuple[str, ...],
    **given: Any,
) -> None:
    """Judge SUBMISSIONS against the tests of PROBLEM.

    PROBLEM is a problem package (a folder or a zip, legacy or 2025-09), or a folder of *.in and
    *.ans, or one with a tests.py. A submission is a file, a folder (a program of several files, or
    one submission in each entry) or a glob; without any, the package's own are judged and held
    against what the package expects of them. --wall-time is the time limit of each test.

    Exits with 0 when all was judged, 1 with --check where a submission is not as expected, 2 for bad
    usage, 3 for a broken package or a judge error, 125 when the sandbox or the queue fails.
    """
    targets = {name: given.pop(f"to_{name}") for name in _FORMATS}
    _check_targets(targets)
    limits = {name: value for name, value in given.items() if value is not None}
    options.make_limits(**limits)
    try:
        with load_problem(problem, validator=validator) as chosen:
            named = find_submissions(chosen, submissions, runtime)
            if not named:
                raise click.UsageError(f"{problem} has no submissions of its own: name some")
            if targets["gradescope"] is not None and len(named) > 1:
                raise click.UsageError(
                    f"--gradescope: its file is for one submission, and here are {len(named)}: name one"
                )
            for note in chosen.notes if not submissions else ():
                click.echo(f"sandboxed: {note}", err=True)
            report = _grade(ctx, chosen, named, redis_url, local, state_file, Asked(limits, everything))
    except NoSuchSubmission as error:
        raise click.UsageError(str(error)) from None
    except StateError as error:
        raise click.UsageError(f"--state: {error}") from None
    except click.UsageError:
        raise
    except Exception as error:
        _write_failure(problem, targets["gradescope"], str(error))
        if isinstance(error, PackageError):
            raise _Broken(str(error)) from None
        raise
    _write(report, targets, student=audience == "student")
    ctx.exit(_exit_code(report, check=check))


def _check_targets(targets: dict[str, str | None]) -> None:
    if sum(target == "-" for target in targets.values()) > 1:
        raise click.UsageError("only one report can go to standard output")
    for name, target in targets.items():
        if target not in (None, "-") and not Path(target).absolute().parent.is_dir():
            raise click.UsageError(f"--{name}: there is no folder for {target}")


def _grade(  # noqa: PLR0917  # what the command was given
    ctx: click.Context,
    problem: Problem,
    named: list[Submission],
    redis_url: str | None,
    local: bool,  # noqa: FBT001  # as above
    state_file: str | None,
    asked: Asked,
) -> Report:
    with contextlib.ExitStack() as stack:
        if state_file is not None:
            try:
                state = stack.enter_context(State(state_file, key(problem, asked)))
            except OSError as error:
                raise click.UsageError(f"--state: {state_file}: {error.strerror}") from None
            asked = replace(asked, state=state)
        dispatcher = stack.enter_context(open_dispatcher(ctx, redis_url, local=local))
        width = max(len(one.name) for one in named)
        progress = stack.enter_context(showing(len(named), min(width, 40)))
        return report_of(problem, events(problem, named, dispatcher, asked), progress)


def _write(report: Report, targets: dict[str, str | None], *, student: bool) -> None:
    for name, target in targets.items():
        if target is None:
            continue
        try:
            if target == "-":
                _write_one(report, name, sys.stdout, student=student)
            else:
                with open(target, "w", encoding="utf-8", newline="") as stream:
                    _write_one(report, name, stream, student=student)
        except OSError as error:
            raise _Failure(f"can't write {target}: {error.strerror}") from None


def _write_failure(problem: str, target: str | None, why: str) -> None:
    """Write the report that Gradescope waits for, whatever has happened."""
    if target is not None:
        failed = SubmissionReport(problem, Verdict.JE, 0.0, None, None, None, (), message=why)
        _write(Report(problem, (failed,)), {"gradescope": target}, student=True)


def _write_one(report: Report, name: str, stream: IO[str], *, student: bool) -> None:
    if name == "json":
        json.dump(report_to_json(report, student=student), stream)
        stream.write("\n")
    else:
        importlib.import_module("producer.grading.reports").write(report, name, stream, student=student)


def _exit_code(report: Report, *, check: bool) -> int:
    verdicts = {one.verdict for one in report.submissions}
    verdicts |= {test.verdict for one in report.submissions for test in one.tests}
    if Verdict.JE in verdicts:
        return EXIT_BROKEN
    if check and any(one.as_expected is False for one in report.submissions):
        return EXIT_NOT_AS_EXPECTED
    return 0
