"""A warm interpreter is what `python3 main.py` is, in all that a script can see."""

import re
import sys

import pytest

from sandbox_core import Job, Sandbox, SandboxError, Status

_SHOWN = """
import builtins, gc, locale, os, signal, sys, warnings
print(__name__, __file__, __spec__, sys.argv, sys.orig_argv, sys.path, sys.executable, sys.prefix)
print(sys.flags, sys.warnoptions, sys.getrecursionlimit(), sys.get_int_max_str_digits())
print(sorted(os.environ.items()), os.getcwd(), oct(os.umask(0)), os.nice(0))
print([str(signal.getsignal(n)) for n in signal.valid_signals()], signal.pthread_sigmask(0, ()))
print(sys.stdin, sys.stdout, sys.stderr, sys.stdin.buffer, sys.stdin.isatty(), sys.stdin.seekable())
print(locale.getlocale(), sys.getfilesystemencoding(), sys.stdout.errors, sys.stdout.line_buffering)
print(gc.isenabled(), gc.get_threshold(), sys._getframe().f_back, sys.excepthook, sys.meta_path)
print(sorted(dir(builtins)), exit, copyright, warnings.filters, sorted(globals()))
print(sorted(os.listdir("/proc/self/fd")), open("/proc/self/environ").read(), os.listdir(sys.path[1]) if os.path.exists(sys.path[1]) else [])
"""


@pytest.mark.parametrize("stdin", ["", "some\ntext"])
def test_it_looks_like_one_that_was_started_afresh(run, stdin):
    """Line by line, down to the names of its streams."""
    job = {"args": ("a", "-b"), "stdin": stdin, "env": {"MINE": "1"}}

    warm, fresh = (run(_SHOWN, runtime=name, **job) for name in ("python", "python-exec"))

    # The environment that the kernel shows is that of the exec.
    assert warm.text.splitlines()[:-1] == fresh.text.splitlines()[:-1], warm.stderr
    assert "MINE" not in warm.text.splitlines()[-1]
    assert warm.text.splitlines()[-1].endswith("[]")


@pytest.mark.parametrize(
    "source",
    [
        "def f(): raise ValueError('no')\nf()",
        "raise SystemExit('bye')",
        "import sys; sys.exit(7)",
        "import atexit; atexit.register(print, 'at exit'); print('first')",
        "f = open('x', 'w'); f.write('kept'); import atexit, os; print('done', end='')",
        "class C:\n  def __del__(self): print('gone')\nc = C()",
        "def f(:",
        "import os; print('lost'); os._exit(3)",
        "import os, sys; print('cut'); sys.stdout.flush(); os.abort()",
        "print(input(), input())",
        "import threading; print(threading.current_thread().name, threading.active_count())",
        "import traceback; traceback.print_stack()",
        "import helper; print(helper.__file__)",
        "import json, re, socket, select, struct, ctypes, resource; print(json.__spec__.name)",
        "import sys; sys.stdout.close(); sys.stderr.write('e')",
        "import signal, time; signal.signal(signal.SIGALRM, lambda *a: print('alarm')); signal.alarm(1); time.sleep(2)",
    ],
)
def test_it_ends_like_one_that_was_started_afresh(run, source):
    """Status, code, output, traceback and files."""
    job = {"stdin": "one\ntwo\n", "files": {"helper.py": ""}, "collect": ("x",)}

    warm, fresh = (run(source, runtime=name, **job) for name in ("python", "python-exec"))

    for name in ("status", "exit_code", "signal", "stdout", "stderr", "files"):
        assert getattr(warm, name) == getattr(fresh, name), name


def test_every_job_has_random_numbers_of_its_own(sandbox):
    """Of every source that Python has."""
    source = (
        "import random, secrets, ssl, tempfile, uuid\n"
        "print(random.random(), uuid.uuid1(), uuid.uuid4(), secrets.token_hex(), ssl.RAND_bytes(8),"
        " tempfile.mktemp(), sep='\\n')"
    )
    found = [line for _ in range(60) for line in sandbox.run(source).text.splitlines()]

    assert len(found) == len(set(found)) == 360


def test_a_single_process_executes_nothing(run):
    """It is already what it has to be; with more processes it may."""
    source = "import os, sys\ntry: os.execv(sys.executable, ['python3', '-c', 'print(1)'])\nexcept PermissionError: print('refused')"

    assert run(source).text == "refused\n"
    assert run(source, processes=2).text == "1\n"


def test_variables_that_are_read_at_the_start_are_heeded(run):
    """Such a job gets an interpreter that starts with them."""
    source = "import sys; print(sys.flags.utf8_mode, hash('x'))"

    first, second = (run(source, env={"PYTHONUTF8": "1", "PYTHONHASHSEED": "5"}).text for _ in range(2))

    assert first.startswith("1 ")
    assert first == second


def test_a_runtime_preloads_modules(tmp_path):
    """They are imported before the job comes; one that can't be is named."""
    table = tmp_path / "runtimes.toml"
    table.write_text(f'[warm]\nprefix = "{sys.base_prefix}"\npreload = ["decimal", "csv"]\n')
    with Sandbox(table) as sandbox:
        result = sandbox.run(Job("import sys; print('decimal' in sys.modules)", runtime="warm"))
    assert result.text == "True\n"

    table.write_text(f'[warm]\nprefix = "{sys.base_prefix}"\npreload = ["no_such_module"]\n')
    with (
        Sandbox(table) as sandbox,
        pytest.raises(SandboxError, match="No module named 'no_such_module'"),
    ):
        sandbox.run(Job("", runtime="warm"))


