"""`Job`, `Limits` and `Result` check every field where they are made, and name what they refuse."""

import dataclasses
import pickle
import subprocess
import sys
from typing import Any

import pytest

from sandbox_core import Job, Limits, Result, Status
from sandbox_core.job import content_bytes, exceeded

COUNTS = ("memory", "processes", "output", "disk", "open_files")
SECONDS = ("wall_time", "cpu_time")


def test_the_default_limits_are_those_of_the_contract() -> None:
    """A job that names no limit gets these."""
    assert dataclasses.asdict(Limits()) == {
        "wall_time": 6.0,
        "cpu_time": None,
        "memory": 128 * 1024 * 1024,
        "processes": 1,
        "output": 1024 * 1024,
        "disk": 16 * 1024 * 1024,
        "open_files": 64,
    }


def test_the_cpu_time_is_the_wall_time_where_none_is_given() -> None:
    """Else it is what was asked for."""
    assert Limits(wall_time=2).effective_cpu_time == 2.0
    assert Limits(wall_time=2, cpu_time=0.5).effective_cpu_time == 0.5


@pytest.mark.parametrize("name", SECONDS)
@pytest.mark.parametrize("value", [1, 0.25, 86400])
def test_a_limit_of_seconds_takes_any_number_above_0(name: str, value: float) -> None:
    """A whole number becomes a float."""
    limit = getattr(Limits(**{name: value}), name)

    assert limit == value
    assert isinstance(limit, float)


@pytest.mark.parametrize("name", SECONDS)
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "2", True, [1]])
def test_a_limit_of_seconds_refuses_what_is_no_time(name: str, value: Any) -> None:
    """The message names the limit."""
    with pytest.raises(ValueError, match=rf"^limits\.{name}: "):
        Limits(**{name: value})


def test_the_wall_time_can_not_be_none() -> None:
    """Every job ends."""
    with pytest.raises(ValueError, match=r"^limits\.wall_time: "):
        Limits(wall_time=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", COUNTS)
def test_a_count_takes_whole_numbers_from_1(name: str) -> None:
    """Up to what a signed 64-bit number holds."""
    for value in (1, 4096, (1 << 63) - 1):
        assert getattr(Limits(**{name: value}), name) == value


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [0, -1, 1.5, 1 << 63, "1", None, True])
def test_a_count_refuses_what_is_no_count(name: str, value: Any) -> None:
    """The message names the limit."""
    with pytest.raises(ValueError, match=rf"^limits\.{name}: "):
        Limits(**{name: value})


def test_a_limit_over_the_maximum_is_named_with_both_values() -> None:
    """The operator's answer says what was asked and what there is."""
    told = exceeded(Limits(memory=2048), Limits(memory=1024))

    assert told == "limits.memory: 2048 is more than this worker's maximum, 1024"


def test_limits_at_the_maxima_are_within_them() -> None:
    """The maximum itself may be asked for."""
    assert exceeded(Limits(), Limits()) is None


def test_the_cpu_time_that_a_job_gets_is_what_is_compared_with_the_maximum() -> None:
    """A job that leaves it open asks for its wall time."""
    told = exceeded(Limits(wall_time=5), Limits(wall_time=5, cpu_time=1))

    assert told == "limits.cpu_time: 5.0 is more than this worker's maximum, 1.0"


def test_a_source_is_all_that_a_job_needs() -> None:
    """Everything else has the contract's default."""
    job = Job("print(1)")

    assert (job.runtime, job.args, job.stdin, job.collect) == ("python", (), b"", ())
    assert (job.env, job.files, job.labels) == ({}, {}, {})
    assert job.limits == Limits()


def test_text_and_bytes_are_content() -> None:
    """Text is UTF-8."""
    job = Job(b"\xff", stdin="é", files={"a": "b", "c": b"\x00"})

    assert content_bytes(job.stdin) == b"\xc3\xa9"
    assert content_bytes(job.source) == b"\xff"


def test_any_sequence_of_arguments_becomes_a_tuple() -> None:
    """A list or a generator will do."""
    assert Job("", args=["a", "b"]).args == ("a", "b")  # type: ignore[arg-type]
    assert Job("", collect=(name for name in ("x", "y/*"))).collect == ("x", "y/*")  # type: ignore[arg-type]


