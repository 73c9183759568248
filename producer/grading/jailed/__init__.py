"""What function tests run inside the jails: sources to be placed there, not modules to import here.

`student_side` imports the submission and does what it is asked; `tests_side` runs one check of
`tests.py`. They share nothing but a line of JSON for each question and answer (`plain_values`).
"""

from pathlib import Path


def source(name: str) -> bytes:
    """Give the source of one of them."""
    return (Path(__file__).parent / f"{name}.py").read_bytes()
