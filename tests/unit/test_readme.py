"""The README says what the code does."""

import re
from pathlib import Path

from sandbox_core import jail

README = Path(__file__).parents[2] / "README.md"


def test_the_steps_of_the_jail_are_those_that_the_code_takes():
    """Numbered through the four tables, in their order and by their titles."""
    steps = (*jail.ROOT_STEPS, *jail.SEAL_STEPS, *jail.JAIL_STEPS, *jail.START_STEPS)
    listed = README.read_text().partition("<!-- steps")[2]

    assert re.findall(r"^\d+\. (.+)$", listed, re.MULTILINE) == [title for title, _ in steps]
    assert re.findall(r"^(\d+)\. ", listed, re.MULTILINE) == [str(n + 1) for n in range(len(steps))]
