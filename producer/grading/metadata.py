"""problem.yaml: what kind of problem a package holds, and its limits.

Two formats: `legacy` (which a file without a version is) and the newer ones, `2023-07-draft` and
`2025-09`. A key that the format does not know is an error, since what it asks for would not be done.
"""

import math
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from producer.grading.package_files import PackageError, read_yaml

LEGACY = ("legacy", "legacy-icpc")
#: Versions whose groups of tests are still described as in legacy packages.
_OLD_GROUPS = (*LEGACY, "2023-07", "2023-07-draft")
_VERSIONS = (*_OLD_GROUPS, "2025-09", "2025-09-draft", "draft")

_LEGACY_KEYS = {
    *("problem_format_version", "type", "name", "uuid", "author", "source", "source_url"),
    *("license", "rights_owner", "limits", "validation", "validator_flags", "grading", "keywords"),
}
_NEW_KEYS = {
    *("problem_format_version", "type", "name", "uuid", "version", "credits", "source", "license"),
    *("rights_owner", "embargo_until", "limits", "keywords", "languages", "allow_file_writing"),
    "constants",
    # The example packages of the format itself still have this key of a draft.
    "source_url",
}
_COMMON_LIMITS = {
    *("memory", "output", "code", "compilation_time", "compilation_memory", "validation_time"),
    *("validation_memory", "validation_output"),
}
_LEGACY_LIMITS = {*_COMMON_LIMITS, "time_multiplier", "time_safety_margin"}
_NEW_LIMITS = {
    *_COMMON_LIMITS,
    *("time_multipliers", "time_limit", "time_resolution", "validation_passes"),
}
# The last four are older than the format that is called legacy, and still met.
_GRADING_KEYS = {
    *("objective", "show_test_data_groups", "accept_score", "reject_score", "range", "on_reject"),
}
_TYPES = {"pass-fail", "scoring", "multi-pass", "interactive", "submit-answer"}


@dataclass(frozen=True, slots=True)
class Metadata:
    """What problem.yaml says, in the words of the newer format; sizes are MiB, times seconds."""

    name: str
    legacy: bool = True
    old_groups: bool = True
    types: frozenset[str] = frozenset({"pass-fail"})
    custom_validator: bool = False
    custom_score: bool = False
    validator_flags: tuple[str, ...] = ()
    objective: str = "max"
    grading: dict[str, Any] = field(default_factory=dict)
    time_limit: float | None = None
    time_multiplier: float = 5.0
    time_resolution: float = 1.0
    memory: int | None = None
    output: int | None = None
    code: int | None = None
    validation_time: float = 60.0
    validation_memory: int | None = None
    validation_output: int = 8
    passes: int = 1
    constants: dict[str, str] = field(default_factory=dict)

    @property
    def scoring(self) -> bool:
        """Whether submissions get a score."""
        return "scoring" in self.types

    @property
    def interactive(self) -> bool:
        """Whether the validator talks with the submission."""
        return "interactive" in self.types


def read_metadata(path: Path) -> Metadata:
    """Read a problem.yaml; `PackageError` for what is unknown or no such value."""
    given = read_yaml(path)
    version = str(given.get("problem_format_version", "legacy"))
    if version not in _VERSIONS:
        raise PackageError(f"{path}: problem_format_version {version!r} is not one of {_VERSIONS}")
    legacy = version in LEGACY
    _known(path, "", given, _LEGACY_KEYS if legacy else _NEW_KEYS)
    limits = _mapping(path, "limits", given.get("limits"))
    _known(path, "limits.", limits, _LEGACY_LIMITS if legacy else _NEW_LIMITS)
    types = _types(path, given.get("type", "pass-fail"), legacy=legacy)
    common: dict[str, Any] = {
        "name": _name(given.get("name"), path.resolve().parent.name),
        "legacy": legacy,
        "old_groups": version in _OLD_GROUPS,
        "time_resolution": _number(path, limits, "time_resolution", 1.0),
        "memory": _whole(path, limits, "memory"),
        "output": _whole(path, limits, "output"),
        "code": _whole(path, limits, "code"),
        "validation_time": _number(path, limits, "validation_time", 60.0),
        "validation_memory": _whole(path, limits, "validation_memory"),
        "validation_output": _whole(path, limits, "validation_output") or 8,
    }
    if legacy:
        return Metadata(**common, **_legacy(path, given, limits, types))
    multipliers = _mapping(path, "limits.time_multipliers", limits.get("time_multipliers"))
    _known(path, "limits.time_multipliers.", multipliers, {"ac_to_time_limit", "time_limit_to_tle"})
    passes = _whole(path, limits, "validation_passes")
    if passes is not None and ("multi-pass" not in types or passes < 2):  # noqa: PLR2004
        raise PackageError(f"{path}: limits.validation_passes: at least 2, for a multi-pass problem")
    return Metadata(
        **common,
        types=types,
        custom_score="scoring" in types,
        time_limit=_number(path, limits, "time_limit", 0.0) or None,
        time_multiplier=_number(path, multipliers, "ac_to_time_limit", 2.0),
        passes=(passes or 2) if "multi-pass" in types else 1,
        constants=_constants(path, given.get("constants")),
    )


