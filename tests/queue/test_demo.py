"""The examples through a real queue: `sandboxed demo`, and the programs that submit jobs."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker import children
from worker.demo import EXAMPLES, load_examples
from worker.redis_server import EmbeddedRedis
from worker.settings import REDIS_URL

BIN = Path(sys.executable).parent
ALL = load_examples()


def demo(*words: str) -> "subprocess.CompletedProcess[str]":
    """Run `sandboxed demo` with a Redis of its own."""
    return subprocess.run(
        [BIN / "sandboxed", "demo", *words], capture_output=True, text=True, timeout=60, check=False
    )


def test_the_demo_shows_every_example_ending_as_expected() -> None:
    """Through a real queue."""
    done = demo()

    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert f"{len(ALL)} of {len(ALL)} as expected" in done.stdout
    for example in ALL:
        assert f"{example.name} " in done.stdout


def test_the_demo_exits_with_1_when_an_example_surprises(tmp_path: Path) -> None:
    """And says which, and how."""
    shutil.copytree(EXAMPLES / "scripts", tmp_path / "scripts")
    (tmp_path / "examples.toml").write_text(
        '[[example]]\nname = "fine"\nscript = "scripts/hello.py"\nstatus = "ok"\n'
        '[[example]]\nname = "odd"\nscript = "scripts/exit_code.py"\nstatus = "ok"\n',
        encoding="utf-8",
    )
    done = demo("--examples", str(tmp_path))

    assert done.returncode == 1
    assert "1 of 2 as expected" in done.stdout
    assert "odd: status nonzero_exit, not ok" in done.stdout


def test_ctrl_c_ends_the_demo_within_seconds() -> None:
    """Without a word, and without the Redis and the worker that it started."""
    with subprocess.Popen(
        [BIN / "sandboxed", "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        time.sleep(2.5)  # it has submitted its jobs
        started = subprocess.run(
            ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
        ).stdout.split()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=10)

    assert (process.returncode, said) == (130, b"")
    assert len(started) == 2
    assert [pid for pid in started if Path(f"/proc/{pid}").exists()] == []


def test_the_demo_says_where_its_examples_are_to_be_had(tmp_path: Path) -> None:
    """The installed package has none."""
    done = demo("--examples", str(tmp_path))

    assert done.returncode == 2
    assert "--examples DIR" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_table_with_a_misspelt_field_is_refused(tmp_path: Path) -> None:
    """By the name of the example."""
    (tmp_path / "x.py").write_bytes(b"")
    (tmp_path / "examples.toml").write_text(
        '[[example]]\nname = "typo"\nscript = "x.py"\nstatus = "ok"\nexitcode = 3\n',
        encoding="utf-8",
    )
    with pytest.raises(ValueError, match=r"examples\.toml: typo: .*exitcode"):
        load_examples(tmp_path)


@pytest.fixture(scope="module")
def queue_url() -> Iterator[str]:
    """Give the address of a queue with a worker."""
    with EmbeddedRedis() as redis:
        worker = children.start(
            [str(BIN / "sandboxed"), "worker", "--loglevel", "WARNING"],
            env={**os.environ, REDIS_URL: redis.url},
        )
        try:
            yield redis.url
        finally:
            children.stop(worker, 15)


@pytest.mark.parametrize(
    ("name", "told"),
    [("client_map.py", "perfect numbers: 6 28 496\n"), ("plain_celery.py", "ok  6  0.")],
)
def test_a_program_that_uses_the_queue_works_as_it_stands(queue_url: str, name: str, told: str) -> None:
    """With nothing but the address in its environment."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / name],
        env={**os.environ, REDIS_URL: queue_url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(told)
