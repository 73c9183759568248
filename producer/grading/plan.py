"""How one kind of problem is graded: which tests a submission still needs, and what they add up to."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from producer.grading.aggregate import best_score, needed, outcome
from producer.grading.expectations import as_expected
from producer.grading.judging import Steps, Terms, judge
from producer.grading.model import SubmissionReport, TestReport, Verdict
from producer.grading.problem import Expected, Problem, Submission, Test


class Named(Protocol):
    """A test, as far as the grader looks."""

    @property
    def name(self) -> str:
        """Its name, which no other test of the problem has."""
        ...


class Plan(Protocol):
    """What the grader asks of a kind of problem."""

    @property
    def size(self) -> int:
        """How many tests a submission may need."""
        ...

    def order(self, test: str) -> int:
        """Give the place of a test among all."""
        ...

    def needed(self, done: Mapping[str, TestReport]) -> Iterator[Named]:
        """Give the tests whose result is known to count, and which have not run."""
        ...

    def judge(self, submission: Submission, test: Named) -> Steps:
        """Run a test to its verdict."""
        ...

    def report(self, submission: Submission, done: Mapping[str, TestReport]) -> SubmissionReport:
        """Put together what a submission came out as."""
        ...


@dataclass
class PackagePlan:
    """Tests of input and answer."""

    problem: Problem
    terms: Terms
    everything: bool = False

    def __post_init__(self) -> None:
        self._order = {test.name: place for place, test in enumerate(self.problem.tests())}
        self._best = best_score(self.problem)

    @property
    def size(self) -> int:
        """How many tests a submission may need."""
        return len(self._order)

    def order(self, test: str) -> int:
        """Give the place of a test among all."""
        return self._order[test]

    def needed(self, done: Mapping[str, TestReport]) -> Iterator[Test]:
        """Give the tests whose result is known to count, and which have not run."""
        return needed(self.problem, done, everything=self.everything)

    def judge(self, submission: Submission, test: Named) -> Steps:
        """Run a test to its verdict."""
        assert isinstance(test, Test)
        return judge(self.problem, submission, test, self.terms)

    def report(self, submission: Submission, done: Mapping[str, TestReport]) -> SubmissionReport:
        """Put together what a submission came out as."""
        whole, groups = outcome(self.problem, done)
        tests = tuple(done[name] for name in sorted(done, key=self.order))
        scored = self.problem.plain or self.problem.metadata.scoring
        score = whole.score if scored else None
        if self.problem.metadata.scoring and whole.verdict is not Verdict.AC:
            score = 0.0
        as_said = met(submission.expected, whole.verdict, score, self._best, tests)
        return SubmissionReport(
            submission.name,
            whole.verdict,
            score,
            self._best,
            submission.expected.verdicts if submission.expected else None,
            as_said,
            tests,
            groups=groups,
            message=next((test.message for test in tests if test.verdict is whole.verdict), "")
            if whole.verdict is not Verdict.AC
            else "",
        )


def refused(
    submission: Submission, verdict: Verdict, message: str, best: float | None
) -> SubmissionReport:
    """Give the report of a submission of which no test could run."""
    score = None if best is None else 0.0
    as_said = met(submission.expected, verdict, score, best, ())
    expected = submission.expected.verdicts if submission.expected else None
    return SubmissionReport(
        submission.name, verdict, score, best, expected, as_said, (), message=message
    )


def met(
    expected: Expected | None,
    verdict: Verdict,
    score: float | None,
    best: float | None,
    tests: tuple[TestReport, ...],
) -> bool | None:
    """Say whether a submission came out as expected; None where nothing is."""
    return None if expected is None else as_expected(expected, verdict, score, best, tests)


def time_limit_from(problem: Problem, slowest: float) -> float:
    """Give the time limit that the slowest accepted submission makes (seconds)."""
    metadata = problem.metadata
    if metadata.legacy:
        return float(max(1, math.ceil(slowest * metadata.time_multiplier)))
    unit = metadata.time_resolution
    return max(1, math.ceil(slowest * metadata.time_multiplier / unit)) * unit
