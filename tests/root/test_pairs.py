"""`Sandbox.run_pair`: two jobs at the same time, each reading what the other writes."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox_core import InvalidJob, Job, Limits, Sandbox, SandboxError, Status
from sandbox_core.cancel import Cancel
from sandbox_core.slot import prefix

ASKS = "print(20, flush=True); print(int(input()) + 1, flush=True); input()"
DOUBLES = "print(2 * int(input()), flush=True); open('seen', 'w').write(input())"
WAITS = "input()"
SLEEPS = "import time; time.sleep(60)"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """Jails with a single slot, in which a pair runs all the same."""
    with Sandbox() as sandbox:
        yield sandbox


def test_each_reads_what_the_other_writes(sandbox: Sandbox) -> None:
    """And both outputs are in the results, as of any job."""
    asks = Job(ASKS, limits=Limits(wall_time=20))
    doubles = Job(DOUBLES, collect=("seen",), limits=Limits(wall_time=20))
    pair = sandbox.run_pair(asks, doubles)

    assert pair.first.stdout == b"20\n41\n"
    assert pair.second.stdout == b"40\n"
    assert pair.second.files == {"seen": b"41"}
    assert (pair.second.status, pair.first.status) == (Status.OK, Status.NONZERO_EXIT)  # no more input
    assert pair.second_ended_first


def test_the_one_that_waits_reads_end_of_file_when_the_other_ends(sandbox: Sandbox) -> None:
    """In either place."""
    for first, second in ((WAITS, "pass"), ("pass", WAITS)):
        pair = sandbox.run_pair(Job(first), Job(second))
        assert {pair.first.status, pair.second.status} == {Status.OK, Status.NONZERO_EXIT}
        assert pair.second_ended_first == (second == "pass")


def test_a_slot_that_runs_pairs_runs_single_jobs_as_before(sandbox: Sandbox) -> None:
    """One after the other."""
    for _ in range(3):
        assert sandbox.run_pair(Job("print(1)"), Job("print(input())")).second.stdout == b"1\n"
        assert sandbox.run("print(2)").stdout == b"2\n"


def test_jails_of_a_pair_share_nothing_but_their_streams(sandbox: Sandbox) -> None:
    """Neither a user nor a file."""
    script = "import os; print(os.getuid(), os.listdir('/box'), os.listdir('/tmp'), flush=True)"
    pair = sandbox.run_pair(Job(f"{script}; input()"), Job(f"{script}; input()"))
    first, second = (result.text.split(maxsplit=1) for result in (pair.first, pair.second))

    assert first[0] != second[0]
    assert first[1] == second[1]
    assert first[1].startswith("['main.py'")


def test_each_has_its_own_limits(sandbox: Sandbox) -> None:
    """And is not held to the other's."""
    pair = sandbox.run_pair(Job(SLEEPS, limits=Limits(wall_time=0.3)), Job(WAITS))

    assert pair.first.status is Status.TIME_LIMIT
    assert pair.second.status is Status.NONZERO_EXIT
    assert not pair.second_ended_first


@pytest.mark.parametrize("bad", [0, 1])
def test_a_pair_that_can_not_be_run_is_not_begun(sandbox: Sandbox, bad: int) -> None:
    """Whichever of the two is at fault."""
    jobs = [Job(SLEEPS), Job(SLEEPS)]
    jobs[bad] = Job("", runtime="cobol")

    with pytest.raises(InvalidJob, match="cobol"):
        sandbox.run_pair(*jobs)


@pytest.mark.parametrize("bad", [0, 1])
def test_one_whose_files_do_not_fit_ends_the_other(sandbox: Sandbox, bad: int) -> None:
    """What is found out only in the jail is told as soon as it is known."""
    jobs = [Job(SLEEPS, limits=Limits(wall_time=50))] * 2
    jobs[bad] = Job("", files={str(n): b"x" for n in range(40)}, limits=Limits(disk=65_536))
    began = time.monotonic()

    with pytest.raises(InvalidJob, match="disk"):
        sandbox.run_pair(*jobs)
    assert time.monotonic() - began < 40
    assert sandbox.run_pair(Job("print(1)"), Job("print(input())")).second.stdout == b"1\n"


def test_cancelling_ends_both(sandbox: Sandbox) -> None:
    """Running, and before."""
    cancel = Cancel()
    timer = threading.Timer(0.3, cancel.set)
    timer.start()
    running = sandbox.run_pair(Job(SLEEPS), Job(SLEEPS), cancel=cancel)
    before = sandbox.run_pair(Job(SLEEPS), Job(SLEEPS), cancel=cancel)
    timer.join()
    cancel.close()

    for pair in (running, before):
        assert pair.first.status is pair.second.status is Status.CANCELLED


def test_recycling_makes_new_interpreters_for_both(sandbox: Sandbox) -> None:
    """The seed of an interpreter's hashes is made as it starts, and tells it from the next one."""
    job = Job("print(hash('a'), flush=True); input()")

    def seeds() -> list[bytes]:
        pair = sandbox.run_pair(job, job)
        return [pair.first.stdout, pair.second.stdout]

    before, again = seeds(), seeds()
    sandbox.recycle()
    after = seeds()

    assert before == again
    assert len({*before, *after}) == 4


def test_many_threads_run_pairs_in_few_slots() -> None:
    """None waits for a second slot that another holds."""
    with Sandbox(slots=2) as sandbox:
        results: list[bytes] = []

        def serve() -> None:
            for _ in range(3):
                pair = sandbox.run_pair(Job("print(1)"), Job("print(input())"))
                results.append(pair.second.stdout)

        threads = [threading.Thread(target=serve) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

    assert results == [b"1\n"] * 15
    with pytest.raises(SandboxError, match="closed"):
        sandbox.run_pair(Job(""), Job(""))


def test_pairs_leave_nothing_behind() -> None:
    """No cgroup and no process of their users, no descriptor."""
    before = sorted(os.listdir("/proc/self/fd"))
    with Sandbox() as sandbox:
        for _ in range(20):
            assert sandbox.run_pair(Job("print(1)"), Job("print(input())")).second.stdout == b"1\n"
        (slot,) = sandbox._slots
        uids = {*slot.uids, *slot.beside().uids}
        assert of_users(sandbox, uids)  # the jails that stand ready

    assert of_users(sandbox, uids) == []
    assert sorted(os.listdir("/proc/self/fd")) == before


def of_users(sandbox: Sandbox, uids: set[int]) -> list[str]:
    """Give the cgroups and processes of these users."""
    found = [name for uid in uids for name in sandbox.hierarchy.names(prefix(uid))]
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError):
            if process.stat().st_uid in uids:
                found.append(str(process))
    return found
