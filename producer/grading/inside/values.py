"""Plain values as JSON: what a function and its checks exchange when they are in different jails.

None, numbers, text, bytes, lists, tuples, dicts, sets, ranges and iterators over these, and nothing
that has behaviour of its own: an object of a class derived from one of them arrives as the plain value,
any other is refused.
"""

from itertools import islice
from typing import Any

_LONGEST = 100_000  # items of an iterator
_LARGE = 1 << 53  # integers from here on are not every JSON reader's
_LAZY: tuple[Any, ...] = (
    *(type(iter(empty)) for empty in ([], (), {}, set(), "", b"")),  # type: ignore[var-annotated]
    type(_ for _ in ()),
    enumerate,
    filter,
    map,
    reversed,
    zip,
)


def plain(value: Any) -> Any:  # noqa: PLR0911, C901  # one return for each kind of value
    """Give `value` as what `json` can write; `TypeError` where it is not plain."""
    if value is None or value is True or value is False:
        return value
    if isinstance(value, int):
        number = int.__int__(value)
        return number if -_LARGE < number < _LARGE else {"int": hex(number)}
    if isinstance(value, float):
        return {"float": float.__repr__(value)}
    if isinstance(value, complex):
        return {"complex": [float.__repr__(value.real), float.__repr__(value.imag)]}
    if isinstance(value, str):
        return (
            {"str": str.encode(value, "utf-8", "surrogatepass").hex()}
            if _odd(value)
            else str.__str__(value)
        )
    if isinstance(value, bytes | bytearray):
        return {"bytes" if isinstance(value, bytes) else "bytearray": bytes(value).hex()}
    if isinstance(value, list):
        return [plain(item) for item in list.__iter__(value)]
    if isinstance(value, tuple):
        return {"tuple": [plain(item) for item in tuple.__iter__(value)]}
    if isinstance(value, dict):
        return {"dict": [[plain(key), plain(item)] for key, item in dict.items(value)]}
    if isinstance(value, set | frozenset):
        kind = "set" if isinstance(value, set) else "frozenset"
        return {kind: [plain(item) for item in value]}
    if isinstance(value, range):
        return {"range": [plain(value.start), plain(value.stop), plain(value.step)]}
    if isinstance(value, _LAZY):
        return {"iterator": [plain(item) for item in islice(value, _LONGEST)]}
    raise TypeError(f"{type(value).__name__} is no plain value")


def _odd(value: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in value)


def value(written: Any) -> Any:
    """Give the value that `plain` wrote; `ValueError` where nothing of ours wrote it."""
    if written is None or isinstance(written, bool | int | str):
        return written
    if isinstance(written, list):
        return [value(item) for item in written]
    if isinstance(written, dict) and len(written) == 1:
        ((kind, inner),) = written.items()
        if kind in _READERS:
            return _READERS[kind](inner)
    raise ValueError("no plain value")


def _items(inner: Any) -> list[Any]:
    if not isinstance(inner, list):
        raise ValueError("no plain value")
    return [value(item) for item in inner]


_READERS: dict[str, Any] = {
    "int": lambda inner: int(inner, 16),
    "float": float,
    "complex": lambda inner: complex(float(inner[0]), float(inner[1])),
    "str": lambda inner: bytes.fromhex(inner).decode("utf-8", "surrogatepass"),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "tuple": lambda inner: tuple(_items(inner)),
    "dict": lambda inner: {value(key): value(item) for key, item in inner},
    "set": lambda inner: set(_items(inner)),
    "frozenset": lambda inner: frozenset(_items(inner)),
    "range": lambda inner: range(*_items(inner)),
    "iterator": lambda inner: iter(_items(inner)),
}
