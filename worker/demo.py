"""`sandboxed demo`: the examples through a real queue, each beside what it should become.

It starts a Redis of its own (or uses the one that is named) and a worker, submits the examples with
plain Celery, as any program could, and shows the results as they come. What each example is given
and how it must end is read from `examples/examples.toml`, the same table that the tests read.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any, NoReturn

import click

from sandbox_core import wire
from sandbox_core.errors import SandboxError
from sandbox_core.job import Job, Limits, Result, Status
from worker import children
from worker.settings import REDIS_URL, Settings, broker_url

#: Where a checkout has them: beside the package.
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

_DEADLINE = 60.0  # seconds for everything; a healthy host takes a few
_STOP_DEADLINE = 15.0  # seconds for the worker to end
_POLL = 0.05  # seconds


@dataclass(frozen=True, slots=True)
class Example:
    """A job and how it must end.

    None means that anything will do: `output` is how the first line of stdout begins, `collected`
    the paths of the files that come back. `cancel_after` is seconds from when a worker took it.
    """

    name: str
    script: Path
    job: Job
    status: Status
    exit_code: int | None = None
    signal: str | None = None
    output: str | None = None
    collected: tuple[str, ...] = ()
    cancel_after: float | None = None

    def expected(self) -> str:
        """Say how it must end, in a word or two."""
        if self.signal or self.exit_code:
            return f"{self.status.value} {self.signal or self.exit_code}"
        return self.status.value

    def mismatch(self, result: Result) -> str | None:
        """Say in what `result` is not as expected; None when it is."""
        if result.status is not self.status:
            return f"status {result.status}, not {self.status}" + (
                f" ({result.error})" if result.error else ""
            )
        if self.exit_code is not None and result.exit_code != self.exit_code:
            return f"exit code {result.exit_code}, not {self.exit_code}"
        if self.signal is not None and result.signal != self.signal:
            return f"signal {result.signal}, not {self.signal}"
        if self.output is not None and not result.text.startswith(self.output):
            return f"its output begins {result.text[:60]!r}, not {self.output!r}"
        if sorted(result.files) != sorted(self.collected):
            return f"files {sorted(result.files)}, not {sorted(self.collected)}"
        return None


def load_examples(folder: Path = EXAMPLES) -> list[Example]:
    """Read the table of examples in `folder`; `ValueError` for a table that is none."""
    with (folder / "examples.toml").open("rb") as file:
        entries = tomllib.load(file)["example"]
    return [_example(folder, dict(entry)) for entry in entries]


def _example(folder: Path, entry: dict[str, Any]) -> Example:
    script = folder / entry.pop("script")
    stdin = entry.pop("stdin", None)
    given = {name: entry.pop(name) for name in ("args", "env", "collect", "runtime") if name in entry}
    job = Job(
        script.read_bytes(),
        stdin=(folder / stdin).read_bytes() if stdin else b"",
        files={path: (folder / local).read_bytes() for path, local in entry.pop("files", {}).items()},
        limits=Limits(**entry.pop("limits", {})),
        labels={"example": entry["name"]},
        **given,
    )
    collected = tuple(entry.pop("collected", ()))
    status = Status(entry.pop("status"))
    try:
        return Example(script=script, job=job, status=status, collected=collected, **entry)
    except TypeError as error:  # the table's own mistake: a field that is misspelt or missing
        raise ValueError(f"examples.toml: {entry.get('name')}: {error}") from None


@click.command()
@click.option("--redis", "url", metavar="URL", help="Use this Redis, not one of its own.")
@click.option(
    "--examples",
    type=click.Path(file_okay=False, path_type=Path),
    default=EXAMPLES,
    metavar="DIR",
    help="Where the examples are.  [default: those of the checkout]",
)
@click.pass_context
def demo(ctx: click.Context, /, *, url: str | None, examples: Path) -> None:
    """Run friendly and hostile scripts through a queue and show what becomes of each.

    Exits with 1 when one of them does not end as it should.
    """
    if not (examples / "examples.toml").is_file():
        raise click.UsageError(
            f"no examples at {examples}: they come with a checkout of the project, not with the "
            "installed package; name them with --examples DIR"
        )
    if os.geteuid() != 0:
        raise SandboxError("demo", "building jails needs root; try: sudo sandboxed demo")
    try:
        Settings.from_environment({**os.environ, REDIS_URL: url or ""})
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    signal.signal(signal.SIGTERM, _leave)
    table = load_examples(examples)
    with contextlib.ExitStack() as stack:
        if url is None:
            url = stack.enter_context(_own_redis())
        log = stack.enter_context(tempfile.TemporaryFile())
        running = stack.enter_context(_worker(url, log))
        good = _Show(table).run(_Queue(url), running, log)
    ctx.exit(0 if good else 1)


def _leave(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001  # signal's signature
    sys.exit(128 + number)


@contextlib.contextmanager
def _own_redis() -> Iterator[str]:
    from worker.redis_server import (  # noqa: PLC0415  # 100 ms, for who has none
        EmbeddedRedis,
        RedisServerError,
    )

    try:
        redis = EmbeddedRedis().__enter__()
    except RedisServerError as error:
        raise SandboxError("demo", str(error)) from None
    with contextlib.closing(redis):
        yield redis.url


@contextlib.contextmanager
def _worker(url: str, log: IO[bytes]) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a worker, `celery -A worker worker` in all but name; stop it on leaving."""
    process = children.start(
        # -P: a folder `worker` where the demo happens to be called is not ours.
        [sys.executable, "-P", "-m", "worker.cli", "worker", "--loglevel", "WARNING"],
        env={**os.environ, REDIS_URL: url},
        output=log,
    )
    try:
        yield process
    finally:
        children.stop(process, _STOP_DEADLINE)


