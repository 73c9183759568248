"""Function tests: a `tests.py` beside the problem, whose `test_*` functions import the submission.

Each test is two jails that talk: the submission in one, the check in the other. Only plain values go
over, and how the test came out is a file in the jail of the check, where the submission can't reach.
"""

import json
import math
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, replace

from producer.grading.dispatch import Ended, Task
from producer.grading.jailed import source
from producer.grading.judging import MIB, Steps, Terms
from producer.grading.model import GroupReport, SubmissionReport, TestReport, Verdict
from producer.grading.package_files import PackageError
from producer.grading.plan import Named, met
from producer.grading.problem import FunctionTests, Problem, Submission
from producer.grading.programs import Program
from sandbox_core import Job, Limits, Result, Status

_RESULT = "result.json"
_MEMORY = 256 * MIB
#: What the submission may say at most, and what the check has to read it: never its own limit is met.
_ANSWERS = 4 * MIB
_CHECK_MEMORY = 512 * MIB
#: Seconds that the check has beyond the submission, so that it sees the end of one that hangs.
_LONGER = 2.0
_MESSAGE = 4096


@dataclass(frozen=True, slots=True)
class FunctionTest:
    """One test function."""

    name: str
    points: float
    hidden: bool
    told: str


def collected(tests: FunctionTests, terms: Terms) -> Generator[Task, Ended, tuple[FunctionTest, ...]]:
    """List the tests, in a jail; `PackageError` where tests.py can't be run."""
    result = (yield Task(_check(tests, (), terms.time_limit + _LONGER))).result
    if result.status is not Status.OK or _RESULT not in result.files:
        lines = result.stderr.decode("utf-8", "replace").strip().splitlines()
        why = result.error or (lines[-1] if lines else result.status.replace("_", " "))
        raise PackageError(f"tests.py: can't be run: {why[:500]}")
    try:
        listed = tuple(
            FunctionTest(str(one["name"]), float(one["points"]), bool(one["hidden"]), str(one["told"]))
            for one in json.loads(result.files[_RESULT])
        )
    except (ValueError, TypeError, KeyError):
        raise PackageError("tests.py: gave no list of its tests") from None
    if not listed:
        raise PackageError("tests.py: has no function called test_…")
    if not all(math.isfinite(test.points) and test.points >= 0 for test in listed):
        raise PackageError("tests.py: points: expected numbers from 0")
    return listed


def _check(tests: FunctionTests, args: tuple[str, ...], wall_time: float) -> Job:
    files: dict[str, str | bytes] = {
        "plain_values.py": source("plain_values"),
        "tests/tests.py": tests.source,
        **{f"tests/{path}": content for path, content in tests.files.items()},
    }
    limits = Limits(wall_time=wall_time, memory=_CHECK_MEMORY, output=8 * MIB)
    return Job(source("tests_side"), args=args, files=files, collect=(_RESULT,), limits=limits)


def _served(program: Program, terms: Terms) -> Job:
    asked = terms.limits
    limits = Limits(
        wall_time=terms.time_limit,
        memory=int(asked.get("memory") or _MEMORY),
        processes=int(asked.get("processes") or 1),
        output=int(asked.get("output") or _ANSWERS),
        disk=max(int(asked.get("disk") or Limits().disk), 2 * program.size),
        open_files=int(asked.get("open_files") or Limits().open_files),
    )
    if (cpu := asked.get("cpu_time")) is not None:
        limits = replace(limits, cpu_time=cpu)
    files = {f"submission/{path}": content for path, content in program.files.items()}
    module = program.main.removesuffix(".py").replace("/", ".")
    return Job(
        source("student_side"),
        runtime=program.runtime,
        args=(module,),
        files={"plain_values.py": source("plain_values"), **files},
        limits=limits,
    )


