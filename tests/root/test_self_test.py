"""A worker's look at its own walls: whichever it looks at and is not there, it names."""

import pytest

from sandbox_core import Sandbox, SandboxError, landlock, selftest
from tests.root.attacks import removals

#: The ABI of Landlock that a script's look from inside can tell from none: a lower one shows nothing.
_ASKS_OF_DEVICES = 5

#: What is taken away, by its name in `removals` or as a change of the zygote, and what is missed then.
MISSED = [
    ("network-namespace zygote-network-namespace", "namespaces"),
    ("ipc-namespace zygote-ipc-namespace", "namespaces"),
    ("cgroup-namespace", "namespaces"),
    ("bind-read-only", "mount flags"),
    ("bind-nosuid", "mount flags"),
    ("bind-nodev", "mount flags"),
    ("scratch-nodev", "mount flags"),
    ("scratch-noexec", "mount flags"),
    ("proc-read-only", "mount flags"),
    ("root-read-only", "read-only root"),
    ("scratch-nosymfollow", "no links followed in /box"),
    ("disk-size", "disk quota"),
    ("disk-inodes", "disk quota"),
    ("proc-subset", "/proc of processes only"),
    ("user", "a user of its own"),
    ("groups", "a user of its own"),
    ("session", "a user of its own"),
    ("bounding-set", "no capabilities"),
    ("securebits", "locked secure bits"),
    ("no-new-privs", "no new privileges"),
    ("landlock", "Landlock"),
    ("seccomp-families", "no address family but AF_UNIX"),
    ("seccomp-absent", "no mount calls"),
    ("process-limit rlimit-nproc", "one process"),
    ("memory-limit", "memory limit"),
    ("rlimit-core", "resource limits"),
    ("rlimit-memlock", "resource limits"),
    ("rlimit-msgqueue", "resource limits"),
    ("rlimit-sigpending", "resource limits"),
    ("rlimit-nofile", "resource limits"),
    ("rlimit-nproc", "resource limits"),
    ("oom-score", "first to go when memory is short"),
    ("close-descriptors", "three descriptors"),
    ("host-name", "a host name of its own"),
    ("replace('SEAL_STEPS', 'filter system calls', lambda _: None)", "seccomp"),
    ("replace('JAIL_STEPS', 'filter system calls', lambda _: None)", "seccomp"),
    (
        """
        replace("ROOT_STEPS", "put the read-only root", lambda plan: (
            mounts.build_root(plan), os.mkdir(mounts._STAGE + "/home")
        ))
        """,
        "a small root",
    ),
    (
        """
        replace("ROOT_STEPS", "make the five harmless devices", lambda plan: (
            mounts.make_devices(plan), mounts._bind("/dev/null", mounts._STAGE + "/dev/tty", mounts._READ_ONLY)
        ))
        """,
        "five devices",
    ),
    (
        """
        replace("START_STEPS", "start the script", lambda made: (
            made.environment.update(TOKEN="secret"), made.start(made)
        ))
        """,
        "a clean environment",
    ),
]


@pytest.mark.parametrize(("taken", "missed"), MISSED)
def test_a_wall_that_is_taken_away_is_missed(monkeypatch, taken: str, missed: str) -> None:
    """The worker refuses to serve, and says which it is."""
    if missed == "Landlock" and landlock.abi() < _ASKS_OF_DEVICES:
        assert "Landlock" in dict(selftest._WALLS)
        return
    names = tuple(taken.split())
    if not set(names) <= {*removals.IN_THE_ZYGOTE, *removals.IN_THE_SUPERVISOR}:
        monkeypatch.setitem(removals.IN_THE_ZYGOTE, "this", taken)
        names = ("this",)
    removals.take_away(names, monkeypatch)

    # Without the wall that ends them, jails that stand ready would be left.
    with Sandbox(ahead=False) as sandbox, pytest.raises(SandboxError) as refused:
        sandbox.self_test()

    told = str(refused.value)
    assert told.startswith("check the walls: missing: ")
    assert f" {missed} (" in told


def test_with_every_wall_in_its_place_none_is_missed(sandbox) -> None:
    """Or no worker would ever serve."""
    sandbox.self_test()


def test_every_wall_that_is_looked_at_is_taken_away_here() -> None:
    """A look that could not fail would be none."""
    assert {missed for _, missed in MISSED} == {name for name, _ in selftest._WALLS}
