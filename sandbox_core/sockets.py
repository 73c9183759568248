"""The socket of `sandboxed serve`: who may have it, who may come in, and when somebody has left.

A stale socket file is replaced, a live server's is not. Which peers are let in is the file's mode and
group, as for any file; that is looked at once more from the credentials of each that has come.
"""

import errno
import fcntl
import grp
import os
import select
import socket
import stat
import struct
from typing import NamedTuple

from sandbox_core.cancel import Cancel
from sandbox_core.errors import SandboxError

_STEP = "listen on the socket"

#: The first descriptor of a service manager's (sd_listen_fds(3)).
_LISTEN_FDS_START = 3

_SO_PEERGROUPS = 59  # asm-generic/socket.h
_MOST_GROUPS = 65536  # NGROUPS_MAX, limits.h
_ALL_BITS = 0o777


class Listener:
    """A listening socket; its file goes with it, if it was made here."""

    def __init__(self, listening: socket.socket, path: str | None) -> None:
        self.socket = listening
        listening.setblocking(False)
        self._path = path
        self._own = os.stat(path) if path is not None else None
        # Who may connect is written on the file, by whoever made it.
        name = listening.getsockname()
        named = path or (name if isinstance(name, str) and name else None)
        self._file = os.stat(named) if named is not None else None

    def admits(self, peer: "Peer") -> bool:
        """Whether the socket file's owner, group and mode let `peer` in."""
        if self._file is None or peer.uid == 0:
            return True
        if peer.uid == self._file.st_uid:
            return bool(self._file.st_mode & stat.S_IWUSR)
        if self._file.st_gid in peer.groups:
            return bool(self._file.st_mode & stat.S_IWGRP)
        return bool(self._file.st_mode & stat.S_IWOTH)

    def close(self) -> None:
        """Stop listening, and remove the file if it still is this socket's."""
        self.socket.close()
        if self._path is None or self._own is None:
            return
        try:
            now = os.stat(self._path)
        except FileNotFoundError:
            return
        if (now.st_dev, now.st_ino) == (self._own.st_dev, self._own.st_ino):
            os.unlink(self._path)


class Peer(NamedTuple):
    """Who is at the other end of a connection, as the kernel noted when it was made."""

    pid: int
    uid: int
    groups: frozenset[int]


def peer_of(connection: socket.socket) -> Peer:
    """Give who has connected."""
    size = struct.calcsize("3i")
    pid, uid, gid = struct.unpack(
        "3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    )
    return Peer(pid, uid, frozenset({gid, *_peer_groups(connection)}))


def _peer_groups(connection: socket.socket) -> tuple[int, ...]:
    size = struct.calcsize("I")
    for room in (size * 64, size * _MOST_GROUPS):
        try:
            groups = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, room)
        except OSError as error:
            if error.errno == errno.ENOPROTOOPT:
                return ()  # before Linux 4.13
            if error.errno != errno.ERANGE:
                raise
            continue  # there are more
        return struct.unpack(f"{len(groups) // size}I", groups)
    return ()


def listen(path: str, *, mode: int, group: str | None, backlog: int) -> Listener:
    """Listen on the socket file `path`, with `mode` and, if one is named, `group`.

    Raises `SandboxError` where something else than a stale socket is there, or it can't be made.
    """
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # Two servers that start at once must not take each other's new file for a stale one.
            fcntl.flock(folder, fcntl.LOCK_EX)
            _clear_stale(path)
            _bind(listening, path, mode, group)
            listening.listen(backlog)
            return Listener(listening, os.path.abspath(path))
        finally:
            os.close(folder)
    except OSError as error:
        listening.close()
        raise SandboxError(_STEP, f"{path}: {error.strerror or error}") from error
    except BaseException:
        listening.close()
        raise


def _clear_stale(path: str) -> None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise SandboxError(_STEP, f"{path} is there and is no socket; name another or remove it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)  # nobody listens any more
            return
        except BlockingIOError:
            sign = "its line is full"  # a server that is busy is alive
        else:
            sign = "it answers"
    raise SandboxError(_STEP, f"{path} is another server's ({sign}); name another or stop that one")


def _bind(listening: socket.socket, path: str, mode: int, group: str | None) -> None:
    gid = -1
    if group is not None:
        try:
            gid = int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
        except KeyError:
            raise SandboxError(_STEP, f"no group is called {group!r}") from None
    # Born closed to all, so that nobody slips in before the mode is set.
    mask = os.umask(_ALL_BITS)
    try:
        listening.bind(path)
    finally:
        os.umask(mask)
    os.chown(path, -1, gid)
    os.chmod(path, mode)


def activated() -> Listener | None:
    """Give the socket that a service manager has opened for us (sd_listen_fds(3)), or None.

    Raises `SandboxError` for descriptors that are no listening socket of ours.
    """
    count, pid = os.environ.pop("LISTEN_FDS", ""), os.environ.pop("LISTEN_PID", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit() or count == "0":
        return None
    if count != "1":
        raise SandboxError(_STEP, f"LISTEN_FDS={count}: one socket is what can be served")
    os.set_inheritable(_LISTEN_FDS_START, False)
    listening = socket.socket(fileno=_LISTEN_FDS_START)
    if (
        listening.family != socket.AF_UNIX
        or listening.type != socket.SOCK_STREAM
        or not listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    ):
        raise SandboxError(_STEP, "LISTEN_FDS: it is no listening unix stream socket")
    return Listener(listening, None)


class Departure(Cancel):
    """Cancels a job when the peer of a connection has left, or when it is `set`.

    A peer that has only said that it will send no more has not left (shutdown(2)).
    """

    def __init__(self, connection: socket.socket) -> None:
        super().__init__()
        self._epoll = select.epoll()
        self._epoll.register(super().fileno(), select.EPOLLIN)
        # With no events asked for, it reports those that can't be refused: HUP and ERR.
        self._epoll.register(connection, 0)

    def fileno(self) -> int:
        """Give a descriptor that is readable once the job is to be stopped."""
        return self._epoll.fileno()

    def is_set(self) -> bool:
        """Whether the job is to be stopped."""
        return bool(self._epoll.poll(0))

    def close(self) -> None:
        """Let go of the descriptors."""
        self._epoll.close()
        super().close()
