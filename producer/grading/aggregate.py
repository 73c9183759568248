"""From the verdicts of tests to those of groups and of submissions, and which tests that still takes.

Pure: what a table can test. The legacy grader's modes and flags, and the aggregation of 2025-09.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from producer.grading.model import GroupReport, TestReport, Verdict
from producer.grading.problem import Group, LegacyRule, Problem, Rule, Test

#: What a legacy group comes out as by `worst_error`: the first of these that is there.
_WORST = (*(Verdict.JE, Verdict.CE, Verdict.RTE, Verdict.MLE, Verdict.TLE, Verdict.OLE, Verdict.WA),)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a group came out as."""

    verdict: Verdict
    score: float
    #: Whether every test in it was accepted, which a grader's flags may not say.
    clean: bool


# Which tests have to run next.


def needed(problem: Problem, done: Mapping[str, TestReport], *, everything: bool) -> Iterator[Test]:
    """Give the tests, of those that have not run, whose result is known to count.

    With `everything` all of them. A group that stops at its first failure gives one at a time.
    """
    if everything:
        yield from (test for test in problem.tests() if test.name not in done)
        return
    yield from _frontier(problem, problem.root, done)[0]


def _frontier(  # noqa: C901  # one walk in order, which pieces would hide
    problem: Problem, group: Group, done: Mapping[str, TestReport]
) -> tuple[list[Test], bool | None]:
    """Give the next tests of a group, and whether it is accepted: None while that is open."""
    ready: list[Test] = []
    accepted: bool | None = True
    stops = _stops(problem, group)
    if isinstance(group.rule, Rule) and group.rule.require_pass:
        passed = [_passed(problem, name, done) for name in group.rule.require_pass]
        if False in passed:
            return [], False
        if None in passed:
            return [], None
    for item in group.items:
        if isinstance(item, Group):
            more, came_out = _frontier(problem, item, done)
            ready += more
        elif item.name in done:
            came_out = done[item.name].verdict is Verdict.AC
        else:
            ready.append(item)
            came_out = None
        if came_out is False:
            accepted = False
            if stops:
                break
        elif came_out is None:
            accepted = None if accepted is True else accepted
            if stops:
                accepted = None
                break
    if ready and accepted is False:
        accepted = None  # its verdict, or that of a group in it, may still become another one
    return ready, _forgiven(group, done, accepted)


def _forgiven(group: Group, done: Mapping[str, TestReport], accepted: bool | None) -> bool | None:  # noqa: FBT001  # a third value
    """See a group whose grader accepts what failed as accepted."""
    if accepted is not False or not isinstance(group.rule, LegacyRule):
        return accepted
    return _legacy(group, group.rule, done).verdict is Verdict.AC


def _passed(problem: Problem, name: str, done: Mapping[str, TestReport]) -> bool | None:
    """Say whether all tests of the group `name` are accepted; None while that is open."""
    group = find(problem.root, name)
    if group is None:
        return True
    tests = list(group.tests())
    if any(test.name in done and done[test.name].verdict is not Verdict.AC for test in tests):
        return False
    return True if all(test.name in done for test in tests) else None


def find(group: Group, name: str) -> Group | None:
    """Give the group of that name, in `group` or below."""
    if group.name == name:
        return group
    inner = (find(item, name) for item in group.items if isinstance(item, Group))
    return next((found for found in inner if found is not None), None)


def _stops(problem: Problem, group: Group) -> bool:
    """Say whether what follows a failure in the group can't change the result any more."""
    if isinstance(group.rule, LegacyRule):
        return group.rule.on_reject == "break"
    if not problem.metadata.scoring:
        return True  # one failure decides, in whatever group
    if not group.name:
        return False  # the sample does not count
    return group.rule.aggregation in ("pass-fail", "min")


# What groups come out as.


def outcome(
    problem: Problem, done: Mapping[str, TestReport]
) -> tuple[Outcome, tuple[GroupReport, ...]]:
    """Give what the whole came out as, and each group, outer ones first."""
    reports: list[GroupReport] = []
    if isinstance(problem.root.rule, LegacyRule):
        whole = _legacy(problem.root, problem.root.rule, done)
        _legacy_reports(problem, problem.root, done, reports)
    else:
        whole = _new_whole(problem, done)
        _new_reports(problem, problem.root, done, reports)
    return whole, tuple(reports)


def best_score(problem: Problem) -> float | None:
    """Give the score that nothing can beat; None where there are no scores, or no best one."""
    metadata, root = problem.metadata, problem.root
    if problem.plain:
        return float(len(problem.tests()))
    if not metadata.scoring:
        return None
    if isinstance(root.rule, Rule):
        secret = find(root, "secret")
        return secret.rule.max_score if secret and isinstance(secret.rule, Rule) else None
    limit = root.rule.high if metadata.objective == "max" else root.rule.low
    if limit is not None or metadata.custom_score:
        return limit
    return _legacy_best(root)


def _legacy_best(group: Group) -> float:
    assert isinstance(group.rule, LegacyRule)
    scores = [
        _legacy_best(item) if isinstance(item, Group) else group.rule.accept_score
        for item in group.items
    ]
    return _combined(group.rule, scores)


