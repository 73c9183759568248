"""What a script sees and can do in its jail: as little as it needs."""

import contextlib
import json
import os
import socket
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from sandbox_core import Job, Limits, Sandbox


def inside(run, expression: str, imports: str = "os", **options):
    """Give the value of a Python expression in a jail."""
    result = run(f"import {imports}, json\nprint(json.dumps({expression}))", **options)
    assert result.ok, result.stderr.decode()
    return json.loads(result.stdout)


def test_the_root_holds_only_what_the_runtime_needs(run):
    """No /home, no /sys, no /var, no /run, and nothing of /root but the interpreter."""
    names = set(inside(run, "os.listdir('/')"))

    assert {"box", "tmp", "dev", "proc", "etc"} <= names
    assert not names & {"home", "sys", "var", "run", "boot", "mnt", "srv", "opt", "work"}


@pytest.mark.parametrize(
    "path", ["/etc/shadow", "/root/.bashrc", "/root/.ssh", "/var/lib/redis", "/run"]
)
def test_the_hosts_files_are_not_there(run, path):
    """They do not exist, which is more than being forbidden."""
    assert inside(run, f"os.path.lexists({path!r})") is False


def test_only_box_and_tmp_can_be_written(run):
    """Every other directory of the jail refuses."""
    source = (
        "import os\n"
        "for top, _, _ in os.walk('/'):\n"
        "  try: open(top + '/probe', 'x').close(); print(top)\n"
        "  except OSError: pass\n"
    )
    result = run(source, wall_time=60)

    assert sorted(result.text.split()) == ["/box", "/tmp"]


def test_the_runtime_cannot_be_changed(run):
    """The interpreter and its library are read-only, whoever asks."""
    source = (
        "import json, os, sys\n"
        "for path in (sys.executable, json.__file__, '/etc/passwd', '/proc/self/oom_score_adj'):\n"
        "  for flags in (os.O_WRONLY, os.O_RDWR | os.O_TRUNC):\n"
        "    try: os.open(path, flags); print('opened', path)\n"
        "    except OSError: pass\n"
    )

    assert run(source).text == ""


def test_programs_in_the_box_are_not_executed(run):
    """/box and /tmp are mounted noexec."""
    source = (
        "import os, shutil, sys\n"
        "for d in ('/box', '/tmp'):\n"
        "  shutil.copy(sys.executable, d + '/p'); os.chmod(d + '/p', 0o755)\n"
        "  try: os.execv(d + '/p', ['p', '-c', 'print(1)'])\n"
        "  except PermissionError: print('refused')\n"
    )

    assert run(source, disk=64 * 2**20).text == "refused\nrefused\n"


def test_the_devices_are_the_five_harmless_ones(run):
    """And no terminal."""
    assert sorted(inside(run, "os.listdir('/dev')")) == [
        "fd", "full", "null", "random", "stderr", "stdin", "stdout", "urandom", "zero",
    ]  # fmt: skip


def test_the_standard_streams_can_be_opened_by_name(run):
    """/dev/stdout and /dev/stderr are the job's own."""
    result = run("open('/dev/stdout', 'w').write('o'); open('/dev/stderr', 'w').write('e')")

    assert (result.stdout, result.stderr) == (b"o", b"e")


def test_no_other_process_is_seen(run):
    """The script is pid 2, its init is hidden, and there is nothing else."""
    assert inside(run, "[os.getpid(), sorted(p for p in os.listdir('/proc') if p.isdigit())]") == [
        2,
        ["2"],
    ]


def test_no_other_process_can_be_signalled(run):
    """Not init, not the supervisor, not by guessing."""
    source = (
        "import os, signal\n"
        "for pid in [1, *range(3, 2000)]:\n"
        "  try: os.kill(pid, signal.SIGKILL); print('killed', pid)\n"
        "  except (ProcessLookupError, PermissionError): pass\n"
    )

    assert run(source).text == ""


def test_the_kernel_is_not_shown(run):
    """/proc has processes only: no sys, no net, no keys."""
    names = [name for name in inside(run, "os.listdir('/proc')") if not name.isdigit()]

    assert sorted(names) == ["self", "thread-self"]


def test_the_job_has_a_user_of_its_own(run):
    """No root, no group, no name that the host knows."""
    uid, gid, groups, login = inside(
        run, "[os.getresuid(), os.getresgid(), os.getgroups(), pwd.getpwuid(os.getuid())[0]]", "os, pwd"
    )

    assert uid == gid == [uid[0]] * 3
    assert 60_000 <= uid[0] <= 61_183
    assert (groups, login) == ([], "sandbox")


