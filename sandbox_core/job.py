"""The vocabulary of a job: `Job`, `Limits`, `Result`, `Status`.

Pure: no system call, no third-party import, any operating system. Every value is checked where it is
made, so that what holds a `Job` holds a valid one. How these travel as JSON is `sandbox_core.wire`'s.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import NoReturn

KIB = 1024
MIB = 1024 * KIB

#: Bytes in one component of a path, and in a whole path, that Linux takes (limits.h).
_NAME_MAX = 255
_PATH_MAX = 4095

#: Each pattern is held against each file, of which there may be thousands.
_MAX_PATTERNS = 256

#: The built-in runtimes whose script is called `main.py`; an operator's runtimes choose their own.
_PYTHON_RUNTIMES = ("python", "python-exec")


class _Frozen(dict[str, object]):
    """A dict that can't be changed, so that an immutable job is immutable all through."""

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("a job's mappings can't be changed; make another Job")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[type["_Frozen"], tuple[dict[str, object]]]:
        return _Frozen, (dict(self),)


class Status(StrEnum):
    """How a job ended."""

    OK = "ok"
    NONZERO_EXIT = "nonzero_exit"
    SIGNALED = "signaled"
    TIME_LIMIT = "time_limit"
    MEMORY_LIMIT = "memory_limit"
    OUTPUT_LIMIT = "output_limit"
    CANCELLED = "cancelled"
    INVALID_JOB = "invalid_job"
    INTERNAL_ERROR = "internal_error"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a job may use.

    `wall_time` and `cpu_time` are seconds (`cpu_time` None means as much as `wall_time`), `memory`
    (of the whole jail, its files included), `output` (of stdout and of stderr, each) and `disk` are
    bytes, `processes` counts processes and threads, `open_files` descriptors.

    Raises `ValueError`, naming the field, for a value that is no such quantity.
    """

    wall_time: float = 6.0
    cpu_time: float | None = None
    memory: int = 128 * MIB
    processes: int = 1
    output: int = 1 * MIB
    disk: int = 16 * MIB
    open_files: int = 64

    def __post_init__(self) -> None:
        _set(self, "wall_time", _seconds("wall_time", self.wall_time))
        if self.cpu_time is not None:
            _set(self, "cpu_time", _seconds("cpu_time", self.cpu_time))
        for name in ("memory", "processes", "output", "disk", "open_files"):
            _count(name, getattr(self, name))

    @property
    def effective_cpu_time(self) -> float:
        """Seconds of CPU that the job may use: `cpu_time`, or `wall_time` where that is None."""
        return self.wall_time if self.cpu_time is None else self.cpu_time


@dataclass(frozen=True, slots=True)
class Job:
    """A script to run, with all that it is given.

    `source` is the script's text and `stdin` its whole input (str is UTF-8); `args` is
    `sys.argv[1:]`; `env` is added to the runtime's own small environment; `files` maps paths below
    the working directory to contents placed there before the start; `collect` names, by path or
    glob (`*`, `?`, `[…]`, and `**` for any depth), the regular files to return; `labels` come back
    with the result unread.

    Raises `ValueError`, naming the field, for a job that can't be run.
    """

    source: str | bytes
    runtime: str = "python"
    args: tuple[str, ...] = ()
    stdin: str | bytes = b""
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    collect: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _content("source", self.source)
        _runtime(self.runtime)
        _set(self, "args", _strings("args", self.args))
        _content("stdin", self.stdin)
        _set(self, "env", _mapping("env", self.env, _env_entry))
        _set(self, "files", _mapping("files", self.files, _file_entry))
        _set(self, "collect", _strings("collect", self.collect))
        if len(self.collect) > _MAX_PATTERNS:
            raise ValueError(f"collect: {len(self.collect)} patterns, at most {_MAX_PATTERNS}")
        for pattern in self.collect:
            _relative_path("collect", pattern)
        if not isinstance(self.limits, Limits):
            raise ValueError(f"limits: expected Limits, got {_kind(self.limits)}")
        _set(self, "labels", _mapping("labels", self.labels, _label_entry))
        self._check_placement()

    def _check_placement(self) -> None:
        """Refuse files that can't stand side by side, or that don't fit."""
        for path in self.files:
            parts = path.split("/")
            for depth in range(1, len(parts)):
                parent = "/".join(parts[:depth])
                if parent in self.files:
                    raise ValueError(f"files: {parent!r} is both a file and the folder of {path!r}")
        if self.runtime in _PYTHON_RUNTIMES and "main.py" in self.files:
            raise ValueError("files: 'main.py' is where the source itself is placed")
        size = len(content_bytes(self.source)) + sum(
            len(content_bytes(content)) for content in self.files.values()
        )
        if size > self.limits.disk:
            raise ValueError(
                f"files: the source and the files are {size} bytes, more than limits.disk "
                f"({self.limits.disk})"
            )


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a job.

    `exit_code` is None unless the script exited by itself, `signal` (`"SIGSEGV"`) is None unless a
    signal ended it. `wall_time` and `cpu_time` (user plus system, of everything in the jail) are
    seconds, `memory` is the peak in bytes; a number that the kernel can't give is None. `files`
    maps the collected paths to their bytes. `error` explains `invalid_job` and `internal_error`.
    `worker` is the Celery node that ran the job; `submitted_at`, `started_at` and `finished_at` are
    Unix seconds, None where they have no meaning; `attempts` counts how often the job was taken.
    """

    status: Status
    exit_code: int | None = None
    signal: str | None = None
    stdout: bytes = b""
    stderr: bytes = b""
    stdout_truncated: bool = False
    stderr_truncated: bool = False
    wall_time: float = 0.0
    cpu_time: float | None = 0.0
    memory: int | None = 0
    files: Mapping[str, bytes] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    error: str | None = None
    worker: str | None = None
    submitted_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    attempts: int = 1

    def __post_init__(self) -> None:
        _set(self, "status", Status(self.status))
        _set(self, "files", _Frozen(self.files))
        _set(self, "labels", _Frozen(self.labels))

    @property
    def ok(self) -> bool:
        """Whether the script ran to its end and exited with 0."""
        return self.status is Status.OK

    @property
    def text(self) -> str:
        """Standard output as text: UTF-8, with U+FFFD for what is not."""
        return self.stdout.decode("utf-8", "replace")


