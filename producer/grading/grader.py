"""Grades submissions: keeps as many tests under way as can run, and none that could not matter.

Each submission is prepared once (does it compile?) and then asks for tests as its groups need them. So
that the memory stays as it is, a submission is begun only when those before it leave room.
"""

import json
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, TypeVar

from producer.grading.dispatch import Dispatcher, Ended, Name, Task
from producer.grading.judging import Terms
from producer.grading.model import Report, SubmissionReport, TestReport, Verdict
from producer.grading.plan import PackagePlan, Plan, refused, time_limit_from
from producer.grading.preparing import compiled
from producer.grading.problem import Problem, Submission
from producer.grading.state import State

#: Seconds for each test of the accepted submissions that the time limit is made from.
_MEASURING = 30.0
#: Seconds where nothing says how long a test may take.
DEFAULT_TIME_LIMIT = 6.0


@dataclass(frozen=True, slots=True)
class TimeLimitSet:
    """The time limit of each test is known, in seconds; `measured` says that it was made just now."""

    seconds: float
    measured: bool


@dataclass(frozen=True, slots=True)
class TestDone:
    """A test of a submission has its verdict."""

    submission: str
    report: TestReport
    __test__ = False


@dataclass(frozen=True, slots=True)
class SubmissionDone:
    """A submission is graded; `place` is where it stood among those that were named."""

    place: int
    report: SubmissionReport


Event = TimeLimitSet | TestDone | SubmissionDone

_Value = TypeVar("_Value")
#: Tests that have run before, by the digest of the submission.
_Known = dict[str, dict[str, TestReport]]


@dataclass(frozen=True)
class Asked:
    """What grading is to do: limits by the names of `Limits` (`wall_time` is the time limit)."""

    limits: dict[str, float | int] = field(default_factory=dict)
    everything: bool = False
    state: State | None = None


def events(
    problem: Problem, submissions: Iterable[Submission], dispatcher: Dispatcher, asked: Asked
) -> Iterator[Event]:
    """Grade, and tell of each step as it is done; submissions end in any order."""
    try:
        if problem.functions is not None:
            from producer.grading.functions import FunctionPlan, collected  # noqa: PLC0415  # few need it

            limit = asked.limits.get("wall_time") or problem.time_limit or DEFAULT_TIME_LIMIT
            terms = Terms(limit, asked.limits)
            tests = yield from _drive(collected(problem.functions, terms), dispatcher)
            yield TimeLimitSet(limit, measured=False)
            plan: Plan = FunctionPlan(problem, tests, terms)
            yield from _Grading(plan, dispatcher, asked, {}).run(submissions)
            return
        limit, known = yield from _time_limit(problem, dispatcher, asked)
        everything = asked.everything
        named = list(submissions)
        # Its demands are of all tests, so each of them can change whether it came out as expected.
        if not problem.metadata.old_groups and any(one.expected for one in named):
            everything = True
        plan = PackagePlan(problem, Terms(limit, asked.limits), everything)
        yield from _Grading(plan, dispatcher, asked, known).run(named)
    except BaseException:
        if asked.state is not None:
            asked.state.renew()  # or who goes on would be told that what is under way was cancelled
        raise
    finally:
        dispatcher.close()


def report_of(problem: Problem, told: Iterable[Event], see: Callable[[Event], None]) -> Report:
    """Take all events, showing each to `see`, and give the report in the order that was named."""
    limit = None
    done: dict[int, SubmissionReport] = {}
    for event in told:
        if isinstance(event, TimeLimitSet):
            limit = event.seconds
        elif isinstance(event, SubmissionDone):
            done[event.place] = event.report
        see(event)
    return Report(problem.name, tuple(done[place] for place in sorted(done)), limit)


def _drive(
    steps: Generator[Task, Ended, _Value], dispatcher: Dispatcher
) -> Generator[Event, None, _Value]:
    """Take the tasks of one generator, one after another, and give what it returns."""
    yield from ()
    try:
        task = next(steps)
        while True:
            dispatcher.start([(0, task)])
            task = steps.send(dispatcher.wait()[0][1])
    except StopIteration as stopped:
        value: _Value = stopped.value
        return value


