"""A script can't tell a warm interpreter from `python3 main.py`: the same scripts, three ways.

Each runs in a warm jail, in one that starts the interpreter afresh, and without any jail. What the
two jails show must be equal; what a jail changes of what plain Python shows is put aside first.
"""

import io
import os
import re
import signal
import subprocess
import sys
import zipfile

import pytest

from sandbox_core import Job, Limits, Sandbox, Status

_PYTHON = os.path.realpath(sys.executable)
_SITE = os.path.join(os.path.dirname(os.__file__), "site-packages")
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/box", "LANG": "C.UTF-8"}


@pytest.fixture
def plain(tmp_path):
    """Run a script without any jail, as `python3 main.py` in a directory of its own."""

    def plain(source: str, *args: str, stdin: str = "") -> subprocess.CompletedProcess[bytes]:
        (tmp_path / "main.py").write_text(source)
        (tmp_path / "beside.py").write_text("NAME = __name__\n")
        # Without the host's site-packages, which a jail does not show and which may bring start-up hooks.
        hidden = 'mount -t tmpfs none "$0" && exec "$@"'
        done = subprocess.run(
            # By a path that is absolute, as that of a jail's script is.
            ["unshare", "-m", "sh", "-c", hidden, _SITE, _PYTHON, str(tmp_path / "main.py"), *args],
            cwd=tmp_path,
            env=_ENVIRONMENT,
            input=stdin.encode(),
            capture_output=True,
            check=False,
        )
        for stream in ("stdout", "stderr"):
            here = os.fsencode(tmp_path)
            setattr(done, stream, getattr(done, stream).replace(here, b"/box"))
        return done

    return plain


_STATE = {
    "modules, in their order": "import sys; print(list(sys.modules))",
    "the importers' caches": (
        "import sys; print(sorted(set(sys.path_importer_cache) - {__file__}), sys.path_hooks, sys.meta_path)"
    ),
    "the attributes of __main__": (
        "print({k: v for k, v in sorted(globals().items()) if k not in ('__loader__', '__builtins__')}, "
        "type(__loader__), __loader__.name, __loader__.path, __builtins__)"
    ),
    "annotations": "x: int = 1\nprint(__annotations__, '__cached__' in globals(), __cached__, __spec__)",
    "arguments and paths": "import sys; print(sys.argv, sys.path[0], sys.path[2:], sys.orig_argv[1:])",
    "flags": "import sys; print(sys.flags, sys.warnoptions, sys._xoptions, sys.dont_write_bytecode)",
    "limits": (
        "import sys; print(sys.getrecursionlimit(), sys.getswitchinterval(), sys.get_int_max_str_digits(),"
        " sys.thread_info, sys.getprofile(), sys.gettrace())"
    ),
    "hooks": (
        "import sys; print([getattr(sys, n) is getattr(sys, f'__{n}__')"
        " for n in ('excepthook', 'displayhook', 'breakpointhook', 'unraisablehook')])"
    ),
    "the attributes of sys": "import sys; print(sorted(dir(sys)))",
    "builtins": "import builtins; print(sorted(dir(builtins)))",
    "standard streams": (
        "import sys\nfor s in (sys.stdin, sys.stdout, sys.stderr):\n"
        " print(s, s.buffer, s.buffer.raw, s.line_buffering, s.write_through, s.errors, s.newlines, s.closed,"
        " s.fileno(), s.isatty(), s.seekable() if s is not sys.stdin else '', s.mode, s.name)\n"
        "print(sys.stdin is sys.__stdin__, sys.stdout is sys.__stdout__, sys.stderr is sys.__stderr__)"
    ),
    "the collector": "import gc; print(gc.isenabled(), gc.get_threshold(), gc.get_debug(), gc.callbacks, gc.garbage)",
    "locale": "import locale; print(locale.setlocale(locale.LC_ALL), locale.getpreferredencoding(), locale.localeconv())",
    "warnings": "import warnings; print(warnings.filters, warnings.onceregistry)",
    "signal handlers": "import signal; print([(n, signal.getsignal(n)) for n in (1, 2, 10, 13, 15, 17, 25)])",
    "wakeup, timers and mask": (
        "import signal; print(signal.set_wakeup_fd(-1), [signal.getitimer(n) for n in range(3)],"
        " signal.pthread_sigmask(0, ()), signal.sigpending())"
    ),
    "threads": "import threading; print(threading.enumerate(), threading.main_thread().ident == threading.get_ident())",
    "contexts": "import contextvars, decimal; print(len(contextvars.copy_context()), decimal.getcontext())",
    "a frame and what is above it": "import sys; f = sys._getframe(); print(f.f_back, f.f_code.co_filename, f.f_lineno)",
    "time zone": "import time; print(time.tzname, time.timezone, time.daylight)",
    "modules with state in C": (
        "import _socket, select, signal, socket, struct, ctypes, json, resource, array\n"
        "print(isinstance(socket.socket(socket.AF_UNIX), _socket.socket), socket.SocketType, ctypes.c_int(3),"
        " ctypes.POINTER(ctypes.c_int)(ctypes.c_int(4)).contents, ctypes.sizeof(ctypes.c_long * 3),"
        " ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda n: n + 1)(5), signal.Signals(2),"
        " signal.getsignal(2), struct.calcsize('qi'), json.loads('[1, {}]'), array.array('i', [1]))"
    ),
    "what imports each other": (
        "import sys, json, ctypes, socket, selectors, enum, re, types, collections, functools, copyreg, typing\n"
        "import pickle, copy, abc, collections.abc, importlib, importlib.util, contextlib, weakref, io\n"
        "print(sorted(sys.modules), pickle.loads(pickle.dumps((re.compile('a+'), socket.AF_UNIX,"
        " collections.Counter('aab')))), isinstance({}, collections.abc.Mapping),"
        " importlib.util.find_spec('json') == json.__spec__, importlib._bootstrap.__name__)"
    ),
    "what is left of the start": (
        "import site, sys; print(site.ENABLE_USER_SITE, site.execusercustomize.__qualname__,"
        " site.execusercustomize.__module__, 'usercustomize' in sys.modules)"
    ),
    "the file beside it": "import beside, sys; print(beside.NAME, beside.__file__, beside.__spec__.origin)",
    "standard input": "import sys; print(input(), input('more? '), sys.stdin.read())",
}


