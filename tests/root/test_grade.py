"""`sandboxed grade` in real jails: packages, verdicts, hostile submissions and validators, resuming."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from producer.grading.dispatch import LocalDispatcher
from producer.grading.grader import Asked, Event, SubmissionDone, TestDone, events
from producer.grading.grading import grade
from producer.grading.loading import load_problem
from producer.grading.model import Report, SubmissionReport, Verdict
from producer.grading.report_json import report_to_json, schema
from producer.grading.sources import find_submissions
from sandbox_core.local import LocalRunner

PACKAGES = Path(__file__).parents[1] / "data" / "packages"

Grade = Callable[..., Report]


@pytest.fixture(scope="module")
def jails() -> Iterator[LocalRunner]:
    """Jails for all tests here."""
    with LocalRunner(slots=2) as jails:
        yield jails


@pytest.fixture(name="grade")
def _grade(jails: LocalRunner) -> Grade:
    """Grade as the library does."""

    def run(problem: Path, *named: Path, **asked: Any) -> Report:
        return grade(problem, named, dispatcher=LocalDispatcher(jails), **asked)

    return run


def tree(folder: Path, **files: str) -> Path:
    """Make a folder of files; `__` in a name is a slash, and `_in` an ending."""
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def told(report: Report) -> dict[str, tuple[str, float | None, bool | None]]:
    """Give what came out, by name."""
    return {one.name: (one.verdict.value, one.score, one.as_expected) for one in report.submissions}


def only(report: Report) -> SubmissionReport:
    """Give the only submission."""
    (one,) = report.submissions
    return one


@pytest.mark.parametrize(
    ("package", "expected"),
    [
        (
            "sum",
            {
                "accepted/folder": ("AC", None, True),
                "accepted/plain.py": ("AC", None, True),
                "other/broken.py": ("CE", None, True),
                "run_time_error/hungry.py": ("MLE", None, True),
                "run_time_error/ints.py": ("RTE", None, True),
                "time_limit_exceeded/loop.py": ("TLE", None, True),
                "wrong_answer/minus.py": ("WA", None, True),
            },
        ),
        (
            "odd",
            {
                "accepted/all.py": ("AC", 100, True),
                "partially_accepted/three.py": ("AC", 40, True),
                "wrong_answer/none.py": ("WA", 0, True),
            },
        ),
        (
            "near",
            {
                "accepted/above.py": ("AC", 100, True),
                "partially_accepted/below.py": ("AC", 70, True),
                "wrong_answer/same.py": ("WA", 0, True),
            },
        ),
        (
            "guess",
            {
                "accepted/halves.py": ("AC", None, True),
                "run_time_error/dies.py": ("RTE", None, True),
                "time_limit_exceeded/waits.py": ("TLE", None, True),
                "wrong_answer/counts.py": ("WA", None, True),
            },
        ),
        (
            "twice",
            {
                "accepted/reverse.py": ("AC", None, True),
                "wrong_answer/keeps.py": ("WA", None, True),
                "wrong_answer/shouts.py": ("WA", None, True),
            },
        ),
    ],
)
def test_a_packages_own_submissions_come_out_as_it_says(
    grade: Grade, package: str, expected: dict[str, object]
) -> None:
    """Verdict, score, and whether that was expected."""
    report = grade(PACKAGES / package)

    assert told(report) == expected
    jsonschema.validate(report_to_json(report), schema())


def test_a_group_stops_at_its_first_failure_unless_all_is_asked_for(grade: Grade) -> None:
    """What can't change the result does not run."""
    named = PACKAGES / "sum/submissions/wrong_answer/minus.py"

    few = only(grade(PACKAGES / "sum", named))
    every = only(grade(PACKAGES / "sum", named, everything=True))

    assert [test.name for test in few.tests] == ["sample/1", "secret/01"]
    assert [test.verdict.value for test in every.tests] == ["AC", "WA", "AC", "AC"]
    assert few.verdict is every.verdict is Verdict.WA


@pytest.mark.parametrize(
    ("source", "verdict", "why"),
    [
        ("print(3", "CE", "never closed"),
        ("\x00", "CE", "null bytes"),
        ("raise SystemExit(7)", "RTE", "exit code 7"),
        ("1 / 0", "RTE", "ZeroDivisionError"),
        ("import os; os.kill(os.getpid(), 11)", "RTE", "SIGSEGV"),
        ("import os; os.kill(os.getpid(), 9)", "RTE", "SIGKILL"),
        ("print('3' * (9 << 20))", "OLE", "bytes of output"),
        ("x = bytearray(600 << 20)", "MLE", "64 MiB"),
        ("while True: pass", "TLE", "more than 1 s"),
        ("import time; time.sleep(60)", "TLE", "more than 1 s"),
        ("import sys; sys.exit(42)", "RTE", "exit code 42"),
        ("print(open('judge.ans').read())", "RTE", "FileNotFoundError"),
        ("print(4)", "WA", "expected '3', got '4'"),
        ("print(3)", "AC", ""),
    ],
)
def test_a_submission_gets_its_verdict(
    grade: Grade, tmp_path: Path, source: str, verdict: str, why: str
) -> None:
    """Whatever it does, and with the reason."""
    problem = tree(tmp_path / "p", **{"1_in": "1 2\n", "1_ans": "3\n"})
    (tmp_path / "it.py").write_text(source)

    limits = {"wall_time": 1.0 if verdict == "TLE" else 5.0, "memory": 64 << 20}
    found = only(grade(problem, tmp_path / "it.py", limits=limits))

    assert found.verdict.value == verdict, found
    assert why in found.message


