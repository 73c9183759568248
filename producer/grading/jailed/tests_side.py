"""Runs one check of `tests.py`, or lists all of them; the submission is in another jail.

What the tests import and neither Python nor the folder of the tests has is the submission: a module
whose functions are called over there, and whose values arrive as plain ones.
"""

import builtins
import importlib.abc
import importlib.machinery
import json
import os
import sys
import traceback
import types

from plain_values import plain, value

questions = os.fdopen(os.dup(1), "w", encoding="utf-8")
answers = os.fdopen(os.dup(0), "r", encoding="utf-8")
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
os.dup2(2, 1)

LISTING = sys.argv[1:] == []
#: Items of an iterator that are asked for at a time, at most: it may have no end.
MOST_ITEMS = 1000
NAME = "result.json"


class Ended(Exception):
    """The submission's process ended before it answered."""


def ask(**question):
    """Ask the submission's side, and give its answer; what it raised is raised here."""
    try:
        questions.write(json.dumps(question) + "\n")
        questions.flush()
        line = answers.readline()
    except OSError:
        line = ""
    if not line.endswith("\n"):
        raise Ended("the submission's process ended before it answered")
    told = json.loads(line)
    if "raised" in told:
        raise raised(told)
    return told


def raised(told):
    """Make the exception that the submission's side tells of: the nearest of Python's own."""
    message = str(told["message"])
    for name in told["raised"]:
        kind = getattr(builtins, str(name), None)
        if isinstance(kind, type) and issubclass(kind, Exception):
            break
    else:
        kind, message = RuntimeError, f"{told['raised'][0]}: {message}"
    try:
        error = kind(message)
    except TypeError:  # UnicodeDecodeError and others that want more
        error = RuntimeError(f"{kind.__name__}: {message}")
    error.of_the_submission = True
    return error


class Remote:
    """Something of the submission's that is no plain value, and stays there.

    An object of a class that is derived from a plain one is equal to what that plain value is.
    """

    def __init__(self, number):
        self.__dict__["_number"] = number

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return value_of(ask(ask="get", of=self._number, name=name))

    def __call__(self, *args, **kwargs):
        told = ask(
            ask="call",
            of=self._number,
            args=[sent(item) for item in args],
            kwargs={name: sent(item) for name, item in kwargs.items()},
        )
        for ours, theirs in zip(args, told["args"]):
            change(ours, value(theirs, Remote))
        return value_of(told)

    def __len__(self):
        return value_of(ask(ask="length", of=self._number))

    def __getitem__(self, key):
        return value_of(ask(ask="item", of=self._number, key=sent(key)))

    def __iter__(self):
        iterator = value_of(ask(ask="iter", of=self._number))
        count = 1
        while True:
            items = value_of(ask(ask="next", of=iterator._number, count=count))
            yield from items
            if len(items) < count:
                return
            count = min(2 * count, MOST_ITEMS)

    def __next__(self):
        for item in value_of(ask(ask="next", of=self._number, count=1)):
            return item
        raise StopIteration

    def __str__(self):
        return str(value_of(ask(ask="text", of=self._number)))

    def __bool__(self):
        return bool(value_of(ask(ask="truth", of=self._number)))

    def __eq__(self, other):
        # Never by a method of the submission's own, which might say so of anything.
        if isinstance(other, Remote):
            return self._number == other._number or self._held() == other._held() != []
        return self._held() == [other]

    def __hash__(self):
        return hash(self._number)

    def _held(self):
        return value_of(ask(ask="held", of=self._number))


def value_of(told):
    """Give the value in an answer."""
    return value(told["value"], Remote)


def sent(ours):
    """Write what is given to the submission: plain values, and things of its own."""
    return plain(ours, number_of)


def number_of(ours):
    """Give the number of what was given to us; nothing else of ours goes over."""
    if isinstance(ours, Remote):
        return ours._number
    raise TypeError(f"a {type(ours).__name__} can't be given to the submission, only plain values")


def change(ours, theirs):
    """Do to a list, set or dict of the test what the submission has done to its own."""
    if type(ours) is not type(theirs):
        return
    if type(ours) is list or type(ours) is bytearray:
        ours[:] = theirs
    elif type(ours) in (dict, set):
        ours.clear()
        ours.update(theirs)


