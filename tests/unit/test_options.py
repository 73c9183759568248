"""The words at the shell: what becomes of options, of mistakes in them, and of a result."""

import json
import os
import signal
import stat
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from click.testing import Result as Ended

from sandbox_core import Job, Limits, Result, Status, options, wire
from sandbox_core.cli import main


@click.command(cls=options.JobCommand)
@options.job_options
@click.option("--read-stdin", is_flag=True)
def described(*, out: Path | None, as_json: bool, **asked: Any) -> None:
    """Print the job that the options describe, as JSON."""
    job = options.make_job(**asked)
    options.check_collect(job, out=out, as_json=as_json)
    click.echo(json.dumps(wire.job_to_json(job)))


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Put a script into the folder that the test runs in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "script.py").write_text("print(1)", encoding="utf-8")
    return "script.py"


def job_of(*words: str, stdin: bytes = b"") -> Job:
    """Give the job that these words at the shell describe."""
    done = CliRunner().invoke(described, words, input=stdin, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return wire.job_from_json(json.loads(done.stdout))


def sandboxed(*words: str) -> Ended:
    """Run the command as a shell does, in this process."""
    return CliRunner().invoke(main, words, catch_exceptions=False)


def told_in_one_line(*words: str) -> str:
    """Give the one line that `sandboxed` says to bad usage."""
    done = sandboxed(*words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("sandboxed")
    return done.stderr


# Options.


def test_a_script_alone_has_every_default(script: str) -> None:
    """The job is that of its source."""
    assert job_of(script) == Job("print(1)")


def test_every_option_reaches_the_job(script: str) -> None:
    """Each by its own name."""
    Path("input").write_bytes(b"\xff")
    Path("local").write_text("data", encoding="utf-8")
    limits = ["--wall-time", "2.5", "--cpu-time", "1", "--memory", "64M", "--processes", "3"]
    limits += ["--output", "2k", "--disk", "1G", "--open-files", "9"]
    inputs = ["--stdin", "input", "--env", "A=1", "--env", "B=x=y"]
    inputs += ["--file", "placed/here=local", "--file", "./local"]
    others = ["--collect", "*.csv", "--collect", "out/**", "--out", "there"]
    others += ["--runtime", "python-exec", "--label", "n=7"]

    assert job_of(*limits, *inputs, *others, script, "a", "b") == Job(
        "print(1)",
        runtime="python-exec",
        args=("a", "b"),
        stdin=b"\xff",
        env={"A": "1", "B": "x=y"},
        files={"placed/here": "data", "local": "data"},
        collect=("*.csv", "out/**"),
        limits=Limits(
            wall_time=2.5,
            cpu_time=1,
            memory=64 << 20,
            processes=3,
            output=2048,
            disk=1 << 30,
            open_files=9,
        ),
        labels={"n": "7"},
    )


def test_every_limit_has_its_option() -> None:
    """A limit that is added later is not forgotten at the shell."""
    names = {parameter.name for parameter in described.params}

    assert set(wire.schemas()["Job"]["properties"]["limits"]["properties"]) <= names


def test_what_follows_the_script_is_its_own(script: str) -> None:
    """Even where it looks like one of our options."""
    job = job_of("--wall-time", "3", script, "--wall-time", "9", "--help", "--", "-x")

    assert job.args == ("--wall-time", "9", "--help", "--", "-x")
    assert job.limits.wall_time == 3


def test_a_script_may_come_on_standard_input() -> None:
    """As it does for `python3 -`; its own input is then empty."""
    job = job_of("--read-stdin", "-", "x", stdin=b"print(2)")

    assert (job.source, job.args, job.stdin) == ("print(2)", ("x",), b"")


def test_our_input_is_the_script_s_where_it_is_asked_for(script: str) -> None:
    """A queue takes it whole; a command that relays it leaves it alone."""
    assert job_of("--read-stdin", script, stdin=b"12").stdin == "12"
    assert job_of(script, stdin=b"12").stdin == b""
    assert job_of("--stdin", "-", script, stdin=b"12").stdin == "12"


@pytest.mark.parametrize(
    ("text", "count"),
    [("1", 1), ("4096", 4096), ("1K", 1024), ("64m", 64 << 20), ("1G", 1 << 30)],
)
def test_a_size_takes_powers_of_1024(text: str, count: int) -> None:
    """In either case."""
    assert options.size(text) == count


@pytest.mark.parametrize("text", ["", "M", "1.5M", "-1", "1 M", "1MB", "0x10", "1T", "٣"])
def test_a_size_that_is_none_is_refused(text: str) -> None:
    """With what it should look like."""
    with pytest.raises(click.BadParameter, match="write bytes, or 64K, 64M, 1G"):
        options.size(text)


@pytest.mark.parametrize("count", [1, 1023, 1024, 65536, 64 << 20, 3 << 30])
def test_a_size_is_written_as_it_is_read(count: int) -> None:
    """So that a message can be typed."""
    assert options.size(options.size_text(count)) == count


# Mistakes.


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "sandboxed: name a command: run, "),
        (("frob",), "sandboxed: no command 'frob'; the commands are run, "),
        (("--frob",), "--frob"),
        (("run",), "SCRIPT"),
        (("run", "--frob", "script.py"), "--frob"),
        (("run", "--wall-time"), "--wall-time"),
        (("run", "--wall-time", "soon", "script.py"), "--wall-time"),
        (("run", "--wall-time", "0", "script.py"), "--wall-time: expected a finite number above 0"),
        (("run", "--cpu-time", "nan", "script.py"), "--cpu-time: expected"),
        (("run", "--processes", "0", "script.py"), "--processes: expected a number from 1"),
        (("run", "--open-files", "x", "script.py"), "--open-files"),
        (("run", "--memory", "64MB", "script.py"), "write bytes, or 64K, 64M, 1G"),
        (("run", "--memory", "0", "script.py"), "--memory: expected a number from 1"),
        (("run", "--disk", "1", "script.py"), "more than --disk (1)"),
        (("run", "--env", "A", "script.py"), "'A' should be NAME=VALUE"),
        (("run", "--label", "=1", "script.py"), "'=1' should be NAME=VALUE"),
        (("run", "--file", "/etc/hostname", "script.py"), "--file hostname=/etc/hostname"),
        (("run", "--file", "../x", "script.py"), "--file x=../x"),
        (("run", "--file", "../x=script.py", "script.py"), "files: '../x' has an empty"),
        (("run", "--file", "x=none", "script.py"), "can't read --file 'none': No such file"),
        (("run", "--stdin", "none", "script.py"), "can't read --stdin 'none': No such file"),
        (("run", "none.py"), "can't read the script 'none.py': No such file"),
        (("run", "."), "can't read the script '.': Is a directory"),
        (("run", "--stdin", "-", "-"), "can't both be read from standard input"),
        (("run", "--collect", "x", "script.py"), "--collect needs --out DIR"),
        (("run", "--collect", "/x", "--json", "script.py"), "collect: '/x' is absolute"),
        (("run", "--out", "script.py", "script.py"), "--out"),
        (("run", "script.py", "\udcff"), "lone surrogate"),
        (("schema", "more"), "more"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_usage_is_one_line_that_says_what_to_do(
    script: str, words: tuple[str, ...], told: str
) -> None:
    """And exits with 2; no usage text, no traceback."""
    assert script
    line = told_in_one_line(*words)

    assert told in line
    assert "--help" in line


def test_help_lists_every_command_and_exits_with_0() -> None:
    """From the table, which imports none of them."""
    done = sandboxed("--help")

    assert done.exit_code == 0
    for name in ("run", "submit", "worker", "up", "result", "cancel", "doctor", "schema", "demo"):
        assert f"\n  {name} " in done.stdout


@pytest.mark.parametrize("name", main.list_commands(click.Context(main)))
def test_every_command_of_the_table_exists_and_explains_itself(name: str) -> None:
    """The table's text names a command that is there."""
    done = sandboxed(name, "--help")

    assert done.exit_code == 0
    assert f"sandboxed {name}" in done.stdout


def test_the_version_is_the_distribution_s() -> None:
    """One line."""
    assert sandboxed("--version").stdout == f"sandboxed {version('sandboxed')}\n"


def test_the_schemas_are_printed_by_name() -> None:
    """As one JSON object."""
    assert json.loads(sandboxed("schema").stdout) == wire.schemas()


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        ("ConnectionError('no Redis at h:1')", 125, "sandboxed: no Redis at h:1\n"),
        ("TimeoutError('no answer in 3 s')", 125, "sandboxed: no answer in 3 s\n"),
        ("SandboxError('mount', 'no\\nroot')", 125, "sandboxed: mount: no root\n"),
        ("KeyboardInterrupt()", 130, ""),
    ],
)
def test_a_failure_is_one_line_and_its_code(error: str, code: int, told: str) -> None:
    """In a process of its own, as a user meets it."""
    program = (
        "from sandbox_core import commands, cli\n"
        "from sandbox_core.errors import SandboxError\n"
        f"def fail(*_, **__): raise {error}\n"
        "commands.schema.callback = fail\n"
        "cli.main(['schema'])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (code, "", told)


def test_output_that_can_t_be_written_is_one_line() -> None:
    """A full disk, say; not a traceback, and not twice."""
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "sandbox_core.cli", "schema"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert done.returncode == 125
    assert done.stderr == "sandboxed: [Errno 28] No space left on device\n"


# Results.


@pytest.mark.parametrize(
    ("result", "code"),
    [
        (Result(Status.OK, exit_code=0), 0),
        (Result(Status.NONZERO_EXIT, exit_code=3), 3),
        (Result(Status.NONZERO_EXIT, exit_code=255), 255),
        (Result(Status.SIGNALED, signal="SIGSEGV"), 139),
        (Result(Status.SIGNALED, signal="SIGKILL"), 137),
        (Result(Status.SIGNALED, signal="SIGRTMIN"), 162),
        (Result(Status.SIGNALED, signal="SIGRTMIN+3"), 165),
        (Result(Status.SIGNALED, signal="SIGRTMAX-1"), 191),
        (Result(Status.SIGNALED, signal="SIGRTMAX"), 192),
        (Result(Status.SIGNALED, signal="SIG33"), 161),
        (Result(Status.SIGNALED, signal="33"), 161),
        (Result(Status.SIGNALED, signal="SIGWHAT"), 125),
        (Result(Status.TIME_LIMIT), 124),
        (Result(Status.MEMORY_LIMIT, signal="SIGKILL"), 137),
        (Result(Status.OUTPUT_LIMIT), 153),
        (Result(Status.CANCELLED), 130),
        (Result(Status.INVALID_JOB), 2),
        (Result(Status.INTERNAL_ERROR), 125),
    ],
    ids=lambda value: f"{value.status} {value.signal}" if isinstance(value, Result) else str(value),
)
def test_a_result_is_an_exit_code(result: Result, code: int) -> None:
    """The one that `run` and `submit` end with."""
    assert options.exit_code(result) == code


def test_every_signal_of_this_system_has_its_number() -> None:
    """The table is Linux's; so is the system that runs the tests."""
    for number in signal.Signals:
        result = Result(Status.SIGNALED, signal=number.name)
        assert options.exit_code(result) == 128 + number


LIMITS = Limits(wall_time=6, cpu_time=2)


@pytest.mark.parametrize(
    ("result", "line"),
    [
        (Result(Status.OK), None),
        (Result(Status.NONZERO_EXIT, exit_code=1), None),
        (Result(Status.SIGNALED, signal="SIGSEGV"), "sandboxed: killed by SIGSEGV"),
        (Result(Status.TIME_LIMIT, wall_time=6.01), "sandboxed: time limit: 6 s"),
        (Result(Status.TIME_LIMIT, wall_time=2.1), "sandboxed: time limit: 2 s of CPU time"),
        (Result(Status.MEMORY_LIMIT), "sandboxed: memory limit: 128M"),
        (Result(Status.OUTPUT_LIMIT), "sandboxed: output limit: 1M on stdout or stderr"),
        (Result(Status.CANCELLED), "sandboxed: cancelled"),
        (Result(Status.INVALID_JOB, error="no\nruntime"), "sandboxed: invalid job: no runtime"),
        (Result(Status.INTERNAL_ERROR, error="mount: no"), "sandboxed: internal error: mount: no"),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Result) else "",
)
def test_one_line_says_what_ended_the_job(result: Result, line: str | None) -> None:
    """Nothing where the script ended by itself."""
    assert options.message(result, LIMITS) == line


def test_without_its_limits_the_line_names_the_limit_alone() -> None:
    """A result that is fetched later says no more."""
    assert options.message(Result(Status.TIME_LIMIT)) == "sandboxed: time limit"


def reported(capfdbinary: pytest.CaptureFixture[bytes], *given: Any, **more: Any) -> Any:
    """Give the exit code, stdout and stderr of `report`."""
    code = options.report(*given, **more)
    return (code, *capfdbinary.readouterr())


def test_a_report_gives_the_job_s_output_as_it_is(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    """Byte for byte, each to its own stream, then our line."""
    result = Result(Status.TIME_LIMIT, stdout=b"\xff", stderr=b"\x00e\n")

    assert reported(capfdbinary, result) == (124, b"\xff", b"\x00e\nsandboxed: time limit\n")
    assert reported(capfdbinary, result, relayed=True) == (124, b"", b"sandboxed: time limit\n")


def test_a_report_as_json_exits_with_0_when_the_sandbox_did_its_work(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    """Whatever the script did; not when the job could not be run."""
    code, stdout, stderr = reported(capfdbinary, Result(Status.TIME_LIMIT), as_json=True)
    assert (code, stderr) == (0, b"")
    assert wire.result_from_json(json.loads(stdout)) == Result(Status.TIME_LIMIT)

    failed = Result(Status.INTERNAL_ERROR, error="mount: no")
    code, stdout, stderr = reported(capfdbinary, failed, as_json=True)
    assert (code, stderr) == (125, b"sandboxed: internal error: mount: no\n")
    assert wire.result_from_json(json.loads(stdout)) == failed


# Collected files.


def test_collected_files_are_written_below_the_folder(tmp_path: Path) -> None:
    """With the folders that they need; a file that is there is replaced."""
    out = tmp_path / "new" / "out"
    options.write_files({"a": b"1", "b/c/d": b"\xff"}, out)
    options.write_files({"a": b"2", "b/c/e": b""}, out)

    assert (out / "a").read_bytes() == b"2"
    assert (out / "b/c/d").read_bytes() == b"\xff"
    assert (out / "b/c/e").read_bytes() == b""


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", "", ".", "a/./b", "a//b", "a/", "a\0"])
def test_no_collected_path_leads_out_of_the_folder(tmp_path: Path, path: str) -> None:
    """Nothing at all is written then."""
    with pytest.raises(ValueError, match="no path below it"):
        options.write_files({"fine": b"", path: b"escaped"}, tmp_path / "out")

    assert list(tmp_path.rglob("*")) == []


def test_no_link_inside_the_folder_is_followed(tmp_path: Path) -> None:
    """A link to a folder is an error; a link in a file's place is replaced."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_bytes(b"kept")
    out = tmp_path / "out"
    out.mkdir()
    (out / "folder").symlink_to(secret)
    (out / "file").symlink_to(secret / "key")

    with pytest.raises(OSError, match="folder"):
        options.write_files({"folder/key": b"stolen"}, out)
    options.write_files({"file": b"mine"}, out)

    assert (secret / "key").read_bytes() == b"kept"
    assert (out / "file").read_bytes() == b"mine"
    assert not (out / "file").is_symlink()


def test_a_pipe_in_a_file_s_place_is_replaced(tmp_path: Path) -> None:
    """Opening it would wait for ever."""
    os.mkfifo(tmp_path / "pipe")

    options.write_files({"pipe": b"x"}, tmp_path)

    assert stat.S_ISREG((tmp_path / "pipe").stat().st_mode)


def test_a_folder_that_can_t_be_written_is_one_line(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """The job has run, so the code is the sandbox's."""
    (tmp_path / "file").write_bytes(b"")
    result = Result(Status.OK, files={"a": b""})

    code, _, stderr = reported(capfdbinary, result, out=tmp_path / "file" / "out")

    assert code == 125
    assert stderr.startswith(b"sandboxed: can't write the collected files to ")
    assert stderr.count(b"\n") == 1
