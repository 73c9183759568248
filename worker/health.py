"""Is the worker of this container well? It answers, and a jail can still be built: exit code 0, else 1.

python -m worker.health
"""

import socket
import sys

from sandbox_core.errors import SandboxError
from sandbox_core.job import Job
from sandbox_core.sandbox import Sandbox

#: Seconds that the worker has to answer; it does so between jobs as well as under them.
_PATIENCE = 10.0


def main() -> int:
    """Look, and say what is wrong in one line."""
    from worker.celery import app  # noqa: PLC0415  # reads the environment

    node = f"celery@{socket.gethostname()}"
    try:
        if not app.control.ping(destination=[node], timeout=_PATIENCE, limit=1):
            print(f"{node} does not answer")  # noqa: T201
            return 1
        with Sandbox() as sandbox:
            result = sandbox.run(Job("print('well')", runtime="python-exec"))
    except (SandboxError, OSError) as error:
        print(error)  # noqa: T201
        return 1
    if result.stdout != b"well\n":
        print(f"the probing job ended as {result.status}")  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