BAD_FIELDS = [
    ({"source": 3}, "source"),
    ({"source": None}, "source"),
    ({"source": "\ud800"}, "source"),
    ({"runtime": ""}, "runtime"),
    ({"runtime": 3}, "runtime"),
    ({"runtime": "a\0b"}, "runtime"),
    ({"args": "abc"}, "args"),
    ({"args": 3}, "args"),
    ({"args": [1]}, r"args\[0\]"),
    ({"args": ["a", "b\0"]}, r"args\[1\]"),
    ({"args": ["\udcff"]}, r"args\[0\]"),
    ({"stdin": 3}, "stdin"),
    ({"stdin": None}, "stdin"),
    ({"stdin": "\udc80"}, "stdin"),
    ({"env": [("A", "1")]}, "env"),
    ({"env": {"A": 1}}, r"env\['A'\]"),
    ({"env": {1: "A"}}, "env"),
    ({"env": {"": "1"}}, "env"),
    ({"env": {"A=B": "1"}}, "env"),
    ({"env": {"A": "\0"}}, r"env\['A'\]"),
    ({"files": ["a"]}, "files"),
    ({"files": {"a": 1}}, r"files\['a'\]"),
    ({"files": {1: "a"}}, "files"),
    ({"files": {"/etc/passwd": ""}}, "files"),
    ({"files": {"../a": ""}}, "files"),
    ({"files": {"a/../../b": ""}}, "files"),
    ({"files": {"./a": ""}}, "files"),
    ({"files": {"a//b": ""}}, "files"),
    ({"files": {"a/": ""}}, "files"),
    ({"files": {"": ""}}, "files"),
    ({"files": {"a\0": ""}}, "files"),
    ({"files": {"x" * 256: ""}}, "files"),
    ({"files": {"/".join(["x" * 200] * 21): ""}}, "files"),
    ({"files": {"a": "", "a/b": ""}}, "files"),
    ({"files": {"main.py": ""}}, "files"),
    ({"collect": "out"}, "collect"),
    ({"collect": ["/etc/*"]}, "collect"),
    ({"collect": ["../*"]}, "collect"),
    ({"collect": [3]}, r"collect\[0\]"),
    ({"limits": {"memory": 1}}, "limits"),
    ({"limits": None}, "limits"),
    ({"labels": {"a": 1}}, r"labels\['a'\]"),
    ({"labels": "a"}, "labels"),
    ({"labels": {"a": "\ud800"}}, r"labels\['a'\]"),
]


@pytest.mark.parametrize(("given", "named"), BAD_FIELDS, ids=lambda value: ascii(value)[:40])
def test_a_job_refuses_a_bad_field_by_its_name(given: dict[str, Any], named: str) -> None:
    """Before anything is sent or run."""
    with pytest.raises(ValueError, match=rf"^{named}\b|^{named}(?=:| )"):
        Job(**{"source": "", **given})


def test_main_py_is_free_for_runtimes_that_call_the_script_otherwise() -> None:
    """Only Python's own name is taken."""
    assert Job("", runtime="sh", files={"main.py": ""}).files == {"main.py": ""}


def test_files_that_do_not_fit_the_disk_are_refused() -> None:
    """The source counts, since it is a file there too."""
    limits = Limits(disk=10)
    Job("12345", files={"a": "67890"}, limits=limits)

    with pytest.raises(ValueError, match=r"11 bytes, more than limits\.disk \(10\)"):
        Job("12345", files={"a": "678901"}, limits=limits)


def test_a_job_can_not_be_changed() -> None:
    """Neither its fields nor what is in them."""
    job = Job("", files={"a": "b"})

    with pytest.raises(dataclasses.FrozenInstanceError):
        job.source = "x"  # type: ignore[misc]
    with pytest.raises(TypeError, match="can't be changed"):
        job.files["c"] = "d"  # type: ignore[index]


def test_the_mapping_that_was_given_is_copied() -> None:
    """A caller's later change does not reach the job."""
    files: dict[str, str | bytes] = {"a": "b"}
    job = Job("", files=files)
    files["../c"] = "d"

    assert job.files == {"a": "b"}


def test_equal_jobs_are_one_key() -> None:
    """A job can be looked up, and travels through pickle between a caller's own processes."""
    job = Job("x", env={"A": "1"}, labels={"n": "1"})

    assert {job: 1}[Job("x", env={"A": "1"}, labels={"n": "1"})] == 1
    assert pickle.loads(pickle.dumps(job)) == job  # noqa: S301  # our own


def test_the_statuses_are_those_of_the_contract() -> None:
    """Their values are what is sent."""
    assert [status.value for status in Status] == [
        "ok",
        "nonzero_exit",
        "signaled",
        "time_limit",
        "memory_limit",
        "output_limit",
        "cancelled",
        "invalid_job",
        "internal_error",
    ]


def test_only_the_status_ok_is_ok() -> None:
    """`ok` is a word for comparing the status."""
    assert [status for status in Status if Result(status).ok] == [Status.OK]


def test_text_replaces_what_is_not_utf_8() -> None:
    """It never raises."""
    assert Result(Status.OK, stdout=b"a\xffb").text == "a\N{REPLACEMENT CHARACTER}b"


def test_a_result_knows_its_status_by_name() -> None:
    """A status that does not exist is refused."""
    assert Result("ok").status is Status.OK  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="bogus"):
        Result("bogus")  # type: ignore[arg-type]


def test_importing_the_vocabulary_brings_no_jail_and_no_library() -> None:
    """It is what application code imports: light, on any system."""
    listed = "import sys; from sandbox_core import Job, Result, SandboxError; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", listed], check=True, capture_output=True, text=True
    ).stdout.split()

    ours = {name for name in loaded if name.startswith("sandbox_core")}
    assert ours == {"sandbox_core", "sandbox_core.errors", "sandbox_core.job"}
    assert not {"ctypes", "celery", "redis", "click", "worker", "producer"} & set(loaded)


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    """Loading `Sandbox` on first use hides no mistake."""
    import sandbox_core  # noqa: PLC0415

    with pytest.raises(AttributeError, match="Sandbax"):
        _ = sandbox_core.Sandbax
