"""Each limit holds, and what happens at it is what the contract says."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox_core import InvalidJob, Job, Limits, Sandbox, Status

MIB = 2**20


def test_a_script_past_its_wall_time_is_killed(run, time_factor):
    """Sleeping is running out of wall time."""
    limit = 0.5 * time_factor

    result = run("import time; print('in', flush=True); time.sleep(600)", wall_time=limit)

    assert result.status is Status.TIME_LIMIT
    assert (result.exit_code, result.signal, result.stdout) == (None, None, b"in\n")
    assert limit <= result.wall_time < limit + 3


def test_a_script_past_its_cpu_time_is_killed(run):
    """CPU time is its own limit, whatever the wall clock says."""
    result = run("while True: pass", cpu_time=0.3, wall_time=30)

    assert result.status is Status.TIME_LIMIT
    assert 0.3 <= result.cpu_time < 2


def test_sleeping_takes_no_cpu_time(run, time_factor):
    """A CPU limit does not end a script that waits."""
    seconds = 0.4 * time_factor

    assert run(f"import time; time.sleep({seconds + 0.1})", cpu_time=seconds, wall_time=60).ok


def test_the_cpu_time_of_all_processes_counts(run):
    """Two burners use up the limit together."""
    source = "import os\nos.fork()\nwhile True: pass"

    result = run(source, processes=2, cpu_time=0.5, wall_time=30)

    assert result.status is Status.TIME_LIMIT


def test_memory_past_the_limit_kills(run):
    """The kernel's OOM killer in the job's own cgroup is a memory limit."""
    result = run("x = bytearray(200 * 2**20)", memory=64 * MIB)

    assert result.status is Status.MEMORY_LIMIT
    assert result.memory >= 60 * MIB


def test_files_count_as_memory(run):
    """What lies in /box is memory of the jail."""
    result = run("open('x', 'wb').write(bytes(60 * 2**20))", memory=32 * MIB, disk=128 * MIB)

    assert result.status is Status.MEMORY_LIMIT


def test_a_child_past_the_memory_limit_ends_the_job(run):
    """It makes no difference which process of the jail it is."""
    source = "import os, time\nif os.fork() == 0: x = bytearray(500 * 2**20)\ntime.sleep(20)"

    result = run(source, memory=64 * MIB, processes=2, wall_time=20)

    assert result.status is Status.MEMORY_LIMIT
    assert result.wall_time < 15


def test_memory_too_small_to_start_in_is_a_memory_limit(run):
    """The verdict is the same before the first line."""
    assert run("1", memory=4096).status is Status.MEMORY_LIMIT


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("import os; os.fork()", b"BlockingIOError"),
        ("import threading; threading.Thread(target=print).start()", b"can't start new thread"),
        ("import subprocess; subprocess.run(['/bin/true'])", b"BlockingIOError"),
    ],
)
def test_a_second_process_is_refused(run, source, error):
    """With processes=1 the script gets an ordinary error."""
    result = run(source)

    assert result.status is Status.NONZERO_EXIT
    assert error in result.stderr


def test_a_refused_process_does_not_end_the_job(run):
    """The job goes on after the error."""
    source = "import os\nfor _ in range(1000):\n  try: os.fork()\n  except BlockingIOError: pass\nprint('on')"

    assert run(source).text == "on\n"


def test_as_many_processes_as_allowed(run):
    """`processes` counts the script itself."""
    source = (
        "import os, time\nn = 1\n"
        "try:\n"
        "  while True:\n"
        "    if os.fork() == 0: time.sleep(9)\n"
        "    n += 1\n"
        "except BlockingIOError: print(n, flush=True); os._exit(0)"
    )

    assert run(source, processes=5).text == "5\n"


def test_orphans_leave_no_zombies(run):
    """A process that nobody waits for makes room when it ends."""
    source = (
        "import os, time\n"
        "for _ in range(50):\n"
        "  if os.fork() == 0:\n"
        "    if os.fork() == 0: os._exit(0)\n"
        "    os._exit(0)\n"
        "  os.wait(); time.sleep(0.005)\n"
        "print('done')"
    )

    result = run(source, processes=6, wall_time=20)

    assert result.text == "done\n", result.stderr


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_past_the_limit_kills(run, stream):
    """What was written up to the limit comes back, marked."""
    result = run(f"import sys\nwhile True: sys.{stream}.write('x' * 999)", output=10_000)

    assert result.status is Status.OUTPUT_LIMIT
    assert getattr(result, stream) == b"x" * 10_000
    assert getattr(result, f"{stream}_truncated")


def test_output_up_to_the_limit_is_fine(run):
    """The limit itself is allowed, on both streams."""
    result = run("import sys; print('x' * 999); print('y' * 999, file=sys.stderr)", output=1000)

    assert result.ok
    assert (len(result.stdout), len(result.stderr)) == (1000, 1000)


def test_one_byte_too_many_is_an_output_limit_however_it_ends(run):
    """A script that exits before the kill arrives has still passed the limit."""
    result = run("import os; os.write(1, b'x' * 1001)", output=1000)

    assert result.status is Status.OUTPUT_LIMIT
    assert result.stdout == b"x" * 1000


def test_a_full_disk_is_an_error_inside(run):
    """The write fails with ENOSPC and the job goes on."""
    source = (
        "import errno\n"
        "try: open('x', 'wb').write(bytes(2**20))\n"
        "except OSError as e: print(errno.errorcode[e.errno])"
    )

    assert run(source, disk=512 * 1024).text == "ENOSPC\n"


def test_tmp_and_box_share_the_quota(run):
    """/tmp is no way round the limit."""
    source = (
        "import errno\n"
        "try: open('x', 'wb').write(bytes(300_000)); open('/tmp/y', 'wb').write(bytes(300_000))\n"
        "except OSError as e: print(errno.errorcode[e.errno])"
    )

    assert run(source, disk=512 * 1024).text == "ENOSPC\n"


def test_files_are_counted_too(run):
    """4,096 files and directories, then ENOSPC."""
    source = (
        "import errno\nn = 0\n"
        "try:\n"
        "  while True: open(f'f{n}', 'x').close(); n += 1\n"
        "except OSError as e: print(n, errno.errorcode[e.errno])"
    )

    assert run(source).text == "4095 ENOSPC\n"  # and the script itself


def test_descriptors_run_out_at_the_limit(run):
    """`open_files` counts every descriptor."""
    source = (
        "import errno, os\n"
        "try:\n"
        "  while True: fd = os.dup(1)\n"
        "except OSError as e: print(fd, errno.errorcode[e.errno])"
    )

    assert run(source, open_files=20).text == "19 EMFILE\n"


def test_a_limit_over_the_maximum_is_refused():
    """The text names the limit, the asked value and the maximum."""
    with Sandbox(maxima=Limits(wall_time=2)) as sandbox:
        with pytest.raises(InvalidJob, match=r"limits\.wall_time: 3\.0 is more than .* 2\.0"):
            sandbox.run(Job("", limits=Limits(wall_time=3)))
        assert sandbox.run(Job("", limits=Limits(wall_time=2))).ok


_SMALL_HOST = """
import sys
from concurrent.futures import ThreadPoolExecutor
from sandbox_core import Job, Limits, Sandbox, SandboxError
open(sys.argv[1] + "/cgroup.procs", "w").write("0")
pause = 1.5 * max(float(sys.argv[2]) / 3, 1)
source = f"x = bytearray(60 << 20)\\nfor n in range(0, len(x), 4096): x[n] = 1\\nimport time; time.sleep({pause})"
job = Job(source, limits=Limits(memory=96 << 20, wall_time=60 * pause), runtime="python-exec")
def outcome(job):
    try:
        return sandbox.run(job).status.value
    except SandboxError as error:
        return str(error)
