"""The baseline of `queues.py`: an ordinary Celery worker that runs scripts with no jail at all."""

import os
import subprocess
import sys

from celery import Celery

from worker.settings import REDIS_URL, broker_url

_url = broker_url(os.environ[REDIS_URL])
app = Celery("bare_worker", broker=_url, backend=_url)
app.conf.task_default_queue = "bare"
app.conf.worker_prefetch_multiplier = 4
#: The interpreter that the jails have, started as fast as it starts.
_PYTHON = os.path.realpath(sys.executable)


@app.task(name="bare.run")
def run(source: str) -> dict[str, object]:
    """Run a script; give its exit code and output."""
    done = subprocess.run(
        [_PYTHON, "-I", "-S", "-"], input=source.encode(), capture_output=True, check=False
    )
    return {"exit_code": done.returncode, "stdout": done.stdout.decode()}
