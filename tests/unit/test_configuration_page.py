"""The page of settings says what the worker reads."""

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_made_from_the_table() -> None:
    """After a change of the table: python docs/make_configuration.py."""
    made = runpy.run_path(str(DOCS / "make_configuration.py"))["page"]()

    assert (DOCS / "configuration.md").read_text(encoding="utf-8") == made


def test_no_cell_breaks_the_table() -> None:
    """A line of the table has four cells."""
    page = (DOCS / "configuration.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]

    assert rows
    assert {row.count("|") for row in rows} == {5}
