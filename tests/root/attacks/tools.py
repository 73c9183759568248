"""What the attacks in Python share; it lies beside the script in its jail."""

import ctypes
import errno
import os

from numbers_of_calls import NUMBERS

libc = ctypes.CDLL(None, use_errno=True)
_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long


def call(name, *arguments):
    """Make the system call `name`, as it stands in the kernel's table."""
    return syscall(NUMBERS[name], *arguments)


def syscall(number, *arguments):
    """Make a system call by its number; OSError where it fails."""
    ctypes.set_errno(0)
    result = _syscall(
        ctypes.c_long(number),
        *(ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments),
    )
    return check(result, str(number))


def check(result, what="it"):
    """Turn the -1 of a C function into an OSError."""
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def escaped(*what):
    """Say that a wall did not hold."""
    print("ESCAPED", *what, flush=True)  # noqa: T201  # it runs in a jail


def attempt(what, function, *expected):
    """Try something that must fail, with one of the `expected` errors where they are given.

    A failure of another kind than that of the wall means that the wall has let it pass.
    """
    try:
        result = function()
    except OSError as error:
        if expected and error.errno not in expected:
            escaped(what, "reached the kernel:", errno.errorcode.get(error.errno, error.errno))
    else:
        escaped(what, "gave", result)


def attempts(what, functions, *expected):
    """Try several things that must all fail."""
    for number, function in enumerate(functions):
        attempt(f"{what} {number}", function, *expected)


def done():
    """Say that the script has come to its end."""
    print("blocked", flush=True)  # noqa: T201  # it runs in a jail
