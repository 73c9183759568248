"""`sandboxed run` and `sandboxed doctor` as a user meets them: real processes, real jails."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from sandbox_core import Status, wire
from tests.root.attacks.battery import TIME_FACTOR
from worker.redis_server import EmbeddedRedis

SANDBOXED = str(Path(sys.executable).with_name("sandboxed"))
SOON = 20.0 * TIME_FACTOR  # seconds


def run(*words: str, stdin: bytes = b"", **more: Any) -> "subprocess.CompletedProcess[bytes]":
    """Run `sandboxed run` to its end."""
    return subprocess.run(
        [SANDBOXED, "run", *words],
        input=stdin,
        capture_output=True,
        timeout=SOON,
        check=False,
        **more,
    )


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Give what writes a script and gives its name; the test runs in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def write(source: str) -> str:
        Path("script.py").write_text(source, encoding="utf-8")
        return "script.py"

    return write


# Exit codes.


@pytest.mark.parametrize(
    ("source", "options", "code", "line"),
    [
        ("", [], 0, b""),
        ("raise SystemExit(3)", [], 3, b""),
        ("raise SystemExit(255)", [], 255, b""),
        ("import os; os.kill(os.getpid(), 15)", [], 143, b"sandboxed: killed by SIGTERM\n"),
        ("import os; os.kill(os.getpid(), 9)", [], 137, b"sandboxed: killed by SIGKILL\n"),
        ("import os; os.abort()", [], 134, b"sandboxed: killed by SIGABRT\n"),
        ("import os; os.kill(os.getpid(), 37)", [], 165, b"sandboxed: killed by SIGRTMIN+3\n"),
        ("while True: pass", ["--wall-time", "0.5"], 124, b"sandboxed: time limit: 0.5 s\n"),
        (
            "while True: pass",
            ["--cpu-time", "0.3"],
            124,
            b"sandboxed: time limit: 0.3 s of CPU time\n",
        ),
        ("b = bytearray(1 << 30)", ["--memory", "64M"], 137, b"sandboxed: memory limit: 64M\n"),
        (
            "while True: print('x' * 999)",
            ["--output", "4K"],
            153,
            b"sandboxed: output limit: 4K on stdout or stderr\n",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_exit_code_and_one_line_say_how_it_ended(
    script: Any, source: str, options: list[str], code: int, line: bytes
) -> None:
    """The line is ours, so a script that ends by itself has none."""
    done = run(*options, script(source))

    assert (done.returncode, done.stderr) == (code, line)


def test_a_runtime_that_is_not_there_is_bad_usage(script: Any) -> None:
    """One line names those that are."""
    done = run("--runtime", "cobol", script(""))

    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"sandboxed: invalid job: ")
    assert b"python-exec" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_without_root_it_says_so_in_one_line() -> None:
    """And exits with 125."""
    program = (
        "import os\nfrom sandbox_core import cli, commands\nos.setuid(65534)\ncli.main(['run', '-'])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], input=b"", capture_output=True, check=False)

    assert (done.returncode, done.stdout) == (125, b"")
    assert b"root" in done.stderr
    assert done.stderr.count(b"\n") == 1


# What goes in.


def test_our_input_is_the_script_s(script: Any) -> None:
    """All of it, byte for byte, then the end of file."""
    copy = script("import sys; sys.stdout.buffer.write(sys.stdin.buffer.read())")
    everything = bytes(range(256)) * 1000

    assert run(copy, stdin=everything).stdout == everything


def test_the_input_may_come_from_a_file(script: Any) -> None:
    """Ours is left alone then."""
    Path("input").write_bytes(b"from the file")
    done = run("--stdin", "input", script("print(input())"), stdin=b"not this")

    assert done.stdout == b"from the file\n"


def test_the_script_may_come_on_our_input() -> None:
    """Its own input is then at its end."""
    done = run("-", "x", stdin=b"import sys; print(sys.argv[1:], sys.stdin.read() == '')")

    assert done.stdout == b"['x'] True\n"


def test_arguments_that_look_like_options_are_the_script_s(script: Any) -> None:
    """Options of ours come before the script."""
    done = run(script("import sys; print(sys.argv[1:])"), "--wall-time", "0", "--help", "--", "-h")

    assert done.stdout == b"['--wall-time', '0', '--help', '--', '-h']\n"


def test_env_and_files_are_given_and_our_environment_is_not(script: Any) -> None:
    """The caller's secrets stay outside."""
    Path("table").write_text("7", encoding="utf-8")
    source = script(
        "import os; print(os.environ['GIVEN'], open('data/table').read(), os.environ.get('SECRET'))"
    )
    done = run(
        "--env", "GIVEN=x=y", "--file", "data/table=table", source, env={"SECRET": "s", **os.environ}
    )

    assert done.stdout == b"x=y 7 None\n"


