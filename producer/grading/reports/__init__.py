"""Reports of a graded problem: for people to read, and for other programs to load."""

from collections.abc import Callable, Mapping
from typing import IO

from producer.grading.model import Report
from producer.grading.reports import gradescope, junit, page, table
from producer.grading.reports.student import for_student

_WRITERS: Mapping[str, Callable[[Report, IO[str]], None]] = {
    "html": page.write,
    "junit": junit.write,
    "csv": table.write,
    "gradescope": gradescope.write,
}
FORMATS = tuple(_WRITERS)


def write(report: Report, format: str, stream: IO[str], *, student: bool = False) -> None:  # noqa: A002  # the word of the command
    """Write `report` in one of `FORMATS` to `stream`, as text.

    The stream has to write UTF-8, and line breaks as they are (`newline=""`).

    With `student` it tells no more than the student may see: of a hidden test the verdict and the
    points, of any other what the validator wrote for the student.

    Raises `ValueError` for an unknown format, and where Gradescope's is asked for several submissions.
    """
    if format not in _WRITERS:
        raise ValueError(f"format: {format!r} is none of {', '.join(FORMATS)}")
    _WRITERS[format](for_student(report) if student else report, stream)
