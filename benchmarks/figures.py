"""Rounds, figures and aims: how contenders are compared.

Those that are compared take turns in rounds, in a new random order each time, so that whatever else
the machine does meets all of them alike. A ratio is the median of the rounds' own ratios, each against
the baseline of the same round; a 99th percentile is that of all rounds together.
"""

import random
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from contender import Work

Which = Literal["ratio", "p99_ratio", "value"]

#: One turn of each contender, by its name; the first is the baseline.
Contenders = Mapping[str, Callable[[], Work]]


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured: rounds and jobs in a round are multiplied by it, roughly."""

    rounds: float = 1.0
    jobs: float = 1.0

    def rounds_of(self, count: int) -> int:
        """Give how many rounds, where a whole run has `count`."""
        return max(round(count * self.rounds), 3)

    def jobs_of(self, count: int) -> int:
        """Give how many jobs a turn has, where a whole run has `count`."""
        return max(round(count * self.jobs), 5)


@dataclass(frozen=True, slots=True)
class Aim:
    """What a figure should be: at most or at least `bound`."""

    which: Which
    bound: float
    at_least: bool = False

    def met(self, value: float) -> bool:
        """Say whether a value is as it should be."""
        return value >= self.bound if self.at_least else value <= self.bound

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.bound:g}"


@dataclass(frozen=True, slots=True)
class Figure:
    """What one contender was measured to do.

    `value` is in `unit`: the median of its jobs' milliseconds, or of its rounds' rates. CPU is in
    milliseconds a job: of the contender's own processes, and of the whole machine meanwhile.
    """

    group: str
    name: str
    unit: str
    value: float
    p99: float | None = None
    ratio: float | None = None
    p99_ratio: float | None = None
    cpu: float | None = None
    machine: float | None = None
    aims: tuple[Aim, ...] = ()
    #: CPU milliseconds a job by process, where the contender tells.
    parts: dict[str, float] = field(default_factory=dict)
    #: What was measured, round by round.
    samples: list[list[float]] = field(default_factory=list)

    def judged(self, which: Which) -> tuple[Aim, bool] | None:
        """Give the aim for one of its numbers, and whether it is met."""
        number = getattr(self, which)
        for aim in self.aims:
            if aim.which == which and number is not None:
                return aim, aim.met(number)
        return None


def compare(
    group: str,
    unit: Literal["ms", "jobs/s"],
    contenders: Contenders,
    rounds: int,
    aims: Mapping[str, tuple[Aim, ...]] | None = None,
) -> list[Figure]:
    """Let the contenders take turns, and give their figures."""
    done: dict[str, list[Work]] = {name: [] for name in contenders}
    for turn in contenders.values():
        turn()  # once for nothing: what is made on first use is not what is measured
    for _ in range(rounds):
        for name in random.sample(list(contenders), len(contenders)):
            done[name].append(contenders[name]())
    measured = _times if unit == "ms" else _rates
    figures: list[Figure] = []
    for name, works in done.items():
        figure = measured(group, name, works, figures[0] if figures else None)
        figures.append(replace(figure, aims=(aims or {}).get(name, ())))
    return figures


def _times(group: str, name: str, works: list[Work], baseline: Figure | None) -> Figure:
    samples = [work.times for work in works]
    everything = [time for times in samples for time in times]
    first = baseline.samples if baseline else samples
    p99 = percentile(everything, 99)
    return Figure(
        group,
        name,
        "ms",
        value=statistics.median(everything),
        p99=p99,
        ratio=_ratio([statistics.median(times) for times in samples],
                     [statistics.median(times) for times in first]),
        p99_ratio=p99 / percentile([time for times in first for time in times], 99),
        **_cpu(works),
        samples=samples,
    )  # fmt: skip


def _rates(group: str, name: str, works: list[Work], baseline: Figure | None) -> Figure:
    samples = [[work.jobs / work.seconds] for work in works]
    own = [rate for (rate,) in samples]
    first = [rate for (rate,) in baseline.samples] if baseline else own
    return Figure(
        group,
        name,
        "jobs/s",
        value=statistics.median(own),
        ratio=_ratio(own, first),
        **_cpu(works),
        samples=samples,
    )


def _cpu(works: list[Work]) -> dict[str, Any]:
    jobs = sum(work.jobs for work in works) / 1000
    parts = {
        name: sum(work.parts[name] for work in works) / jobs for name in works[0].parts
    }  # fmt: skip
    return {
        "cpu": sum(work.cpu for work in works) / jobs,
        "machine": sum(work.machine for work in works) / jobs,
        "parts": parts,
    }


def _ratio(own: list[float], baseline: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(own, baseline, strict=True))


def percentile(values: list[float], number: int) -> float:
    """Give the value that `number` in a hundred of `values` do not pass."""
    return statistics.quantiles(values, n=100, method="inclusive")[number - 1]
