"""What README.md and docs/ tell a newcomer to type is typed here, page by page, in something like a clone.

How a page's blocks are taken:

- `console`: what follows `$ ` is typed, and its output is compared with the lines below it, as a whole;
  `...` stands for anything, seconds and versions of Python for any, and after `<!-- in any order -->` so
  does the order. Where lines start with `>>> ` these are typed too, at a terminal. A command that ends with
  `&` runs on, and the next one is tried until it succeeds.
- `sh`: each line is typed, and has to succeed. Those of `LASTING` have to say something and are then ended.
- `python`: is run as a script; after `<!-- file: NAME -->` any block is written as that file instead.
- `<!-- not run: reason -->` before a block says why it is none of these.
"""

import gzip
import itertools
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pexpect
import pytest

from worker.settings import REDIS_URL

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
HUMAN_EVAL = ROOT / "tests/data/human-eval/HumanEval.jsonl.gz"

#: Commands that run until they are ended, and what they say when all is well.
LASTING = {
    "celery -A worker flower": "Visit me at",
    "sandboxed worker": "ready.",
    "sandboxed top": "takes jobs",
}

#: What a reader has before the first line of a script: an application of his own.
GIVEN = """\
import os
from celery import Celery
from worker.settings import broker_url
address = broker_url(os.environ["SANDBOXED_REDIS_URL"])
celery_app = Celery(broker=address, backend=address)
"""


@dataclass(frozen=True)
class Block:
    """A block of code: its language, its first line in the page, its text, the comments right before it."""

    page: Path
    language: str
    line: int
    text: str
    comments: dict[str, str]

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def runs(self) -> bool:
        """Whether it is one that is run here."""
        return "file" in self.comments or self.language in {"console", "sh", "python"}


def blocks(page: Path) -> list[Block]:
    """Find the blocks of a page."""
    found = []
    lines = page.read_text().splitlines()
    starts = [number for number, line in enumerate(lines) if line.lstrip().startswith("```")]
    for start, end in zip(starts[::2], starts[1::2], strict=True):
        comments = {}
        for line in reversed(lines[:start]):
            comment = re.fullmatch(r"<!-- ([^:>]+?)(?:: (.+?))? -->", line)
            if comment is None:
                break
            comments[comment[1]] = comment[2] or ""
        indent = len(lines[start]) - len(lines[start].lstrip())
        text = "\n".join(line[indent:] for line in lines[start + 1 : end])
        found.append(Block(page, lines[start].strip("` "), start + 1, text, comments))
    return found


def test_every_block_is_run_or_says_why_not():
    """And each page has what its Markdown says, a language for each block."""
    found = [block for page in PAGES for block in blocks(page)]

    assert len(found) > 15
    assert [str(block) for block in found if not block.runs and not block.comments.get("not run")] == []
    assert sum("not run" not in block.comments for block in found) > 10


class Shell:
    """One bash for a page, as a person has it; each command's output goes to a file of its own."""

    def __init__(self, folder: Path, clone: Path, env: dict[str, str]) -> None:
        self._folder = folder
        self._numbers = itertools.count()
        self._bash = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            stdin=subprocess.PIPE,
            cwd=clone,
            env=env,
            text=True,
            start_new_session=True,
        )

    def run(self, command: str, timeout: float = 180) -> tuple[int, str]:
        """Type a command, and give its exit code and output."""
        output, code = self._type(command, "")
        self._wait(code.exists, timeout, command, output)
        return int(code.read_text()), output.read_text()

    def run_until(self, command: str, said: str) -> None:
        """Type a command that runs on, at a terminal, wait until it says something, and end it."""
        output, code = self._type(f"script -qfec {shlex.quote(command)} /dev/null &", "; asked=$!")
        self._wait(lambda: code.exists() and said in output.read_text(), 60, command, output)
        ended, _ = self.run("kill $asked; wait $asked")
        # 143 is SIGTERM itself.
        assert ended in {0, 143}, (command, ended, output.read_text())

    def _type(self, command: str, after: str) -> tuple[Path, Path]:
        number = next(self._numbers)
        output, code = self._folder / f"{number}.out", self._folder / f"{number}.code"
        output.touch()
        assert self._bash.stdin
        self._bash.stdin.write(
            f"{{ {command}\n}} < /dev/null > {output} 2>&1; code=$?{after}\n"
            f"echo $code > {code}.part; mv {code}.part {code}\n"
        )
        self._bash.stdin.flush()
        return output, code

    def _wait(self, look: Any, timeout: float, command: str, output: Path) -> None:
        deadline = time.monotonic() + timeout
        while not look():
            assert self._bash.poll() is None, command
            assert time.monotonic() < deadline, f"{command}: {output.read_text()}"
            time.sleep(0.05)

    def close(self) -> None:
        """End it and all that still runs in it."""
        os.killpg(self._bash.pid, signal.SIGTERM)
        self._bash.kill()
        self._bash.wait()
        with suppress(ProcessLookupError):
            for _ in range(200):
                os.killpg(self._bash.pid, 0)
                time.sleep(0.05)
        assert self._bash.stdin
        self._bash.stdin.close()


