"""The judgement of how a job ended, case by case."""

import signal

import pytest

from sandbox_core.job import Limits, Status
from sandbox_core.verdict import Facts, Kill, Verdict, judge, signal_name

LIMITS = Limits(wall_time=6, cpu_time=2)


def facts(status: int, **known: object) -> Facts:
    """Make facts of a wait status and what is out of the ordinary."""
    ordinary = {"killed": None, "cpu_time": 0.1, "output_truncated": False, "oom_kills": 0}
    return Facts(status=status, **{**ordinary, **known})


def exited(code: int) -> int:
    """Give the wait status of an exit."""
    return code << 8


@pytest.mark.parametrize(
    ("known", "verdict"),
    [
        (facts(exited(0)), Verdict(Status.OK, 0)),
        (facts(exited(137)), Verdict(Status.NONZERO_EXIT, 137)),
        (facts(signal.SIGSEGV), Verdict(Status.SIGNALED, signal="SIGSEGV")),
        (facts(signal.SIGABRT | 0x80), Verdict(Status.SIGNALED, signal="SIGABRT")),  # and a core
        (facts(signal.SIGKILL), Verdict(Status.SIGNALED, signal="SIGKILL")),
        (facts(signal.SIGKILL, killed=Kill.WALL_TIME), Verdict(Status.TIME_LIMIT)),
        (facts(signal.SIGKILL, killed=Kill.CPU_TIME), Verdict(Status.TIME_LIMIT)),
        (facts(signal.SIGKILL, killed=Kill.CANCELLED), Verdict(Status.CANCELLED)),
        (facts(signal.SIGKILL, killed=Kill.MEMORY, oom_kills=1), Verdict(Status.MEMORY_LIMIT)),
        (facts(signal.SIGKILL, oom_kills=1), Verdict(Status.MEMORY_LIMIT)),
        (facts(exited(0), oom_kills=1), Verdict(Status.MEMORY_LIMIT, 0)),
        (
            facts(signal.SIGKILL, killed=Kill.OUTPUT, output_truncated=True),
            Verdict(Status.OUTPUT_LIMIT),
        ),
        (facts(exited(0), output_truncated=True), Verdict(Status.OUTPUT_LIMIT, 0)),
        # It ended by itself before our kill arrived.
        (facts(exited(0), killed=Kill.WALL_TIME), Verdict(Status.OK, 0)),
        (facts(exited(3), killed=Kill.CANCELLED), Verdict(Status.NONZERO_EXIT, 3)),
        (facts(signal.SIGSEGV, killed=Kill.WALL_TIME), Verdict(Status.SIGNALED, signal="SIGSEGV")),
        # The kernel's own backstop for CPU time.
        (facts(signal.SIGKILL, cpu_time=2.5), Verdict(Status.TIME_LIMIT)),
        (facts(signal.SIGXCPU, cpu_time=2.0), Verdict(Status.TIME_LIMIT)),
        (facts(signal.SIGXCPU, cpu_time=0.1), Verdict(Status.SIGNALED, signal="SIGXCPU")),
        (facts(signal.SIGKILL, cpu_time=None), Verdict(Status.SIGNALED, signal="SIGKILL")),
    ],
)
def test_the_verdict_follows_from_the_facts(known, verdict):
    """Each ending has one verdict."""
    assert judge(known, LIMITS) == verdict


@pytest.mark.parametrize(
    ("number", "name"),
    [(9, "SIGKILL"), (32, "SIG32"), (34, "SIGRTMIN"), (36, "SIGRTMIN+2"), (64, "SIGRTMAX")],
)
def test_every_signal_has_a_name(number, name):
    """Real-time signals too."""
    assert signal_name(number) == name
