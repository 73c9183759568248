"""`sandboxed repl` as a person meets it: through a pseudo-terminal, keys and all."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import psutil
import pytest

from sandbox_core import Sandbox
from sandbox_core.repl import add_runtime, interact
from tests.root.attacks.battery import TIME_FACTOR

SANDBOXED = str(Path(sys.executable).with_name("sandboxed"))
PROMPT = ">>> "
UP, CTRL_A, CTRL_C, CTRL_D, TAB = "\x1b[A", "\x01", "\x03", "\x04", "\t"
SOON = 30 * TIME_FACTOR

#: A short time, in which an interpreter can greet all the same.
SHORT = f"{max(1, TIME_FACTOR / 3):g}"


class Typist:
    """Somebody at a terminal with an interpreter in it."""

    def __init__(self, *options: str) -> None:
        # An interpreter that paints its prompts anew with every key would be hard to read here.
        env = {**os.environ, "TERM": "xterm", "PYTHON_BASIC_REPL": "1", "SECRET": "s"}
        self.terminal = pexpect.spawn(
            SANDBOXED, ["repl", *options], encoding="utf-8", timeout=SOON, env=env, dimensions=(24, 80)
        )
        self.terminal.expect_exact(PROMPT)
        self.banner = self.terminal.before

    def types(self, line: str) -> str:
        """Type a line, and give what is shown up to the next prompt, without the line itself."""
        self.terminal.sendline(line)
        self.terminal.expect_exact(PROMPT)
        return self.terminal.before.partition("\n")[2].strip()

    def ends(self) -> int:
        """Wait for the end; give the exit code."""
        self.terminal.expect(pexpect.EOF)
        self.terminal.close()
        return self.terminal.exitstatus


@pytest.fixture
def repl() -> Iterator[Callable[..., Typist]]:
    """Start interpreters, and see that they end."""
    typists = []

    def start(*options: str) -> Typist:
        typists.append(Typist(*options))
        return typists[-1]

    yield start
    for typist in typists:
        typist.terminal.close(force=True)


@pytest.fixture(scope="module")
def typist() -> Iterator[Typist]:
    """Give one interpreter to the tests that do not end it."""
    typist = Typist()
    yield typist
    typist.terminal.sendline("exit()")
    assert typist.ends() == 0


# What it feels like.


def test_it_greets_as_python_does(typist):
    """With the version and the hint."""
    assert typist.banner.strip().startswith(f"Python {sys.version.split()[0]}")
    assert 'Type "help"' in typist.banner


def test_an_expression_is_answered(typist):
    """And the answer is kept in `_`."""
    assert typist.types("6 * 7") == "42"
    assert typist.types("_ + 1") == "43"


def test_lines_can_be_edited(typist):
    """The cursor goes to the start of the line, where more is typed."""
    typist.terminal.send(f"+ 2{CTRL_A}40 ")

    assert typist.types("").endswith("42")


def test_former_lines_come_back(typist):
    """With the arrow key."""
    typist.types("'first' + 'line'")

    assert typist.types(UP) == "'firstline'"


def test_names_are_completed(typist):
    """With the tab key."""
    typist.types("import sys")

    assert typist.types(f"sys.maxsi{TAB}").endswith(str(sys.maxsize))


def test_a_statement_may_have_several_lines(typist):
    """It is run after the empty one."""
    for line in ("def double(x):", "    return 2 * x"):
        typist.terminal.sendline(line)
        typist.terminal.expect_exact("... ")
    typist.types("")

    assert typist.types("double(21)") == "42"


def test_ctrl_c_is_keyboard_interrupt_and_not_the_end(typist):
    """While something runs, and at the prompt."""
    typist.types("x = 'still here'")
    typist.terminal.sendline("import time; print('run' + 'ning'); time.sleep(60)")
    typist.terminal.expect_exact("running")
    typist.terminal.send(CTRL_C)
    typist.terminal.expect_exact("KeyboardInterrupt")
    typist.terminal.expect_exact(PROMPT)
    typist.terminal.send(f"half a line{CTRL_C}")
    typist.terminal.expect_exact("KeyboardInterrupt")
    typist.terminal.expect_exact(PROMPT)

    assert typist.types("x") == "'still here'"


def test_input_asks_at_the_terminal(typist):
    """Its prompt is shown, the line is read."""
    typist.terminal.sendline("name = input('who' + '? ')")
    typist.terminal.expect_exact("who? ")
    typist.types("Ada")

    assert typist.types("name") == "'Ada'"


def test_help_shows_its_pages(typist):
    """One at a time, until q is typed."""
    typist.terminal.sendline("help(str)")
    typist.terminal.expect_exact("Help on class str")
    typist.terminal.expect_exact("-- more --")
    typist.terminal.send("q")
    typist.terminal.expect_exact(PROMPT)

    assert typist.types("1") == "1"


def test_there_are_colours_where_the_interpreter_has_them(typist):
    """Tracebacks have, since Python 3.13."""
    assert ("\x1b[" in typist.types("1 / 0")) == (sys.version_info >= (3, 13))


def test_the_size_of_the_window_arrives_and_so_do_changes(typist):
    """With the signal that tells of them."""
    assert typist.types("import os; tuple(os.get_terminal_size())") == "(80, 24)"
    typist.types("import signal; changes = []")
    typist.types("_ = signal.signal(signal.SIGWINCH, lambda *_: changes.append(1))")
    typist.terminal.setwinsize(50, 132)
    typist.types("while not changes: signal.pause()\n")

    assert typist.types("tuple(os.get_terminal_size())") == "(132, 50)"


def test_ctrl_d_ends_it(repl):
    """With 0."""
    typist = repl()
    typist.terminal.send(CTRL_D)

    assert typist.ends() == 0


def test_exit_ends_it_with_its_code(repl):
    """As python3 does."""
    typist = repl()
    typist.terminal.sendline("exit(3)")

    assert typist.ends() == 3


# What is inside.


def test_there_is_a_file_system_of_its_own(typist):
    """Read-only, with a private /tmp and /box."""
    assert typist.types("import os; os.getcwd(), os.listdir('/box'), os.listdir('/tmp')") == (
        "('/box', [], [])"
    )
    assert "Read-only file system" in typist.types("open('/etc/x', 'w')")
    assert typist.types("open('/tmp/x', 'w').write('1'), open('x', 'w').write('1')") == "(1, 1)"
    assert typist.types("os.path.exists('/home'), os.path.exists('/etc/shadow')") == "(False, False)"
    assert typist.types("import json, sqlite3, ssl; json.dumps([1])") == "'[1]'"


def test_there_is_no_network(typist):
    """Nor a way to ask for one."""
    assert "Address family not supported" in typist.types("import socket; socket.socket()")


def test_there_is_no_other_process_and_none_can_be_started(typist):
    """Nor a thread."""
    pids = typist.types("import os; [p for p in os.listdir('/proc') if p.isdigit()], os.getpid()")
    assert re.fullmatch(r"\(\['(\d+)'\], \1\)", pids)
    assert "BlockingIOError" in typist.types("os.fork()")
    assert "can't start new thread" in typist.types(
        "import threading; threading.Thread(target=print).start()"
    )


def test_there_is_no_privilege_and_nothing_of_ours(typist):
    """Another user, no capability, a host name of its own, no variable but the terminal's."""
    assert typist.types("import os; 60000 <= os.getuid() <= 61183, os.getgroups()") == "(True, [])"
    status = "[l.split()[1] for l in open('/proc/self/status') if l[:3] == 'Cap']"
    assert set(re.findall(r"[0-9a-f]{16}", typist.types(status))) == {"0" * 16}
    assert typist.types("import socket; socket.gethostname()") == "'sandbox'"
    assert typist.types("sorted(os.environ)") == (
        "['HOME', 'LANG', 'PATH', 'PYTHON_BASIC_REPL', 'TERM']"
    )