@dataclass
class Newcomer:
    """Who reads a page and types what it says."""

    shell: Shell
    clone: Path
    env: dict[str, str]

    def follow(self, block: Block) -> None:
        """Do what a block says."""
        if name := block.comments.get("file"):
            (self.clone / name).parent.mkdir(exist_ok=True)
            (self.clone / name).write_text(block.text + "\n")
        elif block.language == "python":
            self.scripts(block)
        elif block.language == "sh":
            for line in block.text.splitlines():
                self.types(line)
        elif "\n>>> " in block.text:
            self.talks(block)
        else:
            self.compares(block)

    def scripts(self, block: Block) -> None:
        """Run a script."""
        done = subprocess.run(
            [sys.executable, "-c", GIVEN + block.text],
            cwd=self.clone,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stdout

    def types(self, line: str) -> None:
        """Type a line of a script for the shell."""
        command = line.partition(" #")[0].strip()
        for lasting, said in LASTING.items():
            if command.startswith(lasting):
                self.shell.run_until(command, said)
                return
        code, output = self.shell.run(line)
        assert code == 0, output

    def compares(self, block: Block) -> None:
        """Type each command, and compare what it prints."""
        again = False
        for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            command, _, expected = part.partition("\n")
            deadline = time.monotonic() + (30 if again else 0)
            while True:
                code, output = self.shell.run(command)
                if code == 0 or time.monotonic() > deadline:
                    break
                time.sleep(0.2)
            assert code == 0, f"{command}: {output}"
            again = command.endswith("&")
            if not again:
                compare(expected, output, in_any_order="in any order" in block.comments)

    def talks(self, block: Block) -> None:
        """Start a program, and type to it at its own prompt."""
        command, _, expected = block.text.removeprefix("$ ").partition("\n")
        child = pexpect.spawn(
            "bash", ["-c", command], cwd=str(self.clone), env=self.env, encoding="utf-8", timeout=60
        )
        shown = ""
        for typed in re.findall(r"^>>> (.*)", expected, re.MULTILINE):
            child.expect_exact(">>> ")
            shown += child.before + ">>> "
            child.sendline(typed)
        child.expect_exact(">>> ")
        shown += child.before
        child.sendeof()
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == 0
        compare(expected, shown)


def compare(expected: str, output: str, *, in_any_order: bool = False) -> None:
    """Hold what was printed against what the page says."""
    wanted, printed = (
        re.sub(r"Python 3\.\d+\.\d+", "Python 3", re.sub(r"\d+\.\d\d s\b", "0.00 s", text))
        for text in (expected, output)
    )
    wanted_lines, lines = (
        [line.rstrip() for line in text.strip().splitlines()] for text in (wanted, printed)
    )
    if in_any_order:
        wanted_lines, lines = sorted(wanted_lines), sorted(lines)
    pattern = "\n".join(
        "(?s:.*)" if line.strip() == "..." else ".*".join(map(re.escape, line.split("...")))
        for line in wanted_lines
    )
    assert re.fullmatch(pattern, "\n".join(lines)), f"expected:\n{expected}\nprinted:\n{output}"


@pytest.fixture
def newcomer(start_worker: Any, tmp_path: Path) -> Iterator[Newcomer]:
    """Give somebody with a clone, its environment, a queue, and a shell in which sudo is no step up."""
    worker = start_worker("-c", "2")
    clone, tools, outputs = tmp_path / "clone", tmp_path / "tools", tmp_path / "outputs"
    for folder in (clone, tools, outputs):
        folder.mkdir()
    for path in ROOT.iterdir():
        if path.name not in {".venv", ".git", ".env"}:
            (clone / path.name).symlink_to(path)
    (clone / ".venv").symlink_to(sys.prefix)
    with gzip.open(HUMAN_EVAL, "rt", encoding="utf-8") as problems:
        samples = [
            {"task_id": problem["task_id"], "completion": problem["canonical_solution"]}
            for problem in map(json.loads, problems)
        ]
    (clone / HUMAN_EVAL.name).symlink_to(HUMAN_EVAL)
    (clone / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    sudo = tools / "sudo"
    sudo.write_text('#!/bin/sh\nwhile case $1 in -*) ;; *) false ;; esac; do shift; done\nexec "$@"\n')
    sudo.chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    env = {
        **os.environ,
        "PATH": f"{tools}:{clone}/.venv/bin:{os.environ['PATH']}",
        REDIS_URL: worker.url,
        "FLOWER_PORT": str(port),
        "TERM": "xterm",
    }
    shell = Shell(outputs, clone, env)
    try:
        yield Newcomer(shell, clone, env)
    finally:
        shell.close()


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page)], ids=lambda page: page.relative_to(ROOT).as_posix()
)
def test_a_page_is_right_in_what_it_tells_to_type(newcomer: Newcomer, page: Path) -> None:
    """From its first block to its last, each of them as it stands."""
    for block in blocks(page):
        if "not run" not in block.comments:
            try:
                newcomer.follow(block)
            except (AssertionError, subprocess.TimeoutExpired, pexpect.ExceptionPexpect) as error:
                raise AssertionError(f"{block}: {error}") from error
