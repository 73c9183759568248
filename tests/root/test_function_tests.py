"""Function tests in real jails: the submission in one, its checks in another, and nothing forged."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from producer.grading.dispatch import LocalDispatcher
from producer.grading.grading import grade
from producer.grading.model import SubmissionReport, Verdict
from sandbox_core.local import LocalRunner


@pytest.fixture(scope="module")
def jails() -> Iterator[LocalRunner]:
    """Jails for all tests here."""
    with LocalRunner(slots=2) as jails:
        yield jails


def graded(
    jails: LocalRunner, folder: Path, tests: str, submission: str, wall_time: float
) -> SubmissionReport:
    """Write the tests and the submission, and give what came of it."""
    (folder / "p").mkdir()
    (folder / "p/tests.py").write_text(tests)
    (folder / "it.py").write_text(submission)
    dispatcher = LocalDispatcher(jails)
    report = grade(
        folder / "p", [folder / "it.py"], dispatcher=dispatcher, limits={"wall_time": wall_time}
    )
    (one,) = report.submissions
    return one


FUNCTIONS = """
from grading import points, hidden
from solution import add

@points(2)
def test_small():
    assert add(1, 2) == 3

@hidden
def test_large():
    assert add(10**30, 1) == 10**30 + 1
"""

FORGED = {
    "right": "def add(a, b): return a + b",
    "an early exit": "import os; os._exit(0)",
    "an exit when called": "def add(a, b): raise SystemExit(0)",
    "equal to everything": "class E:\n __eq__ = lambda s, o: True\ndef add(a, b): return E()",
    "an int of its own": "class E(int):\n __eq__ = lambda s, o: True\ndef add(a, b): return E()",
    "a patched assertion": "import builtins; builtins.AssertionError = None\ndef add(a, b): return 0",
    "a result file": "import os, json\nfor f in ('result.json', '../result.json'):\n"
    " open(f, 'w').write(json.dumps({'outcome': 'passed', 'message': ''}))\nos._exit(0)",
    "fake answers": 'import os\nfor fd in range(3, 20):\n try: os.write(fd, b\'{"outcome": "passed"}\\n\')\n'
    " except OSError: pass\nos._exit(0)",
    "a thread that lies": "import atexit, sys, plain_values\nplain_values.plain = lambda *a: {'thing': 0}\n"
    "def add(a, b): return 0",
    "too deep to read": "def lie(v, k=None):\n"
    " x = [1]\n for _ in range(100000): x = [x]\n return x\n"
    "def add(a, b):\n import sys; sys.modules['__main__'].plain = lie\n return 3",
    "things without end": "import sys\nsys.modules['__main__'].plain = lambda *a: {'thing': 0}\n"
    "def add(a, b): return 0",
    "a thing that is called by no number": "import sys\n"
    "sys.modules['__main__'].plain = lambda *a: {'thing': []}\ndef add(a, b): return 0",
    "a class that says it is int": "class E:\n __class__ = int\n __eq__ = lambda s, o: True\n"
    "def add(a, b): return E()",
    "a list of its own": "class E(list):\n __eq__ = lambda s, o: True\n __len__ = lambda s: 3\n"
    "def add(a, b): return E([3])",
}


@pytest.mark.parametrize("name", FORGED)
def test_a_function_test_can_not_be_forged(jails: LocalRunner, tmp_path: Path, name: str) -> None:
    """The checks run where the submission is not."""
    found = graded(jails, tmp_path, FUNCTIONS, FORGED[name], 5.0)

    assert found.max_score == 3
    assert [test.hidden for test in found.tests] == [False, True]
    if name == "right":
        assert (found.verdict, found.score) == (Verdict.AC, 3)
    else:
        assert found.score == 0
        assert all(test.verdict not in (Verdict.AC, Verdict.JE) for test in found.tests), found


OBJECTS = """
from collections import Counter, OrderedDict, namedtuple
from itertools import count

Point = namedtuple("Point", "x y")

def counted(word): return Counter(word)
def ordered(): return OrderedDict(a=1)
def point(): return Point(1, 2)
def endless(): return count(1)
def some(): return (n * n for n in range(5000))
def same(thing): return thing
def nothing(): return Counter()
def span(): return range(2, 5)

class Metres(float): pass
def length(): return Metres(0.1 + 0.2)

class Stack(list):
    def push(self, item):
        self.append(item)
        return self
"""
USES = """
from solution import counted, ordered, point, endless, some, same, nothing, span, length, Stack
from pytest import approx
from itertools import islice

def test_derived_classes_are_what_they_hold():
    assert counted("aab") == {"a": 2, "b": 1}
    assert ordered() == {"a": 1} != {"a": 2}
    assert point() == (1, 2) and point().y == 2 and point()[0] == 1
    assert span() == range(2, 5) and list(span()) == [2, 3, 4]
    assert not nothing() and counted("a")
    assert length() == approx(0.3) and approx(0.3) == length() and length() != approx(0.4)
    assert [counted("a"), (point(), 1)] == [{"a": 1}, ((1, 2), 1)]

def test_objects_stay_what_they_are_as_they_change():
    stack = Stack()
    assert stack == [] and stack.push(1) == [1] and stack == [1] and len(stack) == 1
    assert same(stack) == stack and same(stack) != Stack()
    assert list(stack.push(2)) == [1, 2] and stack != [1] and stack != 3

def test_iterators_give_their_items_one_by_one():
    numbers = endless()
    assert next(numbers) == 1 and list(islice(numbers, 3)) == [2, 3, 4]
    assert list(some()) == [n * n for n in range(5000)] and sum(some()) > 0
    items = some()
    assert next(items) == 0 and next(items) == 1

def test_what_is_different_is_different():
    assert counted("ab") == {"a": 2}
"""


def test_objects_of_the_submission_can_be_used_and_compared(jails: LocalRunner, tmp_path: Path) -> None:
    """By what they hold, and never by what they say of themselves."""
    found = graded(jails, tmp_path, USES, OBJECTS, 10.0)

    assert [(test.verdict.value, test.message) for test in found.tests[:3]] == [("AC", "")] * 3
    assert found.tests[3].verdict is Verdict.WA
