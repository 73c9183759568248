"""What an operator may set, read from the environment.

One table holds every setting: its variable, its default, its unit and why it is there. Reading it
(`Settings.from_environment`) is the caller's step: importing this module does nothing.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

import click

from sandbox_core import options
from sandbox_core.job import Limits

#: The variable that names the queue's Redis, for the producer as for the worker.
REDIS_URL = "SANDBOXED_REDIS_URL"

LOG_FORMATS = ("human", "json")


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) < 1 << 63:
        raise ValueError("a whole number from 1")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ValueError("a number of seconds above 0")
    return value


def _size(text: str) -> int:
    try:
        value = options.size(text)
    except click.BadParameter:
        value = 0
    if not 1 <= value < 1 << 63:
        raise ValueError("a size: bytes, or with K, M or G (powers of 1024), such as 64M")
    return value


def _port(text: str) -> int | None:
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:  # noqa: PLR2004
        raise ValueError("a port, from 1 to 65535")
    return int(text)


def _host(text: str) -> str:
    if not re.fullmatch(r"[\w.:-]+", text, re.ASCII):
        raise ValueError("an address such as 127.0.0.1, or a host's name")
    return text


def _log_format(text: str) -> str:
    if text not in LOG_FORMATS:
        raise ValueError(" or ".join(LOG_FORMATS))
    return text


def _path(text: str) -> Path | None:
    return Path(text).absolute() if text else None


def _redis_url(text: str) -> str:
    try:
        broker_url(text)
    except ValueError:
        raise ValueError(
            "redis://[user:password@]host[:port][/db], rediss://…, unix:///path[?db=N] or "
            "redis+socket:///path[?virtual_host=N]"
        ) from None
    return text


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: where it is read from, what it is worth unset, and why it is there.

    `default` is written as the environment would write it; `read` gives the value of such a text,
    or raises `ValueError` with what it expects. A `secret` is not repeated in an error.
    """

    variable: str
    default: str
    unit: str
    why: str
    read: Callable[[str], Any]
    secret: bool = False

    def value(self, env: Mapping[str, str]) -> Any:
        """Give the setting's value in `env`; set to nothing is as good as unset."""
        text = env.get(self.variable, "").strip() or self.default
        try:
            return self.read(text)
        except ValueError as error:
            shown = "" if self.secret else f"={text!r}"
            raise ValueError(f"{self.variable}{shown}: expected {error}") from None


