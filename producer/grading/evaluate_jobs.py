"""The jobs that decide whether a program passes its task's checks, and what their results say.

In one interpreter (`jailed/whole.py`): the verdict is a secret that only the end of the checks gives
away. In two jails (`jailed/function.py`, `jailed/checks.py`): one answers calls, the other runs the
checks against the answers, and no more than plain values pass between them. Calls are not known before
the checks have run, so these run against the reference first, once for each task; where a program's
wrong answer leads them to other calls, both go another round.
"""

import json
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from producer.grading.dispatch import Dispatcher, run_each
from producer.grading.evaluate_problems import Problem
from producer.grading.jailed import source
from sandbox_core import Job, Limits, Result, Status

PASSED = "passed"
TIMED_OUT = "timed out"

#: Rounds of calls and checks, for a task with a reference and one without (a round for each call).
_ROUNDS, _ROUNDS_WITHOUT = 16, 200
#: Programs that are between two of their jobs at a time.
_BATCH = 256
_LABEL = "program"
#: The part of its time that a job computes, unless it sleeps or is kept waiting.
_BUSY = 0.8
#: Jobs that are kept to be run again.
_MOST_AGAIN = 64
_LONGEST = 1000  # characters of a result


class Broken(Exception):
    """A job that could not be run as asked, or a sandbox that failed: no program's fault."""


@dataclass(frozen=True, slots=True)
class Program:
    """A program to judge; `key` is the caller's own name for it."""

    key: str
    text: str
    problem: Problem


@dataclass(frozen=True, slots=True)
class Settings:
    """How programs are run."""

    limits: Limits = field(default_factory=lambda: Limits(wall_time=3.0))
    runtime: str = "python"


def judge_whole(
    programs: Iterable[Program], dispatcher: Dispatcher, settings: Settings
) -> Iterator[tuple[str, str]]:
    """Run each program with its checks in one interpreter; give its key and result as they finish."""
    waiting: dict[str, str] = {}
    script = source("whole")

    def jobs() -> Iterator[Job]:
        for program in programs:
            secret = waiting[program.key] = secrets.token_hex(32)
            problem = program.problem
            given = {
                "secret": secret,
                "prompt": problem.prompt,
                "program": program.text,
                "entry": problem.entry,
                "checks": problem.checks,
                "imports": problem.imports,
            }
            yield _job(script, given, settings, {_LABEL: program.key})

    for job, result in _run(dispatcher, jobs()):
        key = job.labels[_LABEL]
        yield key, _whole_verdict(result, waiting.pop(key))


def _run(dispatcher: Dispatcher, jobs: Iterable[Job]) -> Iterator[tuple[Job, Result]]:
    """Give each job with its result; one that ran out of time hardly using any runs once more, alone.

    Either it sleeps, or it was kept waiting by what else the machine did.
    """
    again: list[Job] = []
    for job, result in run_each(dispatcher, jobs):
        if result.status is not Status.TIME_LIMIT or (result.cpu_time or 0) > _BUSY * result.wall_time:
            yield job, result
            continue
        again.append(job)
        if len(again) == _MOST_AGAIN:
            yield from _alone(dispatcher, again)
            again.clear()
    yield from _alone(dispatcher, again)


def _alone(dispatcher: Dispatcher, jobs: list[Job]) -> Iterator[tuple[Job, Result]]:
    for job in jobs:
        yield from run_each(dispatcher, [job])


def _whole_verdict(result: Result, secret: str) -> str:
    if ended := _ended(result):
        return ended
    if secrets.compare_digest(result.stdout, secret.encode()):
        return PASSED
    text = result.text.strip()[:_LONGEST]
    if text.startswith("failed: ") and secret not in text:
        return text
    return "failed: the program ended before its checks did"


def _ended(result: Result) -> str | None:
    """Say what kept a job from coming to its end, or None where nothing did."""
    if result.status is Status.OK:
        return None
    if result.status is Status.TIME_LIMIT:
        return TIMED_OUT
    if result.status is Status.NONZERO_EXIT:
        return f"failed: the program ended before its checks did, with exit code {result.exit_code}"
    if result.status is Status.SIGNALED:
        return f"failed: killed by {result.signal}"
    if result.status in (Status.MEMORY_LIMIT, Status.OUTPUT_LIMIT):
        return f"failed: {result.status.replace('_', ' ')}"
    raise Broken(f"{result.status.replace('_', ' ')}: {result.error or 'no reason given'}")


@dataclass(slots=True)
class _Apart:
    """A program on its way through two jails."""

    program: Program
    calls: str
    answers: str = "[]"
    rounds: int = 0


