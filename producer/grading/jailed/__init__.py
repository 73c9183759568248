"""What grading runs inside the jails: sources to be placed there, not modules to import here.

For `evaluate`, `whole` runs a program with its checks in one interpreter; `function` answers calls in a
jail of its own, and `checks` runs checks against its answers in another. For function tests,
`student_side` imports the submission and does what it is asked, and `tests_side` runs one check of
`tests.py`. Where two jails are at work nothing but plain values passes between them (`plain_values`).
"""

from pathlib import Path


def source(name: str) -> str:
    """Give the source of one of them."""
    return (Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8")
