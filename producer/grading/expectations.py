"""What a package says of its example submissions, and whether a submission came out as it says."""

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from producer.grading.metadata import Metadata, number
from producer.grading.model import TestReport, Verdict
from producer.grading.package_files import PackageError, entries, read_yaml
from producer.grading.problem import Demand, Expected, Submission
from producer.grading.programs import BadProgram, load_program

AC, WA, TLE, RTE = Verdict.AC, Verdict.WA, Verdict.TLE, Verdict.RTE

#: The verdicts that the format knows, for those that it does not tell apart.
PLAIN = {Verdict.MLE: RTE, Verdict.OLE: WA}

_LEGACY = {
    "accepted": Expected((AC,), best=True, for_time_limit=True),
    "partially_accepted": Expected((AC,), below_best=True),
    "wrong_answer": Expected((WA,), (Demand(permitted=frozenset({AC, WA}), required=frozenset({WA})),)),
    "time_limit_exceeded": Expected(
        (TLE,), (Demand(permitted=frozenset({AC, WA, TLE}), required=frozenset({TLE})),)
    ),
    "run_time_error": Expected((RTE,), (Demand(required=frozenset({RTE})),)),
    "slow_accepted": Expected((AC, TLE), (Demand(permitted=frozenset({AC, TLE})),)),
    "rejected": Expected((WA, TLE, RTE), (Demand(required=frozenset({WA, TLE, RTE})),)),
    "brute_force": Expected(
        (TLE, RTE), (Demand(permitted=frozenset({AC, RTE, TLE}), required=frozenset({RTE, TLE})),)
    ),
}
_NEW = {
    **_LEGACY,
    "accepted": Expected((AC,), (Demand(permitted=frozenset({AC})),), for_time_limit=True),
    "time_limit_exceeded": Expected(
        (TLE,), (Demand(permitted=frozenset({AC, TLE}), required=frozenset({TLE})),)
    ),
    "run_time_error": Expected(
        (RTE,), (Demand(permitted=frozenset({AC, RTE}), required=frozenset({RTE})),)
    ),
}

_DEMAND_KEYS = {"permitted", "required", "score", "message", "use_for_time_limit"}
_SUBMISSION_KEYS = {*_DEMAND_KEYS, "language", "entrypoint", "authors", "model_solution"}

_MARK = re.compile(rb"@EXPECTED_RESULTS@:[ \t]*([A-Za-z_, \t-]+)")
_SCORE_MARK = re.compile(rb"@EXPECTED_SCORE@:[ \t]*([0-9.eE+-]+)")
_DOMJUDGE = {
    "CORRECT": AC,
    "ACCEPTED": AC,
    "WRONG-ANSWER": WA,
    "NO-OUTPUT": WA,
    "TIMELIMIT": TLE,
    "TIME-LIMIT-EXCEEDED": TLE,
    "RUN-ERROR": RTE,
    "RUN-TIME-ERROR": RTE,
    "COMPILER-ERROR": Verdict.CE,
    "OUTPUT-LIMIT": Verdict.OLE,
    "MEMORY-LIMIT": Verdict.MLE,
}


def submissions_of(folder: Path, metadata: Metadata) -> tuple[tuple[Submission, ...], tuple[str, ...]]:
    """Give the package's own submissions, and a note for each that nothing here runs."""
    root = folder / "submissions"
    rules = _rules(root, metadata)
    found, notes = [], []
    for kind in entries(root):
        if not kind.is_dir():
            continue
        for path in entries(kind):
            name = f"{kind.name}/{path.name}"
            matching = [(glob, rule) for glob, rule in rules.items() if _matches(name, glob)]
            expected = _expected(root, kind.name, matching, metadata)
            submission = _submission(path, name, matching, metadata, expected)
            if submission.program is None and submission.answers is None:
                notes.append(f"{path}: left out: {submission.problem.removeprefix(f'{name}: ')}")
                continue
            found.append(submission)
            if submission.expected is None:
                notes.append(f"{path}: nothing says what submissions/{kind.name} should come out as")
    return tuple(found), tuple(notes)


def _submission(
    path: Path,
    name: str,
    matching: list[tuple[str, dict[str, Any]]],
    metadata: Metadata,
    expected: Expected | None,
) -> Submission:
    main = next((rule["entrypoint"] for _, rule in matching if "entrypoint" in rule), None)
    try:
        program = load_program(
            path, name=name, main=main if path.is_dir() else None, constants=metadata.constants
        )
    except BadProgram as error:
        if "submit-answer" in metadata.types:
            return Submission(name, None, expected, answers=answers_in(path))
        return Submission(name, None, expected, str(error))
    return Submission(name, program, annotated(program.files, expected))


def answers_in(path: Path) -> Mapping[str, bytes]:
    """Give the answers that a submission consists of, by the name of the file."""
    if path.is_dir():
        return {found.name: found.read_bytes() for found in entries(path) if found.is_file()}
    return {path.name: path.read_bytes()}


def annotated(files: Mapping[str, bytes], expected: Expected | None) -> Expected | None:
    """Give what a source itself says it expects, in DOMjudge's words, else `expected`."""
    verdicts: list[Verdict] = []
    score = None
    for content in files.values():
        if mark := _MARK.search(content):
            words = mark[1].decode("ascii").replace("_", "-").upper().split(",")
            verdicts += [_DOMJUDGE[word.strip()] for word in words if word.strip() in _DOMJUDGE]
        if mark := _SCORE_MARK.search(content):
            try:
                score = float(mark[1])
            except ValueError:
                continue
    if not verdicts and score is None:
        return expected
    for_limit = expected.for_time_limit if expected else False
    allowed = tuple(dict.fromkeys(verdicts)) or (AC,)
    exact = None if score is None else (score, score)
    return Expected(allowed, score=exact, for_time_limit=for_limit)


