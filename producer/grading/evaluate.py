"""Evaluates what a code model has written: which samples pass their task's checks, and pass@k.

Programs that are the same run once. What is known is written to a journal beside the results as it
comes, so that an evaluation that was killed goes on where it was.
"""

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, astuple, dataclass, field
from typing import IO, Any, Self

from producer.grading.dispatch import Dispatcher
from producer.grading.evaluate_jobs import PASSED, Isolated, Program, Settings, judge_whole
from producer.grading.evaluate_problems import BadInput, Problem, read_problems, read_samples

DEFAULT_KS = (1, 10, 100)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What became of a file of samples.

    `pass_at` maps k to the mean over the tasks, for each k that no task has fewer samples than; where
    there were several `runs`, it is the mean over these, and each run has its own. `agreement` is the
    share of programs that did alike in every run. `programs` counts those that differ, `resumed` the
    results that were known from an evaluation that had not come to its end.
    """

    problems: int
    attempted: int
    samples: int
    programs: int
    resumed: int
    passed: int
    pass_at: Mapping[int, float]
    runs: tuple[Mapping[int, float], ...]
    agreement: float
    results: str

    def as_json(self) -> dict[str, Any]:
        """Give this as one JSON object."""
        return {
            "problems": self.problems,
            "attempted": self.attempted,
            "samples": self.samples,
            "programs": self.programs,
            "resumed": self.resumed,
            "passed": self.passed,
            "pass_at": {str(k): value for k, value in self.pass_at.items()},
            "runs": [{str(k): value for k, value in run.items()} for run in self.runs],
            "agreement": self.agreement,
            "results": self.results,
        }


def pass_at_k(n: int, c: int, k: int) -> float:
    """Estimate, from `c` of `n` samples that passed, how likely one of `k` passes.

    The unbiased estimator of the HumanEval paper (arXiv 2107.03374, section 2.1), in whole numbers up
    to its one division: there it is a product of `1 - k/i`, which rounds 1/2 to 0.4999999999999999.
    """
    ways = math.comb(n, k)
    return (ways - math.comb(n - c, k)) / ways


def results_path(samples: str) -> str:
    """Give where the results of a file of samples go, as HumanEval has it."""
    return f"{samples}_results.jsonl"


def evaluate(
    problems: str,
    samples: str,
    dispatcher: Dispatcher,
    *,
    isolated: bool = False,
    runs: int = 1,
    ks: Iterable[int] = DEFAULT_KS,
    settings: Settings | None = None,
    out: str | None = None,
    progress: Callable[[int, int], object] = lambda _done, _total: None,
) -> Evaluation:
    """Judge every sample in the file `samples` and write the results, each beside its sample, to `out`.

    `dispatcher` is a `QueueDispatcher(client)` or a `LocalDispatcher(jails)`; it is closed at the end.
    `progress` is called with how many programs are done, and of how many, repeats counted.

    Raises `BadInput` for a file that can't be used, `Broken` where a job could not be run.
    """
    settings = settings or Settings()
    out = out or results_path(samples)
    asked = _Asked(samples, read_problems(problems), settings, isolated=isolated, runs=runs)
    seen = [(program, problem.task_id) for _, problem, _, program in asked.samples()]
    if not seen:
        raise BadInput(f"{samples}: no samples in it")
    keys = {_key(run, program) for run in range(runs) for program, _ in seen}
    with contextlib.closing(dispatcher), _Journal(f"{out}.part") as journal:
        known = {key: result for key, result in journal.read() if key in keys}
        resumed = len(known)
        progress(resumed, len(keys))
        for key, result in _judge(asked.programs(set(known)), dispatcher, settings, isolated=isolated):
            journal.write(key, result)
            known[key] = result
            progress(len(known), len(keys))
        asked.write(out, known)
        journal.done()
    each = tuple(_pass_at(seen, known, run, tuple(ks)) for run in range(runs))
    programs = {program for program, _ in seen}
    alike = sum(
        len({known[_key(run, program)] == PASSED for run in range(runs)}) == 1 for program in programs
    )
    return Evaluation(
        problems=len(asked.problems),
        attempted=len({task for _, task in seen}),
        samples=len(seen),
        programs=len(programs),
        resumed=resumed,
        passed=sum(known[_key(0, program)] == PASSED for program, _ in seen),
        pass_at={k: math.fsum(run[k] for run in each) / runs for k in each[0]},
        runs=each,
        agreement=alike / len(programs),
        results=out,
    )


def _judge(
    programs: Iterator[Program], dispatcher: Dispatcher, settings: Settings, *, isolated: bool
) -> Iterator[tuple[str, str]]:
    if isolated:
        return Isolated(dispatcher, settings).judge(programs)
    return judge_whole(programs, dispatcher, settings)


def _key(run: int, program: str) -> str:
    return f"{run}:{program}"


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is to be judged; the samples are read anew each time, never all in memory."""

    path: str
    problems: dict[str, Problem]
    settings: Settings
    _: KW_ONLY
    isolated: bool
    runs: int

    def samples(self) -> Iterator[tuple[dict[str, Any], Problem, str, str]]:
        """Give each sample, its problem, its program, and a digest of all that its verdict hangs on."""
        manner = [self.settings.runtime, astuple(self.settings.limits), self.isolated]
        for sample, problem in read_samples(self.path, self.problems):
            text = problem.program(sample)
            told = json.dumps([text, astuple(problem), manner])
            yield sample, problem, text, hashlib.sha256(told.encode()).hexdigest()

    def programs(self, given: set[str]) -> Iterator[Program]:
        """Give each program that is not among those `given`, once for each run."""
        for run in range(self.runs):
            for _, problem, text, digest in self.samples():
                key = _key(run, digest)
                if key not in given:
                    given.add(key)
                    yield Program(key, text, problem)

    def write(self, out: str, known: Mapping[str, str]) -> None:
        """Write each sample with its result: the first run's, and each where there are several."""
        with open(f"{out}.new", "w", encoding="utf-8") as file:
            for sample, _, _, digest in self.samples():
                if _key(0, digest) not in known:
                    raise BadInput(f"{self.path}: has changed while it was evaluated")
                results = [known[_key(run, digest)] for run in range(self.runs)]
                told = {**sample, "result": results[0], "passed": results[0] == PASSED}
                if self.runs > 1:
                    told["runs"] = results
                file.write(json.dumps(told) + "\n")
        os.replace(f"{out}.new", out)


