"""Each field of a job does what its docstring says."""

import sys

import pytest

from sandbox_core import InvalidJob, Limits, Status


def test_the_source_runs_as_the_main_program_in_the_box(run):
    """The script is /box/main.py, run as __main__ from /box."""
    result = run("import os; print(__name__, __file__, os.getcwd())")

    assert result.text == "__main__ /box/main.py /box\n"


def test_a_source_of_bytes_keeps_its_own_encoding(run):
    """Bytes reach the interpreter as they are, coding cookie included."""
    assert run(b"# coding: latin-1\nprint(ascii('\xe9'))").text == "'\\xe9'\n"


def test_arguments_are_the_scripts_own(run):
    """`args` is sys.argv[1:], options look-alikes and empty ones included."""
    result = run("import sys; print(sys.argv)", args=("-c", "", "ä b"))

    assert result.text == "['/box/main.py', '-c', '', 'ä b']\n"


def test_stdin_ends_with_end_of_file(run):
    """All of `stdin` can be read, then end of file."""
    result = run(
        "import sys; print(len(sys.stdin.buffer.read()), sys.stdin.read())", stdin=b"\xff" * 300_000
    )

    assert result.text == "300000 \n"


def test_stdin_cannot_be_written(run):
    """The script gets its input read-only and sealed."""
    result = run("import os\ntry: os.write(0, b'x')\nexcept OSError as e: print(e.errno)", stdin="abc")

    assert result.text == "9\n"


def test_the_environment_is_small_and_clean(run, monkeypatch):
    """Nothing of the supervisor's environment is seen; `env` is added."""
    monkeypatch.setenv("SANDBOXED_REDIS_URL", "redis://:secret@host/0")

    result = run("import os; print(sorted(os.environ.items()))", env={"A": "b=c"})

    assert result.text == (
        "[('A', 'b=c'), ('HOME', '/box'), ('LANG', 'C.UTF-8'), "
        "('PATH', '/usr/local/bin:/usr/bin:/bin')]\n"
    )


def test_files_are_placed_before_the_start(run):
    """Files and modules stand beside the script."""
    result = run(
        "import helper; print(helper.f(), open('data/in.bin', 'rb').read())",
        files={"helper.py": "def f(): return 7", "data/in.bin": b"\x00\xff"},
    )

    assert result.text == "7 b'\\x00\\xff'\n"


def test_collected_files_come_back_byte_for_byte(run):
    """Paths and globs name files to return; other files stay."""
    result = run(
        "import os\n"
        "os.makedirs('out/deep')\n"
        "for p in ('a.txt', 'b.log', 'out/c.txt', 'out/deep/d.txt'):\n"
        "    open(p, 'wb').write(p.encode() + b'\\x00\\xff')\n",
        collect=("a.txt", "out/**/*.txt", "missing"),
    )

    assert result.files == {
        "a.txt": b"a.txt\0\xff",
        "out/c.txt": b"out/c.txt\0\xff",
        "out/deep/d.txt": b"out/deep/d.txt\0\xff",
    }


@pytest.mark.parametrize(
    "trap",
    [
        "os.symlink('/etc/passwd', 'x')",
        "os.symlink('main.py', 'x')",
        "os.mkfifo('x')",
        "import socket; socket.socket(socket.AF_UNIX).bind('x')",
        "open('y', 'w').write('twice'); os.link('y', 'x')",
        "os.mkdir('x')",
        "open('x', 'w').truncate(10**7); open('z', 'w').truncate(10**7)",
        "open('x', 'w'); os.chmod('.', 0)",
    ],
)
def test_only_plain_files_are_collected(run, trap):
    """Links, pipes, sockets, directories and bombs are left out, and nobody hangs."""
    result = run(f"import os\n{trap}", collect=("x", "z"), disk=16 * 2**20)

    assert result.ok, result.stderr
    assert sum(map(len, result.files.values())) <= 16 * 2**20
    assert b"root" not in b"".join(result.files.values())


def test_an_odd_file_name_survives(run):
    """A name that is not UTF-8 keeps its bytes as lone surrogates."""
    result = run(r"open(b'\xff\n', 'w').write('odd')", collect=("*",))

    assert result.files["\udcff\n"] == b"odd"


def test_labels_come_back_unread(run):
    """`labels` are the caller's."""
    assert run("", labels={"course": "cs1"}).labels == {"course": "cs1"}


def test_the_default_interpreter_is_the_base_of_ours(run):
    """The job runs the same Python as the worker, without its site-packages."""
    result = run(
        "import sys, importlib.util as u\n"
        "print(sys.version == sys.argv[1], sys.prefix == sys.base_prefix, u.find_spec('celery'), u.find_spec('pip'))",
        args=(sys.version,),
    )

    assert result.text == "True True None None\n"


def test_the_standard_library_is_whole(run):
    """Extension modules, codecs and time zones work in the jail."""
    modules = "bz2 ctypes curses decimal hashlib json lzma readline sqlite3 ssl unittest uuid zlib"
    source = "".join(f"import {name}\n" for name in modules.split())
    source += "'x'.encode('idna'); print(hashlib.sha256(b'').hexdigest()[:8])\n"

    assert run(source).text == "e3b0c442\n"


def test_sqlite_works_in_the_box(run):
    """POSIX record locks work, so a database can be kept."""
    result = run(
        "import sqlite3\n"
        "with sqlite3.connect('x.db') as db:\n"
        "    db.execute('create table t(a)'); db.execute('insert into t values (42)')\n"
        "print(db.execute('select a from t').fetchone())"
    )

    assert result.text == "(42,)\n"


def test_a_shell_script_runs(run):
    """The built-in `sh` runtime runs /box/main.sh with the usual tools."""
    result = run('echo "$0 $1"; wc -c', runtime="sh", args=("one",), stdin="abc", processes=2)

    assert result.text == "/box/main.sh one\n3\n"


def test_an_unknown_runtime_is_refused(run):
    """The text names what is offered."""
    with pytest.raises(InvalidJob, match=r"runtime: 'cobol' .* python, python-exec, sh"):
        run("", runtime="cobol")


def test_a_file_in_the_scripts_place_is_refused(run):
    """Each runtime's own script name is taken."""
    with pytest.raises(InvalidJob, match=r"main\.sh"):
        run("", runtime="sh", files={"main.sh": ""})


def test_files_that_do_not_fit_are_refused(run):
    """Pages are counted, so files within the bytes may still be too many for the disk."""
    with pytest.raises(InvalidJob, match=r"limits\.disk"):
        run("", files={f"f{n}": "x" for n in range(64)}, disk=64 * 1024)


def test_arguments_beyond_what_linux_takes_are_refused(run):
    """The text says what is too large."""
    with pytest.raises(InvalidJob, match="args, env"):
        run("", args=("x" * 300_000,))


def test_every_result_has_its_times(run):
    """A local run knows when it started and ended, and what it used."""
    result = run("sum(range(10**6))")

    assert result.status is Status.OK
    assert result.started_at < result.finished_at
    assert 0 < result.wall_time < Limits().wall_time
    assert 0 < result.cpu_time < Limits().wall_time
    assert 2**20 < result.memory < Limits().memory
