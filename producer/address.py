"""Redis URLs: the forms that Celery and redis-py know, and how to name one without its secrets."""

from typing import NamedTuple
from urllib.parse import SplitResult, parse_qs, unquote, urlencode, urlsplit

DEFAULT_URL = "redis://localhost:6379/0"

_SCHEMES = {"redis": "redis", "rediss": "rediss", "unix": "unix", "redis+socket": "unix"}


class Address(NamedTuple):
    """Where a Redis is: `url` is for redis-py, `name` is safe to show."""

    url: str
    name: str


def parse(url: str) -> Address:
    """Understand `url`: redis://, rediss://, unix:///path?db=N, redis+socket:///path?virtual_host=N.

    Raises `ValueError`, which never quotes the URL, for anything else.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        # urllib's own text would quote a part of the password.
        raise ValueError(_malformed("its host and port can't be read")) from None
    if parts.scheme not in _SCHEMES:
        raise ValueError(
            "url: expected one that begins with redis://, rediss://, unix:// or redis+socket://"
        )
    if parts.fragment or "@" in parts.query or "@" in parts.path:
        raise ValueError(_malformed("it has a '#', or an '@' behind its host"))
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    database = _database(parts, options)
    if _SCHEMES[parts.scheme] == "unix":
        # unix://run/redis.sock: its first part reads as a host.
        if parts.hostname or len(parts.path) <= 1:
            raise ValueError(f"url: {parts.scheme}:// needs a socket's path from /, three slashes")
        path = unquote(parts.path)
        name = f"{path}?db={database}" if database else path
    else:
        host = parts.hostname or "localhost"
        name = f"[{host}]" if ":" in host else host
        name = f"{name}:{port or 6379}/{database}"
    return Address(_for_redis_py(parts, options, database), name)


def _malformed(what: str) -> str:
    return (
        f"url: not a Redis URL ({what}); a special character in the password is written "
        "percent-encoded, '%40' for '@'"
    )


def _database(parts: SplitResult, options: dict[str, str]) -> int:
    """Take the number of the database out of the options or the path."""
    texts = [options.pop(name, "") for name in ("virtual_host", "db")]
    if _SCHEMES[parts.scheme] != "unix":
        texts.append(parts.path)
    text = next((text for text in (text.strip("/") for text in texts) if text), "0")
    if not (text.isascii() and text.isdigit()):
        raise ValueError("url: the database is a number, as in redis://localhost:6379/0")
    return int(text)


def _for_redis_py(parts: SplitResult, options: dict[str, str], database: int) -> str:
    if "ssl_cert_reqs" in options:
        # Celery writes CERT_REQUIRED where redis-py writes required.
        options["ssl_cert_reqs"] = options["ssl_cert_reqs"].removeprefix("CERT_").lower()
    options["db"] = str(database)
    scheme = _SCHEMES[parts.scheme]
    path = parts.path if scheme == "unix" else ""
    return f"{scheme}://{parts.netloc}{path}?{urlencode(options)}"
