"""Plain values as JSON, type by type, so that what arrives is of Python's own types alone.

An object that only looks like a number, or that says it is equal to everything, does not get through:
it stays where it is, and the other side gets a handle.
"""

_SEQUENCES = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}


def encode(value, handle):
    """Give `value` as JSON can write it; what is not plain is what `handle(value)` says of it."""
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return ["plain", value]
    if kind is int:
        return ["int", hex(value)]
    if kind is float:
        return ["float", value.hex()]
    if kind is complex:
        return ["complex", value.real.hex(), value.imag.hex()]
    if kind is bytes or kind is bytearray:
        return [kind.__name__, value.hex()]
    if kind in _SEQUENCES.values():
        return [kind.__name__, [encode(item, handle) for item in value]]
    if kind is dict:
        items = [[encode(key, handle), encode(item, handle)] for key, item in value.items()]
        return ["dict", items]
    return ["handle", handle(value)]


def decode(told, handle):
    """Give the value that `encode` has written; a handle becomes what `handle(number)` says."""
    kind, *content = told
    if kind == "plain":
        if content[0] is not None and type(content[0]) not in (bool, str):
            raise ValueError("no plain value")
        return content[0]
    if kind == "int":
        return int(content[0], 16)
    if kind == "float":
        return float.fromhex(content[0])
    if kind == "complex":
        return complex(float.fromhex(content[0]), float.fromhex(content[1]))
    if kind in ("bytes", "bytearray"):
        content = bytes.fromhex(content[0])
        return content if kind == "bytes" else bytearray(content)
    if kind in _SEQUENCES:
        return _SEQUENCES[kind](decode(item, handle) for item in content[0])
    if kind == "dict":
        return {decode(key, handle): decode(item, handle) for key, item in content[0]}
    if kind == "handle":
        return handle(content[0])
    raise ValueError("no plain value")
