"""Show what a script is given: a variable of the caller's, and nothing of the worker's."""

import os

print(f"GREETING is {os.environ['GREETING']!r}")
print(f"in {os.getcwd()}, as user {os.getuid()}, process {os.getpid()}")
