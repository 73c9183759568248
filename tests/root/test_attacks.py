"""Every attack of the battery, in every runtime: it fails, and nothing of it is left.

The attacks are data: the tables in `attacks/`, read by `attacks/battery.py`.
"""

import errno
import hashlib
import mmap
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from sandbox_core import Job, Limits, Result, Sandbox
from sandbox_core import seccomp as rules
from tests.root.attacks import battery
from tests.root.attacks.battery import Attack

ATTACKS = battery.load()

#: Seconds after which nothing may be left of a job.
_GRACE = 1.0


@pytest.fixture(scope="module")
def attacked() -> Iterator[Sandbox]:
    """One sandbox with one slot for the whole battery: no attack may spoil the next job."""
    with battery.canary() as table, Sandbox(table, ahead=False) as sandbox:
        yield sandbox


@pytest.fixture(scope="module", autouse=True)
def runtime_before(attacked: Sandbox) -> dict[str, str]:
    """Say what the files of the runtime are made of before the first attack."""
    return _fingerprints(attacked)


def _fingerprints(sandbox: Sandbox) -> dict[str, str]:
    """Give the interpreter, its library and what it loads, each file by what is read of it."""
    files = [Path(sandbox.runtimes["python"].command[0]), *Path("/lib").glob("*-linux-gnu/libc.so.6")]
    files += Path(os.__file__).parent.glob("*.py")
    files += Path(os.__file__).parent.glob("*/*.so")
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _on_the_disk(path: str) -> str | None:
    """Give the same of what stands on the disk, past the cache, where a file system offers that."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError as error:
        assert error.errno == errno.EINVAL  # noqa: PT017  # open(2), O_DIRECT
        return None
    found = hashlib.sha256()
    with open(fd, "rb", 0) as file, mmap.mmap(-1, 1 << 20) as buffer:  # which is aligned
        while size := file.readinto(buffer):
            found.update(buffer[:size])
    return found.hexdigest()


@pytest.fixture(scope="module")
def greeted() -> dict[str, bool]:
    """Say of each runtime whether the last job in it was a greeting that went well."""
    return {}


@pytest.fixture
def nothing_left(
    attacked: Sandbox, leftovers: Callable[[], dict[str, list[str]]], greeted: dict[str, bool]
) -> Iterator[Callable[..., None]]:
    """Check after a test that the host is as it was before, and that the slot still serves."""
    uid = battery.uid_of_jobs(attacked)
    patient = Limits(wall_time=Limits().wall_time * battery.TIME_FACTOR)
    runtimes: list[str] = []

    def greet(runtime: str) -> None:
        job = Job(_GREETING[runtime], runtime=runtime, limits=patient)
        assert attacked.run(job).text == "next\n"
        greeted[runtime] = True

    def prepare(runtime: str, env: Mapping[str, str] | None = None) -> None:
        # So that what the runtime keeps from job to job is there already: mostly by the test before.
        if not greeted.get(runtime):
            greet(runtime)
        # Variables that Python reads at its start have it start in a zygote of its own.
        if env:
            assert attacked.run(Job("", runtime=runtime, env=env, limits=patient)).exit_code is not None
        runtimes.append(runtime)
        greeted[runtime] = False
        before.update(battery.traces(leftovers, uid))

    before: dict[str, list[str]] = {}
    yield prepare
    deadline = time.monotonic() + _GRACE * battery.TIME_FACTOR
    while (after := battery.traces(leftovers, uid)) != before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert after == before
    for runtime in runtimes:
        greet(runtime)


_GREETING = {
    **dict.fromkeys((*battery.PYTHONS, battery.CANARY), "print('next')"),
    "sh": "echo next",
}


@pytest.mark.parametrize(("attack", "runtime"), battery.parameters(ATTACKS))
def test_the_attack_fails(attacked, nothing_left, attack: Attack, runtime: str) -> None:
    """What it tries does not happen, what it meets is what the table says, and nothing is left."""
    nothing_left(runtime, attack.job.get("env"))

    result = battery.run(attacked, attack, runtime)

    assert battery.problem(attack, result) is None, attack.what


def test_every_attack_says_what_stops_it() -> None:
    """By walls that there are, and with a reason where they can't be taken away."""
    known = set(battery.walls())
    for attack in ATTACKS:
        assert attack.walls, attack
        assert set(attack.walls) <= known, attack
        assert attack.proof != bool(attack.unproven), attack
        assert attack.what, attack
    assert len({str(attack) for attack in ATTACKS}) == len(ATTACKS)