# What comes out.


def test_collected_files_are_written_below_the_folder(script: Any, tmp_path: Path) -> None:
    """Those that the patterns name, and no others."""
    source = script(
        "import os; os.mkdir('r')\n"
        "for name in ('r/a.csv', 'r/b.csv', 'r/c.txt'): open(name, 'w').write(name)"
    )
    done = run("--collect", "r/*.csv", "--out", "out/here", source)

    assert done.returncode == 0
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.*")) == ["a.csv", "b.csv"]
    assert (tmp_path / "out/here/r/a.csv").read_text(encoding="utf-8") == "r/a.csv"


def test_json_prints_the_result_and_nothing_else(script: Any) -> None:
    """The sandbox did its work, so the code is 0 though the script failed."""
    source = script("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)")
    done = run("--json", "--label", "n=7", source)

    assert (done.returncode, done.stderr) == (0, b"")
    result = wire.result_from_json(json.loads(done.stdout))
    assert (result.status, result.exit_code) == (Status.NONZERO_EXIT, 3)
    assert (result.stdout, result.stderr) == (b"out\n", b"err\n")
    assert result.labels == {"n": "7"}


def test_json_of_a_job_that_can_t_be_run_is_a_result_too(script: Any) -> None:
    """The code says that the sandbox did not do it."""
    done = run("--json", "--runtime", "cobol", script(""))

    assert done.returncode == 2
    assert json.loads(done.stdout)["status"] == "invalid_job"


def test_streams_that_are_closed_are_empty_ones(script: Any) -> None:
    """What the script prints goes nowhere, not into a file of ours that took the number."""
    words = f"{SANDBOXED} run --json {script('print(input())')}"
    assert subprocess.run(["sh", "-c", f"{words} <&- >&-"], check=False).returncode == 0

    done = subprocess.run(["sh", "-c", f"{words} <&-"], capture_output=True, check=False)
    assert json.loads(done.stdout)["exit_code"] == 1
    assert subprocess.run(["sh", "-c", f"{SANDBOXED} run - <&- >&- 2>&-"], check=False).returncode == 0


# Live.


