"""Inside a jail: run one module of CPython's own tests, and write what failed to `failures.json`."""

import json
import sys
import unittest

from test import support

support.use_resources = []  # neither network nor hours of CPU nor files of gigabytes

result = unittest.TestResult()
unittest.defaultTestLoader.loadTestsFromName(f"test.{sys.argv[1]}").run(result)
failed = {test.id(): text for test, text in [*result.failures, *result.errors]}
with open("/box/failures.json", "w", encoding="utf-8") as file:
    json.dump({"run": result.testsRun, "failed": failed}, file)
