"""Fork without end. The processes limit makes the call fail, and the jail's end ends them all."""

import os
import signal

children = 0
try:
    while True:
        if os.fork() == 0:
            signal.pause()
        children += 1
except OSError as error:
    print(f"stopped after {children} children: {error.strerror}")
