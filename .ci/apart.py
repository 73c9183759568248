#!/usr/bin/env python3
"""Run a command apart: with processes, cgroups and shared memory of its own. Exit code: the command's.

    .ci/apart.py COMMAND [ARGUMENT...]

So parts of the tests can run side by side, and each finds only what it has left itself: they look
for processes and cgroups on all of the host, and whichever sandbox is made next clears away the jails
of one that was killed. The jobs of each are of users that no other has, seven at a time: the kernel
counts the processes of a user wherever they are.
"""

import argparse
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, NoReturn

#: cgroup v1 has a tree for each; the last is v2's.
CONTROLLERS = ("memory", "pids", "cpuacct", "")
CGROUPS = Path("/sys/fs/cgroup")
#: Where a sandbox holds users for its jobs; the first of them, and how many there are for each lane.
#: The first lane is of those who do not run apart.
USERS, FIRST, WIDTH = Path("/run/sandboxed"), 60_000, 145
LANES, LOCKS = range(1, 8), Path("/run/sandboxed-apart")
NAMESPACES = ("--mount", "--pid", "--fork", "--kill-child", "--ipc", "--cgroup", "--mount-proc")


def trees() -> list[tuple[Path, Path]]:
    """Give the mount of each tree that jails are in, and our own cgroup in it."""
    own = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        own.update(dict.fromkeys(controllers.split(","), path))
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        mount, (fstype, _, options) = Path(before.split()[4]), after.split()[:3]
        names = {"cgroup2": [""], "cgroup": options.split(",")}.get(fstype, [])
        if CGROUPS in (mount, mount.parent) and (used := set(names) & set(CONTROLLERS)):
            found.append((mount, mount / own[used.pop()].lstrip("/")))
    return found


def inside(lane: int, pairs: list[str], command: list[str]) -> NoReturn:
    """Run the command with its own cgroups where the host's were, as the child of an init."""
    for mount, cgroup in zip(pairs[::2], pairs[1::2], strict=True):
        subprocess.run(["mount", "--bind", cgroup, mount], check=True)
    for place in ("/dev/shm", USERS):  # noqa: S108  # ours alone
        subprocess.run(["mount", "-t", "tmpfs", "apart", place], check=True)
    for uid in range(FIRST, FIRST + lane * WIDTH):  # held for as long as we live
        fcntl.flock(os.open(USERS / str(uid), os.O_RDWR | os.O_CREAT, 0o600), fcntl.LOCK_EX)
    child = os.fork()
    if child == 0:
        # A shell has what it starts in the background ignore it, and so would whatever that starts.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.execvp(command[0], command)
    ended = status = 0
    while ended != child:  # and reap whatever loses its parent
        ended, status = os.wait()
    code = os.waitstatus_to_exitcode(status)
    sys.exit(code if code >= 0 else 128 - code)


def free_lane() -> tuple[int, IO[str]]:
    """Give a lane that nobody else on this host is in, and the file that holds it while it is open."""
    LOCKS.mkdir(exist_ok=True)
    for lane in LANES:
        file = (LOCKS / str(lane)).open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
        else:
            return lane, file
    sys.exit(f"apart: {len(LANES)} others run apart on this host; wait for one to end")


def remove(cgroup: Path) -> None:
    """Remove a cgroup and those below it, when the last of their processes has ended."""
    deadline = time.monotonic() + 10
    for path, _, _ in os.walk(cgroup, topdown=False):
        while Path(path, "cgroup.procs").read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.rmdir(path)


def main() -> int:
    """Make the cgroups, run the command in them and remove them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--lane", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--inside", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    asked = parser.parse_args()
    if asked.inside is not None:
        inside(asked.lane, asked.inside, asked.command[1:])
    lane, _held = free_lane()
    made = [(mount, cgroup / f"apart-{os.getpid()}") for mount, cgroup in trees()]
    USERS.mkdir(mode=0o700, exist_ok=True)
    for _, cgroup in made:
        cgroup.mkdir()
        (cgroup / "cgroup.procs").write_text(str(os.getpid()))
    pairs = [str(path) for pair in made for path in pair]
    try:
        again = [sys.executable, __file__, "--lane", str(lane), "--inside", *pairs, "--"]
        command = ["unshare", *NAMESPACES, "--", *again, *asked.command]
        running = subprocess.Popen(command)
        # Whoever ends us ends what we run, and the cgroups go. unshare(1) itself ignores SIGTERM.
        signal.signal(signal.SIGTERM, lambda *_: running.kill())
        code = running.wait()
        return code if code >= 0 else 128 - code
    finally:
        for _, cgroup in made:
            (cgroup.parent / "cgroup.procs").write_text(str(os.getpid()))
            remove(cgroup)


if __name__ == "__main__":
    sys.exit(main())
