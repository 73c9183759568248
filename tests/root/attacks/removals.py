"""What takes each wall away: the switch of `test_walls_removed`, and nobody else's.

A zygote is started with boot code that first changes the tables of steps, the flags or the rules in its
own memory; what the supervisor keeps is changed in the process of the test.
"""

import os
import textwrap
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from sandbox_core import collect, launcher, runtimes, streams, supervisor
from sandbox_core.cgroups import _V1Cgroup, _V2Cgroup

#: What every change of a zygote starts from, and what it ends with.
_BEFORE = """
import os, resource
from sandbox_core import jail, landlock, mounts, privileges, seccomp, syscalls
from sandbox_core.seccomp import Rule, _ALLOW
from sandbox_core.syscalls import CloneFlag, MountFlag

def replace(table, title, function):
    steps = getattr(jail, table)
    assert sum(name.startswith(title) for name, _ in steps) == 1, title
    changed = ((name, function if name.startswith(title) else step) for name, step in steps)
    setattr(jail, table, tuple(changed))

def keep_namespace(step, flag):
    # One of the two unshare calls, told apart by the flag that only the jail's has.
    inner = jail.unshare
    def unshare(flags):
        of_jail = bool(flags & CloneFlag.NEWCGROUP)
        inner(flags & ~flag if (step == "jail") == of_jail else flags)
    jail.unshare = unshare

def allow(rules, *names):
    make = getattr(seccomp, rules)
    def changed(**options):
        made = make(**options)
        assert set(names) <= set(made), names
        return {**made, **dict.fromkeys(names, Rule(_ALLOW))}
    setattr(seccomp, rules, changed)

def unlimited(which):
    assert which in privileges._FIXED_RLIMITS, which
    del privileges._FIXED_RLIMITS[which]

def without_lowering(which):
    lower = privileges._lower
    privileges._lower = lambda number, value: None if number == which else lower(number, value)

def pretend_prctl(module, answers):
    inner = module.prctl
    def prctl(asked, *rest):
        return answers[asked] if asked in answers else inner(asked, *rest)
    module.prctl = prctl

def mounting(match, change):
    inner = mounts.mount
    def mount(source, target, fstype, flags, data=""):
        if match(source, target, fstype, flags):
            flags, data = change(flags, data)
        inner(source, target, fstype, flags, data)
    mounts.mount = mount

def without_option(name):
    return lambda flags, data: (flags, ",".join(o for o in data.split(",") if not o.startswith(name)))

is_scratch = lambda source, target, fstype, flags: source == "scratch"
is_proc = lambda source, target, fstype, flags: fstype == "proc"
is_root = lambda source, target, fstype, flags: target == "/" and flags & MountFlag.REMOUNT
"""
_AFTER = """
jail._ZYGOTE_FILTER = seccomp.zygote_filter()
jail._JOB_FILTERS = {may: seccomp.job_filter(execute=may) for may in (True, False)}
"""

_PRIVILEGES = "give up every capability"
_USER = "become a user"
_BOUNDING = "empty the capability bounding set"

