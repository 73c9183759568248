"""Crash the interpreter itself: read memory at address 0."""

import ctypes

print("about to crash", flush=True)
ctypes.string_at(0)
