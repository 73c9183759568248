"""A report as JSON, in a form that stays as it is, and the JSON Schema of that form."""

from typing import Any

from producer.grading.model import Report, SubmissionReport, TestReport, Verdict


def report_to_json(report: Report, *, student: bool = False) -> dict[str, Any]:
    """Give the object that `sandboxed grade --json` writes; for a student without what is hidden."""
    return {
        "problem": report.problem,
        "submissions": [_submission(one, student=student) for one in report.submissions],
    }


def _submission(report: SubmissionReport, *, student: bool) -> dict[str, Any]:
    return {
        "name": report.name,
        "verdict": report.verdict.value,
        "score": report.score,
        "max_score": report.max_score,
        "expected": None if report.expected is None else [one.value for one in report.expected],
        "as_expected": report.as_expected,
        "tests": [_test(test, student=student) for test in report.tests],
    }


def _test(report: TestReport, *, student: bool) -> dict[str, Any]:
    message = report.message
    if student:
        message = "" if report.hidden else report.feedback or report.message
    return {
        "name": report.name,
        "group": report.group,
        "verdict": report.verdict.value,
        "wall_time": report.wall_time,
        "cpu_time": report.cpu_time,
        "memory": report.memory,
        "message": message,
    }


_VERDICT = {"enum": [verdict.value for verdict in Verdict]}
_TEXT = {"type": "string"}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def _object(described: str, **properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "description": described,
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_NUMBER = _or_null({"type": "number"})
_SECONDS = _or_null({"type": "number", "minimum": 0, "description": "seconds; null: not known"})

_TEST = _object(
    "one test that ran",
    name={**_TEXT, "description": "below the package's data, without suffix: secret/group1/01"},
    group={**_TEXT, "description": "the group it is in: secret/group1"},
    verdict=_VERDICT,
    wall_time=_SECONDS,
    cpu_time=_SECONDS,
    memory=_or_null({"type": "integer", "minimum": 0, "description": "peak, bytes"}),
    message={**_TEXT, "description": "why, for whoever grades"},
)
_SUBMISSION = _object(
    "one submission",
    name=_TEXT,
    verdict=_VERDICT,
    score={**_NUMBER, "description": "null: the problem is passed or failed"},
    max_score={**_NUMBER, "description": "null: there is no best score"},
    expected=_or_null({"type": "array", "items": _VERDICT, "description": "null: nothing is said"}),
    as_expected=_or_null({"type": "boolean"}),
    tests={"type": "array", "items": _TEST, "description": "in the order of the package"},
)


def schema() -> dict[str, Any]:
    """Give the JSON Schema of what `report_to_json` gives."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Grading",
        **_object(
            "what `sandboxed grade --json` writes",
            problem=_TEXT,
            submissions={"type": "array", "items": _SUBMISSION},
        ),
    }
