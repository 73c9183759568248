"""What runs in the jail: the program that somebody typed into the page, with the input beside it."""

import io
import json
import sys

asked = json.load(sys.stdin)
sys.stdin = io.StringIO(asked.get("input", ""))
sys.stderr = sys.stdout  # whoever typed it wants to read the traceback
sys.argv = ["program.py"]
code = compile(asked["source"], "program.py", "exec")
exec(code, {"__name__": "__main__"})