def content_bytes(content: str | bytes) -> bytes:
    """Give `content` as the bytes that the job will see."""
    return content.encode() if isinstance(content, str) else content


def exceeded(limits: Limits, maxima: Limits) -> str | None:
    """Say which limit asks for more than its maximum, or None when all are within.

    The text names the limit, the asked value and the maximum.
    """
    for item in fields(Limits):
        if item.name == "cpu_time":
            asked, maximum = limits.effective_cpu_time, maxima.effective_cpu_time
        else:
            asked, maximum = getattr(limits, item.name), getattr(maxima, item.name)
        if asked > maximum:
            return f"limits.{item.name}: {asked} is more than this worker's maximum, {maximum}"
    return None


# Checks, each naming the field it refuses.


def _set(instance: object, name: str, value: object) -> None:
    object.__setattr__(instance, name, value)  # the way past a frozen dataclass's own __setattr__


def _kind(value: object) -> str:
    return type(value).__name__


def _seconds(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"limits.{name}: expected a number of seconds, got {_kind(value)}")
    if not value > 0 or math.isinf(value):
        raise ValueError(f"limits.{name}: expected a finite number above 0, got {value}")
    return float(value)


def _count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"limits.{name}: expected a whole number, got {_kind(value)}")
    if not 1 <= value < 1 << 63:
        raise ValueError(f"limits.{name}: expected a number from 1 to 2**63 - 1, got {value}")


def _text(where: str, value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where}: expected str, got {_kind(value)}")
    if "\0" in value:
        raise ValueError(f"{where}: {value!r} contains a NUL")
    _encodable(where, value)
    return value


def _encodable(where: str, value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{where}: has a lone surrogate, which is not UTF-8 text") from None


def _content(where: str, value: object) -> None:
    if isinstance(value, str):
        _encodable(where, value)
    elif not isinstance(value, bytes):
        raise ValueError(f"{where}: expected str or bytes, got {_kind(value)}")


def _runtime(value: object) -> None:
    if not _text("runtime", value):
        raise ValueError("runtime: expected the name of a runtime, got ''")


def _strings(where: str, value: object) -> tuple[str, ...]:
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise ValueError(f"{where}: expected a sequence of str, got {_kind(value)}")
    return tuple(_text(f"{where}[{index}]", item) for index, item in enumerate(value))


def _mapping(where: str, value: object, check_entry: Callable[[str, object], None]) -> _Frozen:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}: expected a mapping, got {_kind(value)}")
    for key, entry in value.items():
        check_entry(_text(f"{where} (a key)", key), entry)
    return _Frozen(value)


def _env_entry(name: str, value: object) -> None:
    if not name or "=" in name:
        raise ValueError(f"env: {name!r} is no name of a variable")
    _text(f"env[{name!r}]", value)


def _file_entry(path: str, content: object) -> None:
    _relative_path("files", path)
    _content(f"files[{path!r}]", content)


def _label_entry(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise ValueError(f"labels[{name!r}]: expected str, got {_kind(value)}")
    _encodable(f"labels[{name!r}]", value)


def _relative_path(where: str, path: str) -> None:
    """Refuse a path that is not plainly below the working directory."""
    if path.startswith("/"):
        raise ValueError(f"{where}: {path!r} is absolute; paths are relative to /box")
    for part in path.split("/"):
        if part in ("", ".", ".."):
            raise ValueError(f"{where}: {path!r} has an empty, '.' or '..' component")
        if len(part.encode()) > _NAME_MAX:
            raise ValueError(f"{where}: {path!r} has a component of over {_NAME_MAX} bytes")
    if len(path.encode()) > _PATH_MAX:
        raise ValueError(f"{where}: a path of over {_PATH_MAX} bytes")
