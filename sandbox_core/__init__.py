"""The vocabulary of a job, and the jail that runs it.

Every name is loaded when it is first used: importing the package costs nothing, the vocabulary
(`Job`, `Limits`, `Result`, `Status`) is pure Python for any operating system, and `Sandbox`, which
needs Linux and root, is not touched by those who only describe jobs.
"""

from __future__ import annotations

# Not `typing`'s: each of the modules that it imports would be in the memory of every job.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sandbox_core.errors import InvalidJob, SandboxError
    from sandbox_core.job import Job, Limits, Result, Status
    from sandbox_core.sandbox import Sandbox

__all__ = ["InvalidJob", "Job", "Limits", "Result", "Sandbox", "SandboxError", "Status"]

_HOMES = {
    "InvalidJob": "errors",
    "Job": "job",
    "Limits": "job",
    "Result": "job",
    "Sandbox": "sandbox",
    "SandboxError": "errors",
    "Status": "job",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib  # noqa: PLC0415  # see above

    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
