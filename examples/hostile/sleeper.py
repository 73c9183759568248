"""Do nothing, for an hour. It uses no CPU time; the limit on wall time ends it."""

import time

print("good night", flush=True)
time.sleep(3600)
