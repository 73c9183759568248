"""A whole Python distribution of the user's own as a runtime: interpreter, library and site-packages.

It is shown in the jail at its own place and as `/usr`, beside the shared libraries of the host. A
program may be a file inside it, which is then run in its place, with its neighbours to import.
"""

import os
from dataclasses import replace

from sandbox_core.errors import SandboxError
from sandbox_core.mounts import WARM_PATH
from sandbox_core.runtimes import Runtime, python_at

#: Where the distribution is mounted in the jail.
_USR = "/usr"

#: What a jail has of its own at these places covers whatever of the host is there.
_COVERED = ("/box", "/tmp", "/proc", "/dev", "/sys")  # noqa: S108  # the jail's own

#: Directories of the distribution whose entries are shown one by one, beside the host's.
_SHARED = ("lib", "lib64", "share")

_STEP = "read the Python distribution"


def distribution(prefix: str, name: str = "distribution") -> Runtime:
    """Give the runtime `name` of the Python whose prefix is the directory `prefix`.

    Raises `SandboxError` where there is none.
    """
    prefix = os.path.realpath(prefix)
    interpreter = next(
        (f"bin/{each}" for each in ("python3", "python") if os.access(f"{prefix}/bin/{each}", os.X_OK)),
        None,
    )
    if interpreter is None:
        raise SandboxError(_STEP, f"there is no program {prefix}/bin/python3; name a Python's prefix")
    found = python_at(name, f"{prefix}/{interpreter}")
    # A part of it may be a link to somewhere else, where it has to be as well.
    parts = dict.fromkeys(
        os.path.realpath(path) if _below(path, prefix) else path for path in found.paths
    )
    shown = tuple(path for path in parts if not _below(path, prefix))
    covered = any(_below(prefix, place) for place in _COVERED)
    own_place = () if covered else (prefix,)
    return replace(
        found,
        command=(f"{_USR if covered else prefix}/{interpreter}",),
        paths=shown,
        live=own_place,
        hidden=(),
        moved=() if prefix == _USR else _moved(prefix, shown),
        boot=WARM_PATH,
        # Where the interpreter is not at its own place, its own library is not where it looks.
        env={"LD_LIBRARY_PATH": f"{_USR}/lib"} if covered else {},
    )


def program_inside(prefix: str, main: str) -> str | None:
    """Give where in the jail `main` is, when it is a file of the distribution; else None.

    It may be named as the jail has it (`/usr/bin/main.py`) or as the host does.
    """
    prefix = os.path.realpath(prefix)
    for shown, place in ((main, _USR), (os.path.realpath(main), prefix)):
        if _below(shown, place):
            inside = os.path.normpath(os.path.relpath(shown, place))
            if os.path.isfile(f"{prefix}/{inside}"):
                return f"{_USR}/{inside}"
    return None


def _moved(prefix: str, shown: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Pair everything in `prefix` with its place below `/usr`, leaving the host's libraries there."""
    pairs = []
    for name in sorted(os.listdir(prefix)):
        if name not in _SHARED or not os.path.isdir(f"{prefix}/{name}"):
            pairs.append(name)
        else:
            pairs += [f"{name}/{each}" for each in sorted(os.listdir(f"{prefix}/{name}"))]
    taken = {os.path.realpath(path) for path in shown}
    return tuple(
        (f"{prefix}/{inside}", f"{_USR}/{inside}")
        for inside in pairs
        if os.path.exists(f"{prefix}/{inside}")
        and not any(_below(path, f"{_USR}/{inside}") for path in taken)
    )


def _below(path: str, directory: str) -> bool:
    return path == directory or path.startswith(f"{directory}/")
