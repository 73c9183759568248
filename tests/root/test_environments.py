"""Runtimes with packages: built by the command, from PyPI, and used in jails."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox_core import Job, Limits, Sandbox, SandboxError, Status


def sandboxed(*words: str, table: Path) -> subprocess.CompletedProcess[str]:
    """Run the command `sandboxed runtime`."""
    return subprocess.run(
        [sys.executable, "-m", "sandbox_core.cli", "runtime", *words],
        env={**os.environ, "SANDBOXED_RUNTIMES": str(table)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def table() -> Iterator[Path]:
    """Have the command make a table with numpy and pandas."""
    # Not in /tmp, which in a jail is the job's own.
    directory = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="sandboxed-test-"))
    directory.chmod(0o755)
    try:
        done = sandboxed("add", "numpy", "--packages", "numpy,pandas", table=directory / "t.toml")
        assert done.returncode == 0, done.stderr
        assert "numpy, pandas loaded before a job comes" in done.stdout
        yield directory / "t.toml"
    finally:
        shutil.rmtree(directory)


@pytest.fixture(scope="module")
def scientific(table) -> Iterator[Sandbox]:
    """Offer it in a sandbox."""
    with Sandbox(table) as sandbox:
        yield sandbox


@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.parametrize(
    "source",
    [
        "import numpy as np; a = np.ones((400, 400)); print((a @ a).sum() == 400 ** 3)",
        "import pandas as pd; print(pd.DataFrame({'a': [1, 2]}).groupby('a').size().sum() == 2)",
    ],
)
def test_packages_run_within_the_default_limits(scientific, source, warm, time_factor):
    """128 MiB, one process and one thread; loaded before the job comes, and by the job itself."""
    limits = Limits(wall_time=Limits().wall_time * time_factor)
    # A job that sets what is read at the start gets an interpreter of its own.
    env = {} if warm else {"PYTHONUTF8": "1"}
    result = scientific.run(Job(source, runtime="numpy", env=env, limits=limits))

    assert (result.status, result.text) == (Status.OK, "True\n"), result.stderr


def test_packages_are_where_a_virtual_environment_has_them(table, scientific):
    """The same paths, prefixes and modules as that environment's own `python3` shows."""
    source = (
        "import sys; print(sys.path[1:], sys.prefix, sys.base_prefix, sys.executable); import numpy;"
        " print(numpy.__file__, numpy.__spec__.origin)"
    )
    python = f"{table}.d/numpy/bin/python3"
    plain = subprocess.run(
        [python, "-c", source], capture_output=True, text=True, check=True, cwd="/", env={}
    )

    result = scientific.run(Job(source, runtime="numpy"))

    assert result.text == plain.stdout, result.stderr


def test_packages_cannot_be_written(scientific):
    """What a job could change there, others would run."""
    source = (
        "import numpy, os\n"
        "for flags in (os.O_RDWR, os.O_WRONLY | os.O_TRUNC):\n"
        "    try: os.open(numpy.__file__, flags)\n"
        "    except OSError as error: print(error.strerror)\n"
        "try: open(os.path.dirname(numpy.__file__) + '/new', 'w')\n"
        "except OSError as error: print(error.strerror)\n"
    )

    assert set(scientific.run(Job(source, runtime="numpy")).text.splitlines()) <= {
        "Read-only file system",
        "Permission denied",
    }


def test_every_job_has_numbers_of_its_own_from_numpy_too(scientific):
    """Its global generator was made before the fork."""
    source = (
        "import numpy as np\n"
        "print(np.random.random(), np.random.default_rng().random(), np.random.randint(1 << 60), sep='\\n')"
    )

    found = [
        line
        for _ in range(30)
        for line in scientific.run(Job(source, runtime="numpy")).text.splitlines()
    ]

    assert len(found) == len(set(found)) == 90


def test_loading_them_leaves_one_thread(scientific):
    """And jobs are told the same of their number."""
    source = "import os, numpy, pandas; print(len(os.listdir('/proc/self/task')), os.environ['OMP_NUM_THREADS'])"

    assert scientific.run(Job(source, runtime="numpy")).text == "1 1\n"


