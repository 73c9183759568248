"""A short way out for a warm interpreter whose script has ended and left nothing to finalize.

At its end an interpreter takes itself apart: module by module, object by object. In a process forked
from one that stands ready, that is most of what a short script costs, since the kernel copies every
page that is touched. All of it is for nothing when what is left is memory, which the kernel takes back
by itself; so where that is certain, the process exits instead. Where it is not, it goes the long way:
an end by `SystemExit`, by an exception, with threads, or with an object left that does something at
its own end, such as an open file.

By then the interpreter has run all that was registered with `atexit`; ours was there first, so it is
called last.
"""

from __future__ import annotations

import _frozen_importlib
import _frozen_importlib_external
import _weakref
import atexit
import ctypes
import gc
import io
import os
import sys
from types import (
    AsyncGeneratorType,
    BuiltinFunctionType,
    CoroutineType,
    FrameType,
    FunctionType,
    GeneratorType,
    ModuleType,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

#: Where getcontext(3) leaves the stack pointer, in words from the start of its ucontext_t (glibc's
#: sys/ucontext.h), and more words than any architecture's has.
_STACK_POINTER = {"x86_64": 20, "aarch64": 54}
_CONTEXT_WORDS = 1024
_WORD = 8

#: Bytes of C's stack between the end of an interpreter and a callback of `atexit`: some thousands.
_MAX_STACK = 1 << 20
_RTLD_DL_SYMENT = 1  # dladdr1(3)

#: Compiled modules and packages whose objects end without a trace outside of their process.
_HARMLESS = frozenset(
    "_abc _ast _asyncio _bisect _blake2 _bz2 _codecs _collections _contextvars _csv _ctypes"
    " _datetime _decimal _elementtree _functools _hashlib _heapq _imp _io _json _locale _lzma"
    " _md5 _opcode _operator _pickle _posixsubprocess _queue _random _sha1 _sha2 _sha256 _sha3"
    " _sha512 _signal _socket _sre _stat _statistics _string _struct _symtable _thread _tokenize"
    " _tracemalloc _typing _warnings _weakref _zoneinfo array atexit audioop binascii builtins"
    " cmath errno fcntl gc grp itertools marshal math mmap numpy pandas posix pwd pyexpat"
    " resource select sys time unicodedata zlib".split()
)
_COMPILED = (_frozen_importlib.BuiltinImporter, _frozen_importlib_external.ExtensionFileLoader)

#: What an uncaught exception leaves in `sys`. A hook of the script's that removes these and then itself
#: makes its failure a success, as it could have by `os._exit(0)`.
_LAST_ERROR = ("last_exc", "last_type", "last_value")

#: Modules whose weak references only take their objects out of a collection.
_BOOK_KEEPERS = ("_weakrefset", "functools", "logging", "threading", "weakref")

#: Where what is suspended in the middle of something keeps that.
_FRAMES = {GeneratorType: "gi_frame", CoroutineType: "cr_frame", AsyncGeneratorType: "ag_frame"}

_IMMUTABLE, _HAVE_GC = 1 << 8, 1 << 14  # Py_TPFLAGS_IMMUTABLETYPE and Py_TPFLAGS_HAVE_GC

# What a class says of itself, past whatever its own metaclass may say.
_mro_of: Callable[[type], tuple[type, ...]] = type.__dict__["__mro__"].__get__
_names_of: Callable[[type], Any] = type.__dict__["__dict__"].__get__
_module_of: Callable[[type], object] = type.__dict__["__module__"].__get__


class _Location(ctypes.Structure):
    """Dl_info of dladdr1(3)."""

    _fields_ = (
        ("path", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


class _Symbol(ctypes.Structure):
    """Elf64_Sym of elf(5)."""

    _fields_ = (
        ("name", ctypes.c_uint32),
        ("info", ctypes.c_uint8),
        ("other", ctypes.c_uint8),
        ("section", ctypes.c_uint16),
        ("value", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
    )


class Stack:
    """Tells from C's own stack how the interpreter came to its end.

    Not by unwinding it, which takes a library and a tenth of a millisecond: a function that has not
    returned has the address that its callee returns to on the stack. What else is there may look like
    one, and only leads to the long way.
    """

    def __init__(self) -> None:
        """Find what to look for; `AttributeError`, `OSError` or `ValueError` where that fails."""
        # With the interpreter's lock held throughout.
        self._library: Any = ctypes.PyDLL(None)
        self._library.getcontext.argtypes = (ctypes.c_void_p,)
        self._library.dladdr1.argtypes = (ctypes.c_void_p,) * 3 + (ctypes.c_int,)
        self._run, self._exit = self._extent("Py_RunMain"), self._extent("Py_Exit")
        self._end: int = ctypes.c_size_t.in_dll(self._library, "__libc_stack_end").value
        self._registers = (ctypes.c_size_t * _CONTEXT_WORDS)()
        machine = os.uname().machine
        if machine not in _STACK_POINTER:
            raise OSError(f"where {machine} has its stack pointer is unknown")
        self._pointer = _STACK_POINTER[machine]
        self.reached_the_end()  # the first calls take longer, in every child
        if not self._sees_an_exit():
            raise OSError("an end by SystemExit does not show on the stack of this interpreter")

    def _extent(self, name: str) -> range:
        """Give the addresses that calls from the function `name` return to."""
        address = ctypes.cast(getattr(self._library, name), ctypes.c_void_p).value or 0
        symbol = ctypes.POINTER(_Symbol)()
        found = self._library.dladdr1(
            address, ctypes.byref(_Location()), ctypes.byref(symbol), _RTLD_DL_SYMENT
        )
        if not found or not symbol or not symbol.contents.size:
            raise OSError(f"the size of {name} is unknown")
        return range(address + 1, address + symbol.contents.size + 1)

    def reached_the_end(self) -> bool:
        """Whether the interpreter ends since its program has, and not by `SystemExit`.

        That calls Py_Exit, where the end of the program, as it is and after an uncaught exception,
        returns to Py_RunMain (CPython's pythonrun.c and main.c, 3.11 to 3.13).
        """
        stack = self._read()
        return _returns_to(stack, self._run) and not _returns_to(stack, self._exit)

    def _read(self) -> bytes:
        """Give all of the stack that is in use, from its top."""
        self._library.getcontext(self._registers)
        top = self._registers[self._pointer]
        if not 0 < self._end - top < _MAX_STACK:
            return b""
        return ctypes.string_at(top, self._end - top)

    def _sees_an_exit(self) -> bool:
        """Try in a child whether Py_Exit shows: a compiler may have made it a part of its caller."""
        child = os.fork()
        if child:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

        def answer() -> None:
            os._exit(0 if _returns_to(self._read(), self._exit) else 1)

        try:
            atexit.register(answer)
            ctypes.pythonapi.PyRun_SimpleString(b"raise SystemExit")
        finally:
            os._exit(1)


def _returns_to(stack: bytes, addresses: range) -> bool:
    """Whether one of the addresses is among the words of a stack."""
    for high in range(addresses[0] >> 8, (addresses[-1] >> 8) + 1):
        # All but the lowest byte, which comes first on both architectures.
        known = high.to_bytes(_WORD - 1, "little")
        place = stack.find(known, 1)
        while place > 0:
            if place % _WORD == 1 and (high << 8 | stack[place - 1]) in addresses:
                return True
            place = stack.find(known, place + 1)
    return False


class ShortWay:
    """The way out, to be taken by processes forked from this one."""

    def __init__(self) -> None:
        """Get ready, in the interpreter that stands ready; raises as `Stack` does."""
        self._stack = Stack()
        self._streams: tuple[Any, ...] = ()
        self._spare: tuple[Any, ...] = ()
        self._harmless: frozenset[int] = frozenset()
        self._mark: list[object] = []
        self._harmless_modules = False
        self._silent: dict[type, bool] = {}
        self._excepthook = sys.excepthook
        atexit.register(self._leave)

    def look_at_modules(self) -> None:
        """See whether every module that a script finds loaded ends without a trace."""
        self._harmless_modules = all(map(_is_harmless_module, list(sys.modules.values())))
        kinds = set(map(type, gc.get_objects()))
        # Of those that no script can change: what each job would find out again.
        self._silent = {kind: _ends_silently(kind) for kind in kinds if kind.__flags__ & _IMMUTABLE}

    def open(self, spare: Iterable[Any] = ()) -> None:
        """Take note of what there is as the script begins; from here on it may be taken.

        `spare` are standard streams that were opened and are not the script's.
        """
        if not self._harmless_modules:
            return
        streams: tuple[Any, ...] = (sys.stdin, sys.stdout, sys.stderr)
        self._streams = streams
        self._spare = tuple(spare)  # kept, or another object could come to stand where one of them did
        own = [part for of in (*streams, *self._spare) for part in (of, of.buffer, of.buffer.raw)]
        self._harmless = frozenset(map(id, own))
        self._mark = [self]

    def _leave(self) -> None:
        """Exit if nothing more is to be done; else return, and all of it is done."""
        try:
            caller = sys._getframe().f_back  # noqa: SLF001  # the documented way to ask
            if self._may_be_taken(caller):
                for stream in self._streams[1:]:
                    stream.flush()
                os._exit(0)
        except Exception:  # noqa: BLE001  # whatever it is, it comes up again on the long way
            return
        finally:
            # What the streams still hold is written when they go, which we must not keep them from.
            self._streams = ()

    def _may_be_taken(self, caller: FrameType | None) -> bool:
        return (
            caller is None  # a script may call the callbacks of `atexit` itself
            and (sys.stdin, sys.stdout, sys.stderr) == self._streams
            and not any(hasattr(sys, name) for name in _LAST_ERROR)
            and sys.excepthook is self._excepthook
            and len(sys._current_frames()) == 1  # noqa: SLF001  # likewise
            and self._stack.reached_the_end()
            and self._nothing_to_finalize(gc.get_objects())
        )

    def _nothing_to_finalize(self, objects: Iterable[object]) -> bool:
        """Whether no object does anything at its end that is seen outside of this process."""
        silent = dict(self._silent)
        seen = False
        for thing in objects:
            seen |= thing is self._mark
            kind = type(thing)
            if kind not in silent:
                silent[kind] = _ends_silently(kind)
            if not silent[kind] and id(thing) not in self._harmless and not _is_spent(thing, kind):
                return False
        return seen  # else the script has hidden its objects from the collector (gc.freeze)


def _ends_silently(kind: type) -> bool:
    """Whether no object of the class `kind` needs to be looked at by itself."""
    mro = _mro_of(kind)
    return not (
        # A destructor, of Python or of C; and what may be about other objects, or anything.
        any("__del__" in _names_of(base) for base in mro)
        or any(base in mro for base in (type, ModuleType, _weakref.ref))
        or any(_module_of(base) in ("ctypes", "_ctypes") for base in mro)
    )


def _is_spent(thing: Any, kind: type) -> bool:
    """Whether this object, of a class whose objects may do something at their end, does not."""
    if kind in _FRAMES:
        return getattr(thing, _FRAMES[kind]) is None
    if kind is _weakref.ref or _is_keyed_reference(kind):
        return _only_keeps_books(thing.__callback__)
    if kind in (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom):
        return bool(thing.closed)
    if ModuleType in _mro_of(kind):
        return _is_harmless_module(thing)
    if type in _mro_of(kind):
        # Those of its objects that the collector does not know would not be found.
        return bool(thing.__flags__ & _HAVE_GC) or _ends_silently(thing)
    return kind in (io.FileIO, io.BufferedReader, io.BytesIO, io.StringIO)  # these hold nothing back


def _is_keyed_reference(kind: type) -> bool:
    return kind is getattr(sys.modules.get("weakref"), "KeyedRef", None)


def _only_keeps_books(callback: Any) -> bool:
    """Whether what a weak reference calls does no more than to forget the reference."""
    return (
        callback is None
        or type(callback) is BuiltinFunctionType
        or (type(callback) is FunctionType and callback.__module__ in _BOOK_KEEPERS)
    )


def _is_harmless_module(module: Any) -> bool:
    """Whether a module is Python's, or compiled and known to end without a trace."""
    spec: Any = getattr(module, "__spec__", None)
    loader = getattr(spec, "loader", None)
    if loader in _COMPILED or type(loader) in _COMPILED:
        return spec.name.partition(".")[0] in _HARMLESS
    return True
