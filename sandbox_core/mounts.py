"""The file system of a jail: the read-only root that a runtime's jails share, and each jail's own part.

The root is a fresh tmpfs that no job can write, with read-only binds of what the runtime needs and
nothing else of the host. What is bound is a layer over the host's files: their content, with inodes of
its own, so that a lock that a job puts on one is not there for the host, nor for jobs in another root.
A jail adds one tmpfs of its own, seen as `/box` and `/tmp`, and its own `/proc`. What a runtime needs
is decided in `sandbox_core.runtimes`.
"""

from __future__ import annotations

import errno
import os

from sandbox_core.syscalls import (
    MountFlag,
    UmountFlag,
    mount,
    pivot_root,
    set_mount_attributes,
    umount,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

#: Where the root is put together before it becomes `/`: a directory that every Linux has, and that no
#: runtime can need a file from.
_STAGE = "/proc"

#: Only these devices exist in a jail: no terminal, no shared memory, no kernel log.
_DEVICES = ("null", "zero", "full", "random", "urandom")
_DEVICE_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
}

#: Where a warm interpreter finds this package, if there is no better place.
WARM_PATH = "/.sandbox"

#: Where a jail that is shown its own cgroup finds it.
_CGROUPS = "/sys/fs/cgroup"

#: Where a layer stands until it is bound to its place, and a directory with nothing in it.
_LAYER, _EMPTY = f"{_STAGE}/tmp", f"{_STAGE}/box"  # noqa: S108  # the jail's own

_READ_ONLY = MountFlag.RDONLY | MountFlag.NOSUID | MountFlag.NODEV
_SCRATCH = MountFlag.NOSUID | MountFlag.NODEV | MountFlag.NOEXEC | MountFlag.NOSYMFOLLOW

_PROC = MountFlag.NOSUID | MountFlag.NODEV | MountFlag.NOEXEC
_PROTECTED_PROC = MountFlag.REMOUNT | MountFlag.BIND | MountFlag.RDONLY | _PROC

#: Files and directories that a job may have on its tmpfs, beside `/box` and `/tmp` themselves.
INODES = 4096
_OWN_INODES = 3


def make_private() -> None:
    """Keep every mount that follows in this namespace, and every later one of the host out of it."""
    mount(None, "/", None, MountFlag.REC | MountFlag.PRIVATE)


def build_root(plan: dict[str, Any]) -> None:
    """Put a runtime's root together below the stage.

    `plan` has `binds` (host paths that keep their place), `live` (those of them that may change while
    jobs run), `moved` (pairs of a host path and another place for it, which may change too), `hidden`
    (directories below them to cover with an empty one), `links` (path to target), `texts` (path to
    contents of small files), and for a warm interpreter `package`, the host's path of this package, to
    show in the directory `boot`.
    """
    mounted = _mount_points()  # read before the stage covers them
    mount("root", _STAGE, "tmpfs", MountFlag.NOSUID, "mode=0755,size=4m,nr_inodes=4096")
    for directory in ("box", "tmp", "proc", "dev"):
        os.mkdir(f"{_STAGE}/{directory}", 0o755)
    for path, target in plan["links"].items():
        os.makedirs(os.path.dirname(_STAGE + path), 0o755, exist_ok=True)
        os.symlink(target, _STAGE + path)
    for path in plan["binds"]:
        # A layer does not show what is mounted in it, nor that a file was replaced (overlayfs.rst).
        plain = path in plan["live"] or any(point.startswith(f"{path}/") for point in mounted)
        show = _bind if plain else _bind_layer
        show(path, _STAGE + path, _READ_ONLY)
    for path, place in plan["moved"]:
        _bind(path, _STAGE + place, _READ_ONLY)
    for path in plan["hidden"]:
        _bind(f"{_STAGE}/box", _STAGE + path, _READ_ONLY | MountFlag.NOEXEC)
    if plan["package"] is not None:
        _bind(plan["package"], f"{_STAGE}{plan['boot']}/sandbox_core", _READ_ONLY)
    if plan["cgroup"]:
        os.makedirs(_STAGE + _CGROUPS, 0o755)
    for path, text in plan["texts"].items():
        os.makedirs(os.path.dirname(_STAGE + path), 0o755, exist_ok=True)
        with open(_STAGE + path, "x", encoding="utf-8") as file:
            file.write(text)


def make_devices(plan: dict[str, Any]) -> None:
    """Show the few harmless devices, and the names of the standard streams, if `plan` has them."""
    if not plan["devices"]:
        return
    for name in _DEVICES:
        # A device of the host works through a bind that is read-only: that flag guards the node.
        _bind_layer(f"/dev/{name}", f"{_STAGE}/dev/{name}", MountFlag.RDONLY | MountFlag.NOSUID)
    for name, target in _DEVICE_LINKS.items():
        os.symlink(target, f"{_STAGE}/dev/{name}")


def enter_root() -> None:
    """Make the stage the root, let go of the host's tree, and make the new root read-only."""
    os.chdir(_STAGE)
    # The old root is stacked below the new one, so no directory has to exist for it (pivot_root(2)).
    pivot_root(".", ".")
    umount(".", UmountFlag.DETACH)
    os.chdir("/")
    mount(None, "/", None, MountFlag.REMOUNT | MountFlag.BIND | _READ_ONLY)
    # The superblock too: a mount of it made elsewhere could not be written either.
    mount(None, "/", None, MountFlag.REMOUNT | _READ_ONLY)


def cover(directory: str) -> None:
    """Show nothing in `directory` from here on."""
    mount("/box", directory, None, MountFlag.BIND)


