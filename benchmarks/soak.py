"""Run a great many jobs through one worker and look for what grows.

    python benchmarks/soak.py --jobs 100000

Prints one line at the start (after a twentieth as many jobs), ten on the way and one at the end: the
memory (RSS and PSS), descriptors, network namespaces and zombies of the worker's processes, and of the
host its cgroups (with those that die, where cgroup v2 counts them) and all network namespaces that the
kernel still has; and how long a thousand jobs took one at a time, at first and at last, also as a share
of what the script took just then without a jail. Exits with 1 where something has grown that should
not. `make bench` has it as --soak.
"""

import argparse
import contextlib
import os
import statistics
import sys
import time
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

import family
import figures
import peers
import queues
import ways

from producer import Client, Job
from worker.redis_server import EmbeddedRedis

#: How much more is no growth: an allocator's own ups and downs (MiB, for each process and in all),
#: and cgroups that the kernel has not yet let go of.
_SLACK = 8.0
_DYING_SLACK = 50
#: The same for the median latency, as a share of what the script takes without a jail.
_SLOWER = 1.5
_PLAIN_RUNS = 50
#: Looks at a worker that rests, and seconds between them.
_LOOKS, _BETWEEN_LOOKS = 10, 0.5


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
    netns_of_host: int
    zombies: int


@dataclass(frozen=True, slots=True)
class Latency:
    """How long jobs took one at a time (ms)."""

    median: float
    p99: float
    share: float  # the median's, of a plain run

    def __str__(self) -> str:
        return f"{self.median:.2f} ms (p99 {self.p99:.2f}), {self.share:.2f} of a plain run"


def look(pid: int) -> Seen:
    """Count what the worker `pid` and its host have."""
    pids = family.family(pid)
    namespaces, zombies = set(), 0
    for member in pids:
        with contextlib.suppress(OSError):  # it has ended
            namespaces.add(os.readlink(f"/proc/{member}/ns/net"))
        with contextlib.suppress(OSError):
            zombies += Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    dying = 0
    for stat in (Path("/sys/fs/cgroup/cgroup.stat"), Path("/sys/fs/cgroup/unified/cgroup.stat")):
        with contextlib.suppress(OSError):  # only where there is a v2 tree
            dying += int(stat.read_text().split("nr_dying_descendants")[1].split()[0])
    # Those that v1 has in all, per hierarchy: the dying ones are among them.
    lines = Path("/proc/cgroups").read_text().splitlines()[1:]
    cgroups = sum(int(line.split()[2]) for line in lines)
    return Seen(
        len(pids),
        family.memory(pid, "Rss"),
        family.memory(pid, "Pss"),
        family.descriptors(pid),
        cgroups,
        dying,
        len(namespaces),
        _kernel_objects("net_namespace"),
        zombies,
    )


def at_rest(pid: int) -> Seen:
    """Count likewise once nothing is under way: the least of what is seen in a while."""
    seen = []
    for _ in range(_LOOKS):
        time.sleep(_BETWEEN_LOOKS)
        seen.append(look(pid))
    return Seen(*map(min, zip(*map(astuple, seen), strict=True)))


def _kernel_objects(name: str) -> int:
    """Give how many objects of a kind the kernel has (slabinfo(5))."""
    for line in Path("/proc/slabinfo").read_text().splitlines():
        if line.split(maxsplit=1)[0] == name:
            return int(line.split()[1])
    return 0  # a kernel that keeps them with others of their size


def latency(client: Client, count: int) -> Latency:
    """Take the time of so many jobs one at a time."""
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        queues.check(client.run(Job(peers.SCRIPT.read_bytes())))
        taken.append((time.perf_counter() - began) * 1000)
    plain = statistics.median(ways.back_to_back(peers.plain(peers.SCRIPT_COMMAND), _PLAIN_RUNS).times)
    median = statistics.median(taken)
    return Latency(median, figures.percentile(taken, 99), median / plain)


def soak(jobs: int, slots: int, sample: int) -> bool:
    """Run the jobs, print what is seen on the way; say whether nothing grew."""
    source = peers.SCRIPT.read_bytes()
    command = ("worker.cli", "worker", "-c", str(slots))
    with (
        EmbeddedRedis() as redis,
        queues.worker(redis.url, *command) as pid,
        Client(redis.url) as client,
    ):
        for _ in client.map(Job(source) for _ in range(jobs // 20 + 50)):
            continue  # what is made on first use is made, what is copied on first use copied
        first_latency = latency(client, sample)
        first = at_rest(pid)
        _tell(0, first, "")
        began, every = time.monotonic(), max(jobs // 10, 1)
        for number, (_, result) in enumerate(client.map(Job(source) for _ in range(jobs)), 1):
            queues.check(result)
            if number % every == 0:
                rate = number / (time.monotonic() - began)
                own = family.memory_of(os.getpid(), "Rss")
                _tell(number, look(pid), f"{rate:.0f} jobs/s, client {own:.0f} MiB")
        last_latency = latency(client, sample)
        last = at_rest(pid)
        _tell(jobs, last, "at rest")
    print(f"{sample} jobs one at a time: at first {first_latency}, at last {last_latency}")
    grown = _grown(first, last, slots)
    if last_latency.share > first_latency.share * _SLOWER:
        grown.append("latency")
    print("grown: " + (", ".join(grown) or "nothing"))
    return not grown


def _grown(first: Seen, last: Seen, slots: int) -> list[str]:
    slack = {
        "rss": _SLACK * first.processes,
        "pss": _SLACK,
        # A pipe or two of the jails that are being made at either moment.
        "descriptors": 4,
        "dying": _DYING_SLACK,
        "netns": 2 * slots,
        "zombies": slots,
    }
    return [name for name, more in slack.items() if getattr(last, name) > getattr(first, name) + more]


def _tell(number: int, seen: Seen, more: str) -> None:
    told = [
        f"{name} {value:.1f}" if isinstance(value, float) else f"{name} {value}"
        for name, value in asdict(seen).items()
    ]
    print(f"{number:8} " + ", ".join(told), more, flush=True)


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--sample", type=int, default=1000, help="jobs to measure the latency with")
    given = parser.parse_args()
    sys.exit(not soak(given.jobs, given.slots, given.sample))


if __name__ == "__main__":
    main()