@dataclass
class FunctionPlan:
    """Test functions, each for itself; all of them count, so all of them run."""

    problem: Problem
    tests: tuple[FunctionTest, ...]
    terms: Terms

    @property
    def size(self) -> int:
        """How many tests there are."""
        return len(self.tests)

    def order(self, test: str) -> int:
        """Give the place of a test among all."""
        return next(place for place, one in enumerate(self.tests) if one.name == test)

    def needed(self, done: Mapping[str, TestReport]) -> Iterator[FunctionTest]:
        """Give the tests that have not run."""
        return (test for test in self.tests if test.name not in done)

    def judge(self, submission: Submission, test: Named) -> Steps:
        """Run a test to its verdict."""
        assert isinstance(test, FunctionTest)
        assert self.problem.functions is not None
        assert submission.program is not None
        program = submission.program.including(self.problem.include)
        if not program.python:
            why = f"{program.main}: function tests import a program of Python"
            return TestReport(
                test.name, "", Verdict.CE, None, None, None, why, test.hidden, max_score=test.points
            )
        check = _check(self.problem.functions, (test.name,), self.terms.time_limit + _LONGER)
        ended = yield Task(_served(program, self.terms), check)
        assert ended.partner is not None
        verdict, message = _verdict(ended.result, ended.partner)
        return TestReport(
            test.name,
            "",
            verdict,
            ended.result.wall_time,
            ended.result.cpu_time,
            ended.result.memory,
            message[:_MESSAGE],
            hidden=test.hidden,
            score=test.points if verdict is Verdict.AC else 0.0,
            max_score=test.points,
        )

    def report(self, submission: Submission, done: Mapping[str, TestReport]) -> SubmissionReport:
        """Put together what a submission came out as."""
        tests = tuple(done[test.name] for test in self.tests if test.name in done)
        failed = [test for test in tests if test.verdict is not Verdict.AC]
        first = next((test for test in failed if test.verdict is Verdict.JE), None)
        first = first or next(iter(failed), None)
        verdict = first.verdict if first else Verdict.AC
        score = math.fsum(test.score or 0.0 for test in tests)
        best = math.fsum(test.points for test in self.tests)
        return SubmissionReport(
            submission.name,
            verdict,
            score,
            best,
            submission.expected.verdicts if submission.expected else None,
            met(submission.expected, verdict, score, best, tests),
            tests,
            message=first.message if first else "",
            groups=(GroupReport("", verdict, score, best),),
        )


def _verdict(student: Result, check: Result) -> tuple[Verdict, str]:  # noqa: PLR0911  # a table in its order
    """Judge a test by both ends; whether it passed only the check can say."""
    if student.status in (Status.INVALID_JOB, Status.INTERNAL_ERROR, Status.CANCELLED):
        return Verdict.JE, student.error or f"the job was {student.status}"
    told = _told(check)
    if told is None:
        if student.status is Status.TIME_LIMIT:
            return Verdict.TLE, "no answer within the time limit"
        lines = check.stderr.decode("utf-8", "replace").strip().splitlines()
        why = check.error or (lines[-1] if lines else check.status.replace("_", " "))
        return Verdict.JE, f"tests.py: {why[:500]}"
    outcome, message = told
    if outcome == "passed":
        return Verdict.AC, ""
    if outcome == "failed":
        return Verdict.WA, message
    if outcome == "raised":
        return Verdict.RTE, message
    if student.status is Status.TIME_LIMIT:
        return Verdict.TLE, "no answer within the time limit"
    if student.status is Status.MEMORY_LIMIT:
        return Verdict.MLE, "met the memory limit"
    if student.status is Status.OUTPUT_LIMIT:
        return Verdict.OLE, "met the output limit"
    how = f"killed by {student.signal}" if student.signal else f"exit code {student.exit_code}"
    return Verdict.RTE, f"{message} ({how})"


def _told(check: Result) -> tuple[str, str] | None:
    if check.status is not Status.OK or _RESULT not in check.files:
        return None
    try:
        told = json.loads(check.files[_RESULT])
        return str(told["outcome"]), str(told["message"])
    except (ValueError, TypeError, KeyError):
        return None
