"""Users for jobs: ids that no account and no other running job on this host has.

An id is held by a lock on a file named after it, so that two workers never give out the same one and
a worker that is killed lets go of its ids. User and group have the same number.
"""

import fcntl
import os
import pwd
from pathlib import Path

from sandbox_core.errors import SandboxError

#: From above Debian's ordinary accounts to below systemd's dynamic users (systemd's UIDS-GIDS).
FIRST, LAST = 60_000, 61_183

STATE_DIRECTORY = Path("/run/sandboxed")


class JobUser:
    """A user id held until `close`."""

    def __init__(self, directory: Path = STATE_DIRECTORY) -> None:
        """Hold the first free id; `SandboxError` when there is none or the locks can't be kept."""
        self._directory = directory
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
            for uid in range(FIRST, LAST + 1):
                lock = None if _has_account(uid) else _lock(directory / str(uid))
                if lock is not None:
                    self.uid, self._lock = uid, lock
                    return
        except OSError as error:
            raise SandboxError("hold a user id for the jobs", str(error)) from error
        raise SandboxError(
            "hold a user id for the jobs",
            f"all ids from {FIRST} to {LAST} are taken; run fewer workers on this host",
        )

    def close(self) -> None:
        """Let go of the id."""
        # Removed while it is still locked: whoever has opened it meanwhile sees that it is gone.
        (self._directory / str(self.uid)).unlink(missing_ok=True)
        os.close(self._lock)


def _has_account(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _lock(path: Path) -> int | None:
    """Lock the file `path`, or give None when somebody holds it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.stat(path).st_ino == os.fstat(fd).st_ino:
            return fd
    except (BlockingIOError, FileNotFoundError):
        os.close(fd)  # held, or removed by its last holder since we opened it
        return None
    os.close(fd)
    return None
