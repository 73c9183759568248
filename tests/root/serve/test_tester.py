"""The online tester of the examples, as a browser uses it."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.root.attacks.battery import TIME_FACTOR

TESTER = Path(__file__).resolve().parents[3] / "examples" / "tester"


@pytest.fixture
def address(start) -> Iterator[str]:
    """Give the address of the page."""
    server = start("--workers", "1", named=str(TESTER / "main.py"))
    words = [sys.executable, str(TESTER / "page.py"), server.path, "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as page:
        assert page.stdout
        yield page.stdout.readline().decode().strip()
        page.terminate()
    assert server.stop() == 0


def run(address: str, source: str, **more: str) -> str:
    """Press the button."""
    body = json.dumps({"source": source, **more}).encode()
    with urllib.request.urlopen(f"{address}run", body, timeout=30 * TIME_FACTOR) as answer:  # noqa: S310  # our own
        return answer.read().decode()


def test_the_tester_runs_what_was_typed(address):
    """With its input; errors are shown, too, and nothing stays."""
    with urllib.request.urlopen(address, timeout=30 * TIME_FACTOR) as page:  # noqa: S310  # our own
        assert b"<textarea" in page.read()
    assert run(address, "print(input() * 2)", input="ab") == "abab\n"
    assert "ZeroDivisionError" in run(address, "1 / 0")
    assert "SyntaxError" in run(address, "if")
    assert "BlockingIOError" in run(address, "import os; os.fork()")
