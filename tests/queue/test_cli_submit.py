"""`sandboxed submit`, `result` and `cancel`: the exit codes and the words of `sandboxed run`."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SANDBOXED = [sys.executable, "-m", "sandbox_core.cli"]

Sandboxed = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def sandboxed(worker: Any, tmp_path: Path) -> Sandboxed:
    """Run `sandboxed` where a worker serves the queue; `main.py` is the script `source`."""

    def run(*arguments: str, source: str = "", **options: Any) -> subprocess.CompletedProcess[str]:
        (tmp_path / "main.py").write_text(source)
        return subprocess.run(
            [*SANDBOXED, *arguments],
            check=False,
            capture_output=True,
            cwd=tmp_path,
            timeout=30,
            env=os.environ | {"SANDBOXED_REDIS_URL": worker.url},
            **{"text": True, "input": "", **options},
        )

    return run


def test_the_scripts_output_passes_through(sandboxed: Sandboxed) -> None:
    """With its arguments, its input and its exit code."""
    source = "import sys; print(sys.argv[1:], input()); print('e', file=sys.stderr); sys.exit(7)"

    done = sandboxed("submit", "main.py", "--json", "b", source=source, input="typed\n")

    assert (done.returncode, done.stdout, done.stderr) == (7, "['--json', 'b'] typed\n", "e\n")


def test_output_that_is_no_text_passes_through(sandboxed: Sandboxed) -> None:
    """To the byte."""
    source = "import sys; sys.stdout.buffer.write(b'\\xff\\x00')"

    done = sandboxed("submit", "main.py", source=source, text=False, input=b"")

    assert (done.returncode, done.stdout) == (0, b"\xff\x00")


def test_a_limit_is_told_by_exit_code_and_one_line(sandboxed: Sandboxed) -> None:
    """As timeout(1) does it."""
    done = sandboxed("submit", "--wall-time", "0.5", "main.py", source="while True: pass")

    assert done.returncode == 124
    assert done.stderr == "sandboxed: time limit: 0.5 s\n"


def test_json_prints_the_result(sandboxed: Sandboxed) -> None:
    """And exits with 0, whatever the script did."""
    source = "import sys; sys.exit(7)"

    done = sandboxed("submit", "--json", "--label", "a=b", "main.py", source=source)

    result = json.loads(done.stdout)
    assert done.returncode == 0
    assert (result["status"], result["exit_code"]) == ("nonzero_exit", 7)
    assert result["labels"] == {"a": "b"}


def test_collected_files_are_written(sandboxed: Sandboxed, tmp_path: Path) -> None:
    """Below the folder that is named, which is made."""
    done = sandboxed(
        *("submit", "--collect", "*.txt", "--out", "got", "main.py"),
        source="open('a.txt', 'w').write('text')",
    )

    assert done.returncode == 0
    assert (tmp_path / "got/a.txt").read_text() == "text"


def test_a_job_that_the_worker_refuses_is_told(sandboxed: Sandboxed) -> None:
    """In one line, with the worker's reason."""
    done = sandboxed("submit", "--runtime", "cobol", "main.py")

    assert done.returncode == 2
    assert done.stderr.startswith("sandboxed: invalid job: ")
    assert "cobol" in done.stderr
    assert done.stderr.count("\n") == 1


def test_no_wait_prints_the_id_for_result(sandboxed: Sandboxed) -> None:
    """The result is printed as submit would have."""
    source = "import sys; print('done'); sys.exit(4)"
    submitted = sandboxed("submit", "--no-wait", "main.py", source=source)
    job_id = submitted.stdout.strip()
    assert (submitted.returncode, submitted.stdout) == (0, f"{job_id}\n")

    done = sandboxed("result", job_id)
    as_json = sandboxed("result", "--json", job_id)

    assert (done.returncode, done.stdout) == (4, "done\n")
    assert (as_json.returncode, json.loads(as_json.stdout)["exit_code"]) == (0, 4)


def test_an_id_that_has_no_result_is_told_after_the_timeout(sandboxed: Sandboxed) -> None:
    """One line, exit code 125."""
    done = sandboxed("result", "--timeout", "0.1", "no-such-job")

    assert done.returncode == 125
    assert done.stderr.startswith("sandboxed: no result of job no-such-job within 0.1 s: ")
    assert done.stderr.count("\n") == 1


def test_cancel_stops_a_job_and_tells_when_it_was_done(sandboxed: Sandboxed) -> None:
    """Exit code 0, then 1; the result says cancelled."""
    source = "import time; time.sleep(20)"
    options = ("--no-wait", "--wall-time", "30")
    job_id = sandboxed("submit", *options, "main.py", source=source).stdout.strip()

    assert sandboxed("cancel", job_id).returncode == 0
    ended = sandboxed("result", job_id)
    assert (ended.returncode, ended.stderr) == (130, "sandboxed: cancelled\n")
    again = sandboxed("cancel", job_id)
    assert (again.returncode, again.stderr) == (1, f"sandboxed: job {job_id} was done already\n")


def test_the_end_of_patience_cancels_the_job(sandboxed: Sandboxed) -> None:
    """Exit code 125, since the queue did not do its work."""
    source = "import time; time.sleep(20)"
    options = ("--timeout", "1", "--wall-time", "30")

    done = sandboxed("submit", *options, "main.py", source=source)

    assert done.returncode == 125
    assert "within 1 s: a worker has taken it" in done.stderr
    job_id = done.stderr.split("job ")[1].split()[0]
    assert sandboxed("result", job_id).returncode == 130


def test_ctrl_c_cancels_the_job(worker: Any, tmp_path: Path) -> None:
    """Exit code 130, and nothing runs on."""
    (tmp_path / "main.py").write_text("import time; time.sleep(20)")
    before = set(worker.redis.keys("sandboxed:attempts:*"))
    command = [*SANDBOXED, "submit", "--wall-time", "30", "main.py"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=os.environ | {"SANDBOXED_REDIS_URL": worker.url},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        deadline = time.monotonic() + 10
        while not (taken := set(worker.redis.keys("sandboxed:attempts:*")) - before):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)

    assert (process.returncode, errors) == (130, b"")
    (key,) = taken
    job_id = key.decode().rpartition(":")[2]
    assert worker.result(job_id, 5)["status"] == "cancelled"


def test_an_unreachable_redis_is_one_line(sandboxed: Sandboxed) -> None:
    """Exit code 125; the address is named, the password is not."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    url = f"redis://user:s3cret@127.0.0.1:{port}/1"

    for command in (["submit", "--redis", url, "main.py"], ["cancel", "--redis", url, "some-id"]):
        done = sandboxed(*command)

        assert done.returncode == 125
        assert f"127.0.0.1:{port}/1" in done.stderr
        assert "s3cret" not in done.stderr
        assert done.stderr.count("\n") == 1


def test_wrong_credentials_are_one_line(sandboxed: Sandboxed, worker: Any) -> None:
    """Exit code 125 too: the queue could not do its work."""
    url = worker.url.replace("unix://", "unix://nobody:s3cret@")
    if url == worker.url:
        pytest.skip("the Redis of these tests has credentials of its own")

    done = sandboxed("submit", "--redis", url, "main.py")

    assert done.returncode == 125
    assert "refuses the credentials" in done.stderr
    assert "s3cret" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_url_that_is_none_is_bad_usage(sandboxed: Sandboxed) -> None:
    """Exit code 2, naming the option."""
    done = sandboxed("submit", "--redis", "localhost", "main.py")

    assert done.returncode == 2
    assert "--redis: expected one that begins with redis://" in done.stderr
    assert done.stderr.count("\n") == 1
