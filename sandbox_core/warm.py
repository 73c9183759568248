"""A warm interpreter: a Python that stands at the very end of its start, and forks a job from there.

It is started as `python3 /box/main.py` in the runtime's root, where there is no such file yet. The last
thing that its start-up does before the script is to import `sitecustomize`, which is ours: there it
serves as a zygote. The process that is to be a job returns from it, and the interpreter goes on as it
would have: it runs `/box/main.py`, with no frame of ours below it.

What we import is ours alone: `sys.modules` has none of it by the time that a job is forked, and a
script that asks for one of these modules imports it as it would anywhere.
"""

from __future__ import annotations

import _socket
import errno
import gc
import io
import os
import sys
import time
from stat import S_IFIFO, S_IFMT

from sandbox_core import mounts
from sandbox_core.jail import SEAL_STEPS, Jail, take
from sandbox_core.leave import ShortWay
from sandbox_core.syscalls import CloneFlag, Prctl, prctl, unshare
from sandbox_core.zygote import CONTROL_FD, SUPERVISOR_FD, Zygote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: What Linux takes for one argument or variable, and for all of them with a stack of 8 MiB (execve(2)).
_MAX_STRING, _MAX_STRINGS = 128 * 1024, 2 * 1024 * 1024


def wait_to_be_the_script() -> None:
    """Serve as a zygote; return in the process that is the script from here on."""
    for fd in (CONTROL_FD, SUPERVISOR_FD):
        os.set_inheritable(fd, False)
    prctl(Prctl.SET_DUMPABLE, 0)  # the exec has set it again
    interpreter = _Interpreter()
    zygote = Zygote(_socket.socket(fileno=CONTROL_FD), SUPERVISOR_FD)
    try:
        is_the_script = zygote.serve(interpreter.settle, interpreter.start, interpreter.get_ready)
    except (BrokenPipeError, ConnectionResetError):
        is_the_script = False
    if not is_the_script:
        os._exit(0)


class _Interpreter:
    """This interpreter on its way to a script: once in the zygote, then in the process of each job."""

    def __init__(self) -> None:
        # Before any module of an operator's can register a callback.
        self._way_out = _short_way()
        self._stdin: dict[int, Any] = {}  # by the kind of file

    def settle(self, order: dict[str, Any]) -> None:
        """Become as `python3` is just before a script, with the runtime's modules loaded."""
        _forget_our_modules()
        for name in order["preload"]:
            __import__(name)  # `importlib` would be one more module of ours
        take(SEAL_STEPS, None)
        os.environ.clear()
        os.environ.update(order["environment"])
        _finish_site()
        _check_for_threads()  # once all is loaded that an operator's packages bring
        _forget(order["plan"]["boot"])
        if self._way_out is not None:
            self._way_out.look_at_modules()
        gc.collect()
        gc.freeze()  # the collector of a job never touches, and so never copies, what is here now
        # Not what follows: at the very end it is to take apart what a script has left in that.
        self._stdin = _open_like_jobs()
        _renew_main()
        self._open_way_out()

    def get_ready(self, _: Jail) -> None:
        """Do, in the process of a job to come, all that can be done before the job is known."""
        if numbers := sys.modules.get("numpy.random"):
            numbers.seed()  # the one generator known that does not notice a fork
        stdin = self._stdin.get(_kind(0))
        if stdin is None or {_kind(1), _kind(2)} != {S_IFIFO}:
            self._renew_streams()
        elif stdin is not sys.stdin:
            sys.stdin = sys.__stdin__ = stdin  # type: ignore[misc]  # as the interpreter sets it
            self._open_way_out()

    def _renew_streams(self) -> None:
        for fd in range(3):
            _open_standard_stream(fd)
        self._open_way_out()

    def _open_way_out(self) -> None:
        if self._way_out is not None:
            self._way_out.open(self._stdin.values())

    def start(self, jail: Jail) -> None:
        """Be what `python3 /box/main.py ARGUMENTS` is just before the script."""
        if jail.job["terminal"]:
            self._renew_streams()
        _dress(jail)
        # Last of all: the supervisor takes the end of the job socket as the start of the script.
        assert jail.job_socket is not None
        jail.job_socket.close()


def _short_way() -> ShortWay | None:
    """Get the short way out ready."""
    try:
        return ShortWay()
    except (AttributeError, OSError, ValueError):
        return None  # an interpreter without symbols: its jobs take the long way


