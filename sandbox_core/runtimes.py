"""The runtimes table: which programs run scripts, and what of the host each may see.

Built in are `python` and `python-exec` (the base interpreter that runs us, its standard library and
none of its site-packages) and `sh`. An operator adds others in a TOML file, a table for each:

    [python313]
    prefix = "/opt/python-3.13"        # a Python by its prefix, or …

    [lua]
    command = ["/usr/bin/lua5.4"]      # … any program; the script's path comes after it
    script = "main.lua"                # the script's name in /box; main.py by default
    binds = ["/usr/share/lua"]         # more of the host to show, read-only
    env = { LUA_PATH = "/box/?.lua" }  # added to the small clean environment
    limits = { memory = 67108864 }     # maxima of this runtime's jobs

    [numpy]
    site_packages = ["numpy", "pandas"]  # a Python with packages, which `sandboxed runtime add` builds,
    preload = ["numpy", "pandas"]        # or the path of a virtual environment that you made

A Python is warm: forked, for each job, from an interpreter that stands ready. `preload = ["json"]` has
it import modules before that, `warm = false` starts it afresh for each job, `recycle_after = 100` has
another take its place after so many.
"""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from sandbox_core import environments
from sandbox_core.errors import InvalidJob, SandboxError
from sandbox_core.job import Limits
from sandbox_core.mounts import WARM_PATH

_CLEAN_ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/box",
    "LANG": "C.UTF-8",
}

#: Shown to every runtime where the host has them: the loader's index, the locale of `LANG` and the
#: time zones.
_SYSTEM_FILES = ("/etc/ld.so.cache", "/usr/lib/locale/C.utf8", "/usr/share/zoneinfo")

#: Shown to warm interpreters, which run it until the script begins.
_PACKAGE = str(Path(__file__).resolve().parent)

#: `site` takes the error at the end for "there is no such module", and nothing of it stays.
_SITECUSTOMIZE = """from sandbox_core.warm import wait_to_be_the_script

wait_to_be_the_script()
raise ImportError(name="sitecustomize")
"""

#: The oldest Python that can run it.
_OLDEST_WARM = [3, 11]

_MAX_SYMLINKS = 40  # what the kernel follows (path_resolution(7))
_STEP = "read the runtimes table"

#: Asks an interpreter where its parts are; it runs isolated and without site-packages.
_PROBE = """
import json, os, sys, sysconfig
with open("/proc/self/maps") as maps:
    mapped = {line.split()[-1] for line in maps if "/libpython" in line}
print(json.dumps({
    "executable": sys.executable,
    "zip": sys.path[0],
    "version": list(sys.version_info[:2]),
    "stdlib": sysconfig.get_path("stdlib"),
    "dynload": sysconfig.get_config_var("DESTSHARED"),
    "libraries": sorted(mapped),
    "multiarch": sysconfig.get_config_var("MULTIARCH"),
}))
"""
_PROBE_TIMEOUT = 20.0


@dataclass(frozen=True, slots=True)
class Runtime:
    """A way to run a script.

    `command` starts the program, the script's path `/box/<script>` comes after it; `paths` are what
    it sees of the host, `live` what it sees beside that with every change that is made to it meanwhile,
    `hidden` the directories below them that it does not; `limits` are maxima.
    A `warm` runtime is a Python whose interpreter stands ready, the modules of `preload` imported; it
    finds our code in the directory `boot`, which jobs do not see. A zygote makes jails for
    `recycle_after` jobs, and then another takes its place: addresses and hashes are its own.

    `main`, where it is not None, stands after the command in place of the script's path, and the job's
    source is not placed: a program that is in the root already, or nothing at all. `moved` are pairs of
    a path of the host and another place to show it at; without `devices` `/dev` is empty, with `cgroup`
    a job sees its own cgroup.
    """

    name: str
    command: tuple[str, ...]
    paths: tuple[str, ...]
    hidden: tuple[str, ...] = ()
    script: str = "main.py"
    env: dict[str, str] = field(default_factory=dict)
    limits: Limits | None = None
    warm: bool = False
    boot: str = WARM_PATH
    preload: tuple[str, ...] = ()
    recycle_after: int = 1000
    main: tuple[str, ...] | None = None
    moved: tuple[tuple[str, str], ...] = ()
    live: tuple[str, ...] = ()
    devices: bool = True
    cgroup: bool = False

    def start(self) -> list[str]:
        """Give the command that a job is started by, without the job's arguments."""
        return [*self.command, *((f"/box/{self.script}",) if self.main is None else self.main)]

    def environment(self) -> dict[str, str]:
        """Give the environment of a job that adds nothing to it."""
        return {**_CLEAN_ENVIRONMENT, **self.env}

    def plan(self, uids: Sequence[int]) -> dict[str, Any]:
        """Give what the jail's root is made of, for jobs of users `uids`; see `mounts.build_root`."""
        binds: list[str] = []
        live: list[str] = []
        links: dict[str, str] = {}
        for path in self.paths:
            _show(path, binds, links)
        for path in self.live:
            _show(path, live, links)
        return {
            "binds": _without_nested([*binds, *live]),
            "live": [path for path in live if path not in binds],
            "links": links,
            "moved": list(self.moved),
            "devices": self.devices,
            "cgroup": self.cgroup,
            "package": _PACKAGE if self.warm else None,
            "boot": self.boot,
            "hidden": [path for path in self.hidden if os.path.isdir(path)],
            "texts": {
                # Whichever of them a job is, its name is the same.
                "/etc/passwd": "".join(f"sandbox:x:{uid}:{uid}:sandbox:/box:/bin/sh\n" for uid in uids),
                "/etc/group": "".join(f"sandbox:x:{uid}:\n" for uid in uids),
                # Imported by `site` as the last thing before the script (docs.python.org, site).
                **({f"{self.boot}/sitecustomize.py": _SITECUSTOMIZE} if self.warm else {}),
            },
        }