class Isolated:
    """Judges programs in two jails each; keeps the calls of each task for the next program."""

    def __init__(self, dispatcher: Dispatcher, settings: Settings) -> None:
        self._dispatcher = dispatcher
        self._settings = settings
        self._first_calls: dict[str, str] = {}
        self._unfit: dict[str, str] = {}
        self._scripts = {name: source(name) for name in ("function", "checks", "plain_values")}

    def judge(self, programs: Iterable[Program]) -> Iterator[tuple[str, str]]:
        """Give the key and the result of each program, batch by batch."""
        batch: list[Program] = []
        for program in programs:
            batch.append(program)
            if len(batch) == _BATCH:
                yield from self._judge(batch)
                batch = []
        yield from self._judge(batch)

    def _judge(self, programs: list[Program]) -> Iterator[tuple[str, str]]:
        self._foresee(program.problem for program in programs)
        going: dict[str, _Apart] = {}
        for program in programs:
            if unfit := self._unfit.get(program.problem.task_id):
                yield program.key, unfit
            else:
                going[program.key] = _Apart(program, self._first_calls[program.problem.task_id])
        while going:
            yield from self._answer(going)
            yield from self._check(going)

    def _foresee(self, problems: Iterable[Problem]) -> None:
        """Learn the calls of each task that is new."""
        new = {
            problem.task_id: problem for problem in problems if problem.task_id not in self._first_calls
        }
        jobs = (self._checks(problem, "[]", "[]", task) for task, problem in new.items())
        for job, result in _run(self._dispatcher, jobs):
            task = job.labels[_LABEL]
            verdict = _ended(result) or result.text
            if verdict == "calls" and "calls" in result.files:
                self._first_calls[task] = result.files["calls"].decode()
            else:
                self._first_calls[task] = "[]"
                if verdict != PASSED:
                    self._unfit[task] = f"failed: the task's own checks: {verdict}"[:_LONGEST]

    def _answer(self, going: dict[str, _Apart]) -> Iterator[tuple[str, str]]:
        """Have the calls of each program answered; give those whose program did not survive it."""
        jobs = (
            _job(
                self._scripts["function"],
                {"program": one.program.text, "entry": one.program.problem.entry, "calls": one.calls},
                self._settings,
                {_LABEL: key},
                files={"plain_values.py": self._scripts["plain_values"]},
                collect=("answers",),
            )
            for key, one in list(going.items())
        )
        for job, result in _run(self._dispatcher, jobs):
            key = job.labels[_LABEL]
            ended = _ended(result)
            if ended is None and "answers" not in result.files:
                ended = "failed: the program ended before its checks did"
            if ended:
                del going[key]
                yield key, ended
            else:
                going[key].answers = result.files["answers"].decode("utf-8", "replace")

    def _check(self, going: dict[str, _Apart]) -> Iterator[tuple[str, str]]:
        """Run the checks against the answers; keep those that lead to other calls."""
        jobs = (
            self._checks(one.program.problem, one.calls, one.answers, key)
            for key, one in list(going.items())
        )
        for job, result in _run(self._dispatcher, jobs):
            key = job.labels[_LABEL]
            one = going[key]
            verdict = _ended(result) or result.text[:_LONGEST]
            one.rounds += 1
            if verdict == "calls" and "calls" in result.files:
                one.calls = result.files["calls"].decode()
                if one.rounds < (_ROUNDS if one.program.problem.reference else _ROUNDS_WITHOUT):
                    continue
                verdict = "failed: its answers never lead to the same calls twice"
            del going[key]
            yield key, verdict

    def _checks(self, problem: Problem, calls: str, answers: str, key: str) -> Job:
        given = {
            "prompt": problem.prompt,
            "checks": problem.checks,
            "entry": problem.entry,
            "reference": problem.reference,
            "calls": calls,
            "answers": answers,
        }
        placed = {"plain_values.py": self._scripts["plain_values"]}
        labels = {_LABEL: key}
        return _job(
            self._scripts["checks"], given, self._settings, labels, files=placed, collect=("calls",)
        )


def _job(
    script: str,
    given: Mapping[str, object],
    settings: Settings,
    labels: dict[str, str],
    *,
    files: dict[str, str] | None = None,
    collect: tuple[str, ...] = (),
) -> Job:
    return Job(
        script,
        runtime=settings.runtime,
        stdin=json.dumps(given),
        limits=settings.limits,
        labels=labels,
        files=files or {},
        collect=collect,
    )
