"""What an operator may set, and how Celery is told of it."""

import ssl
from dataclasses import fields
from pathlib import Path

import pytest
from kombu import Connection

from sandbox_core.job import MIB, Limits, exceeded
from worker.settings import TABLE, Settings, broker_url


def test_without_anything_set_there_are_defaults() -> None:
    """The ones that the documentation tells."""
    settings = Settings.from_environment({})

    assert settings.redis_url == "redis://localhost:6379/0"
    assert settings.runtimes is None
    assert settings.result_expires == 86_400
    assert settings.max_attempts == 3
    assert settings.maxima == Limits(
        wall_time=60,
        cpu_time=240,
        memory=1024 * MIB,
        processes=64,
        output=16 * MIB,
        disk=256 * MIB,
        open_files=1024,
    )


def test_a_job_that_asks_for_nothing_is_within_the_maxima() -> None:
    """Else a worker as it is installed would refuse everything."""
    assert exceeded(Limits(), Settings.from_environment({}).maxima) is None


def test_the_environment_is_read() -> None:
    """Sizes with their units; set to nothing is unset."""
    settings = Settings.from_environment(
        {
            "SANDBOXED_REDIS_URL": "unix:///run/redis.sock",
            "SANDBOXED_RUNTIMES": "/etc/runtimes.toml",
            "SANDBOXED_MAX_WALL_TIME": "2.5",
            "SANDBOXED_MAX_MEMORY": "64m",
            "SANDBOXED_MAX_DISK": "4096",
            "SANDBOXED_MAX_ATTEMPTS": "",
        }
    )

    assert settings.redis_url == "unix:///run/redis.sock"
    assert settings.runtimes == Path("/etc/runtimes.toml")
    assert settings.maxima.wall_time == 2.5
    assert settings.maxima.memory == 64 * MIB
    assert settings.maxima.disk == 4096
    assert settings.max_attempts == 3


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SANDBOXED_MAX_WALL_TIME", "0"),
        ("SANDBOXED_MAX_WALL_TIME", "nan"),
        ("SANDBOXED_MAX_WALL_TIME", "inf"),
        ("SANDBOXED_MAX_CPU_TIME", "10s"),
        ("SANDBOXED_MAX_MEMORY", "much"),
        ("SANDBOXED_MAX_MEMORY", "0"),
        ("SANDBOXED_MAX_MEMORY", "9999999999999G"),
        ("SANDBOXED_MAX_PROCESSES", "-1"),
        ("SANDBOXED_MAX_PROCESSES", "1.5"),
        ("SANDBOXED_MAX_OPEN_FILES", "²"),
        ("SANDBOXED_RESULT_EXPIRES", "1 day"),
        ("SANDBOXED_MAX_ATTEMPTS", "0"),
    ],
)
def test_a_bad_value_is_named(variable: str, value: str) -> None:
    """With the variable, the value, and what would be right."""
    with pytest.raises(ValueError, match=f"{variable}='{value}': expected a ") as raised:
        Settings.from_environment({variable: value})

    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "localhost:6379",
        "mysql://:secret@host",
        "redis://:secret@host:port",
        "redis://:secret@host/name",
        "redis:///0",
        "unix://:secret@run/redis.sock",
        "unix:///run/redis.sock?db=first&password=secret",
        "unix://",
    ],
)
def test_a_bad_address_is_named_without_its_password(url: str) -> None:
    """It may end in a log."""
    with pytest.raises(ValueError, match=r"^SANDBOXED_REDIS_URL: expected redis://") as raised:
        Settings.from_environment({"SANDBOXED_REDIS_URL": url})

    assert "secret" not in str(raised.value)


def test_a_password_is_not_shown() -> None:
    """Neither is the address around it."""
    settings = Settings.from_environment({"SANDBOXED_REDIS_URL": "redis://:secret@host"})

    assert "secret" not in repr(settings)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://:pw@h/3", "redis://:pw@h/3"),
        ("rediss://h:6380/0", "rediss://h:6380/0?ssl_cert_reqs=required"),
        ("rediss://h/0?ssl_cert_reqs=none", "rediss://h/0?ssl_cert_reqs=none"),
        ("unix:///run/r.sock", "redis+socket:///run/r.sock?virtual_host=0"),
        ("unix:///run/r.sock?db=2", "redis+socket:///run/r.sock?virtual_host=2"),
        ("unix://me:p%40w@/r.sock", "redis+socket://me:p%40w@/r.sock?virtual_host=0"),
        ("unix:///r.sock?password=p%40w", "redis+socket://:p%40w@/r.sock?virtual_host=0"),
        ("redis+socket:///r.sock?virtual_host=4", "redis+socket:///r.sock?virtual_host=4"),
    ],
)
def test_an_address_is_written_as_celery_reads_it(url: str, expected: str) -> None:
    """Which knows no unix://, and wants to be told how to check a certificate."""
    assert broker_url(url) == expected


def test_a_certificate_is_checked() -> None:
    """As redis-py does where nothing is said."""
    connection = Connection(broker_url("rediss://h:6380/0"))

    assert connection.ssl == {"ssl_cert_reqs": ssl.CERT_REQUIRED}


def test_the_table_is_complete() -> None:
    """Each field of the settings has its line, each line its variable and its reason."""
    assert set(TABLE) == {field.name for field in fields(Settings)}
    for setting in TABLE.values():
        assert setting.variable.startswith("SANDBOXED_")
        assert setting.why.endswith(".")
        assert setting.unit
