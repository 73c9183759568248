"""Other ways to run a program, with and without a jail: what ours are compared with."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from ways import Action

#: One line is printed, and nothing else happens.
SCRIPT = Path(__file__).resolve().parent.parent / "examples" / "scripts" / "hello.py"

#: The interpreter that the jails have: past the virtual environment.
PYTHON = os.path.realpath(sys.executable)

#: The same script started as fast as it starts. -S: the jails have no site-packages, whose start-up
#: hooks may take longer than the script.
SCRIPT_COMMAND = (PYTHON, "-I", "-S", str(SCRIPT))
TRUE = "/bin/true"

BUBBLEWRAP = "bubblewrap, no cgroup"

#: What the programs above are made of.
_SEEN = ("/usr", "/bin", "/lib", "/lib64", str(Path(sys.base_prefix).resolve()), str(SCRIPT))


def plain(command: tuple[str, ...]) -> Action:
    """Give what runs `command` with no jail."""

    def action() -> None:
        subprocess.run(command, check=True, capture_output=True)

    return action


def jailers() -> dict[str, tuple[str, ...]]:
    """Give the command line of each jailer that is installed; a program and its arguments follow.

    Each has fresh namespaces of all kinds, a private tmpfs, a read-only system, an unprivileged user
    and limits of its process. None has a cgroup: that would cost it more.
    """
    found: dict[str, tuple[str, ...]] = {}
    if shutil.which("bwrap"):
        found[BUBBLEWRAP] = (
            *("bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--clearenv"),
            *("--uid", "65534", "--gid", "65534"),
            *(word for path in _SEEN for word in _shown(path)),
            *("--proc", "/proc", "--dev", "/dev", "--tmpfs", "/box", "--chdir", "/box", "--"),
        )
    if shutil.which("nsjail"):
        found["nsjail, no cgroup"] = (
            *("nsjail", "-Mo", "-Q", "--user", "65534", "--group", "65534"),
            *(word for path in _SEEN if os.path.exists(path) for word in ("-R", path)),
            *("-T", "/box", "--cwd", "/box", "--rlimit_as", "1024", "--"),
        )
    return found


def _shown(path: str) -> tuple[str, ...]:
    if os.path.islink(path):
        return ("--symlink", os.readlink(path), path)
    return ("--ro-bind", path, path) if os.path.exists(path) else ()
