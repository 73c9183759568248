"""The test data of a package: `data/sample` and `data/secret`, and how their groups are judged."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from producer.grading.metadata import Metadata, check_keys, number, split_flags
from producer.grading.package_files import PackageError, entries, read_yaml
from producer.grading.problem import Group, LegacyRule, Rule, Test

_LEGACY_KEYS = {
    *("on_reject", "grading", "grader_flags", "input_validator_flags", "output_validator_flags"),
    *("accept_score", "reject_score", "range"),
}
_NEW_KEYS = {
    *("max_score", "score_aggregation", "static_validation_score", "require_pass", "args"),
    *("input_validator_args", "static_validator_args", "output_validator_args"),
    *("input_visualizer_args", "output_visualizer_args", "full_feedback"),
}
_TEST_KEYS = {
    *("args", "input_validator_args", "output_validator_args", "input_visualizer_args"),
    *("output_visualizer_args", "full_feedback", "hint", "description"),
}
#: Of a draft of the format, whose examples still have it in files of the legacy name.
_DRAFT_KEYS = {"scoring", "input_validator_flags", "output_validator_flags"}

_VERDICT_MODES = ("worst_error", "no_errors", "first_error", "always_accept")
_SCORE_MODES = ("sum", "avg", "min", "max")

_MAX_DEPTH = 20


def read_plain(folder: Path, *, optional: bool) -> Group:
    """Read a folder of `*.in` and `*.ans` (or `*.out`); every test counts a point."""
    data = folder / "data" if (folder / "data").is_dir() else folder
    root = _plain_group(data, "", 0)
    if not optional and not any(root.tests()):
        raise PackageError(f"{data}: no *.in with its *.ans or *.out, and no problem.yaml")
    return root


def _plain_group(folder: Path, name: str, depth: int) -> Group:
    items: list[Group | Test] = []
    hidden = bool({"secret", "hidden"} & set(name.split("/")))
    for path in _ordered(folder):
        if path.is_dir():
            if depth < _MAX_DEPTH:
                inner = _plain_group(path, _below(name, path.name), depth + 1)
                items += [inner] if inner.items else []
        elif path.suffix == ".in":
            answer = next(
                (found for end in (".ans", ".out") if (found := path.with_suffix(end)).is_file()), None
            )
            if answer is None:
                raise PackageError(f"{path}: there is no {path.stem}.ans (or .out) beside it")
            items.append(Test(_below(name, path.stem), name, path, answer, hidden=hidden))
    return Group(name, tuple(items), LegacyRule(on_reject="continue"))


def read_root(folder: Path, metadata: Metadata, *, optional: bool) -> Group:
    """Read the data of a package; `PackageError` for what the format does not allow."""
    data = folder / "data"
    root = _legacy_root(data, metadata) if metadata.old_groups else _new_root(data, metadata)
    if not optional and not any(root.tests()):
        raise PackageError(f"{data / 'secret'}: there are no tests")
    return root


# Legacy: groups nest, and inherit.


def _legacy_root(data: Path, metadata: Metadata) -> Group:
    given: dict[str, Any] = {}
    old = metadata.grading
    for key in ("accept_score", "reject_score", "range"):
        if old.get(key) is not None:
            given[key] = old[key]
    if old.get("on_reject") in ("grade", "worst_error"):
        given["on_reject"] = "continue"
    given = {**given, **_legacy_yaml(data, metadata)}
    items = [
        _legacy_group(data / part, part, metadata, given, 1)
        for part in ("sample", "secret")
        if (data / part).is_dir()
    ]
    return Group("", tuple(item for item in items if item.items), _legacy_rule(data, given, metadata))


def _legacy_yaml(folder: Path, metadata: Metadata) -> dict[str, Any]:
    path = folder / "testdata.yaml"
    if not path.is_file():
        return {}
    given = read_yaml(path, metadata.constants)
    check_keys(path, given, _LEGACY_KEYS)
    if not metadata.scoring and {"accept_score", "reject_score", "range"} & set(given):
        raise PackageError(f"{path}: scores are for problems of type scoring")
    return given


def _legacy_group(
    folder: Path, name: str, metadata: Metadata, inherited: Mapping[str, Any], depth: int
) -> Group:
    given = {**inherited, **_legacy_yaml(folder, metadata)}
    flags = _legacy_flags(folder, given, metadata)
    items: list[Group | Test] = []
    for path in _ordered(folder):
        if path.is_dir():
            if path.suffix == ".files" and path.with_suffix(".in").is_file():
                continue
            if depth >= _MAX_DEPTH:
                raise PackageError(f"{path}: groups are nested too deeply")
            inner = _legacy_group(path, _below(name, path.name), metadata, given, depth + 1)
            items += [inner] if inner.items else []
        elif path.suffix == ".in":
            answer = _answer(path)
            hidden = not name.startswith("sample")
            items.append(Test(_below(name, path.stem), name, path, answer, flags, hidden=hidden))
        else:
            _check_pair(path)
    return Group(name, tuple(items), _legacy_rule(folder, given, metadata))


def _legacy_flags(folder: Path, given: Mapping[str, Any], metadata: Metadata) -> tuple[str, ...]:
    path = folder / "testdata.yaml"
    value = given.get("output_validator_flags")
    if isinstance(value, dict):
        value = value.get("flags")
    own = split_flags(path, "output_validator_flags", value)
    return (*metadata.validator_flags, *own)


def _legacy_rule(folder: Path, given: Mapping[str, Any], metadata: Metadata) -> LegacyRule:
    path = folder / "testdata.yaml"
    on_reject = given.get("on_reject", "break")
    if on_reject not in ("break", "continue"):
        raise PackageError(f"{path}: on_reject: expected break or continue, got {on_reject!r}")
    if given.get("grading", "default") != "default":
        raise PackageError(f"{path}: grading: only the default grader is there")
    modes: dict[str, Any] = {}
    for flag in split_flags(path, "grader_flags", given.get("grader_flags")):
        if flag in _VERDICT_MODES:
            modes["verdict_mode"] = "worst_error" if flag == "no_errors" else flag
        elif flag in _SCORE_MODES:
            modes["score_mode"] = flag
        elif flag == "ignore_sample" or flag == "accept_if_any_accepted":  # noqa: PLR1714  # reads best
            modes[flag] = True
        else:
            raise PackageError(f"{path}: grader_flags: the default grader has no flag {flag!r}")
    # It looks at the first of two groups, sample and secret, which only the outermost has.
    if modes.get("ignore_sample") and folder.name != "data":
        modes["ignore_sample"] = False
    low, high = _range(path, given.get("range"))
    return LegacyRule(
        on_reject=on_reject,
        accept_score=number(path, "accept_score", given.get("accept_score", 1)),
        reject_score=number(path, "reject_score", given.get("reject_score", 0)),
        low=low if metadata.scoring else None,
        high=high if metadata.scoring else None,
        **modes,
    )


def _range(path: Path, value: Any) -> tuple[float | None, float | None]:
    if value is None:
        return None, None
    try:
        low, high = (float(word) for word in str(value).split())
    except ValueError:
        raise PackageError(f"{path}: range: expected two numbers, got {value!r}") from None
    if math.isnan(low) or math.isnan(high) or low > high:
        raise PackageError(f"{path}: range: {value!r} is no range")
    return (low if math.isfinite(low) else None), (high if math.isfinite(high) else None)


# 2025-09: groups only directly below secret, and each says for itself.


def _new_root(data: Path, metadata: Metadata) -> Group:
    items = []
    if (data / "sample").is_dir():
        given = _new_yaml(data / "sample", metadata)
        if metadata.scoring:
            for key in ("max_score", "score_aggregation", "require_pass"):
                if key in given:
                    raise PackageError(f"{data / 'sample'}: {key} is not for the sample")
        tests = _new_tests(data / "sample", "sample", "sample", given, metadata)
        items.append(Group("sample", tests, Rule()))
    secret = data / "secret"
    if secret.is_dir():
        items.append(_new_secret(secret, metadata))
    return Group("", tuple(item for item in items if item.items), Rule())


def _new_secret(secret: Path, metadata: Metadata) -> Group:
    given = _new_yaml(secret, metadata)
    rule = _new_rule(secret, given, "sum" if metadata.scoring else "pass-fail", 100.0, metadata)
    folders = [path for path in entries(secret) if path.is_dir() and path.suffix != ".files"]
    groups = [path for path in folders if _group_file(path).is_file()]
    if not groups:
        return Group("secret", _new_tests(secret, "secret", "secret", given, metadata), rule)
    for path in entries(secret):
        if path.suffix == ".in" or (path in folders and path not in groups):
            raise PackageError(f"{path}: beside groups of tests there may only be groups of tests")
    items = []
    for path in groups:
        own = _new_yaml(path, metadata)
        name = f"secret/{path.name}"
        tests = _new_tests(path, name, name, {**_arguments(given), **own}, metadata)
        inner = _new_rule(path, own, "pass-fail", None, metadata)
        if metadata.scoring and rule.max_score is not None and inner.max_score is None:
            raise PackageError(f"{_group_file(path)}: max_score is missing, since secret has one")
        if not tests:
            raise PackageError(f"{path}: a group without tests")
        items.append(Group(name, tests, inner))
    _check_requirements(secret, items)
    return Group("secret", tuple(items), rule)


def _check_requirements(secret: Path, groups: list[Group]) -> None:
    earlier = {"sample"}
    for group in groups:
        assert isinstance(group.rule, Rule)
        for name in group.rule.require_pass:
            if name not in earlier:
                raise PackageError(
                    f"{secret.parent / group.name / 'test_group.yaml'}: require_pass: "
                    f"{name!r} is no earlier group"
                )
        earlier.add(group.name)


def _group_file(folder: Path) -> Path:
    new, old = folder / "test_group.yaml", folder / "testdata.yaml"
    return old if old.is_file() and not new.is_file() else new


def _new_yaml(folder: Path, metadata: Metadata) -> dict[str, Any]:
    path = _group_file(folder)
    if not path.is_file():
        return {}
    given = read_yaml(path, metadata.constants)
    check_keys(path, given, _NEW_KEYS | (_DRAFT_KEYS if path.name == "testdata.yaml" else set()))
    if isinstance(draft := given.pop("scoring", None), dict):
        if "score" in draft or "max_score" in draft:
            given["max_score"] = draft.get("max_score", draft.get("score"))
        if "aggregation" in draft:
            given["score_aggregation"] = draft["aggregation"]
    if "output_validator_flags" in given:
        given["output_validator_args"] = list(
            split_flags(path, "output_validator_flags", given.pop("output_validator_flags"))
        )
    if "static_validation_score" in given:
        raise PackageError(f"{path}: static_validation_score: static validators are not supported")
    if not metadata.scoring:
        for key in ("max_score", "score_aggregation", "require_pass"):
            if key in given:
                raise PackageError(f"{path}: {key} is for problems of type scoring")
    return given


def _new_rule(
    folder: Path,
    given: Mapping[str, Any],
    aggregation: str,
    max_score: float | None,
    metadata: Metadata,
) -> Rule:
    path = _group_file(folder)
    asked = given.get("score_aggregation", aggregation)
    if asked not in ("pass-fail", "sum", "min"):
        raise PackageError(f"{path}: score_aggregation: {asked!r} is not pass-fail, sum or min")
    best = given.get("max_score", max_score)
    if best == "unbounded":
        best = None
    elif best is not None:
        best = number(path, "max_score", best)
        if best < 0:
            raise PackageError(f"{path}: max_score: expected a number from 0")
    if metadata.scoring and asked == "pass-fail" and best is None:
        raise PackageError(f"{path}: max_score is missing, and what is passed or failed needs one")
    required = given.get("require_pass", ())
    names = (required,) if isinstance(required, str) else tuple(str(name) for name in required)
    return Rule(asked, best, names)


def _arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    return {key: given[key] for key in ("args", "output_validator_args") if key in given}


def _new_tests(
    folder: Path, below: str, group: str, given: Mapping[str, Any], metadata: Metadata
) -> tuple[Test, ...]:
    tests: list[Test] = []
    for path in _ordered(folder):
        if path.is_dir():
            if path.suffix == ".files":
                continue
            tests += _new_tests(path, _below(below, path.name), group, given, metadata)
        elif path.suffix == ".in":
            own = dict(given)
            described = path.with_suffix(".yaml")
            if described.is_file():
                more = read_yaml(described, metadata.constants)
                check_keys(described, more, _TEST_KEYS)
                own.update(more)
            files = path.with_suffix(".files")
            tests.append(
                Test(
                    _below(below, path.stem),
                    group,
                    path,
                    _answer(path),
                    split_flags(described, "output_validator_args", own.get("output_validator_args")),
                    split_flags(described, "args", own.get("args")),
                    files if files.is_dir() else None,
                    hidden=not own.get("full_feedback", group == "sample"),
                )
            )
        else:
            _check_pair(path)
    return tuple(tests)


def _ordered(folder: Path) -> list[Path]:
    """Give a folder's files and folders by base name, as they are judged."""
    return sorted(
        entries(folder), key=lambda path: (path.stem if path.is_file() else path.name, path.name)
    )


def _below(group: str, name: str) -> str:
    return f"{group}/{name}" if group else name


def _answer(path: Path) -> Path:
    answer = path.with_suffix(".ans")
    if not answer.is_file():
        raise PackageError(f"{path}: there is no {answer.name} beside it")
    return answer


def _check_pair(path: Path) -> None:
    if path.suffix == ".ans" and not path.with_suffix(".in").is_file():
        raise PackageError(f"{path}: there is no {path.stem}.in beside it")
