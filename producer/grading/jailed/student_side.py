"""Beside the submission: does what the tests ask of it, one line of JSON a question and answer.

Whatever the submission does to this process, it can only answer wrongly: the checks are elsewhere.
"""

import importlib
import json
import os
import sys

from plain_values import KINDS, plain, value

# The streams that the submission sees are not those that the tests listen to.
questions = os.fdopen(os.dup(0), "r", encoding="utf-8")
answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
os.dup2(2, 1)

things = []
numbers = {}


def keep(thing):
    """Give the number of something that stays here: the same one each time."""
    if id(thing) not in numbers:
        numbers[id(thing)] = len(things)
        things.append(thing)
    return numbers[id(thing)]


def thing_of(number):
    """Give it back."""
    return things[number]


def module(name, main):
    """Import what the tests call `name`: the file of that name, or the submission's main one."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        return importlib.import_module(main)


def answer(question):
    """Do what is asked."""
    what = question["ask"]
    if what == "module":
        return {"value": {"thing": keep(module(question["name"], sys.argv[1]))}}
    target = things[question["of"]]
    if what == "call":
        args = [value(item, thing_of) for item in question["args"]]
        kwargs = {name: value(item, thing_of) for name, item in question["kwargs"].items()}
        given = target(*args, **kwargs)
        # A function may be meant to change what it is given.
        return {"value": plain(given, keep), "args": [plain(item, keep) for item in args]}
    if what == "held":
        return {"value": held(target)}
    return {"value": plain(looked_at(target, what, question), keep)}


def looked_at(target, what, question):
    """Give what a thing answers to one of Python's own questions."""
    if what == "get":
        return getattr(target, question["name"])
    if what == "length":
        return len(target)
    if what == "item":
        return target[value(question["key"], thing_of)]
    if what == "text":
        return str(target)
    if what == "truth":
        return bool(target)
    if what == "iter":
        return iter(target)
    if what == "next":
        return list(several(target, question["count"]))
    raise ValueError(what)


def held(thing):
    """Give the plain value that a thing is, being of a derived class, in a list; else an empty one."""
    try:
        return [plain(thing)] if isinstance(thing, (*KINDS, range)) else []
    except TypeError:  # there is something else in it
        return []


def several(iterator, count):
    """Give the next items, no more than `count`."""
    for _ in range(count):
        try:
            yield next(iterator)
        except StopIteration:
            return


def main():
    """Answer until nobody asks any more."""
    folder = os.path.join(os.getcwd(), "submission")
    sys.path.insert(0, folder)
    os.chdir(folder)
    for line in questions:
        try:
            told = answer(json.loads(line))
        except BaseException as error:  # SystemExit of a submission, too
            kinds = [kind.__name__ for kind in type(error).__mro__]
            told = {"raised": kinds, "message": str(error)[:2000]}
        answers.write(json.dumps(told) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
