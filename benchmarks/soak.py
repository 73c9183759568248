"""Run a great many jobs through one worker and look for what grows.

    python benchmarks/soak.py --jobs 100000

Prints one line at the start, ten on the way and one at the end: the memory (RSS and PSS) and the
descriptors of the worker's processes, and of the host its cgroups (with those that die, where cgroup v2
counts them), network namespaces and zombies; and the time that jobs take one at a time, at first and at
last. Exits with 1 where something has grown that should not.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from producer import Client, Job
from worker import children
from worker.redis_server import EmbeddedRedis
from worker.settings import REDIS_URL

SCRIPT = Path(__file__).resolve().parent.parent / "examples" / "scripts" / "hello.py"
STOP_DEADLINE = 30.0  # seconds
#: How much more memory is no growth: an allocator's own ups and downs (MiB).
SLACK = 8.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What was counted at one moment; memory is in MiB."""

    processes: int
    rss: float
    pss: float
    descriptors: int
    cgroups: int
    dying: int
    netns: int
    zombies: int


def family(pid: int) -> list[int]:
    """Give a process and all that descend from it."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):  # it has ended
                found += map(int, task.read_text().split())
    return found


def look(pid: int) -> Seen:
    """Count what the worker `pid` and its host have."""
    pids = family(pid)
    rss = pss = descriptors = zombies = 0
    for member in pids:
        with contextlib.suppress(OSError):  # it has ended
            rollup = Path(f"/proc/{member}/smaps_rollup").read_text()
            rss += _kilobytes(rollup, "Rss:")
            pss += _kilobytes(rollup, "Pss:")
            descriptors += len(os.listdir(f"/proc/{member}/fd"))
    namespaces = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            namespaces.add(os.readlink(process / "ns/net"))
        with contextlib.suppress(OSError):
            state = (process / "stat").read_text().rpartition(")")[2].split()
            zombies += state[0] == "Z" and int(state[1]) in pids
    dying = 0
    for stat in (Path("/sys/fs/cgroup/cgroup.stat"), Path("/sys/fs/cgroup/unified/cgroup.stat")):
        with contextlib.suppress(OSError):
            dying += int(stat.read_text().split("nr_dying_descendants")[1].split()[0])
    # Those that v1 has in all, per hierarchy: the dying ones are among them.
    lines = Path("/proc/cgroups").read_text().splitlines()[1:]
    cgroups = sum(int(line.split()[2]) for line in lines)
    return Seen(
        len(pids), rss / 1024, pss / 1024, descriptors, cgroups, dying, len(namespaces), zombies
    )


def _kilobytes(text: str, name: str) -> int:
    return int(text.split(name)[1].split(maxsplit=1)[0])


@contextlib.contextmanager
def worker(redis_url: str, slots: int) -> Iterator[subprocess.Popen[bytes]]:
    """Give a worker that has run its first job."""
    with tempfile.TemporaryFile() as log:
        process = children.start(
            [sys.executable, "-P", "-m", "worker.cli", "worker", "-c", str(slots), "-l", "WARNING"],
            env={**os.environ, REDIS_URL: redis_url, "SANDBOXED_RESULT_EXPIRES": "120"},
            output=log,
        )
        try:
            yield process
        finally:
            children.stop(process, STOP_DEADLINE)


def latency(client: Client, count: int) -> tuple[float, float]:
    """Give the median and the 99th percentile of jobs one at a time (ms)."""
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        _checked(client.run(Job(SCRIPT.read_bytes())))
        taken.append((time.perf_counter() - began) * 1000)
    return statistics.median(taken), statistics.quantiles(taken, n=100)[98]


def _checked(result: object) -> None:
    if not getattr(result, "ok", False):
        raise RuntimeError(f"a job went wrong: {result}")


def soak(jobs: int, slots: int, sample: int) -> bool:
    """Run the jobs, print what is seen on the way; say whether nothing grew."""
    source = SCRIPT.read_bytes()
    with EmbeddedRedis() as redis, worker(redis.url, slots) as process, Client(redis.url) as client:
        for _ in client.map([Job(source)] * 50):
            pass  # what is made on first use is made
        first_latency = latency(client, sample)
        first = look(process.pid)
        _tell(0, first, "")
        began, every = time.monotonic(), max(jobs // 10, 1)
        for number, (_, result) in enumerate(client.map(Job(source) for _ in range(jobs)), 1):
            _checked(result)
            if number % every == 0:
                rate = number / (time.monotonic() - began)
                _tell(number, look(process.pid), f"{rate:.0f} jobs/s, client {_own_rss():.0f} MiB")
        last_latency = latency(client, sample)
        last = look(process.pid)
        _tell(jobs, last, "at rest")
        print(f"latency at first {first_latency[0]:.1f} ms (p99 {first_latency[1]:.1f}), ", end="")
        print(f"at last {last_latency[0]:.1f} ms (p99 {last_latency[1]:.1f})")
    grown = [
        name
        for name, slack in (
            *(("rss", SLACK * first.processes), ("pss", SLACK), ("descriptors", 4)),
            *(("zombies", slots), ("netns", 2 * slots)),
        )
        if getattr(last, name) > getattr(first, name) + slack
    ]
    print("grown: " + (", ".join(grown) or "nothing"))
    return not grown


def _own_rss() -> float:
    return _kilobytes(Path("/proc/self/smaps_rollup").read_text(), "Rss:") / 1024


def _tell(number: int, seen: Seen, more: str) -> None:
    told = [f"{name} {value:.1f}" if isinstance(value, float) else f"{name} {value}"
            for name, value in asdict(seen).items()]  # fmt: skip
    print(f"{number:8} " + ", ".join(told), more, flush=True)


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--sample", type=int, default=1000, help="jobs to measure the latency with")
    given = parser.parse_args()
    sys.exit(not soak(given.jobs, given.slots, given.sample))


if __name__ == "__main__":
    main()
