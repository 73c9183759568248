"""How jobs and results travel: JSON both ways, its schema, and the names that both ends share.

Strict: a field that is not known is refused, so that a misspelt limit is an error and not a default.
Content that is valid UTF-8 is a JSON string, other bytes are `{"base64": "…"}`.

Jobs may also travel several in one message, a chunk: the task `TASK_MANY`, whose one argument is an
array of `{"id": "…", "job": {…}}`. Each has its own result under its own id, as if it had come alone;
the message's id means nothing and gets no result.

Two jobs that talk with each other, each reading what the other writes, travel as a pair: the task
`TASK_PAIR`, whose one argument is `{"first": {"id": "…", "job": {…}}, "second": {…}}`. They run at the
same time in one slot of a worker. Each has its own result; the one with the earlier `finished_at` is of
the job that ended first.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from sandbox_core.job import Job, Limits, Result, Status

#: The Celery tasks, and the Redis list (Celery's queue) that they are taken from.
TASK = "sandboxed.run"
TASK_MANY = "sandboxed.run_many"
TASK_PAIR = "sandboxed.run_pair"
QUEUE = "sandboxed"

#: Celery's Redis backend keeps a task's result under this prefix and publishes it on a channel of the
#: same name (celery.backends.base.KeyValueStoreBackend.task_keyprefix).
RESULT_PREFIX = "celery-task-meta-"

#: Set by a caller who wants a job stopped; counted up by a worker each time it takes a job.
CANCEL_PREFIX = "sandboxed:cancel:"
ATTEMPTS_PREFIX = "sandboxed:attempts:"
#: Set by a worker while it runs a job, to what tells that run from others.
RUNNING_PREFIX = "sandboxed:running:"

#: The message header that carries when the job was submitted (Unix seconds).
SUBMITTED_AT = "submitted_at"

_TYPE_NAMES = {dict: "an object", list: "an array", str: "a string", bool: "a boolean"}


def job_to_json(job: Job) -> dict[str, Any]:
    """Give `job` as a JSON object; fields that hold their default are left out."""
    written: dict[str, Any] = {"source": _content_to_json(job.source)}
    if job.runtime != "python":
        written["runtime"] = job.runtime
    if job.stdin:
        written["stdin"] = _content_to_json(job.stdin)
    if job.files:
        written["files"] = {path: _content_to_json(data) for path, data in job.files.items()}
    for name in ("args", "collect"):
        if value := getattr(job, name):
            written[name] = list(value)
    for name in ("env", "labels"):
        if value := getattr(job, name):
            written[name] = dict(value)
    limits = {
        item.name: getattr(job.limits, item.name)
        for item in fields(Limits)
        if getattr(job.limits, item.name) != item.default
    }
    if limits:
        written["limits"] = limits
    return written


def job_from_json(value: object) -> Job:
    """Make the job that the JSON object `value` describes; `ValueError` says what is wrong with it."""
    given = _known_fields("job", value, Job)
    if "source" not in given:
        raise ValueError("source: missing")
    given["source"] = _content_from_json("source", given["source"])
    if "stdin" in given:
        given["stdin"] = _content_from_json("stdin", given["stdin"])
    if "files" in given:
        given["files"] = {
            path: _content_from_json(f"files[{path!r}]", content)
            for path, content in _expect("files", given["files"], dict).items()
        }
    for name in ("args", "collect"):
        if name in given:
            _expect(name, given[name], list)
    if "limits" in given:
        given["limits"] = Limits(**_known_fields("limits", given["limits"], Limits))
    return Job(**given)


def result_to_json(result: Result) -> dict[str, Any]:
    """Give `result` as a JSON object with every field."""
    written: dict[str, Any] = {item.name: getattr(result, item.name) for item in fields(Result)}
    written["status"] = result.status.value
    written["stdout"] = _content_to_json(result.stdout)
    written["stderr"] = _content_to_json(result.stderr)
    written["files"] = {path: _content_to_json(data) for path, data in result.files.items()}
    written["labels"] = dict(result.labels)
    return written


def result_from_json(value: object) -> Result:
    """Make the result that the JSON object `value` describes; `ValueError` for anything else."""
    given = _known_fields("result", value, Result)
    if "status" not in given:
        raise ValueError("status: missing")
    for name in ("stdout", "stderr"):
        if name in given:
            given[name] = _bytes_from_json(name, given[name])
    if "files" in given:
        given["files"] = {
            path: _bytes_from_json(f"files[{path!r}]", content)
            for path, content in _expect("files", given["files"], dict).items()
        }
    return Result(**given)


def _known_fields(where: str, value: object, cls: type) -> dict[str, Any]:
    given = dict(_expect(where, value, dict))
    known = [item.name for item in fields(cls)]
    for name in given:
        if name not in known:
            raise ValueError(f"{where}: unknown field {name!r}; the fields are {', '.join(known)}")
    return given


def _expect(where: str, value: object, kind: type) -> Any:
    if not isinstance(value, kind):
        got = _TYPE_NAMES.get(type(value), "null" if value is None else "a number")
        raise ValueError(f"{where}: expected {_TYPE_NAMES[kind]}, got {got}")
    return value


def _content_to_json(content: str | bytes) -> str | dict[str, str]:
    if isinstance(content, str):
        return content
    try:
        return content.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(content).decode("ascii")}


def _content_from_json(where: str, value: object) -> str | bytes:
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping) and set(value) == {"base64"} and isinstance(value["base64"], str):
        try:
            return base64.b64decode(value["base64"], validate=True)
        except (binascii.Error, ValueError):
            raise ValueError(f"{where}: its base64 is not valid") from None
    raise ValueError(f'{where}: expected a string or {{"base64": "…"}}')


def _bytes_from_json(where: str, value: object) -> bytes:
    content = _content_from_json(where, value)
    return content.encode() if isinstance(content, str) else content


# The published schemas (JSON Schema 2020-12).

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_TEXT = {"type": "string"}
_TEXT_MAP = {"type": "object", "additionalProperties": _TEXT}
_CONTENT = {
    "description": "UTF-8 text as a string, any other bytes as base64",
    "anyOf": [
        _TEXT,
        {
            "type": "object",
            "properties": {"base64": {"type": "string", "contentEncoding": "base64"}},
            "required": ["base64"],
            "additionalProperties": False,
        },
    ],
}
_CONTENT_MAP = {"type": "object", "additionalProperties": _CONTENT}
_PATH = {"type": "string", "pattern": "^[^/]", "description": "relative to /box; no '.' or '..'"}
_SECONDS = {"type": "number", "exclusiveMinimum": 0}
_COUNT = {"type": "integer", "minimum": 1}


def _optional(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


_LIMIT_SCHEMAS: dict[str, dict[str, Any]] = {
    "wall_time": {**_SECONDS, "description": "seconds"},
    "cpu_time": {**_optional(_SECONDS), "description": "seconds; null: as much as wall_time"},
    "memory": {**_COUNT, "description": "bytes of all memory of the jail, its files included"},
    "processes": {**_COUNT, "description": "processes and threads"},
    "output": {**_COUNT, "description": "bytes of stdout and of stderr, each"},
    "disk": {**_COUNT, "description": "bytes in the working directory"},
    "open_files": {**_COUNT, "description": "descriptors"},
}
_JOB_SCHEMAS: dict[str, dict[str, Any]] = {
    "source": {**_CONTENT, "description": "the script's text"},
    "runtime": {"type": "string", "minLength": 1, "description": "a runtime of the worker"},
    "args": {"type": "array", "items": _TEXT, "description": "the script's arguments"},
    "stdin": {**_CONTENT, "description": "standard input; end of file follows"},
    "env": {**_TEXT_MAP, "description": "added to the runtime's environment"},
    "files": {**_CONTENT_MAP, "propertyNames": _PATH, "description": "placed before the start"},
    "collect": {"type": "array", "items": _PATH, "description": "files to return, paths or globs"},
    "limits": {},
    "labels": {**_TEXT_MAP, "description": "returned with the result, unread"},
}
_TIMESTAMP = {**_optional({"type": "number"}), "description": "Unix seconds"}
_RESULT_SCHEMAS: dict[str, dict[str, Any]] = {
    "status": {"enum": [status.value for status in Status]},
    "exit_code": _optional({"type": "integer"}),
    "signal": _optional(_TEXT),
    "stdout": _CONTENT,
    "stderr": _CONTENT,
    "stdout_truncated": {"type": "boolean"},
    "stderr_truncated": {"type": "boolean"},
    "wall_time": {"type": "number", "minimum": 0, "description": "seconds"},
    "cpu_time": {**_optional({"type": "number", "minimum": 0}), "description": "seconds"},
    "memory": {**_optional({"type": "integer", "minimum": 0}), "description": "peak, bytes"},
    "files": _CONTENT_MAP,
    "labels": _TEXT_MAP,
    "error": _optional(_TEXT),
    "worker": _optional(_TEXT),
    "submitted_at": _TIMESTAMP,
    "started_at": _TIMESTAMP,
    "finished_at": _TIMESTAMP,
    "attempts": {"type": "integer", "minimum": 0},
}


def schemas() -> dict[str, dict[str, Any]]:
    """Give the JSON Schemas of `Job` and `Result`, by those names."""
    limits = {**_object(Limits, _LIMIT_SCHEMAS), "description": "what the job may use"}
    return {
        "Job": {"$schema": _DIALECT, **_object(Job, {**_JOB_SCHEMAS, "limits": limits})},
        "Result": {"$schema": _DIALECT, **_object(Result, _RESULT_SCHEMAS)},
    }


def _object(cls: type, properties: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Describe dataclass `cls`: its defaults and what it requires come from the class itself."""
    described: dict[str, Any] = {}
    required: list[str] = []
    for item in fields(cls):
        described[item.name] = dict(properties[item.name])
        if item.default is not MISSING and isinstance(item.default, int | float | str | None):
            described[item.name]["default"] = item.default
        elif item.default is MISSING and item.default_factory is MISSING:
            required.append(item.name)
    return {
        "title": cls.__name__,
        "type": "object",
        "properties": described,
        "required": required,
        "additionalProperties": False,
    }
