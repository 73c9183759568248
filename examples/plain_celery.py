"""Run a job with nothing but Celery: no code of this project on the caller's side.

A queue to talk to: `sandboxed up` in another terminal.
"""

import os

from celery import Celery

url = os.environ.get("SANDBOXED_REDIS_URL", "redis://localhost:6379/0")
url = url.replace("unix://", "redis+socket://")  # Celery's own name for a unix socket
queue = Celery(broker=url, backend=url)

job = {
    "source": "print(sum(int(line) for line in open(0)))",
    "stdin": "1\n2\n3\n",
    "limits": {"wall_time": 2, "memory": 64 * 1024 * 1024},
}
result = queue.send_task("sandboxed.run", args=[job], queue="sandboxed").get(timeout=30)
print(result["status"], result["stdout"].strip(), f"{result['wall_time']:.3f} s", sep="  ")
