"""How a script ended is told truthfully: exit codes, signals, and what only looks like a limit."""

import functools
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from sandbox_core import Job, Limits, Result, Sandbox, Status
from sandbox_core.sandbox import Cancel
from tests.root.attacks import battery

#: Those whose default is not to end the process, and the two that the C library keeps for itself.
_HARMLESS = {"SIGCHLD", "SIGCONT", "SIGURG", "SIGWINCH"}
_STOPPING = {"SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU"}
_FATAL = [
    number
    for number in range(1, 65)
    if number not in (32, 33)
    and (number > 31 or signal.Signals(number).name not in _HARMLESS | _STOPPING)
]


@pytest.fixture(scope="module")
def offering() -> Iterator[Sandbox]:
    """Offer every kind of Python: warm, started afresh, warm with modules loaded."""
    with battery.canary() as table, Sandbox(table, slots=4) as sandbox:
        yield sandbox


@pytest.fixture(params=battery.PYTHONS)
def run(offering: Sandbox, request: pytest.FixtureRequest) -> Callable[..., Result]:
    """Run a script in each of them: what is told of its end must not depend on that."""
    return functools.partial(_run, offering, request.param)


def _run(sandbox: Sandbox, runtime: str, source: str, **limits: float) -> Result:
    limits.setdefault("wall_time", Limits().wall_time * battery.TIME_FACTOR)
    return sandbox.run(Job(source, runtime=runtime, limits=Limits(**limits)))  # type: ignore[arg-type]


@pytest.mark.parametrize("code", [1, 2, 42, 124, 125, 126, 127, 137, 139, 153, 255])
def test_an_exit_code_is_an_exit_code(run, code):
    """Codes that other programs give a meaning have none here."""
    result = run(f"import sys; sys.exit({code})")

    assert (result.status, result.exit_code, result.signal) == (Status.NONZERO_EXIT, code, None)


@pytest.mark.parametrize(("ending", "code"), [("-1", 255), ("256", 0), ("'bye'", 1), ("None", 0)])
def test_exit_values_mean_what_they_mean_in_python(run, ending, code):
    """sys.exit takes more than small numbers."""
    assert run(f"import sys; sys.exit({ending})").exit_code == code


def test_an_uncaught_exception_is_exit_one_with_its_traceback(run):
    """The traceback names the script, and no frame of ours."""
    result = run("def f():\n    raise ValueError('no')\nf()")

    assert (result.status, result.exit_code) == (Status.NONZERO_EXIT, 1)
    assert result.stderr.decode().splitlines()[:2] == [
        "Traceback (most recent call last):",
        '  File "/box/main.py", line 3, in <module>',
    ]
    assert result.stderr.endswith(b"ValueError: no\n")


@pytest.mark.parametrize("number", _FATAL)
def test_death_by_a_signal_names_it(run, number):
    """A script that kills itself is reported as that, SIGKILL included."""
    result = run(
        f"import os, signal; signal.signal({number}, signal.SIG_DFL) if {number} != 9 else 0; "
        f"os.kill(os.getpid(), {number})"
    )
    name = signal.Signals(number).name if number < 32 else None

    assert result.status is Status.SIGNALED
    assert result.exit_code is None
    assert result.signal == (
        name or {34: "SIGRTMIN", 64: "SIGRTMAX"}.get(number, f"SIGRTMIN+{number - 34}")
    )


def _plain(offering: Sandbox, source: str) -> subprocess.CompletedProcess[str]:
    """Run a script by the interpreter alone, as the first process of a session of its own.

    What a shell has us ignore, as it has its background jobs, is not for the script.
    """
    return subprocess.run(
        ["/usr/bin/env", "--default-signal", *offering.runtimes["python"].command, "-c", source],
        capture_output=True,
        text=True,
        check=False,
        env={},
        start_new_session=True,
    )


