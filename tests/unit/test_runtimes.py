"""The runtimes table: what an operator may write, and what is said of a mistake."""

import os
import sys

import pytest

from sandbox_core.errors import InvalidJob, SandboxError
from sandbox_core.runtimes import Runtimes


def table(tmp_path, text):
    """Write a runtimes table."""
    path = tmp_path / "runtimes.toml"
    path.write_text(text)
    return path


def test_the_built_in_runtimes_are_there():
    """By the names of the contract."""
    assert Runtimes().names() == ["python", "python-exec", "sh"]


def test_a_python_is_named_by_its_prefix(tmp_path):
    """Its standard library is shown, its site-packages are not."""
    path = table(tmp_path, f'[mine]\nprefix = "{sys.base_prefix}"\nenv = {{ A = "b" }}\n')

    runtime = Runtimes(path)["mine"]

    assert runtime.command == (os.path.realpath(sys.executable),)
    assert runtime.environment()["A"] == "b"
    assert any(hidden.endswith("/site-packages") for hidden in runtime.hidden)


def test_a_program_is_named_by_its_command(tmp_path):
    """With the script's name, more to show, and maxima."""
    path = table(
        tmp_path,
        '[awk]\ncommand = ["/usr/bin/awk", "-f"]\nscript = "main.awk"\nbinds = ["/etc/hostname"]\n'
        "limits = { memory = 1048576 }\n",
    )

    runtime = Runtimes(path)["awk"]

    assert (runtime.command, runtime.script) == (("/usr/bin/awk", "-f"), "main.awk")
    assert runtime.limits is not None
    assert runtime.limits.memory == 1_048_576
    assert "/etc/hostname" in runtime.plan([60_000])["binds"]


def test_links_on_the_way_are_kept(tmp_path):
    """A path resolves in the jail as it does on the host."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real/tool").write_text("#!/bin/sh\n")
    (tmp_path / "real/tool").chmod(0o755)
    (tmp_path / "link").symlink_to("real")
    path = table(tmp_path, f'[x]\ncommand = ["{tmp_path}/link/tool"]\n')

    plan = Runtimes(path)["x"].plan([60_000])

    assert plan["links"][f"{tmp_path}/link"] == "real"
    assert f"{tmp_path}/real/tool" in plan["binds"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", r"\[x\]: expected a table"),
        ("[x]\n", "either the prefix of a Python or the command"),
        ('[x]\nprefix = "/usr"\ncommand = ["/bin/sh"]', "either the prefix"),
        ('[x]\ncommand = ["sh"]', "absolute path"),
        ('[x]\ncommand = ["/no/such"]', "/no/such is not there"),
        ("[x]\ncommand = [1]", "command: expected a string"),
        ('[x]\nprefix = "/no/such"', "/no/such/bin/python3"),
        ('[x]\ncommand = ["/bin/sh"]\nbind = []', "unknown key 'bind'"),
        ('[x]\ncommand = ["/bin/sh"]\nbinds = ["a"]', "binds: 'a'"),
        ('[x]\ncommand = ["/bin/sh"]\nscript = "../x"', "script: '../x'"),
        ('[x]\ncommand = ["/bin/sh"]\nenv = { A = 1 }', "env.A: expected a string"),
        ('[x]\ncommand = ["/bin/sh"]\nlimits = { ram = 1 }', "unknown limit 'ram'"),
        ('[x]\ncommand = ["/bin/sh"]\nlimits = { memory = 0 }', r"limits\.memory"),
        ("[x", "runtimes.toml"),
    ],
)
def test_a_mistake_in_the_table_is_named(tmp_path, text, message):
    """One line: the file, the entry, what is wrong."""
    with pytest.raises(SandboxError, match=message) as raised:
        Runtimes(table(tmp_path, text))

    assert "runtimes.toml" in str(raised.value) or "/no/such" in str(raised.value)


def test_a_missing_table_is_named(tmp_path):
    """By its path."""
    with pytest.raises(SandboxError, match=r"none\.toml"):
        Runtimes(tmp_path / "none.toml")


def test_an_unknown_runtime_is_an_invalid_job():
    """The caller learns what there is."""
    with pytest.raises(InvalidJob, match="'x' is not offered here; these are: python"):
        Runtimes()["x"]
