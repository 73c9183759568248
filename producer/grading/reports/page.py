"""One page of HTML: a grid of submissions and tests to click through, that needs nothing but itself.

The page loads nothing and runs only the script that stands in it: its policy names the hash of that
script and of the style. Everything that came from a submission is data to the script, which puts it
on the page as text.
"""

import base64
import hashlib
import json
from html import escape
from pathlib import Path
from typing import IO, Any

from producer.grading.model import Report, SubmissionReport, TestReport, Verdict
from producer.grading.reports.text import clean

_LONGEST = 8000  # characters of each excerpt
_MUCH, _LITTLE = 8 << 20, 500  # characters of all of them; of each one from there on


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
    # The data are lines: what all have in common, each submission, and the excerpts that they name.
    stream.write('<script type="application/json" id="data">\n')
    columns = {name: number for number, name in enumerate(names)}
    excerpts = _Excerpts()
    stream.write(f"{_inert(about)}\n")
    for submission in report.submissions:
        stream.write(f"{_inert(_submission(submission, columns, excerpts))}\n")
    stream.write(f"{_inert(excerpts.all())}\n")
    stream.write(f"</script>\n<script>{script}</script>\n</body>\n</html>\n")


class _Excerpts:
    """Texts, each once: a test's input and answer are the same in every submission."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._size = 0

    def number(self, content: bytes | None) -> tuple[int | None, bool]:
        """Give the number of an excerpt, and whether it is cut."""
        if content is None:
            return None, False
        text = content[: 4 * _LONGEST].decode("utf-8", "replace")
        most = _LONGEST if self._size < _MUCH or text[:_LONGEST] in self._numbers else _LITTLE
        kept = text[:most]
        if kept not in self._numbers:
            self._numbers[kept] = len(self._numbers)
            self._size += len(kept)
        return self._numbers[kept], len(kept) < len(text) or len(content) > 4 * _LONGEST

    def all(self) -> list[str]:
        """Give all texts by their numbers."""
        return list(self._numbers)


def _submission(
    submission: SubmissionReport, columns: dict[str, int], excerpts: _Excerpts
) -> dict[str, Any]:
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
        "tests": {columns[test.name]: _test(test, excerpts) for test in submission.tests},
    }


def _test(test: TestReport, excerpts: _Excerpts) -> dict[str, Any]:
    """Give what is known of a test, and leave out what is not."""
    texts = {
        "input": excerpts.number(test.input),
        "expected": excerpts.number(test.expected),
        "actual": excerpts.number(test.actual),
    }
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
        "cut": test.cut or any(cut for _, cut in texts.values()),
    }
    known = {  # 0 is known
        name: value
        for name, value in found.items()
        if value is not None and value is not False and value != ""
    }
    return known | {name: number for name, (number, _) in texts.items() if number is not None}


def _test_names(report: Report) -> list[str]:
    """Give the tests of all submissions, in an order that is each one's own as far as there is one."""
    names: dict[str, None] = {}
    for submission in sorted(report.submissions, key=lambda one: -len(one.tests)):
        names.update((test.name, None) for test in submission.tests)
    return list(names)


def _inert(record: object) -> str:
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