#: For each wall that stands in the zygote or the jail: what takes it away there.
IN_THE_ZYGOTE = {
    "user": f"""
        replace("JAIL_STEPS", "{_USER}", lambda made: os.setgroups([]))
        # What the job may write belongs to it, so to root here.
        scratch = mounts.mount_scratch
        mounts.mount_scratch = lambda size, uid, gid: scratch(size, 0, 0)
    """,
    "groups": """
        # What would be left of a supervisor in a group of its own.
        jail.privileges.os = type("os", (), {**vars(os)})
        privileges.os.setgroups = lambda groups: os.setgroups([4242])
        privileges.os.getgroups = lambda: []
    """,
    "capabilities": "privileges.drop_capabilities = lambda: None; privileges.capabilities = lambda: (0, 0, 0)",
    "bounding-set": f"""
        def keep(_):
            privileges.prctl(syscalls.Prctl.SET_SECUREBITS, privileges._SECUREBITS)
        replace("SEAL_STEPS", "{_BOUNDING}", keep)
    """,
    "securebits": """
        Prctl = syscalls.Prctl
        pretend_prctl(
            privileges, {Prctl.SET_SECUREBITS: 0, Prctl.GET_SECUREBITS: privileges._SECUREBITS}
        )
    """,
    "no-new-privs": f"""
        Prctl = syscalls.Prctl
        pretend_prctl(privileges, {{Prctl.SET_NO_NEW_PRIVS: 0, Prctl.GET_NO_NEW_PRIVS: 1}})
        # A filter takes no_new_privs or privilege, and so does Landlock: here they go first.
        titles = ("{_USER}", "{_PRIVILEGES}")
        first = [step for step in jail.JAIL_STEPS if not step[0].startswith(titles)]
        last = [step for step in jail.JAIL_STEPS if step[0].startswith(titles)]
        assert len(last) == 2
        jail.JAIL_STEPS = (*first, *last)
    """,
    "cgroup": """
        # One is born in it on v2, and joins it on v1.
        syscalls.fork_into = lambda cgroup: os.fork()
        replace("JAIL_STEPS", "join the job's own cgroups", lambda made: None)
    """,
    "old-root": """
        umount = mounts.umount
        mounts.umount = lambda target, flags: None if target == "." else umount(target, flags)
    """,
    "root-read-only": "mounting(is_root, lambda flags, data: (flags & ~MountFlag.RDONLY, data))",
    "bind-read-only": "mounts._READ_ONLY &= ~MountFlag.RDONLY",
    "layer": "mounts._layer = lambda directory: None",
    "bind-nosuid": "mounts._READ_ONLY &= ~MountFlag.NOSUID",
    "bind-nodev": "mounts._READ_ONLY &= ~MountFlag.NODEV",
    "device-read-only": """
        attributes = mounts.set_mount_attributes
        def writable(target, flags):
            attributes(target, flags & ~MountFlag.RDONLY if "/dev/" in target else flags)
        mounts.set_mount_attributes = writable
    """,
    "scratch-nodev": "mounts._SCRATCH &= ~MountFlag.NODEV",
    "scratch-noexec": "mounts._SCRATCH &= ~MountFlag.NOEXEC",
    "scratch-nosymfollow": "mounts._SCRATCH &= ~MountFlag.NOSYMFOLLOW",
    "disk-size": "mounting(is_scratch, without_option('size='))",
    "disk-inodes": "mounting(is_scratch, without_option('nr_inodes='))",
    "proc-subset": "mounting(is_proc, without_option('subset='))",
    "proc-hidepid": "mounting(is_proc, without_option('hidepid='))",
    "proc-read-only": "mounts.protect_proc = lambda: None",
    "landlock": "landlock.restrict = lambda: None",
    "mount-namespace": "keep_namespace('jail', CloneFlag.NEWNS)",
    "network-namespace": "keep_namespace('jail', CloneFlag.NEWNET)",
    "zygote-network-namespace": "keep_namespace('zygote', CloneFlag.NEWNET)",
    "ipc-namespace": "keep_namespace('jail', CloneFlag.NEWIPC)",
    "zygote-ipc-namespace": "keep_namespace('zygote', CloneFlag.NEWIPC)",
    "host-name": "jail.set_hostname = lambda name: None",
    "cgroup-namespace": """
        inner = jail.unshare
        jail.unshare = lambda flags: inner(flags & ~CloneFlag.NEWCGROUP)
    """,
    "pid-namespace": """
        start = syscalls.IdleProcess.start
        syscalls.IdleProcess.start = lambda idle, flags, number: start(idle, 0, number)
        syscalls.setns = lambda fd, flags: None
    """,
    "close-descriptors": """
        place = jail._place_descriptors
        def leave_open(made):
            high = [os.dup(fd) for fd in (made.socket, made.socket)]
            jail.os = type("os", (), {**vars(os), "closerange": lambda low, high: None})
            place(made)
            jail.os = os
        replace("JAIL_STEPS", "keep stdin, stdout, stderr", leave_open)
    """,
    "session": """
        replace("JAIL_STEPS", "start a session of its own", lambda made: None)
    """,
    "oom-score": "jail._OOM_SCORE_WORST = b'0'",
    "rlimit-core": "unlimited(resource.RLIMIT_CORE)",
    "rlimit-memlock": "unlimited(resource.RLIMIT_MEMLOCK)",
    "rlimit-msgqueue": "unlimited(resource.RLIMIT_MSGQUEUE)",
    "rlimit-sigpending": "unlimited(resource.RLIMIT_SIGPENDING)",
    "rlimit-stack": "unlimited(resource.RLIMIT_STACK)",
    "rlimit-cpu": "without_lowering(resource.RLIMIT_CPU)",
    "rlimit-fsize": "without_lowering(resource.RLIMIT_FSIZE)",
    "rlimit-nproc": "without_lowering(resource.RLIMIT_NPROC)",
    "rlimit-nofile": "without_lowering(resource.RLIMIT_NOFILE)",
    "seccomp-architecture": """
        # The jump over KILL_PROCESS is taken whatever the architecture is.
        import struct
        assemble = seccomp.assemble
        def any_architecture(rules, default, machine):
            program = assemble(rules, default, machine)
            always = struct.pack("=HBBI", seccomp._JUMP, 0, 0, 1)
            return program[:8] + always + program[16:]
        seccomp.assemble = any_architecture
    """,
    "seccomp-families": "allow('zygote_rules', 'socket', 'socketpair')",
    "seccomp-ioctl": "allow('zygote_rules', 'ioctl')",
    "seccomp-fcntl": "allow('zygote_rules', 'fcntl')",
    "seccomp-mknod": "allow('zygote_rules', 'mknod', 'mknodat')",
    "seccomp-personality": "allow('zygote_rules', 'personality')",
    "seccomp-refused": "allow('zygote_rules', *seccomp._FORBIDDEN)",
    "seccomp-absent": "seccomp._ABSENT = _ALLOW; absent = seccomp._fails(38)\n"
    "jobs = seccomp.job_rules\n"
    "seccomp.job_rules = lambda **o: {**jobs(**o), **dict.fromkeys(seccomp._SETUP_ABSENT, Rule(absent))}",
    "seccomp-setup-refused": "allow('job_rules', *seccomp._SETUP_FORBIDDEN)",
    "seccomp-setup-absent": "allow('job_rules', *seccomp._SETUP_ABSENT)",
    "seccomp-clone": "allow('job_rules', 'clone')",
    "seccomp-prctl": "allow('job_rules', 'prctl')",
}