def _combined(rule: LegacyRule, scores: list[float]) -> float:
    if rule.ignore_sample:
        scores = scores[-1:]
    if not scores:
        return 0.0
    if rule.score_mode == "avg":
        return sum(scores) / len(scores)
    if rule.score_mode == "sum":
        return sum(scores)
    return min(scores) if rule.score_mode == "min" else max(scores)


def _legacy(group: Group, rule: LegacyRule, done: Mapping[str, TestReport]) -> Outcome:
    parts: list[Outcome] = []
    for item in group.items:
        if isinstance(item, Group):
            assert isinstance(item.rule, LegacyRule)
            if not any(test.name in done for test in item.tests()):
                continue
            parts.append(_legacy(item, item.rule, done))
        elif item.name in done:
            test = done[item.name]
            accepted = test.verdict is Verdict.AC
            default = rule.accept_score if accepted else rule.reject_score
            parts.append(Outcome(test.verdict, default if test.score is None else test.score, accepted))
    if not parts:
        return Outcome(Verdict.AC, 0.0, True)
    clean = all(part.clean for part in parts)
    if any(part.verdict is Verdict.JE for part in parts):
        return Outcome(Verdict.JE, 0.0, clean)
    counted = parts[-1:] if rule.ignore_sample else parts
    verdicts = [part.verdict for part in counted]
    if rule.verdict_mode == "always_accept" or (rule.accept_if_any_accepted and Verdict.AC in verdicts):
        verdict = Verdict.AC
    elif rule.verdict_mode == "first_error":
        verdict = next((one for one in verdicts if one is not Verdict.AC), Verdict.AC)
    else:
        verdict = next((one for one in _WORST if one in verdicts), Verdict.AC)
    return Outcome(verdict, _combined(rule, [part.score for part in parts]), clean)


def _legacy_reports(
    problem: Problem, group: Group, done: Mapping[str, TestReport], reports: list[GroupReport]
) -> None:
    assert isinstance(group.rule, LegacyRule)
    scored = problem.metadata.scoring or problem.plain
    if any(test.name in done for test in group.tests()):
        came = _legacy(group, group.rule, done)
        best = None
        if scored and not problem.metadata.custom_score:
            best = _legacy_best(group) if group.rule.high is None else group.rule.high
        reports.append(GroupReport(group.name, came.verdict, came.score if scored else None, best))
    for item in group.items:
        if isinstance(item, Group):
            _legacy_reports(problem, item, done, reports)


# 2025-09.


def _first_failure(tests: Iterator[Test], done: Mapping[str, TestReport]) -> Verdict:
    verdicts = [done[test.name].verdict for test in tests if test.name in done]
    if Verdict.JE in verdicts:
        return Verdict.JE
    return next((verdict for verdict in verdicts if verdict is not Verdict.AC), Verdict.AC)


def _new_whole(problem: Problem, done: Mapping[str, TestReport]) -> Outcome:
    verdict = _first_failure(problem.root.tests(), done)
    clean = verdict is Verdict.AC and all(test.name in done for test in problem.tests())
    if not problem.metadata.scoring:
        return Outcome(verdict, 0.0, clean)
    secret = find(problem.root, "secret")
    score = _new_score(secret, done) if secret else 0.0
    if verdict not in (Verdict.AC, Verdict.JE) and score > 0:
        verdict = Verdict.AC  # what counts is the score, and it got one
    return Outcome(verdict, 0.0 if verdict is Verdict.JE else score, clean)


def _new_score(group: Group, done: Mapping[str, TestReport]) -> float:
    rule = group.rule
    assert isinstance(rule, Rule)
    tests = list(group.tests())
    if rule.aggregation == "pass-fail":
        passed = all(test.name in done and done[test.name].verdict is Verdict.AC for test in tests)
        return (rule.max_score or 0.0) if passed else 0.0
    scores = [
        _new_score(item, done) if isinstance(item, Group) else _test_score(group, item, done)
        for item in group.items
    ]
    if rule.aggregation == "min":
        return min(scores, default=0.0)
    total = sum(scores)
    # Thirds of a whole score add up to it.
    if rule.max_score is not None and abs(total - rule.max_score) < 1e-9 * max(1.0, rule.max_score):
        return rule.max_score
    return total


def _test_score(group: Group, test: Test, done: Mapping[str, TestReport]) -> float:
    report = done.get(test.name)
    if report is None or report.verdict is not Verdict.AC:
        return 0.0
    if report.score is not None:
        return report.score
    return new_max_score(group) or 0.0


def new_max_score(group: Group) -> float | None:
    """Give the most that one test of a 2025-09 group can get; None is no bound."""
    rule = group.rule
    if not isinstance(rule, Rule) or rule.max_score is None or rule.aggregation == "pass-fail":
        return None
    if rule.aggregation == "min":
        return rule.max_score
    return rule.max_score / max(len(list(group.tests())), 1)


def _new_reports(
    problem: Problem, group: Group, done: Mapping[str, TestReport], reports: list[GroupReport]
) -> None:
    assert isinstance(group.rule, Rule)
    scored = problem.metadata.scoring and group.name.startswith("secret")
    verdict = _first_failure(group.tests(), done)
    if any(test.name in done for test in group.tests()):
        score = _new_score(group, done) if scored else None
        reports.append(
            GroupReport(group.name, verdict, score, group.rule.max_score if scored else None)
        )
    for item in group.items:
        if isinstance(item, Group):
            _new_reports(problem, item, done, reports)