def _legacy(
    path: Path, given: dict[str, Any], limits: dict[str, Any], types: frozenset[str]
) -> dict[str, Any]:
    words = str(given.get("validation", "default")).split()
    if not words or words[0] not in ("default", "custom") or (words[0] == "default" and words[1:]):
        raise PackageError(f"{path}: validation: expected default or custom, got {' '.join(words)!r}")
    if unknown := set(words[1:]) - {"score", "interactive", "multi-pass", "multipass"}:
        raise PackageError(f"{path}: validation: unknown word {min(unknown)!r}")
    multi_pass = bool({"multi-pass", "multipass"} & set(words))
    grading = _mapping(path, "grading", given.get("grading"))
    _known(path, "grading.", grading, _GRADING_KEYS)
    objective = grading.get("objective", "max")
    if objective not in ("min", "max"):
        raise PackageError(f"{path}: grading.objective: expected min or max, got {objective!r}")
    if "score" in words and "scoring" not in types:
        raise PackageError(f"{path}: validation: score is for scoring problems")
    extra = {"interactive"} if "interactive" in words else set()
    return {
        "types": types | extra | ({"multi-pass"} if multi_pass else set()),
        "custom_validator": words[0] == "custom",
        "custom_score": "score" in words,
        "validator_flags": split_flags(path, "validator_flags", given.get("validator_flags")),
        "objective": objective,
        "grading": grading,
        "time_multiplier": _number(path, limits, "time_multiplier", 5.0),
        "passes": 2 if multi_pass else 1,
    }


def split_flags(path: Path, key: str, value: Any) -> tuple[str, ...]:
    """Give the arguments in a line of flags, or in a list of them."""
    if value is None:
        return ()
    if isinstance(value, list):
        return tuple(str(item) for item in value)
    if not isinstance(value, str):
        raise PackageError(f"{path}: {key}: expected text, got {value!r}")
    try:
        return tuple(shlex.split(value))
    except ValueError as error:
        raise PackageError(f"{path}: {key}: {error}") from None


def _known(path: Path, where: str, given: dict[str, Any], known: set[str]) -> None:
    for key in given:
        if key not in known:
            raise PackageError(f"{path}: unknown key {where}{key}")


def check_keys(path: Path, given: dict[str, Any], known: set[str]) -> None:
    """Refuse a key that is not known, and name it."""
    _known(path, "", given, known)


def _mapping(path: Path, key: str, value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise PackageError(f"{path}: {key}: expected keys and values, got {value!r}")
    return value


def _types(path: Path, value: Any, *, legacy: bool) -> frozenset[str]:
    # The examples of the format write several in one line.
    words = value.split() if isinstance(value, str) else value
    if not isinstance(words, list) or not words:
        raise PackageError(f"{path}: type: expected one of {', '.join(sorted(_TYPES))}")
    types = {str(word) for word in words}
    allowed = {"pass-fail", "scoring"} if legacy else _TYPES
    if unknown := types - allowed:
        raise PackageError(f"{path}: type: unknown type {min(unknown)!r}")
    for one, others in (
        ("pass-fail", {"scoring"}),
        ("submit-answer", {"multi-pass", "interactive"}),
    ):
        if one in types and others & types:
            raise PackageError(f"{path}: type: {one} does not go with {min(others & types)}")
    return frozenset(types)


def _name(value: Any, default: str) -> str:
    if isinstance(value, dict) and value:
        value = value.get("en", next(iter(value.values())))
    return str(value) if value else default


def number(path: Path, key: str, value: Any) -> float:
    """Give a finite number, however YAML has read it."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise PackageError(f"{path}: {key}: expected a number, got {value!r}")
    try:
        read = float(value)
    except (ValueError, OverflowError):
        raise PackageError(f"{path}: {key}: expected a number, got {value!r}") from None
    if not math.isfinite(read):
        raise PackageError(f"{path}: {key}: expected a finite number, got {value!r}")
    return read


def _number(path: Path, given: dict[str, Any], key: str, default: float) -> float:
    if key not in given:
        return default
    value = number(path, f"limits.{key}", given[key])
    if value <= 0:
        raise PackageError(f"{path}: limits.{key}: expected a number above 0, got {value:g}")
    return value


def _whole(path: Path, given: dict[str, Any], key: str) -> int | None:
    if key not in given:
        return None
    value = given[key]
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 40:
        raise PackageError(f"{path}: limits.{key}: expected a whole number above 0, got {value!r}")
    return value


def _constants(path: Path, value: Any) -> dict[str, str]:
    filled: dict[str, str] = {}
    for name, constant in _mapping(path, "constants", value).items():
        variants = constant if isinstance(constant, dict) else {"value": constant}
        if "value" not in variants:
            raise PackageError(f"{path}: constants.{name}: has no value")
        for variant, text in variants.items():
            if isinstance(text, bool) or not isinstance(text, int | float | str):
                raise PackageError(f"{path}: constants.{name}: expected a number or text")
            filled[f"{name}.{variant}"] = str(text)
        filled[name] = str(variants["value"])
    return filled