def mount_scratch(size: int, uid: int, gid: int) -> None:
    """Mount the job's own tmpfs of `size` bytes, seen as `/box` and `/tmp`, one quota for both."""
    mount(
        "scratch",
        "/tmp",  # noqa: S108  # the jail's own
        "tmpfs",
        _SCRATCH,
        f"size={size},nr_inodes={INODES + _OWN_INODES},mode=0755",
    )
    for name, mode in (("box", 0o700), ("tmp", 0o1777)):
        path = f"/tmp/{name}"  # noqa: S108
        os.mkdir(path)
        os.chmod(path, mode)
        os.chown(path, uid, gid)
    mount("/tmp/box", "/box", None, MountFlag.BIND)  # noqa: S108
    # This one covers the mount that holds both, which can't be reached from then on.
    mount("/tmp/tmp", "/tmp", None, MountFlag.BIND)  # noqa: S108


def mount_proc() -> bool:
    """Mount `/proc` with the processes of this jail only; give whether there is one.

    Without `subset=pid` (Linux before 5.8) it would show and offer the whole kernel, so then there
    is none at all.
    """
    try:
        mount("proc", "/proc", "proc", _PROC, "hidepid=invisible,subset=pid")
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


def protect_proc() -> None:
    """Make `/proc` read-only."""
    mount(None, "/proc", None, _PROTECTED_PROC)


def mount_cgroup(controllers: Sequence[str]) -> None:
    """Show this cgroup namespace's own cgroups, read-only, of the hierarchies that `controllers` name.

    It takes `/proc`, for the kernel's list of them.
    """
    flags = MountFlag.NOSUID | MountFlag.NODEV | MountFlag.NOEXEC
    places = []
    if tuple(controllers) != ("",):
        mount("cgroups", _CGROUPS, "tmpfs", flags, "mode=0755,size=64k,nr_inodes=16")
        places.append(_CGROUPS)
    with open("/proc/self/cgroup", "rb") as file:
        hierarchies = [line.split(b":")[1].decode("ascii") for line in file]
    for hierarchy in hierarchies:
        if not set(hierarchy.split(",")) & set(controllers):
            continue  # the jail has no cgroup of its own in this one
        place = f"{_CGROUPS}/{hierarchy or 'unified'}" if places else _CGROUPS
        if places:
            os.mkdir(place)
        if hierarchy:
            mount("cgroup", place, "cgroup", flags, hierarchy)
        else:
            mount("cgroup2", place, "cgroup2", flags)
        places.append(place)
    for place in places:
        mount(None, place, None, MountFlag.REMOUNT | MountFlag.BIND | MountFlag.RDONLY | flags)


def _mount_points() -> list[str]:
    """Give where something is mounted, below the root itself."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        points = [line.split()[4] for line in file]
    return [_unescaped(point) for point in points if point != "/"]


def _unescaped(point: str) -> str:
    """Read a path in which blanks and the like are three octal digits (proc_pid_mountinfo(5))."""
    first, *others = point.split("\\")
    return first + "".join(chr(int(other[:3], 8)) + other[3:] for other in others)


def _bind_layer(source: str, target: str, flags: int) -> None:
    """Show `source` at `target` as `_bind` does, but with inodes of its own, where the kernel can."""
    whole = os.path.isdir(source)
    layer = _layer(source if whole else os.path.dirname(source))
    if layer is None:
        _bind(source, target, flags)
        return
    shown = layer if whole else f"{layer}/{os.path.basename(source)}"
    try:
        # A layer does not show what is mounted on a file, such as a device in a container.
        _bind(shown if whole or _alike(shown, source) else source, target, flags)
    finally:
        umount(layer, UmountFlag.DETACH)  # the bind holds what it needs of it


def _alike(one: str, other: str) -> bool:
    found, expected = os.stat(one), os.stat(other)
    names = ("st_mode", "st_rdev", "st_size", "st_mtime_ns")
    return all(getattr(found, name) == getattr(expected, name) for name in names)


def _layer(directory: str) -> str | None:
    """Mount a layer over `directory` and give its place; None where the kernel has none for that.

    It has none without overlayfs, and none over a file system that is two layers deep already.
    """
    # Without a place for changes it takes two directories (overlayfs.rst), of which the first gives the
    # mode and the owner.
    lower = "".join(f"\\{character}" if character in "\\:," else character for character in directory)
    options = f"redirect_dir=nofollow,lowerdir={lower}:{_EMPTY}"
    try:
        # Read-only by its nature. The flags that matter are the bind's, which would inherit others.
        mount("layer", _LAYER, "overlay", 0, options)
    except OSError as error:
        if error.errno not in (errno.ENODEV, errno.EINVAL):
            raise
        return None
    return _LAYER


def _bind(source: str, target: str, flags: int) -> None:
    """Show `source` at `target` with `flags`, making the place for it."""
    if os.path.isdir(source):
        os.makedirs(target, 0o755, exist_ok=True)
    elif not os.path.lexists(target):
        os.makedirs(os.path.dirname(target), 0o755, exist_ok=True)
        with open(target, "x", encoding="utf-8"):
            pass
    # The kernel ignores every other flag on the first bind; they take a second call (mount(2)).
    # What is mounted below comes along, if all of it can be made read-only at one stroke.
    try:
        mount(source, target, None, MountFlag.BIND | MountFlag.REC)
        set_mount_attributes(target, flags)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        umount(target, UmountFlag.DETACH)
        mount(source, target, None, MountFlag.BIND)
        mount(None, target, None, MountFlag.REMOUNT | MountFlag.BIND | flags)
