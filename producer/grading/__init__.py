"""Grading in batches: problem packages, code-model evaluation, reports.

    from producer import Client
    from producer.grading import QueueDispatcher, grade

    with Client() as client:
        report = grade("problems/sum", ["students/"], dispatcher=QueueDispatcher(client))

Every name is loaded when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from producer.grading.comparison import Comparison, compare
    from producer.grading.dispatch import Dispatcher, LocalDispatcher, QueueDispatcher
    from producer.grading.grader import Asked, SubmissionDone, TestDone, TimeLimitSet, events
    from producer.grading.grading import grade
    from producer.grading.loading import load_problem
    from producer.grading.model import Report, SubmissionReport, TestReport, Verdict
    from producer.grading.package_files import PackageError
    from producer.grading.sources import find_submissions

__all__ = [
    "Asked",
    "Comparison",
    "Dispatcher",
    "LocalDispatcher",
    "PackageError",
    "QueueDispatcher",
    "Report",
    "SubmissionDone",
    "SubmissionReport",
    "TestDone",
    "TestReport",
    "TimeLimitSet",
    "Verdict",
    "compare",
    "events",
    "find_submissions",
    "grade",
    "load_problem",
]

_HOMES = {
    "comparison": ("compare", "Comparison"),
    "dispatch": ("Dispatcher", "LocalDispatcher", "QueueDispatcher"),
    "grader": ("Asked", "SubmissionDone", "TestDone", "TimeLimitSet", "events"),
    "grading": ("grade",),
    "loading": ("load_problem",),
    "model": ("Report", "SubmissionReport", "TestReport", "Verdict"),
    "package_files": ("PackageError",),
    "sources": ("find_submissions",),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
