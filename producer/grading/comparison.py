"""The default output validator: a submission's output against the judge's answer, token by token.

The rules are those of the problem package format ("Default output validator specification") and of its
reference program, on bytes. Both sides are ours to read: nothing of them is run.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

# White space is what C's isspace says; bytes.split() without arguments splits on just these, too.
_TOKEN = re.compile(rb"[^ \t\n\v\f\r]+")

# What scanf's %lf reads wholly. Python's float() would take 1_0, infinity and other scripts' digits.
_DECIMAL = re.compile(rb"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_HEXADECIMAL = re.compile(
    rb"[+-]?0[xX](?:[0-9a-fA-F]+\.?[0-9a-fA-F]*|\.[0-9a-fA-F]+)(?:[pP][+-]?[0-9]+)?"
)

#: Characters of a token that a message shows.
_SHOWN = 40


class UnknownFlag(ValueError):
    """The package gives the default validator a flag that it does not have: a judge error."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Whether the output is accepted and, where it is not, why, in one line for the judges."""

    accepted: bool
    message: str = ""


@dataclass(frozen=True, slots=True)
class _Rules:
    case_sensitive: bool = False
    space_change_sensitive: bool = False
    absolute: float = -1.0
    relative: float = -1.0

    @property
    def floats(self) -> bool:
        return self.absolute >= 0 or self.relative >= 0


_ACCEPTED = Comparison(True)


def compare(answer: bytes, output: bytes, flags: Sequence[str] = ()) -> Comparison:
    """Say whether `output` is as good as the judge's `answer` under the validator's `flags`.

    Flags: `case_sensitive`, `space_change_sensitive`, `float_relative_tolerance E`,
    `float_absolute_tolerance E`, `float_tolerance E`. Raises `UnknownFlag` for anything else.
    """
    rules = _rules(flags)
    if answer == output:
        return _ACCEPTED
    if found := _first_difference(answer, output, rules):
        return found
    # Splitting at the tokens leaves the white space before, between and after them.
    if rules.space_change_sensitive and _TOKEN.split(answer) != _TOKEN.split(output):
        return _refused(output, 0, "the white space differs")
    return _ACCEPTED


def check_flags(flags: Sequence[str]) -> None:
    """Raise `UnknownFlag` where `compare` would."""
    _rules(flags)


def _rules(flags: Sequence[str]) -> _Rules:
    given: dict[str, Any] = {}
    left = iter(flags)
    for flag in left:
        if flag in ("case_sensitive", "space_change_sensitive"):
            given[flag] = True
        elif flag in ("float_absolute_tolerance", "float_relative_tolerance", "float_tolerance"):
            value = next(left, None)
            epsilon = None if value is None else _float(value.encode("utf-8", "replace"))
            if epsilon is None:
                raise UnknownFlag(f"{flag}: expected a number after it, got {value!r}")
            if flag != "float_relative_tolerance":
                given["absolute"] = epsilon
            if flag != "float_absolute_tolerance":
                given["relative"] = epsilon
        else:
            raise UnknownFlag(f"the default validator has no flag {flag!r}")
    return _Rules(**given)


def _first_difference(answer: bytes, output: bytes, rules: _Rules) -> Comparison | None:
    wanted, given = answer.split(), output.split()
    for place, (judge, user) in enumerate(zip_longest(wanted, given)):
        if judge is None:
            return _refused(output, place, f"output goes on after the answer's end: {_shown(user)}")
        if user is None:
            told = "no output" if not given else "the output ends too early"
            return _refused(output, place, f"{told}; expected {_shown(judge)}")
        if judge != user and (why := _mismatch(judge, user, rules)):
            return _refused(output, place, why)
    return None


def _mismatch(judge: bytes, user: bytes, rules: _Rules) -> str | None:
    if rules.floats and (expected := _float(judge)) is not None:
        got = _float(user)
        if got is None:
            return f"expected the number {_shown(judge)}, got {_shown(user)}"
        error = abs(expected - got)
        if error <= rules.absolute or error <= rules.relative * abs(expected):
            return None
        return f"expected {_shown(judge)}, got {_shown(user)}: off by {error:.6g}"
    if not rules.case_sensitive and judge.lower() == user.lower():  # of bytes: ASCII alone
        return None
    return f"expected {_shown(judge)}, got {_shown(user)}"


def _float(token: bytes) -> float | None:
    """Give the finite number that the whole token is, or None."""
    try:
        if _DECIMAL.fullmatch(token):
            value = float(token)
        elif _HEXADECIMAL.fullmatch(token):
            value = float.fromhex(token.decode("ascii"))
        else:
            return None
    except OverflowError:  # of fromhex, where float() gives inf
        return None
    return value if math.isfinite(value) else None


def _refused(output: bytes, place: int, why: str) -> Comparison:
    """Say where in the output it was: the line of its token number `place`."""
    at = len(output)
    for number, token in enumerate(_TOKEN.finditer(output)):
        if number == place:
            at = token.start()
            break
    line = output.count(b"\n", 0, at) + 1
    return Comparison(False, f"line {line}: {why}")


def _shown(token: bytes) -> str:
    text = token[: _SHOWN + 1].decode("utf-8", "replace")
    return repr(text if len(token) <= _SHOWN else text[:_SHOWN] + "…")
