"""One page of HTML: a grid of submissions and tests to click through, that needs nothing but itself.

The page loads nothing and runs only the script that stands in it: its policy names the hash of that
script and of the style. Everything that came from a submission is data to the script, which puts it
on the page as text.
"""

import base64
import hashlib
import json
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import IO, Any

from producer.grading.model import Report, SubmissionReport, TestReport, Verdict
from producer.grading.reports.text import clean, decoded

_LONGEST = 8000  # characters of each excerpt


def write(report: Report, stream: IO[str]) -> None:
    """Write the page, submission by submission."""
    style, script = _asset("page.css"), _asset("page.js")
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    title = escape(clean(report.problem))
    names = _test_names(report)
    stream.write(_HEAD.format(policy=policy, title=title, style=style))
    about = {
        "problem": clean(report.problem),
        "time_limit": report.time_limit,
        "tests": [clean(name) for name in names],
        "words": {verdict.value: verdict.words for verdict in Verdict},
    }
    # The data are lines: first what all have in common, then each submission.
    stream.write('<script type="application/json" id="data">\n')
    columns = {name: number for number, name in enumerate(names)}
    for record in (about, *_submissions(report, columns)):
        stream.write(f"{_inert(record)}\n")
    stream.write(f"</script>\n<script>{script}</script>\n</body>\n</html>\n")


def _submissions(report: Report, columns: dict[str, int]) -> Iterator[dict[str, Any]]:
    return (_submission(submission, columns) for submission in report.submissions)


def _submission(submission: SubmissionReport, columns: dict[str, int]) -> dict[str, Any]:
    return {
        "name": clean(submission.name),
        "verdict": submission.verdict.value,
        "score": submission.score,
        "max_score": submission.max_score,
        "expected": None if submission.expected is None else [v.value for v in submission.expected],
        "as_expected": submission.as_expected,
        "message": clean(submission.message),
        "groups": [
            [clean(group.name), group.verdict.value, group.score, group.max_score]
            for group in submission.groups
        ],
        "tests": {columns[test.name]: _test(test) for test in submission.tests},
    }


def _test(test: TestReport) -> dict[str, Any]:
    """Give what is known of a test, and leave out what is not."""
    found = {
        "verdict": test.verdict.value,
        "wall": test.wall_time,
        "cpu": test.cpu_time,
        "memory": test.memory,
        "message": clean(test.message),
        "feedback": clean(test.feedback),
        "hidden": test.hidden,
        "score": test.score,
        "max_score": test.max_score,
        "input": _excerpt(test.input),
        "expected": _excerpt(test.expected),
        "actual": _excerpt(test.actual),
        "cut": test.cut
        or any(len(part or b"") > _LONGEST for part in (test.input, test.expected, test.actual)),
    }
    return {name: value for name, value in found.items() if value not in (None, "", False)} | {
        name: "" for name in ("input", "expected", "actual") if found[name] == ""
    }


def _excerpt(content: bytes | None) -> str | None:
    return decoded(None if content is None else content[:_LONGEST])


def _test_names(report: Report) -> list[str]:
    """Give the tests of all submissions, in an order that is each one's own as far as there is one."""
    names: dict[str, None] = {}
    for submission in sorted(report.submissions, key=lambda one: -len(one.tests)):
        names.update((test.name, None) for test in submission.tests)
    return list(names)


def _inert(record: dict[str, Any]) -> str:
    """Give JSON that can't end the element it stands in, nor be anything but data there."""
    text = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _asset(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p id="summary"></p>
<div id="bar" role="img"></div>
<ul id="legend"></ul>
</header>
<noscript>This page shows its data with a script, which it carries itself.</noscript>
<main>
<form id="filters">
<input type="search" id="search" placeholder="Find a submission" aria-label="Find a submission">
<select id="verdicts" aria-label="Verdict"><option value="">any verdict</option></select>
<label id="unexpected" hidden><input type="checkbox"> not as expected</label>
</form>
<div id="grid" tabindex="0" role="region" aria-label="Submissions and tests">
<table><thead></thead><tbody></tbody></table>
</div>
<section id="plots"></section>
</main>
<dialog id="detail" aria-labelledby="detail-title"><div class="sheet"></div></dialog>
"""
