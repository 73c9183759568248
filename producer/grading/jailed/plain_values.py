"""Plain values as JSON: what two jails exchange, of which one is not to be trusted.

None, numbers, text, bytes, lists, tuples, dicts and sets, type by type, so that what arrives is
of Python's own types and has no behaviour of its own. What else there is:

- Between a function and its checks, which meet only through files, an object of a class derived from
  one of these arrives as the plain value, a range or an iterator as such; any other is refused.
- Where the two talk, all of that stays where it is, and the other side gets a *thing*, by its number.
"""

from collections.abc import Callable
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


#: What has no behaviour of its own: of such a type itself, not of one derived from it.
KINDS = (
    *(type(None), bool, int, float, complex, str, bytes, bytearray),
    *(list, tuple, dict, set, frozenset),
)
#: What a thing is called on the other side, by its number.
Keep = Callable[[Any], int]


def plain(value: Any, keep: Keep | None = None) -> Any:
    """Give `value` as what `json` can write; `TypeError` where it is not plain.

    With `keep`, what is not plain is a thing, under the number that it gives.
    """
    if keep is None or type(value) in KINDS:
        return _written(value, keep)
    return {"thing": keep(value)}


def _written(value: Any, keep: Keep | None) -> Any:  # noqa: C901  # one for each kind
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
        return [plain(item, keep) for item in list.__iter__(value)]
    if isinstance(value, tuple):
        return {"tuple": [plain(item, keep) for item in tuple.__iter__(value)]}
    if isinstance(value, dict):
        return {"dict": [[plain(key, keep), plain(item, keep)] for key, item in dict.items(value)]}
    if isinstance(value, set | frozenset):
        kind = "set" if isinstance(value, set) else "frozenset"
        return {kind: [plain(item, keep) for item in value]}
    if isinstance(value, range):
        return {"range": [plain(value.start), plain(value.stop), plain(value.step)]}
    if isinstance(value, _LAZY):
        return {"iterator": [plain(item, keep) for item in islice(value, _LONGEST)]}
    raise TypeError(f"{type(value).__name__} is no plain value")


def _odd(value: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in value)


def value(written: Any, thing: Callable[[int], Any] | None = None) -> Any:
    """Give the value that `plain` wrote; `ValueError` where nothing of ours wrote it.

    `thing` gives what stands for the thing of a number.
    """
    if written is None or isinstance(written, bool | int | str):
        return written
    if isinstance(written, list):
        return [value(item, thing) for item in written]
    if isinstance(written, dict) and len(written) == 1:
        ((kind, inner),) = written.items()
        if kind in _ATOMS:
            return _ATOMS[kind](inner)
        if kind in _HOLDERS and isinstance(inner, list):
            return _HOLDERS[kind](value(item, thing) for item in inner)
        if kind == "dict":
            return {value(key, thing): value(item, thing) for key, item in inner}
        if kind == "thing" and thing is not None:
            return thing(int(inner))
    raise ValueError("no plain value")


_ATOMS: dict[str, Any] = {
    "int": lambda inner: int(inner, 16),
    "float": float,
    "complex": lambda inner: complex(float(inner[0]), float(inner[1])),
    "str": lambda inner: bytes.fromhex(inner).decode("utf-8", "surrogatepass"),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
}
_HOLDERS: dict[str, Any] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "range": lambda items: range(*items),
    "iterator": lambda items: iter(list(items)),
}
