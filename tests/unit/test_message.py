"""The hand-made Celery message, and the Redis URLs and stored results that belong to it."""

import base64
import json
import uuid
from typing import Any

import pytest

from producer import Job, Status, address, message, outcome
from sandbox_core.wire import QUEUE, TASK, TASK_MANY, TASK_PAIR, job_from_json

ID = "11111111-2222-4333-8444-555555555555"


def parse(data: bytes) -> dict[str, Any]:
    """Read a message as kombu does, its body included."""
    envelope = json.loads(data)
    envelope["body"] = json.loads(base64.b64decode(envelope["body"]))
    return envelope


def test_the_body_holds_the_job_as_the_only_argument() -> None:
    """What the worker gets is what the caller made, to the byte."""
    job = Job(
        "print('ä')",
        stdin=b"\xff\x00",
        args=("a", 'b"c'),
        files={"data/x.bin": b"\x80"},
        collect=("*.txt",),
        labels={"who": "Zoë"},
    )

    args, kwargs, embed = parse(message.encode(job, ID, 12.5, ID))["body"]

    assert job_from_json(args[0]) == Job(
        "print('ä')",
        stdin=b"\xff\x00",
        args=("a", 'b"c'),
        files={"data/x.bin": b"\x80"},
        collect=("*.txt",),
        labels={"who": "Zoë"},
    )
    assert (len(args), kwargs) == (1, {})
    assert embed == {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def test_a_chunk_holds_each_job_with_its_id() -> None:
    """To the byte; the message has an id of its own, no result, and no source in what is shown."""
    jobs = [Job("print('ä') # %s %(body)s"), Job("SECRET", stdin=b"\xff")]
    entries = [(f"{ID[:-1]}{n}", message.job_text(job)) for n, job in enumerate(jobs)]
    envelope = parse(message.encode_chunk(entries, 12.5, ID))
    ((chunk,), kwargs, _) = envelope["body"]

    assert [(entry["id"], job_from_json(entry["job"])) for entry in chunk] == [
        (job_id, job) for (job_id, _), job in zip(entries, jobs, strict=True)
    ]
    assert kwargs == {}
    assert envelope["headers"]["task"] == TASK_MANY
    assert envelope["headers"]["ignore_result"] is True
    assert envelope["headers"]["id"] not in (entry["id"] for entry in chunk)
    assert envelope["headers"]["argsrepr"].startswith("2 jobs · ")
    assert "SECRET" not in json.dumps(envelope["headers"])


def test_a_pair_holds_both_jobs_with_their_ids() -> None:
    """As a chunk does, in an object that names their places."""
    jobs = [Job("print('{}') # %s %(body)s"), Job("SECRET", files={"a": b"\xff"})]
    first, second = ((f"{ID[:-1]}{n}", message.job_text(job)) for n, job in enumerate(jobs))
    envelope = parse(message.encode_pair(first, second, 12.5, ID))
    ((pair,), kwargs, _) = envelope["body"]

    assert list(pair) == ["first", "second"]
    assert [(entry["id"], job_from_json(entry["job"])) for entry in pair.values()] == [
        (first[0], jobs[0]),
        (second[0], jobs[1]),
    ]
    assert kwargs == {}
    assert envelope["headers"]["task"] == TASK_PAIR
    assert envelope["headers"]["ignore_result"] is True
    assert envelope["headers"]["id"] not in (first[0], second[0])
    assert "SECRET" not in json.dumps(envelope["headers"])


def test_the_headers_name_the_task_and_when_it_was_submitted() -> None:
    """`submitted_at` is a number, so that the worker need not guess."""
    envelope = parse(message.encode(Job("pass"), ID, 12.5, ID))

    assert envelope["headers"]["task"] == TASK
    assert envelope["headers"]["id"] == envelope["headers"]["root_id"] == ID
    assert envelope["headers"]["submitted_at"] == 12.5
    assert envelope["properties"]["delivery_info"] == {"exchange": "", "routing_key": QUEUE}


def test_no_two_messages_share_a_delivery_tag() -> None:
    """Kombu keeps what is not acknowledged by its tag."""
    tags = {
        parse(message.encode(Job("pass"), ID, 0, ID))["properties"]["delivery_tag"] for _ in range(50)
    }

    assert len(tags) == 50


def test_the_summary_tells_of_the_job_and_nothing_of_its_source() -> None:
    """It is shown by monitors and logs."""
    job = Job("secret = 1\n", labels={"course": "cs1"})

    assert message.summary(job) == "python · 11 B · course=cs1"
    assert b"secret" not in message.encode(job, ID, 0, ID).split(b'"headers"')[1]


@pytest.mark.parametrize(
    "label", ["two\nlines", 'quo"te', "back\\slash", "100%(id)s %", "\x1b[31m", "x" * 500]
)
def test_any_label_leaves_the_message_whole(label: str) -> None:
    """Labels are the caller's own text; the summary is one short line of it all the same."""
    job = Job("pass", labels={"note": label})

    envelope = parse(message.encode(job, ID, 0, ID))

    assert envelope["body"][0][0]["labels"] == {"note": label}
    assert envelope["headers"]["argsrepr"].isprintable()
    assert len(envelope["headers"]["argsrepr"]) <= 200


def test_an_id_is_a_random_uuid() -> None:
    """Version 4, variant 1, never twice."""
    ids = [message.new_id() for _ in range(200)]

    assert all(str(uuid.UUID(text)) == text and uuid.UUID(text).version == 4 for text in ids)
    assert {uuid.UUID(text).variant for text in ids} == {uuid.RFC_4122}
    assert len(set(ids)) == 200


@pytest.mark.parametrize(
    ("url", "for_redis_py", "name"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379?db=0", "localhost:6379/0"),
        ("redis://", "redis://?db=0", "localhost:6379/0"),
        ("redis://h/3", "redis://h?db=3", "h:6379/3"),
        ("redis://u:p%40w@h:1?db=4", "redis://u:p%40w@h:1?db=4", "h:1/4"),
        ("redis://[::1]:7/2", "redis://[::1]:7?db=2", "[::1]:7/2"),
        (
            "rediss://h/1?ssl_cert_reqs=CERT_NONE",
            "rediss://h?ssl_cert_reqs=none&db=1",
            "h:6379/1",
        ),
        ("unix:///run/r.sock", "unix:///run/r.sock?db=0", "/run/r.sock"),
        ("unix://u:secret@/run/r.sock?db=2", "unix://u:secret@/run/r.sock?db=2", "/run/r.sock?db=2"),
        ("redis+socket:///r.sock?virtual_host=5", "unix:///r.sock?db=5", "/r.sock?db=5"),
    ],
)
def test_redis_urls_of_every_form_are_understood(url: str, for_redis_py: str, name: str) -> None:
    """redis-py's forms and Celery's; the name to show has no credentials."""
    assert address.parse(url) == (for_redis_py, name)


@pytest.mark.parametrize(
    "url",
    [
        "http://:s3cret@h",
        "localhost:6379",
        "redis://:s3cret/x@h/0",
        "redis://:s3cret#x@h/0",
        "redis://:12?s3cret@h/0",
        "redis://:s3cret@h:port/0",
        "redis://:s3cret@h/zero",
        "unix://:s3cret@",
        "unix://relative/s3cret.sock",
        "redis://[s3cret",
    ],
)
def test_a_url_that_is_none_is_refused_without_being_quoted(url: str) -> None:
    """A password in it must not reach a log."""
    with pytest.raises(ValueError, match="url") as caught:
        address.parse(url)

    assert "s3cret" not in str(caught.value)


def test_a_failure_of_celery_becomes_an_internal_error_with_the_labels() -> None:
    """No worker could write a Result; the caller gets one all the same."""
    stored = b'{"status": "FAILURE", "result": {"exc_type": "WorkerLostError", "exc_message": ["x"]}}'

    result = outcome.read(stored, Job("pass", labels={"a": "b"}))

    assert (result.status, result.labels) == (Status.INTERNAL_ERROR, {"a": "b"})
    assert "WorkerLostError: x" in result.error


def test_a_task_that_celery_revoked_counts_as_cancelled() -> None:
    """`celery control revoke` ends a job as well."""
    stored = b'{"status": "REVOKED", "result": {"exc_type": "Revoked", "exc_message": ["by hand"]}}'

    assert outcome.read(stored, None).status is Status.CANCELLED


@pytest.mark.parametrize("state", ["PENDING", "RECEIVED", "STARTED", "RETRY"])
def test_a_task_that_has_not_ended_has_no_result(state: str) -> None:
    """A retry stores its reason, which is no result."""
    assert outcome.read(json.dumps({"status": state, "result": {}}).encode(), None) is None


@pytest.mark.parametrize(
    "stored",
    [b"not json", b"[]", b"{}", b'{"status": "SUCCESS", "result": 5}', b'{"status": "SUCCESS"}'],
)
def test_a_damaged_result_is_an_internal_error(stored: bytes) -> None:
    """Never an exception in the thread that delivers results."""
    assert outcome.read(stored, None).status is Status.INTERNAL_ERROR


def test_what_cancelling_stores_reads_as_a_result() -> None:
    """Celery's own client reads it too: a SUCCESS."""
    stored = outcome.cancelled(ID, Job("pass", labels={"a": "b"}), 3.0)

    result = outcome.read(stored, None)

    assert json.loads(stored)["status"] == "SUCCESS"
    assert (result.status, result.labels, result.submitted_at) == (
        Status.CANCELLED,
        {"a": "b"},
        3.0,
    )
