"""How a job ended: facts first, judgement after.

`judge` is pure. Its facts come from the kernel and from the supervisor, none from inside the jail.
"""

import os
import signal
from dataclasses import dataclass
from enum import Enum, auto

from sandbox_core.job import Limits, Status


class Kill(Enum):
    """Why the supervisor killed the jail."""

    WALL_TIME = auto()
    CPU_TIME = auto()
    OUTPUT = auto()
    MEMORY = auto()
    CANCELLED = auto()


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a job that has ended.

    `status` is the wait status of its main process; `killed` the reason for which the supervisor
    killed it, if it did; `cpu_time` seconds; `output_truncated` whether a stream passed its limit;
    `oom_kills` what the job's own cgroup counted; `host_oom` whether that was for want of memory around
    it, not at its limit: then there is nothing to judge.
    """

    status: int
    killed: Kill | None
    cpu_time: float | None
    output_truncated: bool
    oom_kills: int
    host_oom: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """A status, with the exit code or the signal where the script ended by itself."""

    status: Status
    exit_code: int | None = None
    signal: str | None = None


_KILLED = {
    Kill.WALL_TIME: Status.TIME_LIMIT,
    Kill.CPU_TIME: Status.TIME_LIMIT,
    Kill.OUTPUT: Status.OUTPUT_LIMIT,
    Kill.MEMORY: Status.MEMORY_LIMIT,
    Kill.CANCELLED: Status.CANCELLED,
}


def judge(facts: Facts, limits: Limits) -> Verdict:
    """Decide how a job ended.

    What the kernel counted comes first: a process killed at the memory limit, output past its
    limit. A kill of ours counts only when it was what ended the job; a script that ended by itself
    before the kill arrived is reported as it ended.
    """
    by_signal = os.WTERMSIG(facts.status) if os.WIFSIGNALED(facts.status) else None
    exit_code = None if by_signal else os.WEXITSTATUS(facts.status)
    if facts.oom_kills:
        return Verdict(Status.MEMORY_LIMIT, exit_code)
    if facts.output_truncated:
        return Verdict(Status.OUTPUT_LIMIT, exit_code)
    if by_signal is None:
        return Verdict(Status.NONZERO_EXIT if exit_code else Status.OK, exit_code)
    if by_signal == signal.SIGKILL and facts.killed is not None:
        return Verdict(_KILLED[facts.killed])
    if by_signal in (signal.SIGKILL, signal.SIGXCPU) and _out_of_cpu(facts, limits):
        return Verdict(Status.TIME_LIMIT)  # the kernel's own backstop, RLIMIT_CPU
    return Verdict(Status.SIGNALED, signal=signal_name(by_signal))


def _out_of_cpu(facts: Facts, limits: Limits) -> bool:
    return facts.cpu_time is not None and facts.cpu_time >= limits.effective_cpu_time


def signal_name(number: int) -> str:
    """Name a signal; real-time ones count from the first, as kill(1) does."""
    if signal.SIGRTMIN < number < signal.SIGRTMAX:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"  # the two that the C library keeps for itself
