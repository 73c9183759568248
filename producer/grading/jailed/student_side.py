"""Beside the submission: does what the tests ask of it, one line of JSON a question and answer.

Whatever the submission does to this process, it can only answer wrongly: the checks are elsewhere.
"""

import importlib
import json
import os
import sys

from plain_values import decode, encode

# The streams that the submission sees are not those that the tests listen to.
questions = os.fdopen(os.dup(0), "r", encoding="utf-8")
answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
os.dup2(2, 1)

things = []


def keep(thing):
    """Give the number of something that stays here."""
    things.append(thing)
    return len(things) - 1


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
        return {"value": ["handle", keep(module(question["name"], sys.argv[1]))]}
    target = things[question["of"]]
    if what == "get":
        return {"value": encode(getattr(target, question["name"]), keep)}
    args = [decode(item, thing_of) for item in question.get("args", ())]
    if what == "call":
        kwargs = {name: decode(item, thing_of) for name, item in question["kwargs"].items()}
        value = target(*args, **kwargs)
        # A function may be meant to change what it is given.
        return {"value": encode(value, keep), "args": [encode(item, keep) for item in args]}
    if what == "length":
        return {"value": encode(len(target), keep)}
    if what == "item":
        return {"value": encode(target[args[0]], keep)}
    if what == "text":
        return {"value": encode(str(target), keep)}
    if what == "list":
        return {"value": encode(list(target), keep)}
    raise ValueError(what)


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