def test_its_terminal_is_not_ours(typist):
    """A pseudo-terminal between the two; and nobody types into that one but we."""
    outside = os.fstat(typist.terminal.child_fd).st_rdev
    ours = os.stat(os.readlink(f"/proc/{typist.terminal.pid}/fd/0")).st_rdev
    inside = int(typist.types("import os; os.fstat(0).st_rdev"))

    assert inside not in (outside, ours)
    typist.types("import fcntl, termios")
    assert "Operation not permitted" in typist.types("fcntl.ioctl(0, termios.TIOCSTI, b'x')")


def test_dev_adds_the_simple_devices(repl, typist):
    """Which are not there without it."""
    assert typist.types("import os; os.listdir('/dev')") == "[]"
    names = repl("--dev").types("import os; [n for n in sorted(os.listdir('/dev')) if 'std' not in n]")

    assert names == "['fd', 'full', 'null', 'random', 'urandom', 'zero']"


def test_cgroup_adds_a_view_of_its_own(repl, typist):
    """Where its limit can be read, nothing written, and no other cgroup seen."""
    assert typist.types("import os; os.path.exists('/sys')") == "False"
    typist = repl("--cgroup", "--memory", "77M")
    typist.types("import glob; top = '/sys/fs/cgroup/'")
    found = (
        "glob.glob(top + '**/memory.max', recursive=True) + glob.glob(top + '*/memory.limit_in_bytes')"
    )

    assert typist.types(f"[open(path).read() for path in {found}]") == f"['{77 << 20}\\n']"
    assert "Read-only" in typist.types(
        "open(glob.glob(top + '**/cgroup.procs', recursive=True)[0], 'w')"
    )
    assert typist.types("glob.glob(top + '**/*sandboxed*', recursive=True)") == "[]"


