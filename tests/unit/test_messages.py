"""The messages between a supervisor, its zygotes and their jails."""

import enum
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox_core import messages

ROOT = Path(__file__).parents[2]

#: What brings many more modules with it, each of which would be a part of the memory of every job.
HEAVY = {"collections", "enum", "functools", "json", "re", "selectors", "signal", "socket", "typing"}


@pytest.mark.parametrize(
    "text", ["plain", 'a "quote" \\ and more', "é\n\t\0\x7f", "\U0001f40d", "\udcff"]
)
def test_an_answer_is_json(text: str) -> None:
    """Whatever is in it."""
    fields = {"jail": 3, "at": 12.5, "ready": True, "failed": text, "errno": None}

    assert json.loads(messages.answer(**fields)) == fields


def test_an_order_arrives_as_it_was() -> None:
    """Plain values, and what is one by its base class."""

    class Name(enum.StrEnum):
        ONE = "1"

    order = {
        "args": ["a", "\udcff"],
        "env": {"A": "é"},
        "files": [["main.py", 3]],
        "merge": False,
        "at": 0.5,
    }

    assert messages.unpack(messages.pack(order)) == order
    assert messages.unpack(messages.pack({"args": [Name.ONE]})) == {"args": ["1"]}


def test_descriptors_travel_beside_a_message() -> None:
    """As many as there is room for."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        assert messages.send(one, b"none") == 4
        assert messages.receive(other, 100, 2) == (b"none", [])
        messages.send(one, b"two", [one.fileno(), other.fileno()])
        message, fds = messages.receive(other, 100, 2)
        assert message == b"two"
        with socket.socket(fileno=fds[0]) as again, socket.socket(fileno=fds[1]):
            again.send(b"the same socket")
        assert messages.receive(other, 100, 2) == (b"the same socket", [])


def test_what_a_zygote_imports_is_little() -> None:
    """It is in the memory of each of its jobs."""
    asked = (
        "import sys; sys.path.append(sys.argv[1]); import sandbox_core.warm, sandbox_core.zygote;"
        "print(*sys.modules)"
    )
    words = [sys.executable, "-I", "-S", "-c", asked, str(ROOT)]
    loaded = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()

    assert "sandbox_core.zygote" in loaded
    assert HEAVY.isdisjoint(loaded)
