"""Die of SIGKILL by its own hand, which is not the same as the memory limit."""

import os
import signal

print("farewell", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