class _Queue:
    """The queue as a plain Celery user sees it: `send_task`, results, and the key that cancels."""

    def __init__(self, url: str) -> None:
        from celery import Celery  # noqa: PLC0415  # 200 ms that `demo --help` does without
        from redis.exceptions import ConnectionError as NoRedis  # noqa: PLC0415

        self._app = Celery(
            broker=broker_url(url),
            backend=broker_url(url),
            task_serializer="json",
            accept_content=["json"],
        )
        self._redis = self._app.backend.client
        try:
            self._redis.ping()
        except NoRedis as error:
            raise ConnectionError(f"no Redis for the demo: {error}") from None

    def submit(self, example: Example) -> str:
        """Send the job and give its id."""
        # The AsyncResult is let go at once: one that outlives its Redis waits 20 s for it to return.
        sent = self._app.send_task(
            wire.TASK,
            args=[wire.job_to_json(example.job)],
            queue=wire.QUEUE,
            headers={wire.SUBMITTED_AT: time.time()},
        )
        return str(sent.id)

    def answer(self, job_id: str) -> Result | Exception | None:
        """Give the result of the job, or why its task failed; None when it is not there yet."""
        meta = self._app.backend.get_task_meta(job_id)
        if meta["status"] not in ("SUCCESS", "FAILURE", "REVOKED"):
            return None
        if meta["status"] == "SUCCESS":
            return wire.result_from_json(meta["result"])
        return RuntimeError(f"its task failed: {meta['result']}")

    def taken(self, job_id: str) -> bool:
        """Tell whether a worker has taken the job."""
        return bool(self._redis.exists(wire.ATTEMPTS_PREFIX + job_id))

    def cancel(self, job_id: str) -> None:
        """Ask for the job to be stopped."""
        self._redis.set(wire.CANCEL_PREFIX + job_id, "1", ex=3600)


