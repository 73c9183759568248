"""What grading tells: the verdict of each test, group and submission.

Pure data, checked where it is made by nobody but the grader itself. The fields without a default are
those of the JSON that `sandboxed grade --json` writes (`producer.grading.report_json`); the others are
for the reports that people read.
"""

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What became of a test, a group or a submission, by the names that judges use."""

    AC = "AC"  # accepted
    WA = "WA"  # wrong answer
    TLE = "TLE"  # time limit exceeded
    RTE = "RTE"  # run-time error: a signal, or an exit code that is not 0
    MLE = "MLE"  # memory limit exceeded, where the sandbox can prove it
    OLE = "OLE"  # output limit exceeded
    CE = "CE"  # compile error: a Python script that does not compile
    JE = "JE"  # judge error: never the submission's fault

    @property
    def words(self) -> str:
        """The verdict in words: `wrong answer`."""
        return _WORDS[self.value]


_WORDS = {
    "AC": "accepted",
    "WA": "wrong answer",
    "TLE": "time limit exceeded",
    "RTE": "run-time error",
    "MLE": "memory limit exceeded",
    "OLE": "output limit exceeded",
    "CE": "compile error",
    "JE": "judge error",
}


@dataclass(frozen=True, slots=True)
class TestReport:
    """One test of one submission.

    `name` is the test's path below the package's data, without its suffix (`secret/group1/01`);
    `group` is the folder in it (`secret/group1`). `wall_time` and `cpu_time` are seconds and `memory`
    is the peak in bytes, each the highest of all passes, and None where it is not known. `message` is
    one or more lines for whoever grades.

    `hidden` marks what a student must not see beyond the verdict; `feedback` is what the validator
    wrote for the student. `score` and `max_score` are the test's own points where it has any. `input`,
    `expected` and `actual` are the first bytes of the input, of the judge's answer and of what the
    submission wrote, where they were kept; `cut` says that at least one of them went on.
    """

    name: str
    group: str
    verdict: Verdict
    wall_time: float | None
    cpu_time: float | None
    memory: int | None
    message: str
    hidden: bool = False
    feedback: str = ""
    score: float | None = None
    max_score: float | None = None
    input: bytes | None = None
    expected: bytes | None = None
    actual: bytes | None = None
    cut: bool = False


# So that pytest does not take it for a class of tests.
TestReport.__test__ = False  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class GroupReport:
    """One group of tests of one submission; `name` is its folder (`secret/group1`), or `` for all."""

    name: str
    verdict: Verdict
    score: float | None
    max_score: float | None


@dataclass(frozen=True, slots=True)
class SubmissionReport:
    """One submission: its verdict, its score, and the tests that ran, in the order of the package.

    `score` and `max_score` are None where the problem is only passed or failed. `expected` are the
    verdicts that the package allows it, None where it says nothing; `as_expected` whether it got one
    of them. `message` says why where no test could tell (a compile error, no main file). `groups` are
    the groups of tests, outer ones first.
    """

    name: str
    verdict: Verdict
    score: float | None
    max_score: float | None
    expected: tuple[Verdict, ...] | None
    as_expected: bool | None
    tests: tuple[TestReport, ...]
    message: str = ""
    groups: tuple[GroupReport, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """A graded problem: its name, and its submissions in the order in which they were named.

    `time_limit` is the limit of each test, in seconds.
    """

    problem: str
    submissions: tuple[SubmissionReport, ...]
    time_limit: float | None = None