@pytest.mark.parametrize("padding", [0, 3 << 19], ids=["small", "large"])
def test_a_script_that_is_an_archive_runs_what_is_in_it(run, padding):
    """As Python does, whether it is received in one piece or in several."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("__main__.py", "import sys, beside; print(__file__, sys.path[0], beside.NAME)")
        archive.writestr("beside.py", "NAME = __name__")
        archive.writestr("padding", bytes(padding))

    warm, fresh = (run(packed.getvalue(), runtime=name) for name in ("python", "python-exec"))

    assert warm.text == "/box/main.py/__main__.py /box/main.py beside\n", warm.stderr
    assert warm.text == fresh.text


@pytest.mark.parametrize("what", _STATE)
def test_a_script_sees_the_same(run, plain, what):
    """By everything that is documented."""
    job = {
        "args": ("one", "two words"),
        "stdin": "a\nb\nc\nd",
        "files": {"beside.py": "NAME = __name__\n"},
    }

    warm, fresh = (run(_STATE[what], runtime=name, **job) for name in ("python", "python-exec"))
    bare = plain(_STATE[what], "one", "two words", stdin="a\nb\nc\nd")

    assert bare.returncode == 0, bare.stderr
    assert _without_addresses(warm.stdout) == _without_addresses(fresh.stdout), warm.stderr
    assert _without_addresses(warm.stdout) == _without_addresses(bare.stdout), warm.stderr
    assert warm.stderr == fresh.stderr == bare.stderr


def _without_addresses(output: bytes) -> str:
    # Which are another process's, like the number of a thread.
    return re.sub(r"0x[0-9a-f]+|started \d+", "…", output.decode())


_ENDS = {
    "an error": "def f(n):\n    return 1 / n\n\nf(0)\n",
    "an error in an error": "try:\n    {}['a']\nexcept KeyError as e:\n    raise ValueError('b') from e\n",
    "an error with notes": "e = ValueError('x')\ne.add_note('noted')\nraise e",
    "errors in a group": "raise ExceptionGroup('g', [ValueError(1), TypeError('é')])",
    "an error in the library": "import json\njson.loads('{')",
    "deep recursion": "def f(): f()\nf()",
    "a syntax error": "x = (1,\n",
    "an indentation error": "if 1:\nx\n",
    "a tab error": "if 1:\n        a\n\tb\n",
    "a NUL": "x\0",
    "an import that is not there": "import no_such_module_as_this",
    "an error on the way into a module": "import beside_that_fails",
    "exit codes": "import sys; sys.exit(259)",
    "an exit with a text": "import sys; sys.exit('ä text')",
    "an exit with nothing": "raise SystemExit",
    "an exit below a finally": "try:\n    exit(3)\nfinally:\n    print('last')",
    "atexit, in its order": (
        "import atexit\nfor n in range(3): atexit.register(print, n)\n"
        "atexit.register(lambda: 1 / 0)\nprint('first')"
    ),
    "atexit after an error": "import atexit\natexit.register(print, 'at exit')\nraise ValueError(1)",
    "an exit in atexit": "import atexit, sys\natexit.register(sys.exit, 4)\nprint('x')",
    "finalizers": (
        "import weakref\nclass A:\n    def __del__(self): print('del', self.n)\n"
        "a = A(); a.n = 1\nb = A(); b.n = 2; b.me = b\nc = A(); c.n = 3\nweakref.finalize(c, print, 'final')"
    ),
    "an error in a finalizer": "class A:\n    def __del__(self): 1 / 0\na = A()\ndel a\nprint('on')",
    "output without an end of line": "print('abc', end='')",
    "output after which it dies": "import os, signal\nprint('lost')\nos.kill(os.getpid(), signal.SIGKILL)",
    "output that was flushed": "import os\nprint('kept', flush=True)\nos._exit(5)",
    "errors are not buffered": "import os, sys\nsys.stderr.write('kept'); os._exit(5)",
    "bytes and text": "import sys\nsys.stdout.buffer.write(b'\\xff\\n'); print('ä', '\\udcff'.isprintable())",
    "a surrogate": "print('\\ud800')",
    "closed output": "import sys\nprint('x')\nsys.stdout.close()",
    "output closed below": "import os\nprint('x')\nos.close(1)",
    "an interrupt": "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(9)",
    "an interrupt that is caught": (
        "import os, signal, time\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(9)\n"
        "except KeyboardInterrupt:\n    print('caught')"
    ),
    "a handler": (
        "import os, signal\nsignal.signal(signal.SIGTERM, lambda n, f: print(n, f.f_code.co_name))\n"
        "os.kill(os.getpid(), signal.SIGTERM)"
    ),
    "a signal": "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)",
    "a broken pipe": "import os, signal\nr, w = os.pipe()\nos.close(r)\nos.write(w, b'x')",
    "a warning": "import warnings\nwarnings.warn('careful')\nwarnings.warn('old', DeprecationWarning)",
    "a file left open": "open('main.py')\nf = open('main.py')\nprint('x')",
    "a generator left in the middle": "def g():\n    try:\n        yield 1\n    finally:\n        print('closed')\nx = g()\nnext(x)",
    "no more input": "input()",
    "a log": "import logging\nlogging.warning('x')\nlogging.getLogger('a').error('y', stack_info=True)",
    "a trace": "import traceback\ndef f(): traceback.print_stack()\nf()",
    "a fault handler": "import faulthandler, os\nfaulthandler.enable()\nos.abort()",
    "an audit hook": "import sys\nsys.addaudithook(lambda e, a: e == 'mine' and print(e, a))\nsys.audit('mine', 1)",
}


@pytest.mark.parametrize("what", _ENDS)
def test_a_script_ends_the_same(run, plain, what):
    """With the same code or signal, and byte for byte the same output and traceback."""
    warm, fresh = (run(_ENDS[what], runtime=name) for name in ("python", "python-exec"))
    bare = plain(_ENDS[what])

    for name in ("status", "exit_code", "signal", "stdout"):
        assert getattr(warm, name) == getattr(fresh, name), name
    assert _without_addresses(warm.stderr) == _without_addresses(fresh.stderr)
    expected = -signal.Signals[warm.signal] if warm.signal else warm.exit_code
    assert (expected, warm.stdout) == (bare.returncode, bare.stdout)
    assert _without_addresses(warm.stderr) == _without_addresses(bare.stderr)


_SEVERAL = {
    "threads": (
        "import threading\nt = [threading.Thread(target=print, args=(n,)) for n in range(3)]\n"
        "for x in t: x.start(); x.join()\n"
        "threading.Thread(target=lambda: 1 / 0, name='mine').start()"
    ),
    "a thread that outlives the script": (
        "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.2), print('late'))).start()\n"
        "print('early')"
    ),
    "a pool of threads": (
        "from concurrent.futures import ThreadPoolExecutor as P\nprint(list(P(3).map(abs, range(-9, 0))))"
    ),
    "fork": (
        "import os\nif os.fork() == 0:\n    print('child'); raise SystemExit(3)\n"
        "print(os.waitstatus_to_exitcode(os.wait()[1]))"
    ),
    "subprocess": (
        "import subprocess, sys\nprint(subprocess.run([sys.executable, '-c', 'import sys; print(list(sys.modules),"
        " sys.flags)'], capture_output=True, text=True).stdout)"
    ),
    "processes by fork": (
        "import multiprocessing as m\ndef f(n): return n * n\nif __name__ == '__main__':\n"
        "    p = m.get_context('fork').Process(target=print, args=('child',))\n    p.start(); p.join(); print(p.exitcode)"
    ),
    "processes by spawn": (
        "import multiprocessing as m\ndef f(c): c.send(__name__)\nif __name__ == '__main__':\n"
        "    c = m.get_context('spawn')\n    a, b = c.Pipe()\n    p = c.Process(target=f, args=(b,))\n"
        "    p.start(); print(a.recv()); p.join(); print(p.exitcode)"
    ),
}


@pytest.mark.parametrize("what", _SEVERAL)
def test_several_processes_and_threads_work_the_same(run, plain, time_factor, what):
    """Where the limit lets there be several."""
    warm, fresh = (
        run(
            _SEVERAL[what],
            runtime=name,
            processes=16,
            memory=256 << 20,
            open_files=256,
            wall_time=60.0 * time_factor,
        )
        for name in ("python", "python-exec")
    )
    bare = plain(_SEVERAL[what])

    assert warm.exit_code == fresh.exit_code == bare.returncode, warm.stderr
    assert warm.stdout == fresh.stdout == bare.stdout
    assert _without_addresses(warm.stderr) == _without_addresses(bare.stderr)


def test_one_process_is_told_so_as_python_tells_it(run):
    """By the ordinary errors, in both kinds of jail."""
    source = (
        "import os, threading\n"
        "for f in (os.fork, threading.Thread(target=print).start):\n"
        "    try: f()\n    except Exception as e: print(type(e), e)\n"
    )

    warm, fresh = (run(source, runtime=name) for name in ("python", "python-exec"))

    assert warm.stdout == fresh.stdout
    assert warm.text.splitlines() == [
        "<class 'BlockingIOError'> [Errno 11] Resource temporarily unavailable",
        "<class 'RuntimeError'> can't start new thread",
    ]


#: One of each source of chance, by name.
_CHANCE = (
    "import random, secrets, ssl, tempfile, uuid, os, hashlib\n"
    "print(random.random(), random.SystemRandom().random(), random.getrandbits(64), uuid.uuid1(), uuid.uuid4(),"
    " secrets.token_hex(), secrets.choice(range(1 << 40)), ssl.RAND_bytes(8), tempfile.mktemp(), os.urandom(8),"
    " tempfile.gettempprefix() + next(tempfile._get_candidate_names()), sep='\\n')"
)


def test_chance_is_different_in_every_job_even_when_loaded_before(tmp_path, time_factor):
    """A thousand jobs where they take milliseconds, forked from an interpreter that has these modules and has used some of them."""
    table = tmp_path / "runtimes.toml"
    table.write_text(
        f'[loaded]\nprefix = "{sys.base_prefix}"\npreload = ["random", "ssl", "uuid", "secrets", "tempfile"]\n'
    )
    with Sandbox(table) as sandbox:
        found = []
        for _ in range(many := 1000 if time_factor == 1 else 50):
            result = sandbox.run(
                Job(_CHANCE, runtime="loaded", limits=Limits(wall_time=60 * time_factor))
            )
            assert result.status is Status.OK, result.stderr
            found += result.text.splitlines()

    assert len(found) == len(set(found)) == 11 * many


def test_the_seed_of_hashes_is_the_interpreters(run):
    """Shared by the jobs of one warm interpreter, as docs/security.md says; a job can ask for its own."""
    source = "print(hash('text'))"

    assert len({run(source).text for _ in range(3)}) == 1
    assert len({run(source, runtime="python-exec").text for _ in range(3)}) == 3
    assert (
        run(source, env={"PYTHONHASHSEED": "0"}).text == run(source, env={"PYTHONHASHSEED": "0"}).text
    )


def test_clocks_go_on(run):
    """None of them stands still or starts anew between jobs."""
    source = "import time; print(time.perf_counter(), time.monotonic(), time.time(), time.process_time() < 5)"

    first, second = (run(source).text.split() for _ in range(2))

    assert [float(a) < float(b) for a, b in zip(first[:3], second[:3], strict=True)] == [True] * 3
    assert first[3] == second[3] == "True"


def test_modules_of_a_preload_list_are_there_and_no_others(tmp_path):
    """An operator's choice is all that a script can find loaded."""
    table = tmp_path / "runtimes.toml"
    table.write_text(f'[loaded]\nprefix = "{sys.base_prefix}"\npreload = ["json", "socket"]\n')
    source = "import sys; before = list(sys.modules); import json, socket; print(before == list(sys.modules))"
    asked = "import json, socket, sys; print(sorted(sys.modules))"
    with Sandbox(table) as sandbox:
        loaded = sandbox.run(Job(source, runtime="loaded"))
        names = {name: sandbox.run(Job(asked, runtime=name)).text for name in ("loaded", "python-exec")}

    assert loaded.text == "True\n", loaded.stderr
    assert names["loaded"] == names["python-exec"]
