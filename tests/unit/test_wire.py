"""Jobs and results as JSON: nothing is lost, nothing unknown is taken, and the schemas are true."""

import json
from typing import Any

import jsonschema
import pytest

from sandbox_core import Job, Limits, Result, Status, wire

FULL_JOB = Job(
    "print('é')",
    runtime="python-exec",
    args=("-x", ""),
    stdin=b"\xff\x00",
    env={"A": "1", "B": ""},
    files={"data/a.bin": b"\x80", "b.txt": "text", "c": b"plain"},
    collect=("out/*.csv", "**/log"),
    limits=Limits(wall_time=2, cpu_time=1.5, memory=1 << 26, processes=4, output=9, open_files=8),
    labels={"id": "7"},
)
FULL_RESULT = Result(
    Status.SIGNALED,
    exit_code=None,
    signal="SIGSEGV",
    stdout=b"caf\xc3\xa9",
    stderr=b"\xfe",
    stdout_truncated=True,
    stderr_truncated=False,
    wall_time=0.25,
    cpu_time=0.125,
    memory=4096,
    files={"out/a.csv": b"a,b\n", "b": b"\x80"},
    labels={"id": "7"},
    error=None,
    worker="celery@host",
    submitted_at=1.5,
    started_at=2.5,
    finished_at=3.5,
    attempts=2,
)


def over_the_wire(value: Any) -> Any:
    """Give what the other end reads."""
    return json.loads(json.dumps(value))


@pytest.mark.parametrize("job", [Job("x"), FULL_JOB], ids=["least", "full"])
def test_a_job_comes_back_as_it_was_sent(job: Job) -> None:
    """Through real JSON; content that is text may come back as str."""
    back = wire.job_from_json(over_the_wire(wire.job_to_json(job)))

    assert wire.job_to_json(back) == wire.job_to_json(job)
    assert back.limits == job.limits
    assert (back.args, back.env, back.collect, back.labels) == (
        job.args,
        job.env,
        job.collect,
        job.labels,
    )


@pytest.mark.parametrize("result", [Result(Status.OK), FULL_RESULT], ids=["least", "full"])
def test_a_result_comes_back_as_it_was_sent(result: Result) -> None:
    """Down to the last byte."""
    assert wire.result_from_json(over_the_wire(wire.result_to_json(result))) == result


def test_a_job_says_only_what_is_not_the_default() -> None:
    """So that a message is small."""
    assert wire.job_to_json(Job("x")) == {"source": "x"}
    assert wire.job_to_json(Job("x", limits=Limits(memory=4096))) == {
        "source": "x",
        "limits": {"memory": 4096},
    }


def test_a_result_has_every_field() -> None:
    """A reader in another language finds them all."""
    assert list(wire.result_to_json(Result(Status.OK))) == list(wire.schemas()["Result"]["properties"])


@pytest.mark.parametrize(
    ("content", "written"),
    [
        ("", ""),
        ("é", "é"),
        (b"plain", "plain"),
        ("é".encode(), "é"),
        (b"\xff", {"base64": "/w=="}),
    ],
    ids=ascii,
)
def test_content_is_a_string_where_it_is_utf_8(content: str | bytes, written: object) -> None:
    """Other bytes are base64."""
    assert wire.job_to_json(Job(content))["source"] == written


BAD_JOBS: list[tuple[object, str]] = [
    (None, "job: expected an object, got null"),
    ([], "job: expected an object, got an array"),
    ("x", "job: expected an object, got a string"),
    ({}, "source: missing"),
    ({"source": "", "timeout": 2}, "job: unknown field 'timeout'; the fields are source, "),
    ({"source": "", "limits": {"ram": 1}}, "limits: unknown field 'ram'; the fields are wall_time"),
    ({"source": "", "limits": []}, "limits: expected an object, got an array"),
    ({"source": "", "limits": {"memory": "64M"}}, "limits.memory: expected a whole number"),
    ({"source": 3}, "source: expected a string or"),
    ({"source": {"base64": "?"}}, "source: its base64 is not valid"),
    ({"source": {"base64": "é"}}, "source: its base64 is not valid"),
    ({"source": {"base64": 3}}, "source: expected a string or"),
    ({"source": {"base64": "", "more": 1}}, "source: expected a string or"),
    ({"source": "", "stdin": None}, "stdin: expected a string or"),
    ({"source": "", "files": []}, "files: expected an object, got an array"),
    ({"source": "", "files": {"a": 1}}, "files['a']: expected a string or"),
    ({"source": "", "files": {"../a": ""}}, "files: '../a' has an empty, '.' or '..'"),
    ({"source": "", "args": "a"}, "args: expected an array, got a string"),
    ({"source": "", "args": {"a": 1}}, "args: expected an array, got an object"),
    ({"source": "", "collect": True}, "collect: expected an array, got a boolean"),
    ({"source": "", "env": 3}, "env: expected a mapping, got int"),
    ({"source": "", "runtime": None}, "runtime: expected str"),
]


