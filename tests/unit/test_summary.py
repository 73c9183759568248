"""One line for a job and one for its result; whatever the sender wrote, the line stays one."""

import pytest

from sandbox_core import Result, Status
from worker.summary import described, ended, escaped, size


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([{"source": "x" * 412, "labels": {"course": "cs1"}}], "python · 412 B · course=cs1"),
        ([{"source": "é", "runtime": "sh"}], "sh · 2 B"),
        ([{"source": {"base64": "/wA="}}], "python · 2 B"),
        ([{"source": {"base64": "/wAA"}}], "python · 3 B"),
        ([{"source": "\ud800"}], "python · 3 B"),
        ([{"source": 7}], "python"),
        ([{"source": "", "runtime": "\x1b[2J"}], "? · 0 B"),
        ([{"source": "", "runtime": ["python"]}], "? · 0 B"),
        ([{"source": "", "labels": "course"}], "python · 0 B"),
        ([{"source": "", "labels": {"a": 1, "b": "c"}}], "python · 0 B · b=c"),
        (
            [{"first": {"job": {"source": "1"}}, "second": {"job": {"source": "22", "runtime": "sh"}}}],
            "a pair: python · 1 B | sh · 2 B",
        ),
        ([{"first": {"job": 7}, "second": {"job": []}}], "a pair: no job | no job"),
        ([{"first": {"job": {"source": ""}}}], "no job"),
        ([{"runtime": "python"}], "no job"),
        ([], "no job"),
        ([{"source": ""}, {"source": ""}], "no job"),
        ("source", "no job"),
        (None, "no job"),
    ],
)
def test_a_job_is_described(args: object, expected: str) -> None:
    """By its runtime, the size of its source and its labels; a bad one by what is right in it."""
    assert described(args) == expected


def test_a_description_has_a_length() -> None:
    """However many labels there are, and however long."""
    line = described(
        [{"source": "x" * 3_000_000, "labels": {f"{n}" * 99: "v" * 99 for n in range(99)}}]
    )

    assert line.startswith("python · 2.9 MiB · 000")
    assert line.endswith(" · …")
    assert len(line) < 400


def test_a_label_stays_in_its_line() -> None:
    """Nor does it send a terminal commands, or turn the text around."""
    line = described([{"source": "", "labels": {"a\nb": "\x1b[31m\u202e\ud800"}}])

    assert line == r"python · 0 B · a\nb=\x1b[31m\u202e\ud800"


def test_a_result_is_its_status_and_time() -> None:
    """As in a list of tasks."""
    assert ended(Result(Status.TIME_LIMIT, wall_time=6.0)) == "time_limit · 6.00 s"


def test_sizes_have_units() -> None:
    """Powers of 1024, as in limits."""
    assert [size(n) for n in (0, 1023, 1024, 1 << 20)] == ["0 B", "1023 B", "1.0 KiB", "1.0 MiB"]


def test_a_long_text_is_cut() -> None:
    """And says so."""
    assert escaped("x" * 41) == "x" * 39 + "…"
