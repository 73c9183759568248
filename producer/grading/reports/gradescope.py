"""Gradescope's `results.json` (gradescope-autograders.readthedocs.io, Autograder Specifications).

Gradescope itself keeps hidden tests from students, by their visibility. Of the tests that students see
this tells them no more than they may know.
"""

import json
from typing import IO, Any

from producer.grading.model import Report, SubmissionReport, TestReport, Verdict
from producer.grading.reports.student import shown
from producer.grading.reports.text import clean, decoded

_LONGEST = 4000  # characters of each excerpt


def write(report: Report, stream: IO[str]) -> None:
    """Write the one submission of `report`; none, where grading has failed, is one without points."""
    if len(report.submissions) > 1:
        raise ValueError(
            f"gradescope: its file is for one submission, and here are {len(report.submissions)}"
        )
    found = _submission(report.submissions[0]) if report.submissions else _nothing()
    stream.write(f"{json.dumps(found, indent=2)}\n")


def _nothing() -> dict[str, Any]:
    return {
        "score": 0.0,
        "output": "This submission could not be graded. Please tell your instructors.",
        "visibility": "visible",
        "tests": [],
    }


def _submission(submission: SubmissionReport) -> dict[str, Any]:
    output = submission.verdict.words
    if submission.message and submission.verdict is not Verdict.JE:
        output = f"{output}\n{submission.message}"
    # Where the problem has no points, passing is worth one.
    score = float(submission.verdict is Verdict.AC) if submission.score is None else submission.score
    return {
        "score": score,
        "execution_time": round(sum(test.wall_time or 0 for test in submission.tests), 3),
        "output": clean(output),
        "output_format": "text",
        "visibility": "visible",
        "tests": [_test(number, test) for number, test in enumerate(submission.tests, 1)],
    }


def _test(number: int, test: TestReport) -> dict[str, Any]:
    told = test if test.hidden else shown(test)
    found: dict[str, Any] = {
        "name": clean(told.name),
        "number": str(number),
        "status": "passed" if told.verdict is Verdict.AC else "failed",
        "output": clean(_output(told)),
        "output_format": "text",
        "visibility": "hidden" if told.hidden else "visible",
        "tags": [told.verdict.value, *([clean(told.group)] if told.group else [])],
    }
    if told.score is not None:
        found["score"] = told.score
    if told.max_score is not None:
        found["max_score"] = told.max_score
    return found


def _output(test: TestReport) -> str:
    parts = [test.verdict.words]
    if test.wall_time is not None:
        parts[0] += f", {test.wall_time:.3f} s"
    parts += [part for part in (test.message, test.feedback) if part]
    if test.verdict is not Verdict.AC:
        for title, content in (
            ("input", test.input),
            ("expected", test.expected),
            ("your output", test.actual),
        ):
            if (text := decoded(content)) is not None:
                cut = " …" if len(text) > _LONGEST or test.cut else ""
                parts.append(f"--- {title}\n{text[:_LONGEST]}{cut}")
    return "\n".join(parts)
