"""Text that came from anywhere, made fit to be written."""

import re

#: What XML 1.0 has no way to say (its production 2, Char).
_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def clean(text: str) -> str:
    """Give `text` with U+FFFD for each lone surrogate, which UTF-8 can't write."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def xml_legal(text: str) -> str:
    """Give `text` without the characters that are illegal in XML 1.0."""
    return _ILLEGAL.sub("", text)


def decoded(content: bytes | None) -> str | None:
    """Give bytes as text, with U+FFFD for what is not UTF-8."""
    return None if content is None else content.decode("utf-8", "replace")
