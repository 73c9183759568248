"""Start threads without end. The processes limit counts threads too."""

import threading

never = threading.Event()
started = 0
try:
    while True:
        threading.Thread(target=never.wait, daemon=True).start()
        started += 1
except RuntimeError as error:
    print(f"stopped after {started} threads: {error}")