def _time_limit(
    problem: Problem, dispatcher: Dispatcher, asked: Asked
) -> Generator[Event, None, tuple[float, _Known]]:
    """Find the time limit: given, the package's, or made from its accepted submissions.

    With it come the tests of those that were accepted, which any such limit accepts, too.
    """
    given = asked.limits.get("wall_time") or problem.time_limit
    if given is None and asked.state is not None:
        given = asked.state.note("time limit")
    accepted = [
        one
        for one in problem.submissions
        if one.expected and one.expected.for_time_limit and one.program is not None
    ]
    if given is not None or not accepted:
        limit = float(given or DEFAULT_TIME_LIMIT)
        yield TimeLimitSet(limit, measured=False)
        return limit, {}
    terms = Terms(_MEASURING, {**asked.limits, "wall_time": _MEASURING}, measuring=True)
    plan = PackagePlan(problem, terms, everything=True)
    slowest = 0.0
    known: _Known = {}
    for event in _Grading(plan, dispatcher, asked, {}, measuring=True).run(accepted):
        if isinstance(event, SubmissionDone):
            tests = {test.name: test for test in event.report.tests}
            slowest = max([slowest, *(test.wall_time or 0.0 for test in tests.values())])
            if all(test.verdict is Verdict.AC for test in tests.values()) and tests:
                known[accepted[event.place].digest] = tests
    limit = time_limit_from(problem, slowest)
    if asked.state is not None:
        asked.state.take_note("time limit", limit)
    yield TimeLimitSet(limit, measured=True)
    return limit, known


class _Run:
    """One submission on its way: the tests that are done, that run, and that wait to."""

    def __init__(self, place: int, submission: Submission, done: dict[str, TestReport]) -> None:
        self.place = place
        self.submission = submission
        self.digest = submission.digest
        self.done = done
        self.begun: set[str] = set()
        self.waiting: deque[Any] = deque()
        self.prepared = False
        self.stale = True


@dataclass(slots=True)
class _Flight:
    """Something that runs for a submission: a generator, and what it is for (None: preparing)."""

    run: _Run
    steps: Generator[Task, Ended, Any]
    test: str | None
    count: int = 0  # of the tasks so far


