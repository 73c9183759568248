"""Grading as a library: `grade`, and the key by which a state is known."""

import json
import os
from collections.abc import Callable, Iterable

from producer.grading.dispatch import Dispatcher
from producer.grading.grader import Asked, Event, events, report_of
from producer.grading.loading import load_problem
from producer.grading.model import Report
from producer.grading.problem import Problem
from producer.grading.sources import find_submissions
from producer.grading.state import State, key_of


def grade(
    problem: Problem | str | os.PathLike[str],
    submissions: Iterable[str | os.PathLike[str]] = (),
    *,
    dispatcher: Dispatcher,
    limits: dict[str, float | int] | None = None,
    everything: bool = False,
    state: str | os.PathLike[str] | None = None,
    runtime: str | None = None,
    see: Callable[[Event], None] = lambda _: None,
) -> Report:
    """Grade submissions (the package's own where none is named) and give the report.

    `dispatcher` is a `QueueDispatcher(client)` or a `LocalDispatcher(jails)`; it is closed at the end.
    `limits` go by the names of `Limits`, `wall_time` being the time limit; `everything` runs each
    test, whatever came before it; `state` names the file to go on from; each `Event` is shown to
    `see` as it comes. For an iterator of events there is `events`.

    Raises `PackageError` for a broken package, `ValueError` where a submission's name stands for
    nothing, `StateError` for the state of another grading.
    """
    if not isinstance(problem, Problem):
        with load_problem(problem) as read:
            return grade(
                read,
                submissions,
                dispatcher=dispatcher,
                limits=limits,
                everything=everything,
                state=state,
                runtime=runtime,
                see=see,
            )
    asked = Asked(limits or {}, everything)
    named = find_submissions(problem, submissions, runtime)
    if state is None:
        return report_of(problem, events(problem, named, dispatcher, asked), see)
    with State(state, key(problem, asked)) as opened:
        asked = Asked(asked.limits, everything, opened)
        return report_of(problem, events(problem, named, dispatcher, asked), see)


def key(problem: Problem, asked: Asked) -> str:
    """Tell a grading by all that its verdicts hang on, besides the submissions."""

    def parts() -> Iterable[bytes]:
        yield json.dumps([problem.name, sorted(asked.limits.items()), asked.everything]).encode()
        yield repr((problem.metadata, problem.time_limit)).encode()
        for test in problem.tests():
            yield repr((test.name, test.flags, test.args)).encode()
            yield test.input
            yield test.answer
            yield repr(sorted(test.placed.items())).encode()
        for program in problem.validators:
            yield program.digest.encode()
        yield repr(sorted(problem.include.items())).encode()
        if problem.functions is not None:
            yield problem.functions.source
            yield repr(sorted(problem.functions.files.items())).encode()

    return key_of(parts())