@pytest.mark.parametrize(("value", "told"), BAD_JOBS, ids=lambda value: ascii(value)[:40])
def test_a_job_that_is_none_is_refused_with_the_reason(value: object, told: str) -> None:
    """A misspelt field is an error, never a default."""
    with pytest.raises(ValueError) as refused:  # noqa: PT011  # the text is compared below
        wire.job_from_json(value)

    assert str(refused.value).startswith(told)


BAD_RESULTS: list[tuple[object, str]] = [
    (3, "result: expected an object, got a number"),
    ({}, "status: missing"),
    ({"status": "fine"}, "'fine' is not a valid Status"),
    ({"status": "ok", "extra": 1}, "result: unknown field 'extra'"),
    ({"status": "ok", "stdout": 3}, "stdout: expected a string or"),
    ({"status": "ok", "files": {"a": None}}, "files['a']: expected a string or"),
]


@pytest.mark.parametrize(("value", "told"), BAD_RESULTS, ids=lambda value: ascii(value)[:40])
def test_a_result_that_is_none_is_refused_with_the_reason(value: object, told: str) -> None:
    """What comes from the queue is checked too."""
    with pytest.raises(ValueError) as refused:  # noqa: PT011  # the text is compared below
        wire.result_from_json(value)

    assert str(refused.value).startswith(told)


def test_the_names_on_the_wire_are_those_of_the_contract() -> None:
    """A producer in any language relies on them."""
    assert (wire.TASK, wire.QUEUE) == ("sandboxed.run", "sandboxed")


def validator(name: str) -> jsonschema.Draft202012Validator:
    """Give a validator of one of the published schemas, itself found valid."""
    schema = wire.schemas()[name]
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("job", [Job("x"), FULL_JOB], ids=["least", "full"])
def test_a_job_is_as_its_schema_says(job: Job) -> None:
    """What we send is what we publish."""
    validator("Job").validate(over_the_wire(wire.job_to_json(job)))


@pytest.mark.parametrize(
    "result", [FULL_RESULT, *(Result(status) for status in Status)], ids=lambda value: value.status
)
def test_a_result_is_as_its_schema_says(result: Result) -> None:
    """Whatever its status."""
    validator("Result").validate(over_the_wire(wire.result_to_json(result)))


def test_a_result_without_numbers_is_as_its_schema_says() -> None:
    """A number that the kernel can't give is null."""
    validator("Result").validate(wire.result_to_json(Result(Status.OK, cpu_time=None, memory=None)))


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"source": 3},
        {"source": "", "timeout": 3},
        {"source": "", "limits": {"ram": 3}},
        {"source": "", "limits": {"memory": 0}},
        {"source": "", "limits": {"wall_time": 0}},
        {"source": "", "files": {"/etc/passwd": ""}},
        {"source": "", "args": "a"},
        {"source": {"base64": "", "more": 1}},
        {"source": "", "env": {"A": 1}},
    ],
    ids=ascii,
)
def test_the_schema_refuses_what_the_reader_refuses(value: dict[str, Any]) -> None:
    """So that other languages can check before they send."""
    assert not validator("Job").is_valid(value)
    with pytest.raises(ValueError):  # noqa: PT011  # any reason will do
        wire.job_from_json(value)


def test_the_schema_gives_the_defaults() -> None:
    """They are the dataclass's own."""
    limits = wire.schemas()["Job"]["properties"]["limits"]["properties"]

    assert limits["memory"]["default"] == Limits().memory
    assert limits["cpu_time"]["default"] is None
