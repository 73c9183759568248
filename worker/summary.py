"""A job and its result in one short line each: what logs, events, `inspect` and Flower may show.

Never a source, an input or an output. What the caller chose freely, labels and the runtime's name, is
cut and escaped: it may have come from anywhere.
"""

import re
from typing import Any

from sandbox_core.job import Result

_MOST_LABELS = 4
_MOST_CHARACTERS = 40
_KIB = 1024


def described(args: object) -> str:
    """Describe a job by a task's arguments, unchecked as they are: `python · 412 B · course=cs1`."""
    match args:
        case [{"source": source, **rest}]:
            parts = [runtime_of(args) or "?"]
            if (count := _bytes_of(source)) is not None:
                parts.append(size(count))
            return " · ".join([*parts, *_labels(rest.get("labels"))])
        case [[{"job": _}, *_] as chunk]:
            kinds = {runtime_of([entry.get("job")]) for entry in chunk if isinstance(entry, dict)}
            kind = kinds.pop() if len(kinds) == 1 else None
            return f"{len(chunk)} {kind or 'different'} jobs"
        case [{"first": {"job": first}, "second": {"job": second}}]:
            return f"a pair: {described([first])} | {described([second])}"
    return "no job"


def ended(result: Result) -> str:
    """Describe how a job ended: `time_limit · 6.00 s`."""
    return f"{result.status} · {result.wall_time:.2f} s"


def runtime_of(args: object) -> str | None:
    """Give the runtime that a job asks for; None for what can't be the name of one."""
    match args:
        case [{"runtime": name}]:
            plain = isinstance(name, str) and re.fullmatch(r"[\w.+-]{1,40}", name, re.ASCII)
            return name if plain else None
        case [{"source": _}]:
            return "python"
    return None


def size(count: int) -> str:
    """Write a number of bytes: `412 B`, `1.5 KiB`, `2.0 MiB`."""
    if count < _KIB:
        return f"{count} B"
    if count < _KIB * _KIB:
        return f"{count / _KIB:.1f} KiB"
    return f"{count / _KIB / _KIB:.1f} MiB"


def escaped(text: str, most: int = _MOST_CHARACTERS) -> str:
    """Cut `text`, and write what would not print, or would turn the line around, as an escape."""
    kept = text if len(text) <= most else f"{text[: most - 1]}…"
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in kept)


def _bytes_of(source: object) -> int | None:
    match source:
        case str():
            return len(source.encode(errors="surrogatepass"))
        case {"base64": str(text)}:
            return len(text) * 3 // 4 - text[-2:].count("=")
    return None


def _labels(labels: Any) -> list[str]:
    if not isinstance(labels, dict):
        return []
    shown = [
        f"{escaped(name)}={escaped(value)}"
        for name, value in list(labels.items())[:_MOST_LABELS]
        if isinstance(name, str) and isinstance(value, str)
    ]
    return [*shown, "…"] if len(labels) > _MOST_LABELS else shown