def test_a_submission_that_is_not_utf8_is_a_compile_error_and_the_others_go_on(
    grade: Grade, tmp_path: Path
) -> None:
    """As is one without a main file, or none at all that could be run."""
    problem = tree(tmp_path / "p", **{"1_in": "", "1_ans": "3\n"})
    students = tree(tmp_path / "s", d__x_py="import y", d__y_py="", good_py="print(3)")
    (students / "a.py").write_bytes(b"print('\xff\xfe')")

    assert told(grade(problem, students)) == {
        "a.py": ("CE", 0, None),
        "d": ("CE", 0, None),
        "good.py": ("AC", 1, None),
    }


VALIDATORS = {
    "crashes": ("raise SystemExit(1)", "exit code 1"),
    "says nothing": ("", "exit code 0"),
    "hangs": ("while True: pass", "time limit"),
    "floods": ("print('x' * (9 << 20))", "output limit"),
    "dies": ("import os; os.kill(os.getpid(), 9)", "SIGKILL"),
    "scores": ("open('feedback_dir/score.txt', 'w').write('1'); raise SystemExit(42)", "score"),
}


@pytest.mark.parametrize("name", VALIDATORS)
def test_a_broken_validator_is_a_judge_error(grade: Grade, tmp_path: Path, name: str) -> None:
    """Never the submission's fault."""
    source, why = VALIDATORS[name]
    package = Path(shutil.copytree(PACKAGES / "sum", tmp_path / "sum"))
    (package / "problem.yaml").write_text("validation: custom\nlimits:\n  validation_time: 1\n")
    tree(package, output__validators__v_py="")
    shutil.rmtree(package / "output")
    (package / "output_validators").mkdir()
    (package / "output_validators/v.py").write_text(source)

    found = only(grade(package, package / "submissions/accepted/plain.py", limits={"wall_time": 2.0}))

    assert found.verdict is Verdict.JE
    assert why in found.message


def test_feedback_that_is_not_utf8_is_kept_as_well_as_it_can_be(grade: Grade, tmp_path: Path) -> None:
    """A validator's message is for people to read."""
    package = Path(shutil.copytree(PACKAGES / "sum", tmp_path / "sum"))
    (package / "problem.yaml").write_text("validation: custom\n")
    (package / "output_validators").mkdir()
    (package / "output_validators/v.py").write_text(
        "import sys\nopen(sys.argv[3] + 'judgemessage.txt', 'wb').write(b'\\xff is wrong')\nsys.exit(43)"
    )

    found = only(grade(package, package / "submissions/accepted/plain.py", limits={"wall_time": 2.0}))

    assert (found.verdict, found.message) == (Verdict.WA, "\ufffd is wrong")


def test_what_ends_just_beyond_the_time_limit_is_run_again_alone(
    jails: LocalRunner, tmp_path: Path
) -> None:
    """It may have been slowed by others: only the second time counts."""
    problem = load_problem(tree(tmp_path / "p", **{"1_in": "", "1_ans": "3\n"}))
    (tmp_path / "it.py").write_text("import time; time.sleep(3.02); print(3)")
    ran = []

    class Watched(LocalDispatcher):
        def start(self, tasks: Any) -> None:
            ran.extend(task.alone for _, task in tasks)
            super().start(tasks)

    named = find_submissions(problem, [tmp_path / "it.py"])
    seen = list(events(problem, named, Watched(jails), Asked({"wall_time": 3.0})))

    assert [one.report.verdict.value for one in seen if isinstance(one, SubmissionDone)] == ["TLE"]
    assert ran == [False, False, True]


