#!/usr/bin/env python3
"""Run a command apart: in a pid namespace and in cgroups of its own. Exit code: the command's.

    .ci/apart.py COMMAND [ARGUMENT...]

So parts of the tests can run side by side, and each finds only what it has left itself: they look
for processes and cgroups on all of the host, and whichever sandbox is made next clears away the jails
of one that was killed. What is given to each sandbox once on a host, its users' ids, stays shared.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

#: cgroup v1 has a tree for each; the last is v2's.
CONTROLLERS = ("memory", "pids", "cpuacct", "")
CGROUPS = Path("/sys/fs/cgroup")


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


def inside(pairs: list[str], command: list[str]) -> NoReturn:
    """Run the command with its own cgroups where the host's were, as the child of an init."""
    for mount, cgroup in zip(pairs[::2], pairs[1::2], strict=True):
        subprocess.run(["mount", "--bind", cgroup, mount], check=True)
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


def main() -> int:
    """Make the cgroups, run the command in them and remove them."""
    if sys.argv[1:2] == ["--inside"]:
        end = sys.argv.index("--")
        inside(sys.argv[2:end], sys.argv[end + 1 :])
    if len(sys.argv) == 1:
        sys.exit(__doc__)
    made = [(mount, cgroup / f"apart-{os.getpid()}") for mount, cgroup in trees()]
    before = {cgroup: cgroup.parent for _, cgroup in made}
    for _, cgroup in made:
        cgroup.mkdir()
        (cgroup / "cgroup.procs").write_text(str(os.getpid()))
    pairs = [str(path) for pair in made for path in pair]
    namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--cgroup", "--mount-proc"]
    try:
        again = [sys.executable, __file__, "--inside", *pairs, "--", *sys.argv[1:]]
        return subprocess.run([*namespaces, "--", *again], check=False).returncode
    finally:
        for cgroup, parent in before.items():
            (parent / "cgroup.procs").write_text(str(os.getpid()))
            for path, _, _ in os.walk(cgroup, topdown=False):
                os.rmdir(path)


if __name__ == "__main__":
    sys.exit(main())