def _forget_our_modules() -> None:
    """Leave in `sys.modules` what was there before our first line; we go on with what we hold."""
    names = list(sys.modules)
    ours = names[names.index("sitecustomize") + 1 :]
    for name in ours:
        # Some modules are there under two names, one of which was there before.
        for path in getattr(sys.modules.pop(name), "__path__", ()):
            sys.path_importer_cache.pop(path, None)


def _check_for_threads() -> None:
    """Refuse modules that start threads: a fork leaves those behind, and their locks as they were."""
    try:
        unshare(CloneFlag.THREAD)  # does nothing, where there is one thread only (unshare(2))
    except OSError as error:
        raise RuntimeError("they start threads, which a fork would leave behind") from error


def _finish_site() -> None:
    """Do now what start-up does after us: look for `usercustomize` in every place there is."""
    site: Any = sys.modules["site"]
    if not site.ENABLE_USER_SITE:
        return
    finish = site.execusercustomize
    finish()

    def done() -> None:
        site.execusercustomize = finish

    site.execusercustomize = done


def _dress(jail: Jail) -> None:
    """Take on what is the job's own."""
    arguments, wanted = jail.job["args"], jail.job["env"]
    prctl(Prctl.SET_DUMPABLE, 1)  # or its own /proc/self/fd would be root's
    if arguments or wanted:
        strings = [f"{name}={value}" for name, value in {**jail.environment, **wanted}.items()]
        _check_size([*arguments, *strings])
        os.environ.update(wanted)
        sys.argv[1:] = sys.orig_argv[2:] = arguments
    if "TZ" in os.environ:
        time.tzset()
    if sys.argv[0] in jail.plain_files:
        sys.path_importer_cache[sys.argv[0]] = None  # what asking each kind of archive would end with


def _forget(boot: str) -> None:
    """Forget the directory that our code came from, which is no more to be seen."""
    for name in list(sys.path_importer_cache):
        if name.startswith(f"{boot}/"):
            del sys.path_importer_cache[name]
    if boot == mounts.WARM_PATH:
        sys.path.remove(boot)
        del sys.path_importer_cache[boot]
    else:
        sys.path_importer_cache[boot] = None  # as for the archive that is not there


def _check_size(strings: list[str]) -> None:
    """Refuse what an exec would have refused."""
    sizes = [len(string.encode()) + 1 for string in strings]
    if max(sizes, default=0) > _MAX_STRING or sum(sizes) > _MAX_STRINGS:
        raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))


def _renew_main() -> None:
    """Give the script a module of its own to be.

    The one from before the fork is frozen for the garbage collector, which could then not take
    apart at the very end what the script leaves in it.
    """
    fresh = type(sys)("__main__")
    fresh.__dict__.update(sys.modules["__main__"].__dict__)
    sys.modules["__main__"] = fresh


def _open_like_jobs() -> dict[int, Any]:
    """Open the standard streams on what most jobs have there; give each `sys.stdin` that one may need.

    What a descriptor is, a file or a pipe, is in such an object; to make them in each job would be a
    tenth of what that costs. Input is a file in memory, or a pipe, and output goes into pipes.
    """
    own = [os.dup(fd) for fd in range(3)]
    reading, writing = os.pipe()
    inputs = [reading]
    if hasattr(os, "memfd_create"):  # not in a Python that was built for an old C library
        inputs.append(os.memfd_create("stdin"))
    found = {}
    try:
        for fd in inputs:
            os.dup2(fd, 0)
            found[_kind(0)] = _open_standard_stream(0)
        for place in (1, 2):
            os.dup2(writing, place)
            _open_standard_stream(place)
    finally:
        for place, fd in enumerate(own):
            os.dup2(fd, place)
        for fd in (*own, *inputs, writing):
            os.close(fd)
    return found


def _kind(fd: int) -> int:
    return S_IFMT(os.fstat(fd).st_mode)


def _open_standard_stream(fd: int) -> Any:
    """Open a standard stream as the interpreter does."""
    name, mode = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))[fd]
    old = getattr(sys, name)
    buffer: Any = open(fd, f"{mode}b", closefd=False)  # noqa: SIM115  # it is the script's
    buffer.raw.name = f"<{name}>"
    stream: Any = io.TextIOWrapper(
        buffer, old.encoding, old.errors, newline="\n", line_buffering=old.line_buffering
    )
    stream.mode = mode
    setattr(sys, name, stream)
    setattr(sys, f"__{name}__", stream)
    return stream
