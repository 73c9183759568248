"""JUnit XML, as Jenkins' own schema (junit-10.xsd) has it: a suite for each submission.

A test that did not pass is a failure, one that could not be judged an error. A submission that never
came to its tests has one case, of its own name.
"""

from collections.abc import Iterable
from typing import IO
from xml.sax.saxutils import escape, quoteattr

from producer.grading.model import Report, SubmissionReport, TestReport, Verdict
from producer.grading.reports.text import clean, xml_legal


def write(report: Report, stream: IO[str]) -> None:
    """Write every submission as a suite of its tests."""
    _line(stream, '<?xml version="1.0" encoding="UTF-8"?>')
    cases = [test.verdict for one in report.submissions for test in _cases(one)]
    times = [test.wall_time for one in report.submissions for test in _cases(one)]
    _line(stream, _open("testsuites", name=report.problem, **_counts(cases, times)))
    for submission in report.submissions:
        _suite(report.problem, submission, stream)
    _line(stream, "</testsuites>")


def _suite(problem: str, submission: SubmissionReport, stream: IO[str]) -> None:
    tests = _cases(submission)
    counts = _counts([test.verdict for test in tests], [test.wall_time for test in tests])
    _line(stream, _open("testsuite", name=submission.name, package=problem, **counts))
    properties = {"verdict": submission.verdict.value}
    if submission.score is not None:
        properties["score"] = f"{submission.score:g}"
    if submission.max_score is not None:
        properties["max_score"] = f"{submission.max_score:g}"
    if submission.expected is not None:
        properties["expected"] = " ".join(submission.expected)
    _line(stream, "<properties>")
    for name, value in properties.items():
        _line(stream, _open("property", "/", name=name, value=value))
    _line(stream, "</properties>")
    for test in tests:
        _case(submission, test, stream)
    _line(stream, "</testsuite>")


def _case(submission: SubmissionReport, test: TestReport, stream: IO[str]) -> None:
    attributes = {"name": test.name, "classname": submission.name}
    if test.wall_time is not None:
        attributes["time"] = f"{test.wall_time:.3f}"
    if test.verdict is Verdict.AC:
        _line(stream, _open("testcase", "/", **attributes))
        return
    kind = "error" if test.verdict is Verdict.JE else "failure"
    told = "\n".join(part for part in (test.message, test.feedback) if part)
    message = told.partition("\n")[0] or test.verdict.words
    _line(stream, _open("testcase", **attributes))
    opened = _open(kind, type=test.verdict.value, message=message)
    _line(stream, f"{opened}{escape(xml_legal(clean(told)))}</{kind}>")
    _line(stream, "</testcase>")


def _cases(submission: SubmissionReport) -> tuple[TestReport, ...]:
    if submission.tests:
        return submission.tests
    only = TestReport(submission.name, "", submission.verdict, None, None, None, submission.message)
    return (only,)


def _counts(verdicts: list[Verdict], times: Iterable[float | None]) -> dict[str, str]:
    errors = verdicts.count(Verdict.JE)
    return {
        "tests": str(len(verdicts)),
        "failures": str(len(verdicts) - errors - verdicts.count(Verdict.AC)),
        "errors": str(errors),
        "time": f"{sum(time or 0 for time in times):.3f}",
    }


def _open(tag: str, end: str = "", /, **attributes: str) -> str:
    # A line break would come out of an attribute as a space (XML 1.0, 3.3.3): quoteattr numbers it.
    told = "".join(f" {name}={quoteattr(xml_legal(clean(text)))}" for name, text in attributes.items())
    return f"<{tag}{told}{end}>"


def _line(stream: IO[str], text: str) -> None:
    stream.write(f"{text}\n")