class _Grading:
    """Submissions on their way, all by one plan."""

    def __init__(
        self,
        plan: Plan,
        dispatcher: Dispatcher,
        asked: Asked,
        known: _Known,
        *,
        measuring: bool = False,
    ) -> None:
        self._plan = plan
        self._dispatcher = dispatcher
        self._state = None if measuring else asked.state  # these verdicts are not the ones to keep
        self._grading = asked.state.id if asked.state else None
        self._known = known
        self._runs: deque[_Run] = deque()
        self._flights: dict[int, _Flight] = {}
        self._numbers = iter(range(1 << 62))
        self._ready: list[tuple[int, Task]] = []
        self._alone: deque[tuple[int, Task]] = deque()
        self._under_way = 0
        self._told: deque[Event] = deque()

    def run(self, submissions: Iterable[Submission]) -> Iterator[Event]:
        """Grade them all."""
        coming = enumerate(submissions)
        while True:
            more = self._fill(coming)
            yield from self._tell()
            few = len(self._ready) < self._dispatcher.batch
            if self._ready and not (few and self._under_way > self._dispatcher.width // 2):
                self._dispatcher.start(self._ready)
                self._under_way += len(self._ready)
                self._ready = []
            elif not self._under_way and self._alone:
                self._dispatcher.start([self._alone.popleft()])
                self._under_way = 1
            if not self._under_way:
                if more:
                    continue
                return
            ended = self._dispatcher.wait()
            self._under_way -= len(ended)
            for number, what in ended:
                self._advance(number, what)
            yield from self._tell()

    def _tell(self) -> Iterator[Event]:
        while self._told:
            yield self._told.popleft()

    def _fill(self, coming: Iterator[tuple[int, Submission]]) -> bool:
        """Have tests wait to be started while there is room; say whether submissions may remain."""
        room = self._dispatcher.width - self._under_way - len(self._ready)
        if self._alone and not room:
            return True
        for _ in range(len(self._runs)):
            if room <= 0:
                return True
            run = self._runs.popleft()
            self._runs.append(run)
            room -= self._begin_tests(run, room)
        while room > 0:
            following = next(coming, None)
            if following is None:
                return False
            room -= self._admit(*following, room)
        return True

    def _admit(self, place: int, submission: Submission, room: int) -> int:
        """Begin a submission; give how many tasks that has made."""
        if submission.problem:
            self._end(place, self._refused(submission, Verdict.CE, submission.problem))
            return 0
        run = _Run(place, submission, self._done_before(submission.digest))
        done = run.done
        for report in sorted(done.values(), key=lambda report: self._plan.order(report.name)):
            self._told.append(TestDone(submission.name, report))
        self._runs.append(run)
        prepared = self._state.note(f"prepared {run.digest}") if self._state else None
        if prepared:  # in an earlier run, which it did not survive
            self._runs.remove(run)
            self._end(place, self._refused(submission, Verdict.CE, prepared))
            return 0
        if prepared is not None or done or submission.program is None:
            run.prepared = True
            self._settle(run)
            return self._begin_tests(run, room)
        before = len(self._ready)
        self._launch(_Flight(run, compiled(submission.program), None))
        return len(self._ready) - before

    def _done_before(self, digest: str) -> dict[str, TestReport]:
        """Give the tests of a submission that need not run: from the state, or from measuring."""
        done = self._state.done(digest) if self._state else {}
        known = dict(self._known.get(digest, {}))
        if not known or done:
            return done
        if self._state is not None:
            self._state.take_note(f"prepared {digest}", "")
            for report in known.values():
                self._state.add(digest, report)
        return known

    def _begin_tests(self, run: _Run, room: int) -> int:
        if not run.prepared:
            return 0
        if run.stale and not run.waiting:
            run.waiting.extend(
                islice(
                    (test for test in self._plan.needed(run.done) if test.name not in run.begun), room
                )
            )
            run.stale = False
        begun = 0
        while run.waiting and begun < room:
            test = run.waiting.popleft()
            run.begun.add(test.name)
            self._launch(_Flight(run, self._plan.judge(run.submission, test), test.name))
            begun += 1
        if not run.waiting and begun:
            run.stale = True
        return begun

    def _launch(self, flight: _Flight) -> None:
        number = next(self._numbers)
        self._flights[number] = flight
        self._advance(number, None)

    def _advance(self, number: int, ended: Ended | None) -> None:
        """Take a flight one task further, or to its end."""
        flight = self._flights[number]
        try:
            task = next(flight.steps) if ended is None else flight.steps.send(ended)
        except StopIteration as stopped:
            del self._flights[number]
            self._landed(flight, stopped.value)
            return
        flight.count += 1
        if self._grading:
            run = flight.run
            step = json.dumps([run.digest, run.place, flight.test, flight.count])
            task = replace(task, name=Name(self._grading, step))
        if task.alone:
            self._alone.append((number, task))
        else:
            self._ready.append((number, task))

    def _landed(self, flight: _Flight, value: Any) -> None:
        run = flight.run
        if flight.test is None:
            problem, ours = value
            if self._state is not None and not ours:
                self._state.take_note(f"prepared {run.digest}", problem)
            if problem:
                verdict = Verdict.JE if ours else Verdict.CE
                self._runs.remove(run)
                self._end(run.place, self._refused(run.submission, verdict, problem))
                return
            run.prepared = True
        else:
            run.done[flight.test] = value
            run.stale = True
            if self._state is not None:
                self._state.add(run.digest, value)
            self._told.append(TestDone(run.submission.name, value))
        self._settle(run)

    def _settle(self, run: _Run) -> None:
        """End a submission that needs no more tests."""
        if (
            run.waiting
            or len(run.begun - set(run.done))
            or next(iter(self._plan.needed(run.done)), None)
        ):
            return
        if run in self._runs:
            self._runs.remove(run)
            self._end(run.place, self._plan.report(run.submission, run.done))

    def _refused(self, submission: Submission, verdict: Verdict, why: str) -> SubmissionReport:
        best = self._plan.report(submission, {}).max_score
        return refused(submission, verdict, why, best)

    def _end(self, place: int, report: SubmissionReport) -> None:
        self._told.append(SubmissionDone(place, report))