def test_a_grading_that_was_stopped_goes_on_with_what_is_missing(
    jails: LocalRunner, grade: Grade, tmp_path: Path
) -> None:
    """The report is the same as if nothing had happened, and nothing runs twice."""
    problem = tree(tmp_path / "p", **{f"{n}_in": f"{n}\n" for n in range(8)})
    tree(problem, **{f"{n}_ans": f"{n}\n" for n in range(8)})
    students = tree(
        tmp_path / "s",
        right_py="print(input())",
        wrong_py="print(int(input()) % 3)",
        broken_py="print(",
        fails_py="1 / 0",
    )
    state = tmp_path / "state"

    class Stopped(LocalDispatcher):
        def start(self, tasks: Any) -> None:
            if state.exists() and state.read_bytes().count(b'"of"') > 9:
                raise KeyboardInterrupt
            super().start(tasks)

    with pytest.raises(KeyboardInterrupt):
        grading(problem, students, Stopped(jails), state)
    before = state.read_bytes().count(b'"of"')
    with state.open("ab") as file:
        file.write(b'{"of": "cut o')  # as a kill in the middle of a line leaves it

    ran = []
    report = grading(problem, students, LocalDispatcher(jails), state, ran.append)
    whole = grade(problem, students, state=tmp_path / "other")

    assert 0 < before < 24
    assert state.read_bytes().count(b'"of"') == 24
    assert strip(report) == strip(whole)
    jobs: list[int] = []

    class Counting(LocalDispatcher):
        def start(self, tasks: Any) -> None:
            jobs.append(len(tasks))
            super().start(tasks)

    again = grading(problem, students, Counting(jails), state)
    assert again == report
    assert jobs == []


def grading(
    problem: Path,
    students: Path,
    dispatcher: LocalDispatcher,
    state: Path,
    see: Callable[[Event], None] = lambda _: None,
) -> Report:
    """Grade with a state."""
    return grade(problem, [students], dispatcher=dispatcher, state=state, see=see)


def strip(report: Report) -> object:
    """Give a report without its times, which are never the same twice."""
    value = report_to_json(report)
    for one in value["submissions"]:
        for test in one["tests"]:
            test["wall_time"] = test["cpu_time"] = test["memory"] = None
    return value


def command(*words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    return subprocess.run(
        [sys.executable, "-m", "sandbox_core.cli", "grade", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


def test_the_command_writes_json_and_a_table() -> None:
    """The table on standard error, the JSON where it is asked for."""
    done = command("--local", "--check", "--json", "-", PACKAGES / "odd")

    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    jsonschema.validate(value, schema())
    assert value["problem"] == "odd"
    assert "accepted/all.py" in done.stderr
    assert "as expected" in done.stderr

    wrong = PACKAGES / "odd/submissions/wrong_answer/none.py"
    for_student = command("--local", "--for", "student", "--json", "-", PACKAGES / "odd", wrong)
    (found,) = json.loads(for_student.stdout)["submissions"]
    assert found["tests"][0]["message"]  # the sample is shown
    assert not any(test["message"] for test in found["tests"][1:])


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        ((PACKAGES / "nowhere",), 3, "there is no such folder"),
        ((PACKAGES / "odd", "/nowhere/*.py"), 2, "matches nothing"),
        ((PACKAGES / "odd", "--wall-time", "-1"), 2, "--wall-time"),
        ((PACKAGES / "odd", "--json", "-", "--csv", "-"), 2, "standard output"),
        ((PACKAGES / "odd", "--json", "/nowhere/x"), 2, "--json"),
        ((PACKAGES / "odd", "--state", "/nowhere/x"), 2, "--state"),
        ((), 2, "PROBLEM"),
    ],
)
def test_bad_usage_is_one_line(words: tuple[object, ...], code: int, why: str) -> None:
    """With the exit code that tells whose fault it is."""
    done = command("--local", *words)

    assert done.returncode == code, done.stderr
    assert why in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_check_tells_what_is_not_as_expected(tmp_path: Path) -> None:
    """By its exit code."""
    package = Path(shutil.copytree(PACKAGES / "odd", tmp_path / "odd"))
    (package / "submissions/wrong_answer/none.py").write_text(
        "import sys; print(*sys.stdin.read().split()[::2])"
    )

    done = command("--local", "--check", package)

    assert done.returncode == 1
    assert "NOT AS EXPECTED" in done.stderr


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    """And what was done is in the state."""
    problem = tree(tmp_path / "p", **{"1_in": "", "1_ans": ""})
    tree(tmp_path / "s", a_py="pass", b_py="import time; time.sleep(50)")
    state = tmp_path / "state"
    words = ["--local", "--wall-time", "50", "--state", state, problem, tmp_path / "s"]
    process = subprocess.Popen(
        [sys.executable, "-m", "sandbox_core.cli", "grade", *map(str, words)], stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 30
    while not (state.exists() and b'"of"' in state.read_bytes()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)

    assert process.returncode == 130
    assert b"Traceback" not in errors


def test_events_come_as_things_are_done(jails: LocalRunner) -> None:
    """For whoever shows them while it goes on."""
    problem = load_problem(PACKAGES / "odd")
    named = find_submissions(problem, [PACKAGES / "odd/submissions/accepted/all.py"])

    seen = list(events(problem, named, LocalDispatcher(jails), Asked({"wall_time": 2.0})))

    assert [type(event).__name__ for event in seen[:1]] == ["TimeLimitSet"]
    assert sum(isinstance(event, TestDone) for event in seen) == 6
    assert isinstance(seen[-1], SubmissionDone)
