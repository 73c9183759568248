"""What a student may see of a report."""

from collections.abc import Mapping
from dataclasses import replace

from producer.grading.model import Report, SubmissionReport, TestReport, Verdict


def for_student(report: Report) -> Report:
    """Give `report` without what is hidden, and without what is for whoever grades.

    Hidden tests keep their verdict and points. Their names, which may tell what they try, become
    numbers; times and memory, which tell of the input's size, go. So do groups with hidden tests.
    """
    names: dict[str, None] = {}
    for submission in sorted(report.submissions, key=lambda one: -len(one.tests)):
        names.update((test.name, None) for test in submission.tests if test.hidden)
    numbers = {name: number for number, name in enumerate(names, 1)}
    return replace(report, submissions=tuple(_submission(one, numbers) for one in report.submissions))


def _submission(submission: SubmissionReport, numbers: Mapping[str, int]) -> SubmissionReport:
    hidden = [test for test in submission.tests if test.hidden]
    return replace(
        submission,
        expected=None,
        as_expected=None,
        # What the compiler says is the student's own; what keeps the judge from judging is not.
        message="" if submission.verdict is Verdict.JE else submission.message,
        tests=tuple(shown(test, numbers.get(test.name, 0)) for test in submission.tests),
        groups=tuple(
            group
            for group in submission.groups
            if not any(test.group == group.name or _below(test.group, group.name) for test in hidden)
        ),
    )


def shown(test: TestReport, number: int = 0) -> TestReport:
    """Give what a student may see of a test; `number` counts it among the hidden ones."""
    if test.hidden:
        return TestReport(
            name=f"hidden {number}",
            group="hidden",
            verdict=test.verdict,
            wall_time=None,
            cpu_time=None,
            memory=None,
            message="",
            hidden=True,
            score=test.score,
            max_score=test.max_score,
        )
    return replace(test, message=test.feedback, feedback="")


def _below(folder: str, above: str) -> bool:
    return not above or folder.startswith(f"{above}/")