#: Every setting, by the field of `Settings` that holds it.
TABLE: Mapping[str, Setting] = {
    "redis_url": Setting(
        REDIS_URL,
        "redis://localhost:6379/0",
        "URL",
        "The Redis that holds the queue and the results; the one secret that a worker has.",
        _redis_url,
        secret=True,  # a password may be in it
    ),
    "runtimes": Setting(
        "SANDBOXED_RUNTIMES",
        "",
        "path",
        "A runtimes.toml with runtimes beyond the built-in ones; unset for these alone.",
        _path,
    ),
    "max_wall_time": Setting(
        "SANDBOXED_MAX_WALL_TIME",
        "60",
        "seconds",
        "The longest job that is taken. Redelivery after a lost worker and the worker's own time "
        "limits are counted from it: a large one makes recovery slow.",
        _seconds,
    ),
    "max_cpu_time": Setting(
        "SANDBOXED_MAX_CPU_TIME",
        "240",
        "seconds",
        "The most CPU time that a job may ask for: four processors, all of the longest wall time.",
        _seconds,
    ),
    "max_memory": Setting(
        "SANDBOXED_MAX_MEMORY",
        "1G",
        "bytes",
        "The most memory that a job may ask for. Times the concurrency it should fit the host.",
        _size,
    ),
    "max_processes": Setting(
        "SANDBOXED_MAX_PROCESSES",
        "64",
        "count",
        "The most processes and threads; they share the host's process table with the worker.",
        _number,
    ),
    "max_output": Setting(
        "SANDBOXED_MAX_OUTPUT",
        "16M",
        "bytes",
        "The most of stdout and of stderr, each: a result is held in memory and in Redis whole.",
        _size,
    ),
    "max_disk": Setting(
        "SANDBOXED_MAX_DISK",
        "256M",
        "bytes",
        "The largest working directory; it is a tmpfs, so it is memory, and is charged as such.",
        _size,
    ),
    "max_open_files": Setting(
        "SANDBOXED_MAX_OPEN_FILES",
        "1024",
        "count",
        "The most open descriptors; each is memory of the kernel that no job's limit counts.",
        _number,
    ),
    "result_expires": Setting(
        "SANDBOXED_RESULT_EXPIRES",
        "86400",
        "seconds",
        "How long a result waits in Redis to be fetched; all of them must fit its memory.",
        _number,
    ),
    "max_attempts": Setting(
        "SANDBOXED_MAX_ATTEMPTS",
        "3",
        "count",
        "How often a job is taken, all in all, when the worker fails under it; then it ends as "
        "internal_error, so that a job which kills its worker does not do so for ever.",
        _number,
    ),
    "log_format": Setting(
        "SANDBOXED_LOG_FORMAT",
        "human",
        "human or json",
        "How a line of the log is written. A job has one, at the level INFO.",
        _log_format,
    ),
    "metrics_port": Setting(
        "SANDBOXED_METRICS_PORT",
        "",
        "port",
        "Where Prometheus scrapes this worker, as with --metrics-port; unset for no metrics.",
        _port,
    ),
    "metrics_address": Setting(
        "SANDBOXED_METRICS_ADDRESS",
        "127.0.0.1",
        "address",
        "The address of that port. Whoever reaches it may read the metrics, so this host alone.",
        _host,
    ),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What the operator chose; `TABLE` says what each field means and in which unit."""

    redis_url: str = field(repr=False)
    runtimes: Path | None
    max_wall_time: float
    max_cpu_time: float
    max_memory: int
    max_processes: int
    max_output: int
    max_disk: int
    max_open_files: int
    result_expires: int
    max_attempts: int
    log_format: str
    metrics_port: int | None
    metrics_address: str

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> Self:
        """Read every setting; `ValueError` names the variable, its value and what it expects."""
        return cls(**{name: setting.value(env) for name, setting in TABLE.items()})

    @property
    def maxima(self) -> Limits:
        """The most that a job may ask for, limit by limit."""
        return Limits(
            wall_time=self.max_wall_time,
            cpu_time=self.max_cpu_time,
            memory=self.max_memory,
            processes=self.max_processes,
            output=self.max_output,
            disk=self.max_disk,
            open_files=self.max_open_files,
        )


def broker_url(url: str) -> str:
    """Give a Redis URL as Celery writes it; `ValueError` for what is none.

    Celery knows a unix socket as `redis+socket:///path?virtual_host=0` only (kombu.transport), and
    takes its password before the `@` alone.
    """
    parts = urlsplit(url)
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    if parts.scheme in ("redis", "rediss"):
        _database(parts.path.strip("/") or "0")
        if not parts.hostname or parts.port == 0:  # .port raises ValueError where it is no number
            raise ValueError("no host")
        if parts.scheme == "rediss" and "ssl_cert_reqs" not in query:
            # Celery refuses to start without a choice; the safe one is what redis-py would take.
            query["ssl_cert_reqs"] = "required"
            return parts._replace(query=urlencode(query)).geturl()
        return url
    if parts.scheme not in ("unix", "redis+socket") or len(parts.path) < len("/s"):
        raise ValueError("no Redis URL")
    host = parts.netloc.rpartition("@")[2]
    if host:
        raise ValueError("a relative path")  # unix://run/redis: its first part reads as a host
    database = _database(query.get("virtual_host") or query.get("db") or "0")
    user = unquote(parts.username or "")
    password = unquote(parts.password or "") or query.get("password", "")
    login = f"{quote(user, safe='')}:{quote(password, safe='')}@" if user or password else ""
    return f"redis+socket://{login}{parts.path}?virtual_host={database}"


def _database(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise ValueError("no number of a database")
    return int(text)
