"""What a supervisor, its zygotes and their jails say to each other over sockets, and how it is written.

Downwards, from the supervisor to what it has made, messages are in the form of `marshal`: that is there
in every interpreter, where `json` and all that it imports would be in the memory of each job. Its
version 2 is read by every Python 3. What comes upwards is not trusted, so that way messages are JSON.
"""

from __future__ import annotations

import _socket
import marshal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence
    from typing import Any

_MARSHAL_VERSION = 2
_FD_SIZE = 4
_FIRST_PRINTABLE, _LAST_PRINTABLE = 0x20, 0x7E


def pack(message: dict[str, Any]) -> bytes:
    """Write a message to what we have made: plain values only."""
    try:
        return marshal.dumps(message, _MARSHAL_VERSION)
    except ValueError:  # something is of a class of its own, such as a text that is in an enumeration
        import json  # noqa: PLC0415  # in the supervisor

        return marshal.dumps(json.loads(json.dumps(message)), _MARSHAL_VERSION)


def unpack(message: bytes) -> dict[str, Any]:
    """Read a message that the supervisor has written."""
    found: dict[str, Any] = marshal.loads(message)  # noqa: S302  # of what made us
    return found


def answer(**fields: str | float | bool | None) -> bytes:
    """Write a message to the supervisor."""
    return (
        "{" + ", ".join(f'"{name}": {_json(value)}' for name, value in fields.items()) + "}"
    ).encode()


def _json(value: object) -> str:
    if isinstance(value, str):
        units = value.encode("utf-16-be", "surrogatepass")
        numbers = (units[place] << 8 | units[place + 1] for place in range(0, len(units), 2))
        return '"' + "".join(map(_escaped, numbers)) + '"'
    if isinstance(value, bool):
        return "true" if value else "false"
    return "null" if value is None else repr(value)


def _escaped(number: int) -> str:
    plain = _FIRST_PRINTABLE <= number <= _LAST_PRINTABLE and chr(number) not in '"\\'
    return chr(number) if plain else f"\\u{number:04x}"


def send(to: _socket.socket | socket.socket, message: bytes, fds: Sequence[int] = ()) -> int:
    """Send (the first of) a message with descriptors beside it; give how many bytes have gone."""
    if not fds:
        return to.send(message)
    numbers = b"".join(fd.to_bytes(_FD_SIZE, sys.byteorder) for fd in fds)
    return to.sendmsg([message], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, numbers)])


def receive(of: _socket.socket | socket.socket, size: int, count: int) -> tuple[bytes, list[int]]:
    """Receive up to `size` bytes and `count` descriptors."""
    message, beside, _, _ = of.recvmsg(size, _socket.CMSG_SPACE(count * _FD_SIZE))
    fds = []
    for level, kind, data in beside:
        if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS):
            whole = len(data) - len(data) % _FD_SIZE
            fds += [
                int.from_bytes(data[place : place + _FD_SIZE], sys.byteorder)
                for place in range(0, whole, _FD_SIZE)
            ]
    return message, fds
