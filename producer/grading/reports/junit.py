"""JUnit XML: a suite for each submission.

Valid by both schemas in use: that of Ant's reports (JUnit.xsd of Windy Road), which asks for more, and
Jenkins' own (junit-10.xsd), by which most readers go.

A test that did not pass is a failure, one that could not be judged an error. A submission that never
came to its tests has one case, of its own name.
"""

import time
from collections.abc import Sequence
from typing import IO
from xml.sax.saxutils import escape, quoteattr

from producer.grading.model import Report, SubmissionReport, TestReport, Verdict
from producer.grading.reports.text import clean, xml_legal


def write(report: Report, stream: IO[str]) -> None:
    """Write every submission as a suite of its tests."""
    _line(stream, '<?xml version="1.0" encoding="UTF-8"?>')
    _line(stream, "<testsuites>")
    told = {
        "package": report.problem,
        "timestamp": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()),
        "hostname": "localhost",  # the schema's word for one that is not told: nothing here hangs on it
    }
    for number, submission in enumerate(report.submissions):
        _suite({"id": str(number), **told}, submission, stream)
    _line(stream, "</testsuites>")


def _suite(told: dict[str, str], submission: SubmissionReport, stream: IO[str]) -> None:
    tests = _cases(submission)
    _line(stream, _open("testsuite", name=submission.name, **told, **_counts(tests)))
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
    _line(stream, "<system-out/><system-err/></testsuite>")


def _case(submission: SubmissionReport, test: TestReport, stream: IO[str]) -> None:
    took = f"{test.wall_time or 0:.3f}"  # what did not run took no time
    attributes = {"name": test.name, "classname": submission.name, "time": took}
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


def _counts(tests: Sequence[TestReport]) -> dict[str, str]:
    verdicts = [test.verdict for test in tests]
    errors = verdicts.count(Verdict.JE)
    return {
        "tests": str(len(verdicts)),
        "failures": str(len(verdicts) - errors - verdicts.count(Verdict.AC)),
        "errors": str(errors),
        "time": f"{sum(test.wall_time or 0 for test in tests):.3f}",
    }


def _open(tag: str, end: str = "", /, **attributes: str) -> str:
    # A line break would come out of an attribute as a space (XML 1.0, 3.3.3): quoteattr numbers it.
    told = "".join(f" {name}={quoteattr(xml_legal(clean(text)))}" for name, text in attributes.items())
    return f"<{tag}{told}{end}>"


def _line(stream: IO[str], text: str) -> None:
    stream.write(f"{text}\n")
