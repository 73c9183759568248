"""Exit with a code of its own."""

import sys

print("nothing found")
sys.exit(3)