def _expected(name: str) -> str:
    """Say how a call that a job makes with arguments of -1 is answered, by the rules alone."""
    rule = rules.job_rules().get(name) or rules.zygote_rules().get(name)
    if rule is None:
        return "ENOSYS"
    if rule.argument is None and rule.answer != rules._ALLOW:
        return {rules._REFUSED: "EPERM", rules._ABSENT: "ENOSYS"}.get(rule.answer, "0")
    return "allowed"


#: The kernel lets these two of its own past every filter, and ends whoever else makes them (uprobes).
_UNFILTERED = (335, 336)

_TABLE = """
import errno
from tools import done, escaped, syscall
for number in set(range(600)) - UNFILTERED:
    expected = EXPECTED.get(number, "ENOSYS")
    if expected == "allowed":
        continue
    try:
        found = str(syscall(number, -1, -1, -1, -1, -1, -1))
    except OSError as error:
        found = errno.errorcode[error.errno]
    if found != expected:
        escaped(number, found, "instead of", expected)
done()
"""


def test_every_other_call_is_refused_or_absent(attacked) -> None:
    """Each number up to 600 that is not allowed is answered as the rules say, whatever it means."""
    expected = {number: _expected(name) for name, number in battery.numbers().items()}
    source = f"EXPECTED = {expected!r}\nUNFILTERED = {{*{_UNFILTERED!r}}}\n{_TABLE}"
    attack = Attack("kernel", "calls-each-number", "calls each", source, stdout="blocked\n")

    result = battery.run(attacked, attack, "python-exec")

    assert battery.problem(attack, result) is None


@pytest.mark.parametrize(
    "name",
    """
    unshare setns mount umount2 pivot_root chroot ptrace process_vm_readv process_vm_writev kcmp
    bpf userfaultfd perf_event_open io_uring_setup io_uring_enter io_uring_register keyctl add_key
    request_key clone3 open_tree move_mount fsopen fsconfig fsmount fspick mount_setattr
    fanotify_init inotify_init1 inotify_add_watch pidfd_open pidfd_getfd pidfd_send_signal
    open_by_handle_at name_to_handle_at init_module finit_module delete_module kexec_load
    reboot syslog acct swapon swapoff quotactl settimeofday clock_settime adjtimex vmsplice splice
    tee flock shmget semget msgget mq_open move_pages migrate_pages mbind set_mempolicy seccomp
    sched_setscheduler sched_setattr ioprio_set sethostname setdomainname vhangup io_setup
    process_madvise landlock_create_ruleset remap_file_pages
    """.split(),
)
def test_a_dangerous_call_is_not_among_the_allowed(name: str) -> None:
    """A list that does not come from the filter: none of these may ever slip into it."""
    assert _expected(name) in ("EPERM", "ENOSYS")


def test_output_of_gigabytes_takes_no_memory_of_the_supervisor(attacked) -> None:
    """What is over the limit is not kept, so the supervisor stays as small as it was."""

    def size() -> int:
        with open("/proc/self/status", encoding="ascii") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

    attacked.run("print('warm')")
    before = size()
    results: list[Result] = [
        attacked.run(
            Job("import os\nwhile True: os.write(1, b'x' * 2**20)", limits=Limits(output=2**20))
        )
        for _ in range(5)
    ]

    assert {result.status for result in results} == {"output_limit"}
    assert size() - before < 5 * 4 * 1024  # KiB: four times the limit for each


def test_after_all_of_them_the_runtime_is_as_it_was(attacked, runtime_before) -> None:
    """What the host reads of it, from the cache that it shares with the jails and from the disk."""
    assert _fingerprints(attacked) == runtime_before
    on_the_disk = {path: _on_the_disk(path) for path in runtime_before}
    assert {path: found for path, found in on_the_disk.items() if found is not None}.items() <= (
        runtime_before.items()
    )
