"""The README says what the code does."""

import re
from pathlib import Path
from xml.etree import ElementTree as ET

from sandbox_core import jail

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"


def test_the_steps_of_the_jail_are_those_that_the_code_takes():
    """Numbered through the four tables, in their order and by their titles."""
    steps = (*jail.ROOT_STEPS, *jail.SEAL_STEPS, *jail.JAIL_STEPS, *jail.START_STEPS)
    listed = README.read_text().partition("<!-- steps")[2]

    assert re.findall(r"^\d+\. (.+)$", listed, re.MULTILINE) == [title for title, _ in steps]
    assert re.findall(r"^(\d+)\. ", listed, re.MULTILINE) == [str(n + 1) for n in range(len(steps))]


def test_what_the_pages_link_to_is_there():
    """Each page, file and picture; the pictures are small, and those that are drawn know light and dark."""
    pages = [README, ROOT / "CHANGELOG.md", ROOT / "examples/README.md", *(ROOT / "docs").glob("*.md")]
    linked = {
        page.parent / target
        for page in pages
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
        if "://" not in target
    }
    assert len(linked) > 8
    assert [str(path) for path in linked if not path.exists()] == []
    pictures = {path.resolve() for path in linked if path.suffix in {".png", ".svg"}}
    assert pictures == {*(ROOT / "docs").glob("*.png"), *(ROOT / "docs").glob("*.svg")}
    for picture in pictures:
        assert picture.stat().st_size < 150 << 10
        if picture.suffix == ".svg":
            ET.parse(picture)  # noqa: S314  # ours
            assert "prefers-color-scheme" in picture.read_text()