def test_two_jobs_at_once_have_different_users():
    """Also those of two sandboxes."""
    with Sandbox(slots=2) as first, Sandbox() as second:
        uids: list[str] = []
        sandboxes = (first, first, second)
        job = Job("import os, time; print(os.getuid()); time.sleep(0.5)")
        threads = [threading.Thread(target=lambda s=s: uids.append(s.run(job).text)) for s in sandboxes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert len(set(uids)) == 3


def test_there_is_no_privilege_left_and_none_to_gain(run):
    """Every capability set is empty, no_new_privs is set, and the secure bits are locked."""
    status = dict(
        line.split(":\t")
        for line in inside(run, "open('/proc/self/status').read()").splitlines()
        if ":\t" in line
    )

    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0, name
    assert status["NoNewPrivs"] == "1"
    assert inside(run, "ctypes.CDLL(None).prctl(27, 0, 0, 0, 0)", "ctypes") == 0xEF


@pytest.mark.parametrize(
    "call",
    [
        "os.setuid(0)",
        "os.setgroups([0])",
        "os.chroot('/box')",
        "os.mknod('/box/n', 0o600 | 0o20000, os.makedev(1, 1))",
        "check(libc.mount(b'x', b'/box', b'tmpfs', 0, None))",
        "check(libc.umount2(b'/proc', 2))",
        "check(libc.unshare(0x00020000))",
        "check(libc.setns(os.open('/proc/self/ns/mnt', 0), 0))",
        "check(libc.sethostname(b'x', 1))",
        "os.nice(-1)",
        "resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))",
        "resource.setrlimit(resource.RLIMIT_CORE, (1 << 30, 1 << 30))",
    ],
)
def test_what_takes_privilege_is_refused(run, call):
    """With an error, not with success and not with a crash."""
    source = (
        "import ctypes, os, resource\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "def check(r):\n  if r == -1: raise OSError(ctypes.get_errno(), 'refused')\n"
        f"try: {call}; print('done')\nexcept (OSError, ValueError): print('refused')"
    )

    assert run(source).text == "refused\n"


def test_the_network_is_empty(run):
    """No address family but AF_UNIX, and no way out of the box."""
    server = socket.create_server(("127.0.0.1", 0))
    source = (
        "import socket, sys\n"
        "for target in (('127.0.0.1', int(sys.argv[1])), ('10.0.0.1', 80)):\n"
        "  try: socket.create_connection(target, timeout=2); print('connected')\n"
        "  except OSError as e: print(type(e).__name__, e.errno)\n"
    )
    with server:
        result = run(source, args=(str(server.getsockname()[1]),))

    assert result.text == "OSError 97\nOSError 97\n"


def test_abstract_sockets_of_the_host_are_out_of_reach(run):
    """They belong to the network namespace."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0sandboxed-test-canary")
        server.listen()
        result = run(
            "import socket\ntry: socket.socket(socket.AF_UNIX).connect('\\0sandboxed-test-canary')\n"
            "except ConnectionRefusedError: print('refused')"
        )

    assert result.text == "refused\n"


def test_only_the_three_streams_are_open(run):
    """No descriptor of the supervisor or of the zygote is there."""
    source = (
        "import fcntl\nopen_ = []\n"
        "for fd in range(1024):\n"
        "  try: fcntl.fcntl(fd, fcntl.F_GETFD); open_.append(fd)\n"
        "  except OSError: pass\n"
        "print(open_)"
    )

    assert run(source).text == "[0, 1, 2]\n"


def test_names_tell_nothing_of_the_host(run):
    """Host name, cgroup paths and session are the jail's own."""
    host, cgroup, session = inside(
        run,
        "[socket.gethostname(), open('/proc/self/cgroup').read().split('\\n'), os.getsid(0)]",
        "os, socket",
    )

    assert host == "sandbox"
    assert session == 2
    own = [line for line in cgroup if line.split(":")[1:2] in (["memory"], ["pids"], [""])]
    assert own
    assert all(line.endswith(":/") for line in own)


def test_the_host_takes_the_job_first_when_memory_is_short(run):
    """oom_score_adj is the worst, and can't be lowered."""
    assert inside(run, "open('/proc/self/oom_score_adj').read().strip()") == "1000"


def test_no_process_above_a_job_holds_a_secret(monkeypatch):
    """The zygote has an empty environment and no memory of the supervisor's."""
    monkeypatch.setenv("SANDBOXED_REDIS_URL", "redis://:canary-of-the-test@host/0")
    others = _children()
    with Sandbox() as sandbox:
        for runtime in ("python", "python-exec"):
            sandbox.run(Job("", runtime=runtime))
        zygotes = [Path("/proc", pid) for pid in _children() - others]
        assert len(zygotes) == 2
        for zygote in zygotes:
            assert b"canary" not in Path(zygote, "environ").read_bytes()
            assert b"canary-of-the-test" not in _memory(zygote)


def _children() -> set[str]:
    status = Path("/proc").glob("[0-9]*/stat")
    found = set()
    for stat in status:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended while we looked
            if stat.read_text().rpartition(")")[2].split()[1] == str(os.getpid()):
                found.add(stat.parent.name)
    return found


def _memory(process: Path) -> bytes:
    """Give the writable memory of a process."""
    found = []
    with Path(process, "mem").open("rb", 0) as memory:
        for line in Path(process, "maps").read_text().splitlines():
            if " rw-p " in line or " rw-s " in line:
                start, end = (int(part, 16) for part in line.split()[0].split("-"))
                memory.seek(start)
                found.append(memory.read(end - start) or b"")
    return b"".join(found)


def test_a_job_finds_nothing_of_the_one_before(run):
    """Files, names in /tmp and processes are gone."""
    run("open('/tmp/secret', 'w').write('x'); open('/box/secret', 'w').write('x')")

    assert inside(run, "[os.listdir('/tmp'), os.listdir('/box')]") == [[], ["main.py"]]


def test_a_limit_for_the_job_is_a_limit_for_its_children(run):
    """What the script starts is in the same jail."""
    result = run(
        "import subprocess, sys\n"
        "print(subprocess.run([sys.executable, '-c', 'import os; print(os.getuid(), open(\"/proc/self/status\").read())'],"
        " capture_output=True, text=True).stdout)",
        processes=2,
    )

    assert "CapEff:\t0000000000000000" in result.text
    assert "NoNewPrivs:\t1" in result.text


def test_limits_of_the_kernel_are_hard(run):
    """Resource limits are set with soft and hard alike; a core dump is ruled out."""
    values = inside(
        run,
        "[resource.getrlimit(getattr(resource, 'RLIMIT_' + n)) for n in ('CORE', 'NOFILE', 'MEMLOCK', 'NPROC')]",
        "resource",
    )

    assert values == [[1, 1], [Limits().open_files] * 2, [0, 0], [1, 1]]


def test_what_an_operator_shows_may_change_meanwhile(tmp_path_factory):
    """A file that is replaced, or that was asked for before it was there, is seen as it is now."""
    # Not below /tmp, which in a jail is the job's own.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as shown:
        Path(shown).chmod(0o755)
        table = tmp_path_factory.mktemp("table") / "runtimes.toml"
        table.write_text(f'[shown]\nprefix = "{sys.base_prefix}"\nbinds = ["{shown}"]\n')
        source = f"import os\nfor n in 'ab': print(os.path.exists(f'{shown}/{{n}}') and open(f'{shown}/{{n}}').read())"
        with open(f"{shown}/a", "w", encoding="ascii") as file:
            file.write("old")
        with Sandbox(table) as sandbox:
            before = sandbox.run(Job(source, runtime="shown")).text
            for name in "ab":
                with open(f"{shown}/.new", "w", encoding="ascii") as file:
                    file.write("new")
                os.rename(f"{shown}/.new", f"{shown}/{name}")
            after = sandbox.run(Job(source, runtime="shown")).text

    assert (before, after) == ("old\nFalse\n", "new\nnew\n")


def test_a_layer_has_the_mode_and_the_owner_of_what_it_shows(run):
    """Of the directory at its top too, under which an empty one lies."""
    paths = [os.path.dirname(os.__file__), os.path.realpath(sys.executable), os.__file__, "/dev/null"]
    outside = [os.stat(path) for path in paths]

    found = inside(
        run, f"[[s.st_mode, s.st_uid, s.st_gid, s.st_size] for s in map(os.stat, {paths!r})]"
    )

    assert found == [[s.st_mode, s.st_uid, s.st_gid, s.st_size] for s in outside]
