"""The table of `sandboxed grade`: a line for each submission as it is graded, on standard error."""

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import TextIO

from producer.grading.grader import Event, SubmissionDone, TestDone, TimeLimitSet
from producer.grading.model import SubmissionReport, Verdict

_BAR = 24
#: Seconds between two drawings of the bar.
_PACE = 0.2


class Progress:
    """Shows events; the bar with rate and time left only where a person is looking."""

    def __init__(self, stream: TextIO, total: int, width: int) -> None:
        self._stream = stream
        self._total = total
        self._width = max(width, 10)
        self._live = stream.isatty()
        self._began = self._drawn = time.monotonic()
        self._tests = 0
        self._done = 0
        self._shown = 0

    def __call__(self, event: Event) -> None:
        """Show what has been done."""
        if isinstance(event, TimeLimitSet):
            how = ", from the accepted submissions" if event.measured else ""
            self._line(f"time limit {event.seconds:g} s{how}")
            self._began = time.monotonic()
        elif isinstance(event, TestDone):
            self._tests += 1
        elif isinstance(event, SubmissionDone):
            self._done += 1
            self._line(line(event.report, self._width))
        self._draw()

    def _line(self, text: str) -> None:
        self._clear()
        self._stream.write(text + "\n")

    def _clear(self) -> None:
        if self._shown:
            self._stream.write("\r" + " " * self._shown + "\r")
            self._shown = 0

    def _draw(self) -> None:
        now = time.monotonic()
        if not self._live or (now - self._drawn < _PACE and self._done < self._total):
            return
        self._drawn = now
        share = self._done / self._total if self._total else 1.0
        filled = round(share * _BAR)
        rate = self._tests / max(now - self._began, 1e-9)
        left = (now - self._began) / share * (1 - share) if share else None
        told = f"{'#' * filled}{'.' * (_BAR - filled)} {self._done}/{self._total}  {rate:.0f} tests/s"
        if left is not None:
            told += f"  {left:.0f} s left"
        self._clear()
        self._stream.write(told)
        self._stream.flush()
        self._shown = len(told)

    def close(self) -> None:
        """Leave the terminal as a program should."""
        self._clear()
        self._stream.flush()


def line(report: SubmissionReport, width: int) -> str:
    """Give the row of a submission: name, verdict, score, its tests by verdict, the slowest, why."""
    score = ""
    if report.score is not None:
        score = f"{report.score:g}" + (f"/{report.max_score:g}" if report.max_score is not None else "")
    counts = Counter(test.verdict for test in report.tests)
    told = " ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict])
    times = [test.wall_time for test in report.tests if test.wall_time is not None]
    slowest = f"{max(times):.2f} s" if times else ""
    mark = {True: "as expected", False: "NOT AS EXPECTED", None: ""}[report.as_expected]
    why = ""
    if report.verdict is not Verdict.AC and report.as_expected is not True:
        first = report.message.strip().splitlines()
        # It may be the submission's own words, which have nothing to say to a terminal.
        why = "".join(one if one.isprintable() else "?" for one in first[0][:80]) if first else ""
    name = (
        report.name.encode("unicode_escape").decode("ascii")
        if not report.name.isprintable()
        else report.name
    )
    row = f"{name:{width}}  {report.verdict:3}  {score:>9}  {slowest:>7}  {told:16}  {mark}"
    return f"{row}  {why}".rstrip()


@contextlib.contextmanager
def showing(total: int, width: int) -> Iterator[Progress]:
    """Show events on standard error."""
    progress = Progress(sys.stderr, total, width)
    try:
        yield progress
    finally:
        progress.close()