#: The script is run by the process that was forked for it, as a warm interpreter does. A fresh exec would
#: take capabilities away by itself.
_WARM = """
def run_here(made):
    import sys
    made.job_socket.close()
    sys.path.insert(0, "/box")
    sys.argv = ["/box/main.py", *made.job["args"]]
    with open("/box/main.py", encoding="utf-8") as file:
        code = compile(file.read(), "/box/main.py", "exec")
    exec(code, {"__name__": "__main__"})
    sys.stdout.flush()
    os._exit(0)
replace("START_STEPS", "start the script", run_here)
"""


def _no_memory_limit(patch: pytest.MonkeyPatch) -> None:
    for kind in (_V1Cgroup, _V2Cgroup):
        limit = kind.limit
        patch.setattr(
            kind,
            "limit",
            lambda cgroup, _, processes, limit=limit: limit(cgroup, 1 << 30, processes),
        )


def _no_process_limit(patch: pytest.MonkeyPatch) -> None:
    for kind in (_V1Cgroup, _V2Cgroup):
        limit = kind.limit
        patch.setattr(kind, "limit", lambda cgroup, memory, _, limit=limit: limit(cgroup, memory, 64))


def _no_seals(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(supervisor, "_SEALS", 0)


def _no_clock(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(supervisor.Supervision, "_patience", lambda _: 5.0)
    patch.setattr(supervisor.Supervision, "_keep_limits", lambda _: None)


def _no_output_cap(patch: pytest.MonkeyPatch) -> None:
    capture = streams.Capture
    patch.setattr(
        supervisor, "Capture", lambda pipe, _, relay, keep: capture(pipe, 1 << 30, relay, keep=keep)
    )


def _packages_shown(patch: pytest.MonkeyPatch) -> None:
    plan = runtimes.Runtime.plan
    patch.setattr(runtimes.Runtime, "plan", lambda self, uids: {**plan(self, uids), "hidden": []})


def _links_followed(patch: pytest.MonkeyPatch) -> None:
    def follow(directory: int, path: str, flags: int) -> int:
        return os.open(path, os.O_RDONLY | (flags & ~os.O_NOFOLLOW), dir_fd=directory)

    patch.setattr(collect, "_open", follow)


def _everything_collected(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(collect, "stat", SimpleNamespace(S_ISREG=lambda _: True))


#: For each wall that the supervisor keeps: what takes it away in this process.
IN_THE_SUPERVISOR: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "memory-limit": _no_memory_limit,
    "process-limit": _no_process_limit,
    "stdin-seals": _no_seals,
    "wall-time": _no_clock,
    "output-cap": _no_output_cap,
    "hidden-packages": _packages_shown,
    "collect-nofollow": _links_followed,
    "collect-regular": _everything_collected,
}


_BOOT = launcher._BOOT


def take_away(walls: tuple[str, ...], patch: pytest.MonkeyPatch, *, warm: bool = False) -> None:
    """Take `walls` away from every sandbox that is made until `patch` is undone.

    With `warm` a script is run by the process that was forked for it, without an exec.
    """
    changes = [_BEFORE]
    for wall in walls:
        if wall in IN_THE_SUPERVISOR:
            IN_THE_SUPERVISOR[wall](patch)
        else:
            changes.append(_in_a_scope(IN_THE_ZYGOTE[wall]))
    if warm:
        changes.append(_in_a_scope(_WARM))
    change = "\n".join([*changes, _AFTER])
    boot = f"import sys; sys.path.append(sys.argv[1]); exec({change!r}); {_BOOT}"
    patch.setattr(launcher, "_BOOT", boot)


def _in_a_scope(change: str) -> str:
    """Keep the names of one change apart from those of the next."""
    body = textwrap.indent(textwrap.dedent(change), "    ")
    return f"def change():\n{body}\nchange()"
