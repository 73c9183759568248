"""Whether a submission's Python compiles, found out in a jail: a parser may be brought down, too."""

from collections.abc import Generator

from producer.grading.dispatch import Ended, Task
from producer.grading.programs import Program
from sandbox_core import Job, Limits, Result, Status

_BROKEN = 9

# Nothing of what it compiles is run.
_CHECK = f"""\
import os, sys, warnings
warnings.simplefilter("ignore")
for folder, _, names in sorted(os.walk("submission")):
    for name in sorted(names):
        path = os.path.join(folder, name)
        if not name.endswith((".py", ".py3")) and path not in sys.argv[1:]:
            continue
        with open(path, "rb") as file:
            content = file.read()
        try:
            compile(content, os.path.relpath(path, "submission"), "exec", dont_inherit=True)
        except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
            where = ""
            if isinstance(error, SyntaxError) and error.lineno:
                where = f", line {{error.lineno}}"
            told = error.msg if isinstance(error, SyntaxError) else str(error)
            told = told or type(error).__name__
            name = os.path.relpath(path, "submission")
            sys.stdout.buffer.write(f"{{name}}{{where}}: {{told}}".encode("utf-8", "replace"))
            sys.exit({_BROKEN})
"""


def compiled(program: Program) -> Generator[Task, Ended, tuple[str, bool]]:
    """Give what is wrong with a program, empty for nothing, and whether that is our own fault."""
    if not program.python:
        return "", False
    files = {f"submission/{path}": content for path, content in program.files.items()}
    limits = Limits(wall_time=10.0, memory=512 << 20, disk=max(16 << 20, 2 * program.size))
    try:
        job = Job(
            _CHECK,
            runtime=program.runtime,
            args=(f"submission/{program.main}",),
            files=files,
            limits=limits,
        )
    except ValueError as error:
        return str(error), False
    ended = yield Task(job)
    return _told(ended.result)


def _told(result: Result) -> tuple[str, bool]:
    if result.status is Status.OK:
        return "", False
    if result.status is Status.NONZERO_EXIT and result.exit_code == _BROKEN:
        return result.text[:1000], False
    if result.status in (Status.INVALID_JOB, Status.INTERNAL_ERROR, Status.CANCELLED):
        return result.error or f"the job was {result.status}", True
    # As deeply nested as no program is; the parser did not survive it.
    return f"does not compile: {result.status.replace('_', ' ')}", False