def test_python_names_another_interpreter(repl):
    """By its prefix."""
    typist = repl("--python", sys.base_prefix)

    assert typist.types("import sys; sys.prefix") == repr(os.path.realpath(sys.base_prefix))
    assert typist.types("import os; os.path.isfile('/usr/bin/python3')") == "True"


# Its limits and its end.


def test_the_limits_are_those_of_a_job(repl):
    """Memory, for one; the line says which."""
    typist = repl("--memory", "64M")
    typist.terminal.sendline("x = bytearray(1 << 28)")
    typist.terminal.expect_exact("sandboxed: memory limit: 64M")

    assert typist.ends() == 137


def test_a_wall_limit_can_be_asked_for(repl):
    """There is none else."""
    typist = repl("--wall-time", SHORT)
    typist.terminal.expect_exact(f"sandboxed: time limit: {SHORT} s")

    assert typist.ends() == 124


def test_output_can_be_bounded(repl):
    """A flood ends then."""
    typist = repl("--output", "64K")
    typist.terminal.sendline("while True: print('x' * 70)\n")
    typist.terminal.expect_exact("sandboxed: output limit")

    assert typist.ends() == 153


def test_it_ends_when_nobody_types(repl):
    """After the seconds that were asked for."""
    typist = repl("--idle", SHORT)
    typist.terminal.expect_exact(f"sandboxed: nobody typed for {SHORT} s")

    assert typist.ends() == 124


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_from_outside_ends_it_and_leaves_nothing(number):
    """And the user's terminal is as it was."""
    outer, inner = pty.openpty()
    before = termios.tcgetattr(inner)
    process = subprocess.Popen([SANDBOXED, "repl"], stdin=inner, stdout=inner, stderr=inner)
    shown = b""
    while b">>> " not in shown:
        shown += os.read(outer, 1000)
    assert termios.tcgetattr(inner) != before
    jails = psutil.Process(process.pid).children()
    assert jails
    process.send_signal(number)

    assert process.wait(SOON) == 128 + number
    assert psutil.wait_procs(jails, SOON)[1] == []
    assert termios.tcgetattr(inner) == before
    os.close(outer)
    os.close(inner)


def test_what_is_piped_in_is_run():
    """Without banner or prompt; the exit code is the script's."""
    done = subprocess.run(
        [SANDBOXED, "repl"], input=b"print(1)\nraise SystemExit(4)\n", capture_output=True, check=False
    )

    assert (done.returncode, done.stdout, done.stderr) == (4, b"1\n", b"")


def test_a_traceback_of_what_is_piped_in_is_python_s():
    """On standard error, with 1."""
    done = subprocess.run([SANDBOXED, "repl"], input=b"1/0", capture_output=True, check=False)

    assert done.returncode == 1
    assert b"ZeroDivisionError" in done.stderr


# Embedded.


def test_a_program_can_serve_it_at_a_terminal_of_its_own(leftovers):
    """By the terminal's descriptor; afterwards nothing of it is left."""
    with Sandbox(ahead=False) as sandbox:
        add_runtime(sandbox)
        serve_once(sandbox)
        before = leftovers()
        ending = serve_once(sandbox)

        assert ending.result.exit_code == 5
        assert leftovers() == before


def serve_once(sandbox):
    """Make a terminal, have an interpreter served at its inner side, and type at the outer."""
    outer, inner = pty.openpty()
    endings = []
    environment = {"TERM": "xterm", "PYTHON_BASIC_REPL": "1"}  # as for the typist above
    thread = threading.Thread(
        target=lambda: endings.append(interact(sandbox, inner, environment=environment))
    )
    thread.start()
    shown = b""
    for line in (b"6 * 7\r", b"exit(5)\r"):
        while not shown.endswith(b">>> "):
            assert select.select([outer], [], [], SOON)[0], shown
            shown += os.read(outer, 1000)
        os.write(outer, line)
        shown += b"\n"
        time.sleep(0)
    while thread.is_alive():
        thread.join(0.05)
    shown += os.read(outer, 1000)
    os.close(outer)
    os.close(inner)
    assert b"42" in shown
    return endings[0]