def _pass_at(
    seen: list[tuple[str, str]], known: Mapping[str, str], run: int, ks: tuple[int, ...]
) -> dict[int, float]:
    """Give pass@k of one run, for each k that no task has fewer samples than."""
    counts: dict[str, list[int]] = {}
    for program, task in seen:
        count = counts.setdefault(task, [0, 0])
        count[0] += 1
        count[1] += known[_key(run, program)] == PASSED
    fewest = min(n for n, _ in counts.values())
    return {
        k: math.fsum(pass_at_k(n, c, k) for n, c in counts.values()) / len(counts)
        for k in ks
        if k <= fewest
    }


@dataclass(slots=True)
class _Journal:
    """The results so far, one JSON line each, in a file that is gone once they are all written."""

    path: str
    _file: IO[bytes] | None = field(default=None, init=False)

    def __enter__(self) -> Self:
        self._file = open(self.path, "a+b", buffering=0)  # closed below
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    def read(self) -> Iterator[tuple[str, str]]:
        """Give what is there; a line that was cut off is cut away."""
        assert self._file
        self._file.seek(0)
        lines = self._file.read().split(b"\n")
        whole = sum(len(line) + 1 for line in lines[:-1])
        self._file.truncate(whole)
        for line in lines[:-1]:
            with contextlib.suppress(ValueError, TypeError):  # of no use: the program runs again
                key, result = json.loads(line)
                yield key, result

    def write(self, key: str, result: str) -> None:
        """Add a result."""
        assert self._file
        self._file.write(json.dumps([key, result]).encode() + b"\n")

    def done(self) -> None:
        """Remove the file: the results themselves are written."""
        os.unlink(self.path)
