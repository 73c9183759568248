"""Scripts that grading runs inside jails; here they are only read, as text."""

from pathlib import Path


def source(name: str) -> str:
    """Give the text of one of these scripts."""
    return Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
