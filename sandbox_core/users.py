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

_STEP = "hold a user id for the jobs"


class JobUser:
    """A user id held until `close`; made by `hold`."""

    def __init__(self, uid: int, path: Path, lock: int) -> None:
        self.uid = uid
        self._path, self._lock = path, lock

    def close(self) -> None:
        """Let go of the id."""
        # Removed while it is still locked: whoever has opened it meanwhile sees that it is gone.
        self._path.unlink(missing_ok=True)
        os.close(self._lock)


def hold(directory: Path = STATE_DIRECTORY) -> JobUser:
    """Hold the first free id; `SandboxError` when there is none or the locks can't be kept."""
    for uid in range(FIRST, LAST + 1):
        user = None if _has_account(uid) else hold_one(uid, directory)
        if user is not None:
            return user
    raise SandboxError(
        _STEP, f"all ids from {FIRST} to {LAST} are taken; run fewer workers on this host"
    )


def hold_one(uid: int, directory: Path = STATE_DIRECTORY) -> JobUser | None:
    """Hold the id `uid`, or give None when a running supervisor has it."""
    path = directory / str(uid)
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        lock = _lock(path)
    except OSError as error:
        raise SandboxError(_STEP, str(error)) from error
    return None if lock is None else JobUser(uid, path, lock)


def known(directory: Path = STATE_DIRECTORY) -> set[int]:
    """Give the ids that somebody holds, or held when it died."""
    if not directory.is_dir():
        return set()
    return {int(path.name) for path in directory.iterdir() if path.name.isdigit()}


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