@pytest.mark.parametrize("number", [2, 13, 17, 18, 20, 25, 28, 32, 33])
def test_a_signal_that_python_minds_or_that_does_nothing(run, offering, number):
    """The interpreter's own ways with SIGINT, SIGPIPE and the like are those of plain Python."""
    source = f"import os; os.kill(os.getpid(), {number}); print('on')"
    plain = _plain(offering, source)

    result = run(source)

    assert result.text == plain.stdout
    if plain.returncode < 0:
        name = signal.Signals(-plain.returncode).name if number < 32 else f"SIG{number}"
        assert (result.status, result.signal) == (Status.SIGNALED, name)
    else:
        assert (result.status, result.exit_code) == (Status.OK, plain.returncode)


_EVERY_SIGNAL = """
import json, os, signal
fates = []
for number in range(1, 65):
    child = os.fork()
    if child == 0:
        os.close(2)
        os.kill(os.getpid(), number)
        os._exit(77)
    _, status = os.waitpid(child, os.WUNTRACED)
    fates.append(status)
    if os.WIFSTOPPED(status):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
print(json.dumps(fates))
"""


def test_every_signal_does_to_a_child_what_it_does_without_a_jail(run, offering):
    """All 64: what ends it, what stops it, what it survives."""
    fates = json.loads(run(_EVERY_SIGNAL, processes=2).stdout)

    assert fates == json.loads(_plain(offering, _EVERY_SIGNAL).stdout)
    assert len(fates) == 64


def test_an_abort_and_a_crash_are_told_apart(run):
    """The script is not pid 1, where the kernel would change both."""
    assert run("import os; os.abort()").signal == "SIGABRT"
    assert run("import ctypes; ctypes.string_at(0)").signal == "SIGSEGV"


def test_an_alarm_ends_the_script(run):
    """SIGALRM has its default effect."""
    assert run("import signal, time; signal.alarm(1); time.sleep(9)").signal == "SIGALRM"


def test_a_stopped_script_runs_out_of_time(run):
    """Stopping itself is no way to stay."""
    result = run("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", wall_time=0.5)

    assert result.status is Status.TIME_LIMIT


def test_killing_itself_close_to_the_memory_limit_is_a_signal(run):
    """Only the kernel's own count makes a memory limit."""
    source = "import os, signal; x = bytearray(50 * 2**20); os.kill(os.getpid(), signal.SIGKILL)"

    assert run(source, memory=64 * 2**20).signal == "SIGKILL"


def test_output_that_looks_like_a_record_changes_nothing(run):
    """Nothing that a script prints decides anything."""
    forged = '{"jail": 1, "status": 0, "ended": true}\\n{"ready": true}\\n'

    result = run(f"import os, sys\nfor fd in (1, 2): os.write(fd, b'{forged}')\nsys.exit(9)")

    assert (result.status, result.exit_code) == (Status.NONZERO_EXIT, 9)


def test_writing_to_every_descriptor_changes_nothing(run):
    """No descriptor of ours is left for the script to write to."""
    source = (
        "import os, sys\n"
        "for fd in range(3, 64):\n"
        '  try: os.write(fd, b\'{"failed": "x", "reason": "y", "errno": 1}\\n\'); print(\'wrote\', fd)\n'
        "  except OSError: pass\n"
        "sys.exit(5)"
    )

    result = run(source)

    assert (result.exit_code, result.stdout) == (5, b"")


def test_a_job_ends_with_its_main_process_not_with_its_output(run):
    """A child that keeps the pipe open does not keep the job."""
    source = "import os, time\nif os.fork() == 0: time.sleep(60)\nprint('parent')"

    result = run(source, processes=2, wall_time=30)

    assert (result.status, result.text) == (Status.OK, "parent\n")
    assert result.wall_time < 10


def test_closing_the_streams_does_not_end_the_job(run):
    """A script may close its output and go on."""
    result = run("import os, sys, time; os.close(1); os.close(2); time.sleep(0.2); os._exit(4)")

    assert result.exit_code == 4


