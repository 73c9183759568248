"""Each wall is taken away, and an attack that the battery knows gets through: the battery can fail.

Every attack with `proof = true` names all walls that stop it. Without all of them it must get through;
with any one of them standing alone it must fail. Where that is one wall, the battery itself is the second
half. What gets through is harmless: it reads and writes canaries of the test.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from sandbox_core import Job, Limits, Sandbox, landlock, users
from tests.root.attacks import battery, removals
from tests.root.attacks.battery import Attack

ATTACKS = {str(attack): attack for attack in battery.load() if battery.fits(attack)}


def standing(attack: Attack) -> tuple[str, ...]:
    """Give the walls that stop `attack` on this kernel, which may have no Landlock."""
    missing = {"landlock"} if landlock.abi() < attack.landlock_since else set()
    return tuple(wall for wall in attack.walls if wall not in missing)


#: In an order that has those that lack the same walls one after the other.
PROVEN = sorted(
    (attack for attack in ATTACKS.values() if attack.proof),
    key=lambda attack: (standing(attack), attack.warm),
)

#: The directory that has this package, for processes that a test starts.
_CHECKOUT = Path(__file__).resolve().parents[2]

#: Walls that take a test of their own, at the end of this module.
SHOWN_BELOW = {
    "mount-namespace",
    "zygote-mount-namespace",
    "private-mounts",
    "zygote-pid-namespace",
    "die-with-parent",
    "unique-user",
}

#: Walls that no attack can show, and why.
NOT_SHOWN = {
    "dumpable": "who could look in would need the same user, and no other process has it",
    "swap-limit": "it takes a host that swaps",
    "seccomp-x32": "a kernel without that ABI answers the same, and those with it are rare",
    "rlimit-nice": "the host's own limit is 0, and raising it takes a capability that may be missing",
    "rlimit-rtprio": "the host's own limit is 0, and raising it takes a capability that may be missing",
    "cpu-watch": "behind it stand the kernel's own limit in whole seconds, and the wall clock",
}


@pytest.fixture(scope="module")
def table() -> Iterator[Path]:
    """Have a runtimes table with a Python that is shown canaries."""
    with battery.canary() as path:
        yield path


@pytest.fixture(scope="module")
def kept() -> Iterator[dict[object, Sandbox]]:
    """Keep the sandbox of the test before, for where the next one is without the same walls."""
    kept: dict[object, Sandbox] = {}
    yield kept
    for sandbox in kept.values():
        sandbox.close()


@pytest.fixture
def without(
    monkeypatch: pytest.MonkeyPatch, table: Path, kept: dict[object, Sandbox]
) -> Callable[..., Sandbox]:
    """Give a sandbox in which some walls are missing, for this test."""

    def make(walls: tuple[str, ...], *, warm: bool = False) -> Sandbox:
        removals.take_away(walls, monkeypatch, warm=warm)
        if (walls, warm) not in kept:
            for other in kept.values():
                other.close()
            kept.clear()
            kept[walls, warm] = Sandbox(table, ahead=False)
        return kept[walls, warm]

    return make


def runtime(attack: Attack) -> str:
    """Give the runtime to show it in: not the warm one, whose zygote leaves the changed code behind.

    Whatever runtimes the battery itself is confined to, here it is this one.
    """
    return "python-exec" if "python" in attack.runtimes else attack.runtimes[0]


@pytest.mark.parametrize("attack", PROVEN, ids=str)
def test_without_its_walls_the_attack_gets_through(without, attack: Attack) -> None:
    """With none of the walls that it names; so these are all, and the battery would notice."""
    sandbox = without(standing(attack), warm=attack.warm)

    result = battery.run(sandbox, attack, runtime(attack))

    assert battery.got_through(attack, result), battery._brief(result)


def others(attack: Attack, wall: str) -> tuple[str, ...]:
    """Give every wall that stops `attack` but `wall`."""
    return tuple(other for other in standing(attack) if other != wall)


ALONE = sorted(
    (
        (attack, wall)
        for attack in PROVEN
        if len(standing(attack)) > 1 or attack.warm
        for wall in standing(attack)
    ),
    key=lambda pair: (others(*pair), pair[0].warm),
)


@pytest.mark.parametrize(("attack", "wall"), ALONE, ids=str)
def test_one_wall_alone_stops_the_attack(without, attack: Attack, wall: str) -> None:
    """With every other wall that stops it taken away, the one that is left is enough."""
    sandbox = without(others(attack, wall), warm=attack.warm)

    result = battery.run(sandbox, attack, runtime(attack))

    assert not battery.got_through(attack, result), battery._brief(result)


def test_every_wall_is_shown_or_has_a_reason() -> None:
    """None is there that no attack would miss."""
    shown = {wall for attack in PROVEN for wall in attack.walls} | SHOWN_BELOW

    assert shown | set(NOT_SHOWN) == set(battery.walls())
    assert not shown & set(NOT_SHOWN)


def test_without_its_own_mounts_a_job_sees_those_of_the_one_before(without) -> None:
    """They would pile up in the zygote's mount namespace."""
    attack = ATTACKS["proc-sees-mounts-of-the-job-before"]
    sandbox = without(("mount-namespace",))

    assert not battery.got_through(attack, battery.run(sandbox, attack, "python-exec"))
    assert battery.got_through(attack, battery.run(sandbox, attack, "python-exec"))


