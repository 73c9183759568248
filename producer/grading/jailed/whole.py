"""Runs a program and its checks in one interpreter, and says how that ended.

Standard input holds one JSON object: `secret`, `prompt`, `program`, `entry`, `checks`, and `imports`,
the modules that the checks import. The verdict goes to standard output: the secret where the checks
came to their end and raised nothing, else a text. So a program that ends the process by any means,
early or not, has not passed, and what it prints goes nowhere.

The secret has left every variable by the time that the program runs: it waits, beside the functions
that are yet to be called, as an operand of one expression, where no frame and no module shows it. The
checks have a namespace, built-in functions and modules of their own. What is left to a program is to
answer with objects that lie, and to reach the checks through their frames: no single interpreter can
keep that from it. Two jails can (`checks.py`, `function.py`).
"""

import builtins
import contextlib
import importlib
import json
import os
import sys
import types
from collections.abc import Callable
from typing import Any

_LONGEST = 500  # characters of a failure's text

# What reaches into memory or into another's frames without asking (docs.python.org, Audit events).
_REFUSED = frozenset(
    {
        "gc.get_objects",
        "gc.get_referents",
        "gc.get_referrers",
        "sys._current_frames",
        "sys.monitoring.register_callback",
        "sys.setprofile",
        "sys.settrace",
    }
)


def main() -> None:
    """Run what standard input holds, and write how it ended."""
    given = json.load(sys.stdin)
    out, null = os.dup(1), os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    module = types.ModuleType("program")
    sys.modules["program"] = sys.modules["__main__"] = module
    exit_now, write = os._exit, os.write  # so that nothing of the program runs after its end
    try:
        checks = compile(given["checks"], "<checks>", "exec")
        theirs = _namespace_of_checks(given["prompt"], given["entry"], given["imports"])
        program = compile(given["program"], "<program>", "exec", dont_inherit=True)
        sys.addaudithook(_guard)
        # From left to right: all that is called, and the secret, is taken before the program runs.
        write(
            out,
            given.pop("secret").encode()
            + (exec(checks, _with(theirs, exec(program, vars(module)), vars(module))) or b""),  # type: ignore[func-returns-value]  # noqa: S102
        )
    except BaseException as error:  # a program may raise whatever it likes
        write(out, _told(error))
    exit_now(0)


def _namespace_of_checks(prompt: str, entry: str, imports: list[str]) -> dict[str, Any]:
    """Make the checks' namespace: what the prompt defines, and built-ins that nobody has changed."""
    own = dict(vars(builtins))
    apart: dict[str, types.ModuleType] = {}
    names: dict[str, Any] = {"__name__": "checks", "__builtins__": own}
    for name in imports:
        with contextlib.suppress(ImportError):  # it is for the checks to say so, when they come to it
            importlib.import_module(name)
    for name in imports:
        if name in sys.modules:
            apart[name] = types.ModuleType(name)
            vars(apart[name]).update(vars(sys.modules[name]))
    own["__import__"] = _importer(apart)
    for ending in ("", "    pass\n", "\tpass\n"):
        try:
            code = compile(f"{prompt}\n{ending}", "<prompt>", "exec", dont_inherit=True)
        except SyntaxError:
            continue
        exec(code, names)  # noqa: S102
        break
    names.pop(entry, None)
    return names


def _importer(apart: dict[str, types.ModuleType]) -> Callable[..., Any]:
    """Give an `__import__` that knows modules from before the program could change them."""
    ordinary = builtins.__import__

    def find(name: str, scope: Any = None, local: Any = None, wanted: Any = (), level: int = 0) -> Any:
        found = ordinary(name, scope, local, wanted, level)
        return apart.get(name if wanted else name.partition(".")[0], found)

    return find


def _with(
    theirs: dict[str, Any],
    _: None,
    program: dict[str, Any],
    text: type = str,
    kind: Callable[[Any], type] = type,
) -> dict[str, Any]:
    """Add what the program defines, but nothing that stands for a name of the checks' own."""
    for name, defined in program.items():
        if kind(name) is text and name not in theirs and name not in theirs["__builtins__"]:
            theirs[name] = defined
    return theirs


def _guard(
    event: str,
    args: tuple[Any, ...],
    refused: frozenset[str] = _REFUSED,
    memory: frozenset[str] = frozenset({"ctypes", "_ctypes"}),
) -> None:
    """Refuse what reads or writes this process's memory; an audit hook can't be taken away."""
    if event in refused or event.startswith("ctypes."):
        raise PermissionError(event)
    if event == "import" and str.__str__(args[0]) in memory:
        raise ImportError(event)
    if event in ("open", "os.symlink", "os.link"):
        path = args[0]
        if isinstance(path, str):
            path = str.encode(path, "utf-8", "surrogateescape")
        # /proc/self/mem, under whatever name a process finds it.
        if not isinstance(path, int) and (not isinstance(path, bytes) or bytes.endswith(path, b"mem")):
            raise PermissionError(event)


def _told(error: BaseException) -> bytes:
    try:
        text = (
            f"failed: {type(error).__name__}: {error}"
            if str(error)
            else f"failed: {type(error).__name__}"
        )
        return text[:_LONGEST].encode("utf-8", "replace")
    except BaseException:  # nor does the exception have to be well-behaved
        return b"failed: an exception without a text"


if __name__ == "__main__":
    main()
