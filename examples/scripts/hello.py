"""Say hello, to the names given or to the world."""

import sys

for name in sys.argv[1:] or ["world"]:
    print(f"Hello, {name}!")