class Submission(types.ModuleType):
    """The module that the tests import."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        if LISTING:
            return Remote(0)  # there is nobody to ask
        if "_remote" not in self.__dict__:
            told = ask(ask="module", name=self.__name__)
            self.__dict__["_remote"] = value_of(told)
        return getattr(self.__dict__["_remote"], name)


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Comes last, and finds the submission under any name."""

    def find_spec(self, name, path=None, target=None):  # noqa: ARG002
        if "." in name:
            return None
        return importlib.machinery.ModuleSpec(name, self)

    def create_module(self, spec):
        return Submission(spec.name)

    def exec_module(self, module):
        """There is nothing to run here."""


def points(count, *, hidden=False):
    """Say how many points a test is worth; one that says nothing is worth 1."""

    def mark(test):
        test.points = count
        test.hidden = getattr(test, "hidden", False) or hidden
        return test

    return mark


def hidden(test=None):
    """Keep a test from the students, but for whether it passed."""
    if test is None:
        return hidden
    test.hidden = True
    return test


class raises:
    """`pytest.raises`, as far as a test of a function needs it."""

    def __init__(self, *kinds):
        self.kinds = kinds[0] if len(kinds) == 1 and isinstance(kinds[0], tuple) else kinds
        self.value = None

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if error is None:
            raise AssertionError(f"did not raise {' or '.join(one.__name__ for one in self.kinds)}")
        self.value = error
        return isinstance(error, self.kinds) and not isinstance(error, Ended)


class approx:
    """`pytest.approx`, for numbers and sequences of them."""

    def __init__(self, expected, rel=1e-6, abs=1e-12):  # noqa: A002
        self.expected, self.rel, self.abs = expected, rel, abs

    def __eq__(self, other):
        if isinstance(other, Remote):
            return other == self  # by what it holds
        if isinstance(self.expected, (list, tuple)):
            return (
                type(other) is type(self.expected)
                and len(other) == len(self.expected)
                and all(approx(a, self.rel, self.abs) == b for a, b in zip(self.expected, other))
            )
        if type(other) not in (int, float, complex):
            return False
        return abs(other - self.expected) <= max(self.abs, self.rel * abs(self.expected))

    __hash__ = None

    def __repr__(self):
        return f"about {self.expected!r}"


def tests_module():
    """Import `tests.py`, with what it may use."""
    sys.path.insert(0, os.path.join(os.getcwd(), "tests"))
    for name in ("grading", "pytest"):
        offered = types.ModuleType(name)
        offered.points, offered.hidden = points, hidden
        offered.raises, offered.approx = raises, approx
        sys.modules[name] = offered
    sys.meta_path.append(Finder())
    module = types.ModuleType("tests")
    module.points, module.hidden = points, hidden
    path = os.path.join(os.getcwd(), "tests", "tests.py")
    module.__file__ = path
    sys.modules["tests"] = module
    with open(path, "rb") as file:
        exec(compile(file.read(), path, "exec", dont_inherit=True), module.__dict__)  # noqa: S102
    return module


def described(test):
    """Give what the grader has to know of a test."""
    return {
        "name": test.__name__,
        "points": float(getattr(test, "points", 1)),
        "hidden": bool(getattr(test, "hidden", False)),
        "told": (test.__doc__ or "").strip().partition("\n")[0],
    }


def tests_of(module):
    """Give the test functions, in the order in which they stand there."""
    return [
        value
        for name, value in vars(module).items()
        if name.startswith("test") and isinstance(value, types.FunctionType)
    ]


def line_of(error):
    """Give the line of tests.py that was at work."""
    trace = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in trace if frame.filename.endswith("/tests/tests.py")]
    if not frames:
        return "tests.py"
    return f"tests.py, line {frames[-1].lineno}: {frames[-1].line or ''}".rstrip(": ")


def run(name):
    """Run one test, and give how it came out."""
    try:
        module = tests_module()
        test = next(test for test in tests_of(module) if test.__name__ == name)
        test()
    except Ended as error:
        return {"outcome": "ended", "message": str(error)}
    except AssertionError as error:
        told = "; ".join(filter(None, (line_of(error), str(error))))
        return {"outcome": "failed", "message": told}
    except Exception as error:
        outcome = "raised" if getattr(error, "of_the_submission", False) else "failed"
        return {"outcome": outcome, "message": f"{line_of(error)}; {type(error).__name__}: {error}"}
    return {"outcome": "passed", "message": ""}


def main():
    """List the tests, or run the one that is named."""
    folder = os.getcwd()
    told = [described(one) for one in tests_of(tests_module())] if LISTING else run(sys.argv[1])
    with open(os.path.join(folder, NAME), "w", encoding="utf-8") as file:
        json.dump(told, file)


if __name__ == "__main__":
    main()
