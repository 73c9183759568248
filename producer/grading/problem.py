"""A problem: its tests in their groups, its validators, its limits and its example submissions.

Plain data, without judging. `producer.grading.loading` reads it from a package.
"""

import shutil
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from producer.grading.metadata import Metadata
from producer.grading.model import Verdict
from producer.grading.package_files import read
from producer.grading.programs import Program


@dataclass(frozen=True, slots=True)
class Test:
    """One test: where its input and answer are, what goes with them, and who may see it."""

    __test__ = False  # for pytest, which would take it for a class of tests

    name: str
    group: str
    input_path: Path
    answer_path: Path
    flags: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    files: Path | None = None
    hidden: bool = False

    @property
    def input(self) -> bytes:
        """What the submission reads; of any size, so it is not kept."""
        return read(self.input_path)

    @property
    def answer(self) -> bytes:
        """The judge's answer; likewise."""
        return read(self.answer_path)

    @property
    def placed(self) -> dict[str, bytes]:
        """The files that the submission finds in its working directory."""
        if self.files is None:
            return {}
        return {
            str(path.relative_to(self.files)): read(path)
            for path in sorted(self.files.rglob("*"))
            if path.is_file()
        }


@dataclass(frozen=True, slots=True)
class LegacyRule:
    """How a legacy group is judged: `testdata.yaml`, with what it inherits."""

    on_reject: str = "break"
    verdict_mode: str = "worst_error"
    score_mode: str = "sum"
    ignore_sample: bool = False
    accept_if_any_accepted: bool = False
    accept_score: float = 1.0
    reject_score: float = 0.0
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """How a group of the newer format is judged; `max_score` None is unbounded."""

    aggregation: str = "pass-fail"
    max_score: float | None = None
    require_pass: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Group:
    """Tests and groups in the order in which they are judged."""

    name: str
    items: tuple["Group | Test", ...]
    rule: LegacyRule | Rule

    def tests(self) -> Iterator[Test]:
        """Give all tests, those of inner groups too."""
        for item in self.items:
            if isinstance(item, Group):
                yield from item.tests()
            else:
                yield item


@dataclass(frozen=True, slots=True)
class Demand:
    """What the tests below `where` (a glob of test names; empty for all) have to come out as.

    Verdicts are the four that the format knows. `permitted` holds for each test, `required` for at
    least one; `score` is the range for the whole, `message` is to be in one of the judge's messages.
    """

    where: str = ""
    permitted: frozenset[Verdict] | None = None
    required: frozenset[Verdict] | None = None
    score: tuple[float, float] | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class Expected:
    """What the package says of a submission: its verdicts, and what more has to hold."""

    verdicts: tuple[Verdict, ...]
    demands: tuple[Demand, ...] = ()
    score: tuple[float, float] | None = None
    below_best: bool = False
    best: bool = False
    for_time_limit: bool = False


@dataclass(frozen=True, slots=True)
class Submission:
    """A submission that was named: a program, or the reason why there is none."""

    name: str
    program: Program | None
    expected: Expected | None = None
    problem: str = ""
    answers: Mapping[str, bytes] | None = None

    @property
    def digest(self) -> str:
        """Tell its content from any other."""
        return self.program.digest if self.program else f"{self.problem!r} {self.answers!r}"


@dataclass(frozen=True, slots=True)
class FunctionTests:
    """A `tests.py` beside the problem, and the files that stand with it."""

    source: bytes
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass
class Problem:
    """A problem that can be graded; a context manager, since one from an archive has to be removed.

    `plain` is a folder of inputs and answers without a problem.yaml, whose score counts the tests.
    """

    name: str
    folder: Path
    metadata: Metadata
    root: Group
    validators: tuple[Program, ...] = ()
    include: Mapping[str, bytes] = field(default_factory=dict)
    submissions: tuple[Submission, ...] = ()
    time_limit: float | None = None
    plain: bool = False
    functions: FunctionTests | None = None
    notes: tuple[str, ...] = ()
    unpacked: Path | None = None

    def __post_init__(self) -> None:
        self._finalizer = weakref.finalize(self, _remove, self.unpacked)

    def close(self) -> None:
        """Remove what was unpacked."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def tests(self) -> list[Test]:
        """Give all tests, in order."""
        return list(self.root.tests())


def _remove(unpacked: Path | None) -> None:
    if unpacked is not None:
        shutil.rmtree(unpacked, ignore_errors=True)