#: Starts a zygote in a mount namespace that stands for the host's, and tells what became of that.
_HOST_OF_ITS_OWN = """
import os, sys
import pytest
from sandbox_core import SandboxError, launcher
from sandbox_core.runtimes import Runtimes
from sandbox_core.syscalls import CloneFlag, MountFlag, mount, unshare
from tests.root.attacks import removals

# Never go on in the real one.
parent = os.stat(f"/proc/{os.getppid()}/ns/mnt").st_ino
unshare(CloneFlag.NEWNS)
assert os.stat("/proc/self/ns/mnt").st_ino != parent
mount(None, "/", None, MountFlag.REC | MountFlag.PRIVATE)
if sys.argv[1] == "shared":
    mount(None, "/", None, MountFlag.REC | 1 << 20)
removals.IN_THE_ZYGOTE["these"] = sys.argv[2]
with pytest.MonkeyPatch.context() as patch:
    removals.take_away(("these",), patch)
    runtime = Runtimes()["python-exec"]
    try:
        launcher.ZygoteProcess(runtime, (60_000,)).close()
    except SandboxError:
        print("the zygote refused")
print("ESCAPED" if os.path.isdir("/proc/box") or os.path.isdir("/box") else "blocked")
"""


@pytest.mark.parametrize(
    ("propagation", "change", "expected"),
    [
        ("private", "pass", "blocked\n"),
        ("shared", "pass", "blocked\n"),
        ("private", "keep_namespace('zygote', CloneFlag.NEWNS)", "ESCAPED\n"),
        ("shared", "mounts.make_private = lambda: None", "the zygote refused\nESCAPED\n"),
    ],
    ids=["nothing", "nothing-shared", "zygote-mount-namespace", "private-mounts"],
)
def test_mounts_of_a_zygote_stay_its_own(propagation: str, change: str, expected: str) -> None:
    """Without its namespace, or without making it private, the host's mounts would change."""
    ran = subprocess.run(
        [sys.executable, "-c", _HOST_OF_ITS_OWN, propagation, change],
        cwd=_CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60 * battery.TIME_FACTOR,
    )

    assert ran.stdout == expected, ran.stderr


#: A supervisor that is killed while its job runs; its zygote ends by itself then.
_SUPERVISOR = """
import sys
import pytest
from sandbox_core import Job, Limits, Sandbox, launcher
from tests.root.attacks import removals

with pytest.MonkeyPatch.context() as patch:
    if "zygote-pid-namespace" in sys.argv[1:]:
        patch.setattr(launcher, "unshare", lambda flags: None)
    removals.IN_THE_ZYGOTE["these"] = "pass"
    if "die-with-parent" in sys.argv[1:]:
        removals.IN_THE_ZYGOTE["these"] = "privileges.die_with_parent = lambda: None"
    removals.take_away(("these",), patch)
    with Sandbox() as sandbox:
        print(sandbox.run("import os; print(os.getuid())").text, end="", flush=True)
        job = Job("import time; time.sleep(600)", runtime="python-exec", limits=Limits(wall_time=600))
        sandbox.run(job)
"""


