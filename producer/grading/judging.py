"""One test of one submission: the jobs that it takes, and the verdict that they give.

A test is a generator of tasks that is sent what became of each: whoever drives it decides where and
when they run. Nothing of ours runs a submission or a validator: all of them are jobs.
"""

import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace

from producer.grading.aggregate import find, new_max_score
from producer.grading.comparison import UnknownFlag, compare
from producer.grading.dispatch import Ended, Task
from producer.grading.model import TestReport, Verdict
from producer.grading.problem import Problem, Rule, Submission, Test
from producer.grading.programs import BadProgram, Program
from sandbox_core import Job, Limits, Result, Status

MIB = 1 << 20

ACCEPTED_CODE, WRONG_CODE = 42, 43

#: Beyond its limit a program is let run for this part of it: what ends in between is run again, alone.
EDGE = 1.2
#: Seconds of the longest job that an operator allows unless told otherwise; the edge does not ask more.
_USUAL_MAXIMUM = 60.0

#: Bytes of input, answer and output that a report keeps, and of a message.
EXCERPT = 4096
_MESSAGE = 4096

_FEEDBACK = "feedback_dir/"
_VALIDATOR_MEMORY = 512 * MIB
_DEFAULT_OUTPUT = 8 * MIB
_DEFAULT_MEMORY = 256 * MIB
#: Seconds that a validator has beyond the submission, so that it sees the end of one that hangs.
_LONGER = 2.0

Steps = Generator[Task, Ended, TestReport]


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms tests are run: the limits, of which None are the problem's or the usual ones."""

    time_limit: float
    limits: Mapping[str, float | int] = field(default_factory=dict)
    #: Whether all times are still accepted, since the time limit is to be made from them.
    measuring: bool = False


def judge(problem: Problem, submission: Submission, test: Test, terms: Terms) -> Steps:
    """Run a test to its verdict."""
    try:
        return (yield from _Judge(problem, submission, test, terms).run())
    except BadProgram as error:
        return _report(test, Verdict.CE, str(error))
    except ValueError as error:  # of a Job that can't be made
        return _report(test, Verdict.JE, str(error))


def _report(test: Test, verdict: Verdict, message: str) -> TestReport:
    return TestReport(test.name, test.group, verdict, None, None, None, message, hidden=test.hidden)


@dataclass(slots=True)
class _Word:
    """What was found: a verdict, why, and what the validator wrote."""

    verdict: Verdict
    message: str = ""
    feedback: str = ""
    score: float | None = None
    next_input: bytes | None = None


