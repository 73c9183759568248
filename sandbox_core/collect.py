"""Taking files out of a jail's working directory after everything in it has ended.

The directory is known by a descriptor, never by a path of the host. Every name in it was chosen by
the script: each is opened from that descriptor, without following links and without leaving its file
system, and only plain files come back.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from sandbox_core.syscalls import Resolve, openat2

_CONFINED = Resolve.BENEATH | Resolve.NO_SYMLINKS | Resolve.NO_MAGICLINKS | Resolve.NO_XDEV


def collect(directory: int, patterns: Sequence[str], limit: int) -> dict[str, bytes]:
    """Read the files below `directory` that match one of `patterns`, `limit` bytes in all.

    Only regular files with a single name are taken; the rest, and what would pass the limit, is left
    out. A file name that is not UTF-8 keeps its odd bytes as lone surrogates (PEP 383).
    """
    split = [pattern.split("/") for pattern in patterns]
    found: dict[str, bytes] = {}
    for path in sorted(_walk(directory)):
        if any(_matches(path.split("/"), parts) for parts in split):
            content = _read(directory, path, limit)
            if content is not None:
                found[path] = content
                limit -= len(content)
    return found


def _matches(path: list[str], pattern: list[str]) -> bool:
    """Whether `path` fits `pattern`, component by component; `**` stands for any number of them.

    All readings of the pattern advance together, so that no pattern takes more than its length
    times the path's.
    """
    places = _with_skips({0}, pattern)
    for name in path:
        places = _with_skips(
            {
                place if pattern[place] == "**" else place + 1
                for place in places
                if place < len(pattern)
                and (pattern[place] == "**" or fnmatchcase(name, pattern[place]))
            },
            pattern,
        )
    return len(pattern) in places


def _with_skips(places: set[int], pattern: list[str]) -> set[int]:
    """Add the places that are reached by letting a `**` stand for nothing."""
    reached = set(places)
    for place in places:
        following = place
        while following < len(pattern) and pattern[following] == "**":
            following += 1
            reached.add(following)
    return reached


def _walk(directory: int) -> Iterator[str]:
    """Give the relative paths of all that is no directory, holding one descriptor at a time."""
    waiting = ["."]
    while waiting:
        below = waiting.pop()
        try:
            fd = _open(directory, below, os.O_DIRECTORY)
        except OSError:
            continue  # not readable, or deeper than a path can name: not a file that we can give
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    path = entry.name if below == "." else f"{below}/{entry.name}"
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(path)
                    else:
                        yield path
        finally:
            os.close(fd)


def _read(directory: int, path: str, limit: int) -> bytes | None:
    try:
        fd = _open(directory, path, os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return None  # a link, a socket, or nothing that can be read
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or found.st_size > limit:
            return None
        return file.read(found.st_size)


def _open(directory: int, path: str, flags: int) -> int:
    return openat2(directory, os.fsencode(path), os.O_RDONLY | flags, _CONFINED)
