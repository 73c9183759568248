"""The default validator: the reference's own cases, its rules one by one, and a second opinion."""

import math
import random
import re
from pathlib import Path

import pytest

from producer.grading.comparison import UnknownFlag, compare

GOLDEN = sorted(
    path
    for path in (Path(__file__).parents[1] / "data" / "default-validator").iterdir()
    if path.is_dir()
)


def test_all_golden_cases_are_there() -> None:
    """A folder that was moved would pass every test below."""
    assert len(GOLDEN) == 24


@pytest.mark.parametrize("case", GOLDEN, ids=lambda path: path.name)
def test_a_golden_case_comes_out_as_with_the_reference(case: Path) -> None:
    """42 is accepted, 43 is a wrong answer."""
    flags = case / "args.txt"
    found = compare(
        (case / "judge.ans").read_bytes(),
        (case / "user.out").read_bytes(),
        flags.read_text().split() if flags.exists() else (),
    )

    assert found.accepted == (int((case / "expected_exit_code.txt").read_text()) == 42)


@pytest.mark.parametrize(
    ("answer", "output", "flags", "accepted"),
    [
        ("0.5", "+.5e0", "float_tolerance 0", True),
        ("8", "0x1p3", "float_tolerance 0", True),
        ("5.", "5", "float_tolerance 0", True),
        ("10", "1_0", "float_tolerance 1e9", False),
        ("1", "infinity", "float_absolute_tolerance 1e300", False),
        ("1", "nan", "float_tolerance 1", False),
        ("inf", "INF", "float_tolerance 1", True),
        ("inf", "1e400", "float_tolerance 1", False),
        ("1e400", "1E400", "float_tolerance 1", True),
        ("1", "\u0661", "float_tolerance 1", False),
        ("100", "109", "float_relative_tolerance 0.1", True),
        ("100", "111", "float_relative_tolerance 0.1", False),
        ("0", "0.1", "float_relative_tolerance 0.5", False),
        ("1.0", "1", "", False),
        ("É", "é", "", False),
        ("yes", "YES", "", True),
        ("yes", "YES", "case_sensitive", False),
        ("a b", "a\u00a0b", "", False),
        ("a b", "\v\fa\r\n\tb", "", True),
        ("a b\n", "a b", "space_change_sensitive", False),
        ("a b\n", " a b\n", "space_change_sensitive", False),
        ("1 2\n", "1.0 2\n", "space_change_sensitive float_tolerance 1e-9", True),
        ("", " \n", "", True),
        ("", " ", "space_change_sensitive", False),
        ("1", "2", "float_absolute_tolerance -1", False),
        ("1", "2", "float_tolerance 0 float_absolute_tolerance 0x1p0", True),
    ],
)
def test_a_rule_of_the_comparison(answer: str, output: str, flags: str, *, accepted: bool) -> None:
    """On bytes, and of numbers only what C reads as one."""
    assert compare(answer.encode(), output.encode(), flags.split()).accepted is accepted


@pytest.mark.parametrize(
    "flags", ["no_such_flag", "float_tolerance", "float_tolerance x", "float_tolerance inf", "0.5"]
)
def test_an_unknown_flag_is_the_judges_error(flags: str) -> None:
    """Never a wrong answer, and not even where both sides are equal."""
    with pytest.raises(UnknownFlag):
        compare(b"1", b"1", flags.split())


def test_a_wrong_answer_says_where() -> None:
    """In the line of the output."""
    assert compare(b"1\n2\n3\n", b"1\n\n5\n3\n").message == "line 3: expected '2', got '5'"


def plain(answer: bytes, output: bytes, flags: list[str]) -> bool:
    """Judge as the specification has it, in the plainest way: the second opinion."""
    case = "case_sensitive" in flags
    tolerance = float(flags[flags.index("float_tolerance") + 1]) if "float_tolerance" in flags else None
    if "space_change_sensitive" in flags:
        spaces = [re.sub(rb"[^ \t\n\v\f\r]+", b"x", text) for text in (answer, output)]
        if spaces[0] != spaces[1]:
            return False
    wanted, given = (re.findall(rb"[^ \t\n\v\f\r]+", text) for text in (answer, output))
    if len(wanted) != len(given):
        return False
    for a, u in zip(wanted, given, strict=True):
        number = re.compile(rb"[+-]?([0-9]+([.][0-9]*)?|[.][0-9]+)([eE][+-]?[0-9]+)?\Z")
        if tolerance is not None and number.match(a) and math.isfinite(float(a)):
            if not number.match(u) or not math.isfinite(float(u)):
                return False
            x, y = float(a), float(u)
            if not (abs(x - y) <= tolerance or abs(x - y) <= tolerance * abs(x)):
                return False
        elif (a if case else a.upper()) != (u if case else u.upper()):
            return False
    return True


def test_it_agrees_with_a_plain_second_implementation() -> None:
    """On outputs that differ from the answer by little."""
    chance = random.Random(6)
    pieces = [
        b"1",
        b"2.5",
        b"-.5",
        b"1e3",
        b"1e999",
        b"a",
        b"A",
        b"Zz",
        b"\xff",
        b"1_0",
        b"nan",
        b"+7.",
    ]
    spaces = [b" ", b"\n", b"\t", b"  ", b"\r\n", b"\v"]
    seen = set()
    for _ in range(20_000):
        parts = [chance.choice(pieces) for _ in range(chance.randrange(4))]
        answer = b"".join(part + chance.choice(spaces) for part in parts)
        if chance.random() < 0.5:
            place = chance.randrange(len(parts) + 1)
            parts[place : place + 1] = [chance.choice(pieces)]
        output = chance.choice([b"", b" "]) + b"".join(part + chance.choice(spaces) for part in parts)
        flags = chance.choice([[], ["case_sensitive"]]) + chance.choice(
            [[], ["space_change_sensitive"]]
        )
        flags += chance.choice([[], ["float_tolerance", "0.5"], ["float_tolerance", "0"]])
        expected = plain(answer, output, flags)
        seen.add(expected)
        assert compare(answer, output, flags).accepted == expected, (answer, output, flags)
    assert seen == {True, False}
