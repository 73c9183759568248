"""CSV: one row a submission and test (RFC 4180), safe to open in a spreadsheet."""

import csv
from typing import IO

from producer.grading.model import Report, SubmissionReport, TestReport
from producer.grading.reports.text import clean

COLUMNS = (
    "problem",
    "submission",
    "submission_verdict",
    "submission_score",
    "submission_max_score",
    "expected",
    "as_expected",
    "test",
    "group",
    "hidden",
    "verdict",
    "score",
    "max_score",
    "wall_time",
    "cpu_time",
    "memory",
    "message",
)

#: What a spreadsheet takes for the start of a formula (OWASP, CSV Injection), wide forms included.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")

Cell = str | float | None


def write(report: Report, stream: IO[str]) -> None:
    """Write every test of every submission; a submission without tests has one row of its own."""
    rows = csv.writer(stream)
    rows.writerow(COLUMNS)
    for submission in report.submissions:
        first = (
            _text(report.problem),
            _text(submission.name),
            submission.verdict.value,
            submission.score,
            submission.max_score,
            None if submission.expected is None else " ".join(submission.expected),
            _yes_or_no(submission.as_expected),
        )
        for last in [_test(test) for test in submission.tests] or [_without_tests(submission)]:
            rows.writerow((*first, *last))


def _test(test: TestReport) -> tuple[Cell, ...]:
    return (
        _text(test.name),
        _text(test.group),
        _yes_or_no(test.hidden),
        test.verdict.value,
        test.score,
        test.max_score,
        test.wall_time,
        test.cpu_time,
        test.memory,
        _text(test.message),
    )


def _without_tests(submission: SubmissionReport) -> tuple[Cell, ...]:
    return (*[None] * 9, _text(submission.message))


def _text(text: str) -> str:
    """Give text that is no formula to a spreadsheet: one that could be begins with an apostrophe."""
    text = clean(text).replace("\0", "\ufffd")
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA) else text


def _yes_or_no(truth: bool | None) -> str | None:  # noqa: FBT001  # it is what is written
    return None if truth is None else "yes" if truth else "no"