with Sandbox(slots=4) as sandbox, ThreadPoolExecutor(4) as threads:
    print(*threads.map(outcome, [job] * 4), sep="\\n")
    print("alone:", outcome(job))
    print("over:", outcome(Job("x = bytearray(90 << 20)", limits=Limits(memory=32 << 20, wall_time=20 * pause))))
"""


@pytest.fixture
def small_host() -> Iterator[str]:
    """Have a cgroup that stands for a host with 200 MiB of memory, for a supervisor and its jobs."""
    top = Path("/sys/fs/cgroup")
    second = (top / "cgroup.controllers").exists()
    if not second:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        own = next(line.split(":", 2)[2] for line in lines if "memory" in line.split(":")[1].split(","))
        top = top / "memory" / own.lstrip("/")
    directory = top / f"small-host-{os.getpid()}"
    directory.mkdir()
    if second:
        os.setxattr(directory, "user.delegate", b"1")
    (directory / ("memory.max" if second else "memory.limit_in_bytes")).write_text(str(200 << 20))
    yield str(directory)
    for inner in directory.glob("*/"):
        inner.rmdir()
    directory.rmdir()


def test_a_job_that_the_host_has_no_memory_for_is_not_over_its_limit(small_host, time_factor):
    """What is killed then are jobs, not the supervisor; each is told apart from one over its own limit."""
    ran = subprocess.run(
        [sys.executable, "-c", _SMALL_HOST, small_host, str(time_factor)],
        capture_output=True,
        text=True,
        check=False,
    )
    *outcomes, alone, over = ran.stdout.splitlines()

    assert set(outcomes) == {
        "ok",
        "run the job: the host ran out of memory, and the kernel took the job",
    }, ran.stderr
    assert (alone, over) == ("alone: ok", "over: memory_limit")
