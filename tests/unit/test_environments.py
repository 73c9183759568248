"""The table as text, and what it says of environments: others' entries stay as they are."""

import os
import sys
import tomllib
from pathlib import Path

import pytest

from sandbox_core import environments
from sandbox_core.errors import SandboxError
from sandbox_core.runtimes import Runtimes

_OTHERS = '# mine\n[lua]  # a comment\ncommand = ["/usr/bin/lua"]\n\n[lua.env]\nA = "[b]"\n'


def test_an_entry_is_added_to_a_table_that_is_not_there(tmp_path):
    """With strings, lists, tables, numbers and truth values, whatever is in them."""
    table = tmp_path / "runtimes.toml"
    entry = {"a": 'x"\\\n\x7fé😀', "b": ["c", "d"], "e": {"f g": 1.5}, "h": True, "i": 7}

    environments.write_entry(table, "new", entry)

    assert tomllib.loads(table.read_text()) == {"new": entry}
    assert table.stat().st_mode & 0o777 == 0o644


def test_other_entries_and_their_comments_stay(tmp_path):
    """Only the entry of that name is written anew, its sub-tables with it."""
    table = tmp_path / "runtimes.toml"
    table.write_text(f"[mine]\nold = 1\n[mine.env]\nB = 'c'\n{_OTHERS}")
    table.chmod(0o600)

    environments.write_entry(table, "mine", {"new": 2})
    assert table.read_text() == f"{_OTHERS}\n[mine]\nnew = 2\n"
    assert table.stat().st_mode & 0o777 == 0o600

    environments.write_entry(table, "mine", None)
    assert table.read_text() == _OTHERS


@pytest.mark.parametrize(
    "text", ["mine = { old = 1 }\n", "mine.old = 1\n", 'x = """\n[mine]\n"""\n[mine]\nold = 1\n']
)
def test_a_table_in_another_style_is_left_alone(tmp_path, text):
    """The operator is told, rather than something else changed."""
    table = tmp_path / "runtimes.toml"
    table.write_text(text)

    with pytest.raises(SandboxError, match="only you can change"):
        environments.write_entry(table, "mine", {"new": 2})

    assert table.read_text() == text
    assert os.listdir(tmp_path) == ["runtimes.toml"]


@pytest.mark.parametrize("name", ["", "a b", "../x", "a.b", "[x]", "-x", "ä"])
def test_a_name_is_a_plain_word(tmp_path, name):
    """It becomes the name of a directory."""
    with pytest.raises(SandboxError, match="a name is letters"):
        environments.directory(tmp_path / "runtimes.toml", name)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[]", "at least one requirement"),
        ('["--index-url=http://x"]', "'--index-url=http://x' is no requirement"),
        ('["./here"]', "is no requirement"),
        ("[1]", "expected a string"),
        ("1", "expected a string"),
        ('["numpy"]', "was not built for numpy: sandboxed runtime add x --table"),
        ('"relative"', "no absolute path"),
        ('"/usr"', "/usr is no virtual environment"),
        ('"/usr"\nprefix = "/usr"', "says itself which Python"),
        ('"/usr"\ncommand = ["/bin/sh"]', "either the prefix"),
    ],
)
def test_a_mistake_about_packages_is_named(tmp_path, value, message):
    """As every other one of the table."""
    table = tmp_path / "runtimes.toml"
    table.write_text(f"[x]\nsite_packages = {value}\n")

    with pytest.raises(SandboxError, match=message):
        Runtimes(table)


def test_an_environment_that_a_jail_hides_is_refused(tmp_path):
    """`/tmp` is the job's own there."""
    table = Path("/tmp") / tmp_path.name / "runtimes.toml"

    with pytest.raises(SandboxError, match="which has its own /tmp; move the table"):
        environments.build(sys.executable, table, "x", ("numpy",))

    assert not table.parent.exists()
