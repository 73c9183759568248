"""From tests to groups and submissions, as tables: the legacy grader, 2025-09, and what runs next."""

from pathlib import Path
from typing import Any

import pytest

from producer.grading.aggregate import best_score, needed, outcome
from producer.grading.expectations import as_expected
from producer.grading.metadata import Metadata
from producer.grading.model import TestReport, Verdict
from producer.grading.problem import Demand, Expected, Group, LegacyRule, Problem, Rule, Test


def group(name: str, rule: LegacyRule | Rule, *items: Any) -> Group:
    """Make a group; a str is a test of that name."""
    made = (
        Test(f"{name}/{item}", name, Path(), Path()) if isinstance(item, str) else item
        for item in items
    )
    return Group(name, tuple(made), rule)


def problem(root: Group, **metadata: Any) -> Problem:
    """Make a problem of a tree."""
    return Problem("p", Path(), Metadata("p", **metadata), root)


def done(**verdicts: str) -> dict[str, TestReport]:
    """Make reports: `g__1="WA"` is test `g/1`."""
    return {
        (name := key.replace("__", "/")): TestReport(name, "", Verdict(value), 0, 0, 0, "")
        for key, value in verdicts.items()
    }


SCORING = {"types": frozenset({"scoring"})}


@pytest.mark.parametrize(
    ("rule", "verdicts", "verdict", "score"),
    [
        ({}, ("AC", "AC"), "AC", 2),
        ({}, ("WA", "RTE"), "RTE", 0),
        ({}, ("WA", "TLE", "MLE"), "MLE", 0),
        ({}, ("AC", "JE", "RTE"), "JE", 0),
        ({"verdict_mode": "first_error"}, ("AC", "WA", "RTE"), "WA", 1),
        ({"verdict_mode": "always_accept"}, ("WA", "RTE"), "AC", 0),
        ({"verdict_mode": "always_accept"}, ("WA", "JE"), "JE", 0),
        ({"accept_if_any_accepted": True}, ("WA", "AC"), "AC", 1),
        ({"accept_if_any_accepted": True}, ("WA", "TLE"), "TLE", 0),
        ({"score_mode": "min", "accept_score": 5.0, "reject_score": 2.0}, ("AC", "WA"), "WA", 2),
        ({"score_mode": "max", "accept_score": 5.0}, ("AC", "WA"), "WA", 5),
        ({"score_mode": "avg"}, ("AC", "WA", "AC", "AC"), "WA", 0.75),
    ],
)
def test_the_legacy_grader(
    rule: dict[str, Any], verdicts: tuple[str, ...], verdict: str, score: float
) -> None:
    """Its modes and flags."""
    names = [str(number) for number in range(len(verdicts))]
    root = group("g", LegacyRule(on_reject="continue", **rule), *names)

    whole, _ = outcome(
        problem(root, **SCORING), done(**{f"g__{n}": v for n, v in zip(names, verdicts, strict=True)})
    )

    assert (whole.verdict.value, whole.score) == (verdict, score)


def test_a_sample_that_is_ignored_does_not_count() -> None:
    """Neither its verdict nor its score."""
    rule = LegacyRule(on_reject="continue")
    root = group(
        "",
        LegacyRule(on_reject="continue", ignore_sample=True),
        group("sample", rule, "1"),
        group("secret", rule, "1"),
    )

    whole, _ = outcome(problem(root, **SCORING), done(sample__1="WA", secret__1="AC"))

    assert (whole.verdict, whole.score, whole.clean) == (Verdict.AC, 1, False)


@pytest.mark.parametrize(
    ("on_reject", "verdicts", "following"),
    [
        ("break", {}, ["a/1"]),
        ("break", {"a__1": "AC"}, ["a/2"]),
        ("break", {"a__1": "WA"}, []),
        ("break", {"a__1": "AC", "a__2": "AC"}, ["b/1"]),
        ("continue", {}, ["a/1", "a/2", "b/1"]),
        ("continue", {"a__1": "WA"}, ["a/2", "b/1"]),
    ],
)
def test_only_what_is_known_to_count_runs(
    on_reject: str, verdicts: dict[str, str], following: list[str]
) -> None:
    """A group that stops at its first failure asks for one test at a time."""
    rule = LegacyRule(on_reject=on_reject)
    tree = problem(group("", rule, group("a", rule, "1", "2"), group("b", rule, "1")))

    assert [test.name for test in needed(tree, done(**verdicts), everything=False)] == following
    assert len(list(needed(tree, done(**verdicts), everything=True))) == 3 - len(verdicts)


def new(secret: Rule, *groups: Group, **metadata: Any) -> Problem:
    """Make a problem of the newer format."""
    root = group("", Rule(), group("sample", Rule(), "1"), group("secret", secret, *groups))
    return problem(root, legacy=False, old_groups=False, **(metadata or SCORING))


def test_the_aggregation_of_the_new_format() -> None:
    """pass-fail, sum and min, and what a group requires."""
    tree = new(
        Rule("sum", 100),
        group("secret/a", Rule("pass-fail", 30), "1", "2"),
        group("secret/b", Rule("sum", 40), "1", "2"),
        group("secret/c", Rule("min", 30, ("secret/a",)), "1", "2"),
    )

    assert best_score(tree) == 100
    half = done(sample__1="AC", secret__a__1="WA", secret__b__1="AC", secret__b__2="TLE")
    assert [test.name for test in needed(tree, half, everything=False)] == []
    whole, groups = outcome(tree, half)
    assert (whole.verdict, whole.score) == (Verdict.AC, 20)
    assert {one.name: one.score for one in groups}["secret/b"] == 20

    good = done(**{f"secret__{g}__{n}": "AC" for g in "abc" for n in "12"}, sample__1="AC")
    assert outcome(tree, good)[0].score == 100


def test_a_new_problem_that_is_passed_or_failed_stops_at_the_first_failure() -> None:
    """Whose verdict is the whole's."""
    tree = new(Rule(), "1", "2", types=frozenset({"pass-fail"}))  # type: ignore[arg-type]

    assert [test.name for test in needed(tree, done(sample__1="WA"), everything=False)] == []
    assert outcome(tree, done(sample__1="WA"))[0].verdict is Verdict.WA


@pytest.mark.parametrize(
    ("expected", "verdicts", "verdict", "met"),
    [
        (Expected((Verdict.AC,)), ("AC",), "AC", True),
        (Expected((Verdict.AC,)), ("WA",), "WA", False),
        (Expected((Verdict.RTE,)), ("MLE",), "MLE", True),
        (
            Expected((Verdict.WA,), (Demand(required=frozenset({Verdict.WA})),)),
            ("AC", "WA"),
            "WA",
            True,
        ),
        (
            Expected((Verdict.WA,), (Demand(permitted=frozenset({Verdict.AC})),)),
            ("AC", "WA"),
            "WA",
            False,
        ),
        (
            Expected((Verdict.WA,), (Demand(required=frozenset({Verdict.WA})),)),
            ("AC", "JE"),
            "JE",
            False,
        ),
        (Expected((Verdict.CE,)), (), "CE", True),
        (Expected((Verdict.WA,), (Demand(required=frozenset({Verdict.WA})),)), (), "CE", False),
    ],
)
def test_whether_a_submission_came_out_as_expected(
    expected: Expected, verdicts: tuple[str, ...], verdict: str, *, met: bool
) -> None:
    """By all that the package says of it."""
    tests = done(**{f"t__{n}": one for n, one in enumerate(verdicts)}).values()

    assert as_expected(expected, Verdict(verdict), None, None, tests) is met
