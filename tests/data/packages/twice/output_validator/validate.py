"""Has the submission's own encoding decoded in a second pass."""

import os
import sys

word = open(sys.argv[2]).read().strip()
said = sys.stdin.read().strip()
folder = sys.argv[3]
if os.path.exists(folder + "first"):
    sys.exit(42 if said == word else 43)
if said == word:
    sys.exit(43)
open(folder + "first", "w").close()
with open(folder + "nextpass.in", "w") as following:
    following.write(f"decode {said}")
sys.exit(42)