class Runtimes:
    """The runtimes that this host offers, by name."""

    def __init__(self, table: str | os.PathLike[str] | None = None) -> None:
        """Offer the built-in runtimes and those of the TOML file `table`.

        Raises `SandboxError`, naming the file and the entry, for a table that can't be used.
        """
        self._all = {runtime.name: runtime for runtime in _built_in()}
        if table is not None:
            for runtime in _read(Path(table)):
                self._all[runtime.name] = runtime

    def __getitem__(self, name: str) -> Runtime:
        try:
            return self._all[name]
        except KeyError:
            offered = ", ".join(sorted(self._all))
            raise InvalidJob(f"runtime: {name!r} is not offered here; these are: {offered}") from None

    def add(self, runtime: Runtime) -> None:
        """Offer `runtime` too, by its name."""
        self._all[runtime.name] = runtime

    def names(self) -> list[str]:
        """Give the names of the runtimes."""
        return sorted(self._all)


def _built_in() -> list[Runtime]:
    python = python_at("python", getattr(sys, "_base_executable", None) or sys.executable)
    shell_tools = ("/bin/sh", "/bin", "/usr/bin")
    return [
        python,
        replace(python, name="python-exec", warm=False),
        Runtime(
            "sh", ("/bin/sh",), (*shell_tools, *_system_paths(_multiarch(python))), script="main.sh"
        ),
    ]


def _multiarch(python: Runtime) -> str | None:
    multiarch: str | None = _probe(python.command[0])["multiarch"]
    return multiarch


def python_at(name: str, executable: str) -> Runtime:
    """Make the runtime of the Python interpreter `executable`, with its standard library alone."""
    found = _probe(executable)
    stdlib, dynload = found["stdlib"], found["dynload"]
    paths = [found["executable"], stdlib, *found["libraries"], *_system_paths(found["multiarch"])]
    if dynload:
        paths.append(dynload)
    hidden = (f"{stdlib}/site-packages", f"{stdlib}/dist-packages")
    return Runtime(
        name,
        (found["executable"],),
        tuple(path for path in paths if os.path.exists(path)),
        hidden,
        warm=found["version"] >= _OLDEST_WARM,
        boot=_boot_directory(found["zip"], paths),
    )


def _boot_directory(archive: str, paths: list[str]) -> str:
    """Give a directory for a warm interpreter to find our code in, without a variable if it can be.

    Every Python looks for its library in an archive first, such as /usr/lib/python311.zip, which is
    never there. In the jail's root there can be a directory of that name, unless all above is shown.
    """
    if any(archive.startswith(f"{os.path.normpath(path)}/") for path in paths):
        return WARM_PATH
    return archive