def test_a_job_with_several_processes_asks_for_threads(scientific):
    """The variable is heeded, though the modules were loaded with another value before."""
    source = "import os, numpy; print(len(os.listdir('/proc/self/task')), os.environ['OPENBLAS_NUM_THREADS'])"

    result = scientific.run(
        Job(
            source,
            runtime="numpy",
            env={"OPENBLAS_NUM_THREADS": "2"},
            limits=Limits(processes=8, memory=256 << 20),
        )
    )

    threads = min(2, os.cpu_count() or 1)  # OpenBLAS starts no more than there are processors
    assert result.text == f"{threads} 2\n", result.stderr


def test_modules_that_start_threads_are_refused(table):
    """A fork would leave their threads behind, and the locks that those held locked for good."""
    shown = table.with_name("shown")
    shown.mkdir()
    (shown / "threaded.py").write_text(
        "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()"
    )
    other = table.with_name("threads.toml")
    other.write_text(
        f'[x]\nprefix = "{sys.base_prefix}"\npreload = ["threaded"]\n'
        f'binds = ["{shown}"]\nenv = {{ PYTHONPATH = "{shown}" }}\n'
    )

    with Sandbox(other) as sandbox, pytest.raises(SandboxError, match="they start threads"):
        sandbox.run(Job("", runtime="x"))


def test_a_python_that_makes_no_files_in_memory_does(table):
    """As one that was built for an old C library; its jobs open their input themselves."""
    shown = table.with_name("old")
    shown.mkdir()
    (shown / "old.py").write_text("import os; del os.memfd_create")
    other = table.with_name("old.toml")
    other.write_text(
        f'[x]\nprefix = "{sys.base_prefix}"\npreload = ["old"]\n'
        f'binds = ["{shown}"]\nenv = {{ PYTHONPATH = "{shown}" }}\n'
    )
    source = (
        "import os, sys; print(hasattr(os, 'memfd_create'), sys.stdin.seekable(), sys.stdin.read())"
    )

    with Sandbox(other) as sandbox:
        assert sandbox.run(Job(source, runtime="x", stdin=b"in")).text == "False True in\n"


def test_jobs_with_packages_leave_room_for_data(scientific):
    """What was loaded before the fork is not charged to each job again."""
    source = "import numpy as np, pandas; a = np.ones(6_000_000); print(int(a.sum()))"

    result = scientific.run(Job(source, runtime="numpy", limits=Limits(memory=96 << 20)))

    assert (result.status, result.text) == (Status.OK, "6000000\n"), result.stderr


def test_the_table_is_listed_and_an_entry_removed(table):
    """With what was built for it; others stay."""
    other = table.with_name("other.toml")
    other.write_text('# mine\n[a]\ncommand = ["/bin/sh"]\n')
    assert sandboxed("add", "tiny", "--packages", "six", table=other).returncode == 0
    with Sandbox(other) as sandbox:
        assert sandbox.run(Job("import six; print(six.PY3)", runtime="tiny")).text == "True\n"

    listed = sandboxed("list", table=other).stdout
    assert [line.split()[:2] for line in listed.splitlines()] == [
        ["a", "exec"],
        ["python", "warm"],
        ["python-exec", "exec"],
        ["sh", "exec"],
        ["tiny", "warm"],
    ]

    assert sandboxed("remove", "tiny", table=other).returncode == 0
    assert other.read_text() == '# mine\n[a]\ncommand = ["/bin/sh"]\n'
    assert not Path(f"{other}.d").exists()
    gone = sandboxed("remove", "tiny", table=other)
    assert (gone.returncode, gone.stderr.count("\n")) == (125, 1)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("add", "x"), 2, "name what to install"),
        (("add", "x", "--packages", "--index-url=http://x"), 2, "name what to install"),
        (("add", "python", "--packages", "six"), 2, "'python' is built in"),
        (("add", "../x", "--packages", "six"), 125, "a name is letters"),
        (("add", "x", "--packages", "no-such-package-as-this-one-0"), 125, "build the environment"),
    ],
)
def test_what_cannot_be_added_changes_nothing(table, words, code, message):
    """One line says why."""
    other = table.with_name("unchanged.toml")

    done = sandboxed(*words, table=other)

    assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr
    assert message in done.stderr
    assert not other.exists()
    assert not Path(f"{other}.d").exists()