class _Show:
    """The table on the screen, and what it found."""

    def __init__(self, examples: list[Example]) -> None:
        from rich import box  # noqa: PLC0415  # 40 ms
        from rich.console import Console  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415

        self._examples = examples
        self._mismatches: list[str] = []
        self._console = Console()
        if not self._console.is_terminal:
            self._console = Console(width=120)
        self._table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        for heading in ("Example", "Status", "Expected", "Exit"):
            self._table.add_column(heading, no_wrap=True)
        for heading in ("Wall", "CPU", "Memory"):
            self._table.add_column(heading, justify="right", no_wrap=True)
        # The only one that may be narrowed; its text is cut, not wrapped.
        self._table.add_column("First line of output")

    def run(self, queue: _Queue, worker: "subprocess.Popen[bytes]", log: IO[bytes]) -> bool:
        """Submit all, show each result as it comes; give whether all was as expected."""
        from rich.live import Live  # noqa: PLC0415

        began = time.monotonic()
        pending: dict[str, tuple[Example, str]] = {}
        cancels: dict[str, float] = {}
        live = Live(self._table, console=self._console, auto_refresh=False)
        try:
            pending.update({each.name: (each, queue.submit(each)) for each in self._examples})
            with live if self._console.is_terminal else contextlib.nullcontext():
                while pending and worker.poll() is None and time.monotonic() - began < _DEADLINE:
                    for name, (example, job_id) in list(pending.items()):
                        if (answer := queue.answer(job_id)) is not None:
                            del pending[name]
                            self._add(example, answer)
                            if live.is_started:
                                live.refresh()
                    _cancel_due(queue, pending, cancels)
                    time.sleep(_POLL)
        except (KeyboardInterrupt, SystemExit):
            for _, job_id in pending.values():
                queue.cancel(job_id)
            raise
        if not self._console.is_terminal:
            self._console.print(self._table)
        self._sum_up(time.monotonic() - began, list(pending))
        if pending:
            log.seek(0)
            self._console.print("The worker's last words:", style="bold")
            self._console.print(
                log.read().decode(errors="replace")[-3000:], markup=False, highlight=False
            )
        return not pending and not self._mismatches

    def _add(self, example: Example, result: Result | Exception) -> None:
        from rich.text import Text  # noqa: PLC0415

        if isinstance(result, Exception):
            self._mismatches.append(f"{example.name}: {result}")
            self._table.add_row(Text(example.name), Text("task failed", "bold red"))
            return
        mismatch = example.mismatch(result)
        if mismatch:
            self._mismatches.append(f"{example.name}: {mismatch}")
        first_line = (result.text or result.error or "").partition("\n")[0]
        self._table.add_row(
            Text(example.name),
            Text(result.status.value, "bold red" if mismatch else "green"),
            Text(example.expected()),
            Text(str(result.signal or ("" if result.exit_code is None else result.exit_code))),
            _seconds(result.wall_time),
            _seconds(result.cpu_time),
            "" if result.memory is None else f"{result.memory / (1 << 20):.1f} MiB",
            Text(
                "".join(char if char.isprintable() else "�" for char in first_line[:200]),
                no_wrap=True,
                overflow="ellipsis",
            ),
        )

    def _sum_up(self, took: float, unanswered: list[str]) -> None:
        as_expected = len(self._examples) - len(self._mismatches) - len(unanswered)
        self._console.print(
            f"{as_expected} of {len(self._examples)} as expected, in {took:.1f} s",
            style="green" if as_expected == len(self._examples) else "bold red",
            highlight=False,
        )
        for line in [*self._mismatches, *(f"{name}: no answer" for name in unanswered)]:
            self._console.print(line, style="red", markup=False, highlight=False, soft_wrap=True)


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} s"


def _cancel_due(
    queue: _Queue, pending: Mapping[str, tuple[Example, str]], due: dict[str, float]
) -> None:
    """Cancel the jobs that a worker took long enough ago; `due` remembers when each is."""
    for name, (example, job_id) in pending.items():
        if example.cancel_after is None:
            continue
        if name not in due and queue.taken(job_id):
            due[name] = time.monotonic() + example.cancel_after
        if name in due and time.monotonic() >= due[name]:
            queue.cancel(job_id)