class _Judge:
    """One test on its way."""

    def __init__(self, problem: Problem, submission: Submission, test: Test, terms: Terms) -> None:
        self._problem = problem
        self._submission = submission
        self._test = test
        self._terms = terms
        self._kept: dict[str, bytes] = {}  # the validator's feedback, which lasts over the passes
        self._wall: float | None = None
        self._cpu: float | None = None
        self._memory: int | None = None
        self._input = b""
        self._output: bytes | None = None

    def run(self) -> Steps:
        metadata = self._problem.metadata
        self._input = given = self._test.input
        word = _Word(Verdict.JE, f"the validator asked for more than {metadata.passes} passes")
        for _ in range(metadata.passes):
            found = yield from self._pass(given)
            if found.next_input is None:
                word = found
                break
            given = found.next_input
        if word.verdict is Verdict.AC:
            word = self._scored(word)
        return self._told(word)

    def _told(self, word: _Word) -> TestReport:
        report = TestReport(
            self._test.name,
            self._test.group,
            word.verdict,
            self._wall,
            self._cpu,
            self._memory,
            word.message[:_MESSAGE],
            hidden=self._test.hidden,
            feedback=word.feedback[:_MESSAGE],
            score=word.score,
        )
        if word.verdict is Verdict.AC:
            return report
        answer, output = self._test.answer, self._output or b""
        return replace(
            report,
            input=self._input[:EXCERPT],
            expected=answer[:EXCERPT],
            actual=output[:EXCERPT],
            cut=max(len(self._input), len(answer), len(output)) > EXCERPT,
        )

    def _pass(self, given: bytes) -> Generator[Task, Ended, _Word]:
        answers = self._submission.answers
        if answers is not None:
            return (yield from self._validated(given, self._answer(answers)))
        if self._problem.metadata.interactive:
            return (yield from self._interactive(given))
        program = self._program()
        job = program.job(self._limits(), args=self._test.args, stdin=given, files=self._test.placed)
        result = (yield Task(job)).result
        if self._on_the_edge(result):
            result = (yield Task(job, alone=True)).result
        self._note(result)
        self._output = result.stdout
        failed = self._failed(result)
        return failed or (yield from self._validated(given, result.stdout))

    def _answer(self, answers: Mapping[str, bytes]) -> bytes:
        """Give a submission's answer to this test: the file of its name, or the only one."""
        name = self._test.name.rpartition("/")[2]
        for end in (".out", ".ans", ".txt", ""):
            if name + end in answers:
                self._output = answers[name + end]
                break
        else:
            self._output = next(iter(answers.values())) if len(answers) == 1 else b""
        return self._output

    def _program(self) -> Program:
        assert self._submission.program is not None
        return self._submission.program.including(self._problem.include)

    # The submission's limits, and what became of it.

    def _limits(self) -> Limits:
        metadata, asked = self._problem.metadata, self._terms.limits
        limit = self._terms.time_limit
        longest = min(limit * EDGE, max(limit, _USUAL_MAXIMUM))
        cpu = asked.get("cpu_time")
        return Limits(
            wall_time=longest,
            cpu_time=None if cpu is None else min(cpu * EDGE, longest),
            memory=int(asked.get("memory") or (metadata.memory or 0) * MIB or _DEFAULT_MEMORY),
            processes=int(asked.get("processes") or 1),
            output=int(asked.get("output") or (metadata.output or 0) * MIB or _DEFAULT_OUTPUT),
            disk=int(asked.get("disk") or Limits().disk),
            open_files=int(asked.get("open_files") or Limits().open_files),
        )

    def _too_slow(self, result: Result) -> bool:
        if result.status is Status.TIME_LIMIT:
            return True
        cpu = self._terms.limits.get("cpu_time")
        if cpu is not None and result.cpu_time is not None and result.cpu_time > cpu:
            return True
        return max(result.wall_time, result.cpu_time or 0.0) > self._terms.time_limit

    def _on_the_edge(self, result: Result) -> bool:
        """Say whether it was too slow, but by so little that something else may have slowed it."""
        return self._too_slow(result) and result.status is not Status.TIME_LIMIT

    def _note(self, result: Result) -> None:
        self._wall = max(self._wall or 0.0, result.wall_time)
        if result.cpu_time is not None:
            self._cpu = max(self._cpu or 0.0, result.cpu_time)
        if result.memory is not None:
            self._memory = max(self._memory or 0, result.memory)

    def _failed(self, result: Result) -> _Word | None:  # noqa: PLR0911  # a table in its order
        """Give the verdict of a submission that did not end well; None for one that did."""
        if result.status in (Status.INVALID_JOB, Status.INTERNAL_ERROR, Status.CANCELLED):
            return _Word(Verdict.JE, result.error or f"the job was {result.status}")
        if self._too_slow(result):
            return _Word(Verdict.TLE, f"more than {self._terms.time_limit:g} s")
        if result.status is Status.MEMORY_LIMIT:
            return _Word(Verdict.MLE, f"more than {self._limits().memory // MIB} MiB")
        if result.status is Status.SIGNALED:
            return _Word(Verdict.RTE, f"killed by {result.signal}{_last_line(result)}")
        if result.status is Status.NONZERO_EXIT:
            return _Word(Verdict.RTE, f"exit code {result.exit_code}{_last_line(result)}")
        if result.status is Status.OUTPUT_LIMIT:
            return _Word(Verdict.OLE, f"more than {self._limits().output} bytes of output")
        return None

    # The validators.

    def _validated(self, given: bytes, output: bytes) -> Generator[Task, Ended, _Word]:
        if not self._problem.validators:
            try:
                found = compare(self._test.answer, output, self._test.flags)
            except UnknownFlag as error:
                return _Word(Verdict.JE, str(error))
            return _Word(Verdict.AC if found.accepted else Verdict.WA, found.message)
        word = _Word(Verdict.AC)
        for validator in self._problem.validators:  # of a legacy package, which all have to accept
            ended = yield Task(self._validator_job(validator, given, output))
            word = self._said(validator, ended.result)
            if word.verdict is not Verdict.AC:
                break
        return word

    def _validator_job(
        self, validator: Program, given: bytes, output: bytes, least_wall: float = 0.0
    ) -> Job:
        metadata = self._problem.metadata
        answer = self._test.answer
        memory = (metadata.validation_memory or 0) * MIB or _VALIDATOR_MEMORY
        feedback = metadata.validation_output * MIB
        files = {"judge.in": given, "judge.ans": answer, f"{_FEEDBACK}.keep": b"", **self._kept}
        limits = Limits(
            wall_time=least_wall or metadata.validation_time,
            memory=memory,
            output=feedback,
            disk=validator.size + sum(map(len, files.values())) + feedback,
        )
        return validator.job(
            limits,
            args=("judge.in", "judge.ans", _FEEDBACK, *self._test.flags),
            stdin=output,
            files=files,
            collect=(f"{_FEEDBACK}*",),
        )

    def _said(self, validator: Program, result: Result) -> _Word:  # noqa: PLR0911  # as above
        """Read a validator's exit code and feedback; whatever is not as it should be is its error."""
        feedback = {
            path: content for path, content in result.files.items() if path != f"{_FEEDBACK}.keep"
        }
        self._kept = {
            path: content for path, content in feedback.items() if _name(path) != "nextpass.in"
        }
        judge = _text(feedback.get(f"{_FEEDBACK}judgemessage.txt"))
        team = _text(feedback.get(f"{_FEEDBACK}teammessage.txt"))
        following = feedback.get(f"{_FEEDBACK}nextpass.in")
        score = feedback.get(f"{_FEEDBACK}score.txt")
        share = feedback.get(f"{_FEEDBACK}score_multiplier.txt")
        who = f"the validator {validator.name}"

        def error(why: str) -> _Word:
            return _Word(Verdict.JE, "; ".join(filter(None, (f"{who} {why}", judge))), team)

        if result.status is not Status.NONZERO_EXIT or result.exit_code not in (42, 43):
            return error(_how_it_ended(result))
        if following is not None and self._problem.metadata.passes < 2:  # noqa: PLR2004
            following = None
        if result.exit_code == WRONG_CODE:
            if following is not None:
                return error("wants another pass of what it has refused")
            if score is not None or share is not None:
                return error("gave a score to what it has refused")
            return _Word(Verdict.WA, judge, team)
        if (score is not None or share is not None) and not self._problem.metadata.custom_score:
            return error("gave a score, which the problem does not allow")
        word = _Word(Verdict.AC, judge, team, next_input=following)
        if following is None:
            return self._with_score(word, score, share, error("gave a score that is none"))
        return word

    def _with_score(self, word: _Word, score: bytes | None, share: bytes | None, error: _Word) -> _Word:
        best = self._max_score()
        if score is not None and share is not None:
            return error
        content = share if share is not None else score
        if content is None:
            return word
        value = _finite(content)
        if value is None or (value < 0 and not self._problem.metadata.old_groups):
            return error
        if share is not None:
            if best is None or value > 1:
                return error
            value *= best
        elif best is not None and value > best * (1 + 1e-9):
            return error
        return replace(word, score=value)

    def _scored(self, word: _Word) -> _Word:
        """See that what is accepted has the score that it needs."""
        metadata = self._problem.metadata
        if word.score is not None or not metadata.custom_score or not self._problem.validators:
            return word
        if metadata.legacy:
            return _Word(Verdict.JE, "the validator gave no score.txt", word.feedback)
        group = find(self._problem.root, self._test.group)
        rule = group.rule if group else None
        unbounded = (
            isinstance(rule, Rule) and rule.aggregation != "pass-fail" and rule.max_score is None
        )
        if unbounded and self._test.group.startswith("secret"):
            return _Word(
                Verdict.JE, "the validator gave no score.txt, and there is no other", word.feedback
            )
        return word

    def _max_score(self) -> float | None:
        group = find(self._problem.root, self._test.group)
        return new_max_score(group) if group else None

    def _interactive(self, given: bytes) -> Generator[Task, Ended, _Word]:
        """Run submission and validator at the same time, each reading what the other writes."""
        validator = self._problem.validators[0]
        # The pair's wall limit; the submission's own time is its CPU time.
        both = min(2 * self._terms.time_limit, max(self._terms.time_limit, _USUAL_MAXIMUM))
        limits = replace(
            self._limits(), wall_time=both, cpu_time=min(self._terms.time_limit * EDGE, both)
        )
        job = self._program().job(limits, args=self._test.args, files=self._test.placed)
        partner = self._validator_job(validator, given, b"", least_wall=both + _LONGER)
        ended = yield Task(job, partner)
        result, judge = ended.result, ended.partner
        assert judge is not None
        if result.status is not Status.TIME_LIMIT and (result.cpu_time or 0.0) > self._terms.time_limit:
            ended = yield Task(job, partner, alone=True)
            result, judge = ended.result, ended.partner
            assert judge is not None
        self._note(result)
        self._output = result.stdout
        word = self._said(validator, judge)
        if word.verdict is Verdict.JE or (word.verdict is Verdict.WA and ended.partner_first):
            return word
        if result.status is Status.TIME_LIMIT or (result.cpu_time or 0.0) > self._terms.time_limit:
            return _Word(Verdict.TLE, f"more than {self._terms.time_limit:g} s")
        # Waiting for the validator takes no time of the submission's own.
        failed = self._failed(replace(result, wall_time=min(result.wall_time, self._terms.time_limit)))
        return failed or word


def _how_it_ended(result: Result) -> str:
    if result.status is Status.SIGNALED:
        return f"was killed by {result.signal}{_last_line(result)}"
    if result.status in (Status.OK, Status.NONZERO_EXIT):
        code = result.exit_code or 0
        return f"ended with exit code {code}, not 42 or 43{_last_line(result)}"
    if result.error:
        return f"could not be run: {result.error}"
    return f"met its {result.status.replace('_', ' ')}"


def _last_line(result: Result) -> str:
    """Give the last line of the errors, as Python's name of an exception is."""
    lines = result.stderr[-2000:].decode("utf-8", "replace").strip().splitlines()
    return f": {lines[-1].strip()[:300]}" if lines else ""


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _text(content: bytes | None) -> str:
    return "" if content is None else content[:_MESSAGE].decode("utf-8", "replace").strip()


def _finite(content: bytes) -> float | None:
    try:
        value = float(content[:100].decode("ascii"))
    except ValueError:
        return None
    return value if math.isfinite(value) else None