def _rules(root: Path, metadata: Metadata) -> dict[str, dict[str, Any]]:
    path = root / "submissions.yaml"
    if metadata.legacy or not path.is_file():
        return {}
    rules = read_yaml(path, metadata.constants)
    for glob, rule in rules.items():
        if not isinstance(rule, dict):
            raise PackageError(f"{path}: {glob}: expected keys and values")
        for key, value in rule.items():
            # Any other key names a group of tests, and has demands of its own.
            if key not in _SUBMISSION_KEYS and not isinstance(value, dict):
                raise PackageError(f"{path}: {glob}: unknown key {key}")
    return rules


def _expected(
    root: Path, kind: str, matching: list[tuple[str, dict[str, Any]]], metadata: Metadata
) -> Expected | None:
    base = (_LEGACY if metadata.legacy else _NEW).get(kind)
    path = root / "submissions.yaml"
    demands = list(base.demands) if base else []
    for_limit = base.for_time_limit if base else False
    for glob, rule in matching:
        asked = _demand(path, "", rule)
        if glob == kind and asked is not None and base:  # the directory itself: in place of the default
            default = base.demands[0] if base.demands else Demand()
            demands = [
                Demand(
                    permitted=asked.permitted or default.permitted,
                    required=asked.required or default.required,
                    score=asked.score,
                    message=asked.message,
                )
            ]
        elif asked is not None:
            demands.append(asked)
        demands += [
            inner
            for where, more in rule.items()
            if where not in _SUBMISSION_KEYS and (inner := _demand(path, where, more))
        ]
        if "use_for_time_limit" in rule:
            for_limit = rule["use_for_time_limit"] in (True, "lower")
    if base is None and not demands:
        return None
    whole = [demand for demand in demands if not demand.where]
    verdicts = {AC, WA, TLE, RTE}
    for demand in whole:
        if demand.required is not None:
            verdicts &= demand.required
        elif demand.permitted is not None:
            verdicts &= demand.permitted
    return Expected(
        tuple(verdict for verdict in (AC, WA, TLE, RTE) if verdict in verdicts),
        tuple(demands),
        below_best=base.below_best if base else False,
        best=base.best if base else False,
        for_time_limit=for_limit,
    )


def _demand(path: Path, where: str, rule: Mapping[str, Any]) -> Demand | None:
    if not _DEMAND_KEYS & set(rule):
        return None
    score = rule.get("score")
    limits = None
    if score is not None:
        pair = score if isinstance(score, list) else [score, score]
        if len(pair) != 2:  # noqa: PLR2004  # a range
            raise PackageError(f"{path}: score: expected a number or two")
        limits = (number(path, "score", pair[0]), number(path, "score", pair[1]))
    return Demand(
        where,
        _verdicts(path, rule.get("permitted")),
        _verdicts(path, rule.get("required")),
        limits,
        str(rule.get("message", "")),
    )


def _verdicts(path: Path, value: Any) -> frozenset[Verdict] | None:
    if value is None:
        return None
    words = value if isinstance(value, list) else [value]
    if unknown := [word for word in words if word not in ("AC", "WA", "TLE", "RTE")]:
        raise PackageError(f"{path}: {unknown[0]!r} is not AC, WA, TLE or RTE")
    return frozenset(Verdict(word) for word in words)


def _matches(name: str, glob: str) -> bool:
    """Say whether a glob matches a path or a folder above it; `*` stays within one name."""
    parts = name.split("/")
    return any(
        len(pattern) <= len(parts) and all(map(fnmatchcase, parts, pattern))
        for pattern in (choice.split("/") for choice in _braces(glob))
    )


def _braces(glob: str) -> list[str]:
    found = re.search(r"\{([^{}]*)\}", glob)
    if not found:
        return [glob]
    return [
        done
        for choice in found[1].split(",")
        for done in _braces(glob[: found.start()] + choice + glob[found.end() :])
    ]


def as_expected(
    expected: Expected,
    verdict: Verdict,
    score: float | None,
    best: float | None,
    tests: Iterable[TestReport],
) -> bool:
    """Say whether a submission came out as the package says."""
    ran = list(tests)
    if verdict is Verdict.JE or any(test.verdict is Verdict.JE for test in ran):
        return False
    if verdict is Verdict.CE or not expected.demands:
        told = {verdict, PLAIN.get(verdict, verdict)}
        if not told & set(expected.verdicts):
            return False
    if expected.score is not None and (score is None or not _within(score, expected.score)):
        return False
    # A package that says nothing of its best score can't be held to it.
    if expected.below_best and best is not None and score is not None and score >= best:
        return False
    if expected.best and best is not None and score is not None and score < best:
        return False
    return all(_holds(demand, ran, score) for demand in expected.demands)


def _holds(demand: Demand, ran: list[TestReport], score: float | None) -> bool:
    tests = [test for test in ran if not demand.where or _matches(test.name, demand.where)]
    verdicts = [PLAIN.get(test.verdict, test.verdict) for test in tests]
    if demand.permitted is not None and not set(verdicts) <= demand.permitted:
        return False
    if demand.required is not None and not set(verdicts) & demand.required:
        return False
    if demand.score and not demand.where and (score is None or not _within(score, demand.score)):
        return False
    return not demand.message or any(demand.message in test.message for test in tests)


def _within(score: float, limits: tuple[float, float]) -> bool:
    slack = 1e-9 * max(1.0, abs(limits[0]), abs(limits[1]))
    return limits[0] - slack <= score <= limits[1] + slack