def _running(uid: int) -> list[int]:
    """Give the processes of `uid`; the dead that nobody has reaped yet do not count."""
    found = []
    for path in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            status = path.read_text()
            if f"\nUid:\t{uid}\t" in status and "\nState:\tZ" not in status:
                found.append(int(path.parent.name))
    return found


def _end_namespace(namespace: str) -> None:
    """Kill what has outlived its supervisor, init first of all, in the pid namespace of a job."""
    assert namespace != os.readlink("/proc/self/ns/pid")
    for path in Path("/proc").glob("[0-9]*/ns/pid"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            if os.readlink(path) == namespace:
                os.kill(int(path.parts[2]), signal.SIGKILL)


@pytest.mark.parametrize(
    ("missing", "survives"),
    [
        ((), False),
        (("zygote-pid-namespace",), False),
        (("die-with-parent",), False),
        (("zygote-pid-namespace", "die-with-parent"), True),
    ],
    ids=["nothing", "zygote-pid-namespace", "die-with-parent", "both"],
)
def test_a_job_ends_with_its_supervisor(missing: tuple[str, ...], survives: bool) -> None:  # noqa: FBT001
    """By the namespace of its zygote, and by a signal at its parent's end."""
    supervisor = subprocess.Popen(
        [sys.executable, "-c", _SUPERVISOR, *missing], cwd=_CHECKOUT, stdout=subprocess.PIPE
    )
    with supervisor:
        assert supervisor.stdout is not None
        uid = int(supervisor.stdout.readline())
        deadline = time.monotonic() + 10 * battery.TIME_FACTOR
        while not _running(uid) and time.monotonic() < deadline:
            time.sleep(0.05)
        namespace = os.readlink(f"/proc/{_running(uid)[0]}/ns/pid")
        supervisor.kill()
    time.sleep(0.5 * battery.TIME_FACTOR)
    left = _running(uid)
    _end_namespace(namespace)
    Sandbox().close()  # clears what the killed one left

    assert bool(left) == survives


_TAKES_PROCESSES = """
import os, sys, time
for _ in range(5):
    if os.fork() == 0:
        break
time.sleep(float(sys.argv[1]))
"""
_STARTS_ONE = """
import os
from tools import attempt
try:
    if os.fork() == 0:
        os._exit(0)
    print("blocked")
except BlockingIOError:
    print("ESCAPED: a neighbour has taken the processes")
"""


@pytest.mark.parametrize("missing", [(), ("unique-user",)], ids=["nothing", "unique-user"])
def test_two_jobs_of_one_user_would_feel_each_other(monkeypatch, missing: tuple[str, ...]) -> None:
    """The kernel counts processes by user, so one job would take them from the other."""
    held = users.hold()
    if missing:
        same = SimpleNamespace(uid=held.uid, close=lambda: None)
        monkeypatch.setattr(users, "hold", lambda: same)
    attack = battery.Attack("siblings", "forks", "forks", _STARTS_ONE, limits={"processes": 2})
    factor = battery.TIME_FACTOR
    with Sandbox() as one, Sandbox() as other:
        for _ in range(3):
            other.run("")  # so that their cgroups have different names
        limits = Limits(processes=6, wall_time=10 * factor)
        taker = Job(_TAKES_PROCESSES, args=(str(2 * factor),), limits=limits)
        thread = threading.Thread(target=one.run, args=(taker,))
        thread.start()
        time.sleep(0.7 * factor)
        result = battery.run(other, attack, "python-exec")
        thread.join()
    held.close()

    assert battery.got_through(attack, result) == bool(missing), battery._brief(result)
