"""A process and all that descend from it: what they have of memory, descriptors and CPU."""

import contextlib
import os
from pathlib import Path

_KIB = 1024
_TICKS = os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """Give the children of a process."""
    found: list[int] = []
    with contextlib.suppress(OSError):  # it has ended
        for task in os.listdir(f"/proc/{pid}/task"):
            found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return found


def family(pid: int) -> list[int]:
    """Give a process and all that descend from it."""
    found = [pid]
    for parent in found:
        found += children(parent)
    return found


def memory(pid: int, kind: str = "Pss") -> float:
    """Give the memory of a process and its descendants, in MiB: `Pss`, which shares out, or `Rss`."""
    return sum(memory_of(member, kind) for member in family(pid))


def memory_of(pid: int, kind: str = "Pss") -> float:
    """Give the memory of one process in MiB."""
    with contextlib.suppress(OSError):  # it has ended
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        return int(text.split(f"{kind}:")[1].split(maxsplit=1)[0]) / _KIB
    return 0.0


def descriptors(pid: int) -> int:
    """Give how many descriptors a process and its descendants have open."""
    count = 0
    for member in family(pid):
        with contextlib.suppress(OSError):  # it has ended
            count += len(os.listdir(f"/proc/{member}/fd"))
    return count


def cpu_time(pid: int) -> float:
    """Give the CPU seconds of one process, all its threads, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS  # utime and stime of proc(5)