def started(*words: str) -> "subprocess.Popen[bytes]":
    """Start `sandboxed run` with pipes to all three."""
    return subprocess.Popen(
        [SANDBOXED, "run", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )


def test_a_script_is_talked_with_as_it_runs(script: Any) -> None:
    """Each answer is here before the next question is asked."""
    source = script("while True:\n    line = input()\n    print(line.upper(), flush=True)")
    with started("--wall-time", f"{10 * TIME_FACTOR}", source) as process:
        assert process.stdin
        assert process.stdout
        for word in (b"one\n", b"two\n"):
            process.stdin.write(word)
            assert process.stdout.readline() == word.upper()
        process.stdin.close()
        assert process.wait(SOON) == 1  # EOFError


def test_errors_are_relayed_as_they_come(script: Any) -> None:
    """Standard error is as live as standard output."""
    source = script("import sys; print('now', file=sys.stderr, flush=True); input()")
    with started("--wall-time", f"{10 * TIME_FACTOR}", source) as process:
        assert process.stderr
        assert process.stdin
        assert process.stderr.readline() == b"now\n"
        process.stdin.write(b"\n")
        assert process.wait(SOON) == 0


def alive(pids: set[int]) -> set[int]:
    """Give those of the processes that still run."""
    return {pid for pid in pids if Path(f"/proc/{pid}").exists()}


def cgroups_of(pids: set[int]) -> dict[Path, int]:
    """Give the control groups of ours that the processes are in, with their inodes."""
    names = {
        Path(line.rpartition(":")[2]).name
        for pid in pids
        for line in Path(f"/proc/{pid}/cgroup").read_text(encoding="ascii").splitlines()
    }
    return {
        path: path.stat().st_ino
        for path in (Path(folder) for folder, _, _ in os.walk("/sys/fs/cgroup"))
        if path.name in names and path.name.startswith("sandboxed-")
    }


def still_there(cgroups: dict[Path, int]) -> list[Path]:
    """Give those of them that are left; another run may have one of the same name by now."""
    return [path for path, inode in cgroups.items() if path.exists() and path.stat().st_ino == inode]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_it_and_leaves_nothing_behind(
    script: Any, number: signal.Signals, code: int
) -> None:
    """No process, no control group, no word."""
    source = script("import time; print('here', flush=True); time.sleep(6000)")
    with started("--wall-time", "6000", source) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline() == b"here\n"
        inside = {child.pid for child in psutil.Process(process.pid).children(recursive=True)}
        cgroups = cgroups_of(inside)
        assert inside
        assert cgroups
        process.send_signal(number)
        assert process.wait(SOON) == code
        assert process.stderr.read() == b""
    deadline = time.monotonic() + 5 * TIME_FACTOR
    while alive(inside) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert alive(inside) == set()
    assert still_there(cgroups) == []


# doctor.


def doctor(*words: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """Run `sandboxed doctor`."""
    return subprocess.run(
        [SANDBOXED, "doctor", *words],
        capture_output=True,
        text=True,
        timeout=SOON,
        check=False,
        env={**os.environ, **env},
    )


def test_the_doctor_finds_that_a_job_can_run_here() -> None:
    """As the other tests do; a Redis that is away is a warning."""
    done = doctor(SANDBOXED_REDIS_URL="redis://user:hidden@127.0.0.1:1/0")

    assert (done.returncode, done.stderr) == (0, "")
    assert "A job can run here." in done.stdout
    assert "127.0.0.1:1" in done.stdout
    assert "hidden" not in done.stdout


def test_the_doctor_finds_a_redis_on_a_socket() -> None:
    """As the embedded one is."""
    with EmbeddedRedis() as server:
        found = json.loads(doctor("--json", SANDBOXED_REDIS_URL=server.url).stdout)[-1]

    assert found["ok"], found


def test_the_doctor_gives_redis_its_password() -> None:
    """And says no more of it when Redis refuses it."""
    with EmbeddedRedis() as server:
        with redis.Redis.from_url(server.url) as client:
            client.config_set("requirepass", "p@ss")
        path = server.url.removeprefix("unix://")
        right = json.loads(doctor("--json", SANDBOXED_REDIS_URL=f"unix://:p%40ss@{path}").stdout)[-1]
        wrong = doctor("--json", SANDBOXED_REDIS_URL=f"unix://:hidden@{path}")

    assert right["ok"], right
    assert "refuses the credentials" in json.loads(wrong.stdout)[-1]["found"]
    assert "hidden" not in wrong.stdout


def test_the_doctor_speaks_json() -> None:
    """One object for each part."""
    checks = json.loads(doctor("--json").stdout)

    assert {"name", "ok", "found", "mend", "needed"} <= set(checks[0])
    assert checks[-1]["name"] == "Redis"
    assert not checks[-1]["needed"]


def test_the_doctor_needs_root_for_a_job_to_run() -> None:
    """Without it the code is 1, and the part is named."""
    program = (
        # Loaded before, since the interpreter itself may be for root's eyes only.
        "import os, encodings.ascii, encodings.idna, secrets\n"
        "from sandbox_core import cli\nimport worker.doctor\nworker.doctor._redis()\nos.setuid(65534)\n"
        "cli.main(['doctor', '--json'])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (1, "")
    assert any(check["needed"] and check["ok"] is False for check in json.loads(done.stdout))


def test_a_sandbox_started_with_a_narrow_umask_runs_jobs(script: Any) -> None:
    """As a service may be; a job's own mask is the usual one all the same."""
    name = script("import os; print(oct(os.umask(0)))")

    done = run(name, umask=0o077)

    assert (done.returncode, done.stdout) == (0, b"0o22\n")
