"""Answers calls of a program's function, in a jail of its own: the half that nobody trusts.

Standard input holds one JSON object: `program`, `entry`, and `calls`, a JSON text of calls, each the
positional and the keyword arguments as plain values. The answers go to the file `answers`: for each
call `{"value": …}` or `{"raised": [built-in class, text]}`, up to the first that is neither, which is
`{"ended": text}`.
Nothing that happens here is a verdict: it comes to so many answers, right or wrong.
"""

import json
import os
import sys
import types
from typing import Any

from plain_values import plain, value  # placed beside this script

_LONGEST = 500  # characters of a failure's text


def main() -> None:
    """Answer the calls that standard input holds."""
    given = json.load(sys.stdin)
    sys.set_int_max_str_digits(0)
    calls = json.loads(given["calls"])
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    module = types.ModuleType("program")
    sys.modules["program"] = module
    try:
        exec(compile(given["program"], "<program>", "exec", dont_inherit=True), vars(module))  # noqa: S102
        function = vars(module)[given["entry"]]
    except BaseException as error:  # a program may raise whatever it likes
        _write([_ended(error)])
        return
    answers: list[dict[str, Any]] = []
    for positional, named in calls:
        answers.append(_answer(function, value(positional), value(named)))
        if "ended" in answers[-1]:
            break
    _write(answers)


def _answer(function: Any, positional: list[Any], named: dict[str, Any]) -> dict[str, Any]:
    try:
        answer = function(*positional, **named)
    except Exception as error:  # a program may raise whatever it likes
        built_in = next(kind for kind in type(error).__mro__ if kind.__module__ == "builtins")
        return {"raised": [built_in.__name__, str(error)[:_LONGEST]]}
    except BaseException as error:
        return _ended(error)
    try:
        return {"value": plain(answer)}
    except BaseException as error:  # an object's own iterator may raise, too
        return {"ended": f"the answer can't leave the function: {error}"[:_LONGEST]}


def _ended(error: BaseException) -> dict[str, Any]:
    return {"ended": f"{type(error).__name__}: {error}"[:_LONGEST]}


def _write(answers: list[dict[str, Any]]) -> None:
    with open("answers", "w", encoding="utf-8") as file:
        json.dump(answers, file)


if __name__ == "__main__":
    main()