def test_an_interpreter_is_replaced_after_so_many_jobs(tmp_path):
    """With another address layout."""
    table = tmp_path / "runtimes.toml"
    table.write_text(f'[warm]\nprefix = "{sys.base_prefix}"\nrecycle_after = 3\n')
    with Sandbox(table) as sandbox:
        job = Job("print(id(object), hash('x'))", runtime="warm")
        found = [sandbox.run(job).text for _ in range(9)]

    assert len(set(found)) == 3
    assert found[0] == found[1] == found[2] != found[3]


def test_what_a_job_changes_is_gone_in_the_next(run):
    """Modules, builtins, signal handlers, the environment: all of it was a copy."""
    run(
        "import builtins, json, os, signal, sys\n"
        "builtins.print = json.dumps = None\nos.environ['LEFT'] = '1'; sys.path.clear(); sys.modules.clear()"
    )
    result = run("import json, os; print(json.dumps([os.environ.get('LEFT')]))")

    assert (result.status, result.text) == (Status.OK, "[null]\n")


_ADDRESS = re.compile(rb" at 0x[0-9a-f]+")

#: What is still to be done as a script ends, or how it ended, by its shortest name.
_LAST_WORDS = {
    "an exit code": "import sys; print('x'); sys.exit(3)",
    "an exit code without a file": "import sys; globals().clear(); __import__('sys').exit(3)",
    "an exit code of zero": "print('x'); raise SystemExit",
    "an exception": "print('x'); 1/0",
    "an exception handled by a hook": "import sys; sys.excepthook = lambda *_: print('hook'); 1/0",
    "a callback called early": "import atexit; atexit._run_exitfuncs(); print('still here')",
    "a callback that fails": "import atexit; atexit.register(lambda: 1/0); print('x')",
    "a callback that exits": "import atexit, sys; atexit.register(lambda: sys.exit(4)); print('x')",
    "an open file": "f = open('f', 'w'); f.write('kept')",
    "an open file in a module": "import json; json.f = open('f', 'wb'); json.f.write(b'kept')",
    "an open archive": "import zipfile; z = zipfile.ZipFile('f', 'w'); z.writestr(zipfile.ZipInfo('a'), 'b')",
    "an open database": "import sqlite3; c = sqlite3.connect('f'); c.execute('create table t (a)')",
    "a destructor": "class C:\n  def __del__(self): print('gone')\nc = C()",
    "a destructor without a trace": "class C:\n  __slots__ = ()\n  def __del__(self): print('gone')\nc = C()",
    "a destructor that is inherited": "class C:\n  def __del__(self): print('gone')\nclass D(C): pass\nd = D()",
    "a destructor in a cycle": "class C:\n  def __del__(self): print('gone')\nc = C(); c.c = c; del c",
    "a destructor out of sight": "import gc\nclass C:\n  def __del__(self): print('gone')\nc = C(); gc.freeze()",
    "a suspended generator": "def g():\n  try: yield\n  finally: print('closed')\ng = g(); next(g)",
    "a suspended coroutine": "async def f(): pass\nc = f()",
    "a weak reference": "import weakref\nclass C: pass\nc = C(); r = weakref.ref(c, lambda _: print('gone'))",
    "another standard output": "import sys, io; sys.stdout = io.TextIOWrapper(open('f', 'wb')); print('kept')",
    "a closed standard output": "import sys; sys.stdout.close()",
    "a buffer of C's": "import ctypes; ctypes.CDLL(None).puts(b'from C')",
    "a full standard output": "import os, sys; sys.stdout.write('x'); os.close(1)",
    "nothing": "x = [1]; print('x', end='')",
}


@pytest.mark.parametrize("what", _LAST_WORDS)
def test_what_is_left_to_do_at_the_end_is_done(run, what):
    """The short way out is only for those that leave nothing."""
    warm, fresh = (
        run(_LAST_WORDS[what], runtime=name, collect=("f*",)) for name in ("python", "python-exec")
    )

    assert (warm.status, warm.exit_code, warm.text) == (fresh.status, fresh.exit_code, fresh.text)
    assert _ADDRESS.sub(b"", warm.stderr) == _ADDRESS.sub(b"", fresh.stderr)
    assert warm.files == fresh.files


#: A script's own words at the call that the short way out ends with.
_LEAVE = """
import os
def leave(code, exit=os._exit, write=os.write):
    write(1, b"the short way")
    exit(code)
os._exit = leave
"""


@pytest.mark.parametrize(
    ("source", "short"),
    [
        ("print(1)", True),
        ("import json, random, re; print(json.dumps([random.random()]))", True),
        ("import collections, datetime, decimal, enum, functools, typing; print(1)", True),
        ("class A: pass\nmany = [A() for _ in range(9)]; many.append(many)", True),
        ("import threading; threading.Thread(target=print).start()", True),
        # What `atexit` calls has been called by then, and this is.
        ("import weakref\nclass A: pass\na = A(); weakref.finalize(a, print, 'end')", True),
        ("raise SystemExit", False),
        ("1 / 0", False),
        ("file = open('x', 'w'); file.write('held back')", False),
        (
            "import threading, time; threading.Thread(target=time.sleep, args=(9,), daemon=True).start()",
            False,
        ),
        ("def rows():\n    try: yield 1\n    finally: print('end')\nrow = rows(); next(row)", False),
        ("class A:\n    def __del__(self): print('end')\na = A()", False),
        ("import gc; gc.freeze()", False),
    ],
)
def test_the_short_way_out_is_taken_where_nothing_is_left_to_do(run, source, short):
    """And only there, whichever Python it is: it goes by what an interpreter is made of."""
    result = run(_LEAVE + source, processes=2)

    assert result.text.endswith("the short way") is short, result.stdout