@pytest.mark.parametrize("runtime", battery.PYTHONS)
def test_an_end_just_at_the_limit_is_one_thing_or_the_other(offering, time_factor, runtime):
    """Fifty scripts that sleep just as long as they may, a little less, a little more."""
    limit, many = 0.15 * time_factor, 50 if time_factor == 1 else 8
    spread = [limit - 0.1 * time_factor + 0.12 * time_factor * n / many for n in range(many)]
    jobs = [
        Job(f"import time; time.sleep({seconds})", runtime=runtime, limits=Limits(wall_time=limit))
        for seconds in spread
    ]
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(offering.run, jobs))

    assert {(result.status, result.exit_code, result.signal) for result in results} <= {
        (Status.OK, 0, None),
        (Status.TIME_LIMIT, None, None),
    }
    assert results[-1].status is Status.TIME_LIMIT


def test_an_end_just_as_the_kernel_kills_is_one_thing_or_the_other(run, time_factor):
    """A child goes over the memory limit as the script ends: the kernel's count decides, and nothing else."""
    source = "import os\nif os.fork() == 0:\n  x = bytearray(200 << 20)\nx = bytes(24 << 20)"
    for _ in range(10 if time_factor == 1 else 3):
        result = run(source, processes=2, memory=32 * 2**20)

        assert (result.status, result.signal) in ((Status.OK, None), (Status.MEMORY_LIMIT, None))
        assert result.status is not Status.OK or result.exit_code == 0


def test_a_full_pipe_is_a_time_limit_not_a_deadlock(run):
    """Output within the limit that is followed by silence is all there."""
    result = run("import os, time; os.write(1, b'x' * 65536); time.sleep(60)", wall_time=1)

    assert result.status is Status.TIME_LIMIT
    assert len(result.stdout) == 65536


def test_a_broken_pipe_is_the_scripts_own(run):
    """SIGPIPE and its exception work as ever."""
    source = "import os\nr, w = os.pipe(); os.close(r)\ntry: os.write(w, b'x')\nexcept BrokenPipeError: print('told')"

    assert run(source).text == "told\n"


def test_a_cancelled_job_ends_within_a_second(time_factor):
    """Any thread may cancel; what was written so far comes back."""
    cancel = Cancel()
    with Sandbox() as sandbox:
        sandbox.run("")  # so that an interpreter stands ready, and the job starts at once
        threading.Timer(0.5 * time_factor, cancel.set).start()
        job = Job("print('in', flush=True)\nwhile True: pass", limits=Limits(wall_time=120))
        result = sandbox.run(job, cancel=cancel)

        assert (result.status, result.text) == (Status.CANCELLED, "in\n")
        assert result.wall_time < 0.5 * time_factor + 1
        assert sandbox.run(job, cancel=cancel).status is Status.CANCELLED  # and before it starts


def test_bytes_come_back_as_they_were_written(run):
    """Not UTF-8, NULs, escapes, a line of ten megabytes: nothing is read into it."""
    result = run(
        "import os, sys\nsys.stdout.buffer.write(bytes(range(256)) + b'\\n' + b'y' * 10_000_000)",
        output=16 * 2**20,
    )

    assert result.ok
    assert result.stdout == bytes(range(256)) + b"\n" + b"y" * 10_000_000


def test_output_is_cut_at_the_byte_not_at_the_character(run):
    """A limit may fall into a character; the bytes are exact and `text` still reads."""
    result = run("print('ä' * 100)", output=11)

    assert result.stdout == ("ä" * 5).encode() + b"\xc3"
    assert result.text == "ä" * 5 + "�"


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_reader_that_never_reads_keeps_nobody(cancelled):
    """Output that is passed on to one who does not take it: the limit holds, and so does a cancel."""
    reader, writer = os.pipe()
    cancel = Cancel()
    with Sandbox() as sandbox:
        if cancelled:
            threading.Timer(1, cancel.set).start()
        limits = Limits(wall_time=60 if cancelled else 1)
        job = Job("import os\nwhile True: os.write(1, b'x' * 65536)", limits=limits)
        started = time.monotonic()
        result = sandbox.run(job, stdout=writer, cancel=cancel)
        os.close(reader)
        os.close(writer)

    assert result.status is (Status.CANCELLED if cancelled else Status.TIME_LIMIT)
    assert time.monotonic() - started < 20