@cache
def _probe(executable: str) -> dict[str, Any]:
    """Ask the interpreter `executable`, following symlinks, where its parts are."""
    try:
        run = subprocess.run(
            [os.path.realpath(executable), "-I", "-S", "-c", _PROBE],
            env={},
            check=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=_PROBE_TIMEOUT,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise SandboxError("ask the interpreter for its parts", f"{executable}: {error}") from error
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def _system_paths(multiarch: str | None) -> tuple[str, ...]:
    """Give the directories of shared libraries, as narrow as the distribution lets us."""
    if multiarch:
        libraries = [f"/lib/{multiarch}", f"/usr/lib/{multiarch}", "/lib64"]
    else:
        libraries = ["/lib", "/lib64", "/usr/lib", "/usr/lib64"]
    return tuple(path for path in (*libraries, *_SYSTEM_FILES) if os.path.exists(path))


def _show(path: str, binds: list[str], links: dict[str, str]) -> None:
    """Add to `binds` and `links` what makes `path` resolve in the jail as it does on the host."""
    for _ in range(_MAX_SYMLINKS):
        parts = Path(os.path.normpath(path)).parts
        for depth in range(2, len(parts) + 1):
            prefix = os.path.join(*parts[:depth])
            if os.path.islink(prefix):
                target = links[prefix] = os.readlink(prefix)
                path = os.path.join(os.path.dirname(prefix), target, *parts[depth:])
                break
        else:
            binds.append(os.path.normpath(path))
            return
    raise SandboxError(_STEP, f"{path}: too many symbolic links")


def _without_nested(paths: list[str]) -> list[str]:
    """Leave out what is below a directory that is shown anyway."""
    kept: list[str] = []
    for path in sorted(set(paths)):
        if not any(path.startswith(f"{above}/") for above in kept):
            kept.append(path)
    return kept


def _read(table: Path) -> list[Runtime]:
    try:
        with table.open("rb") as file:
            entries = tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise SandboxError(_STEP, f"{table}: {error}") from error
    runtimes = []
    for name, entry in entries.items():
        try:
            runtimes.append(_entry(table, name, entry))
        except (TypeError, ValueError) as error:
            raise SandboxError(_STEP, f"{table}: [{name}]: {error}") from error
    return runtimes


_KEYS = (
    *("prefix", "site_packages", "command", "script", "binds", "env", "limits"),
    *("warm", "preload", "recycle_after"),
)


def _entry(table: Path, name: str, entry: object) -> Runtime:
    if not isinstance(entry, dict):
        raise TypeError("expected a table; each runtime is one")
    if unknown := [key for key in entry if key not in _KEYS]:
        raise ValueError(f"unknown key {unknown[0]!r}; the keys are {', '.join(_KEYS)}")
    if ("prefix" in entry or "site_packages" in entry) == ("command" in entry):
        raise ValueError("give either the prefix of a Python or the command of a program")
    if "site_packages" in entry:
        runtime = _with_packages(table, name, entry)
    elif "prefix" in entry:
        runtime = python_at(name, _text("prefix", entry["prefix"]) + "/bin/python3")
    else:
        runtime = _program(name, _texts("command", entry["command"]))
    script = _text("script", entry.get("script", runtime.script))
    if "/" in script or script in ("", ".", ".."):
        raise ValueError(f"script: {script!r} is no file name")
    return replace(
        runtime,
        script=script,
        live=(*runtime.live, *_binds(entry.get("binds", []))),
        env={**runtime.env, **_env(entry.get("env", {}))},
        limits=_maxima(entry.get("limits")),
        **_warmth(runtime, entry),
        recycle_after=_count("recycle_after", entry.get("recycle_after", runtime.recycle_after)),
    )


def _with_packages(table: Path, name: str, entry: dict[str, Any]) -> Runtime:
    """Make the runtime of a Python with packages: those of a virtual environment."""
    value = entry["site_packages"]
    if isinstance(value, list):
        requirements = environments.check_requirements(_texts("site_packages", value))
        environment = environments.built(table, name, requirements)
    else:
        if "prefix" in entry:
            raise ValueError("site_packages: a virtual environment says itself which Python it is of")
        environment = Path(_text("site_packages", value))
        if not environment.is_absolute():
            raise ValueError(f"site_packages: {value!r} is no absolute path")
    python = environments.interpreter(environment)
    runtime = python_at(name, str(python))
    major, minor = _probe(str(python))["version"]
    shown = environments.shown(environment, (major, minor))
    return replace(
        runtime,
        command=(str(python),),
        # What we have built is only ever replaced as a whole.
        paths=(*runtime.paths, *(shown if isinstance(value, list) else ())),
        live=() if isinstance(value, list) else shown,
        env=environments.ONE_THREAD,
    )


def _program(name: str, command: tuple[str, ...]) -> Runtime:
    if not command or not os.path.isabs(command[0]):
        raise ValueError("command: expected an absolute path first")
    if not os.access(command[0], os.X_OK):
        raise ValueError(f"command: {command[0]} is not there, or not executable")
    multiarch = _multiarch(python_at("python", getattr(sys, "_base_executable", sys.executable)))
    return Runtime(name, command, (command[0], *_system_paths(multiarch)))


def _binds(value: object) -> tuple[str, ...]:
    binds = _texts("binds", value)
    for path in binds:
        if not os.path.isabs(path) or not os.path.exists(path):
            raise ValueError(f"binds: {path!r} is no absolute path of something that exists")
    return binds


def _env(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise TypeError("env: expected a table of strings")
    return {key: _text(f"env.{key}", entry) for key, entry in value.items()}


def _warmth(runtime: Runtime, entry: dict[str, Any]) -> dict[str, Any]:
    warm, preload = entry.get("warm", runtime.warm), _texts("preload", entry.get("preload", []))
    if not isinstance(warm, bool):
        raise TypeError("warm: expected true or false")
    if (warm or preload) and not runtime.warm:
        raise ValueError(
            "warm, preload: only a Python from 3.11 on, given by its prefix, can stand ready"
        )
    return {"warm": warm, "preload": preload}


def _maxima(value: object) -> Limits | None:
    """Make maxima of a table of limits; what it does not name is not bounded here."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise TypeError("limits: expected a table")
    known = {item.name for item in fields(Limits)}
    if unknown := [key for key in value if key not in known]:
        raise ValueError(f"limits: unknown limit {unknown[0]!r}")
    most = (1 << 63) - 1
    unbounded = {name: float(most) if name in ("wall_time", "cpu_time") else most for name in known}
    return Limits(**{**unbounded, **value})


def _count(where: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{where}: expected a whole number from 1")
    return value


def _text(where: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{where}: expected a string")
    return value


def _texts(where: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(f"{where}: expected a list of strings")
    return tuple(_text(where, item) for item in value)
