"""Text that came from a stranger: what may be kept as text, and how the rest is shown.

``clean`` text holds no C0 or C1 control, no DEL, no U+2028 and no U+2029, so it can never break a
line of a log, a header or a protocol.  ``vis`` shows any bytes as one printable ASCII line, in the
way of vis(3).
"""

import re

_UNCLEAN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_SAFE = re.compile(rb"[^\x20-\x5b\x5d-\x7e]")
_WHITE = re.compile(rb"[^\x21-\x5b\x5d-\x7e]")
_C_STYLE = {0x0A: "\\n", 0x0D: "\\r", 0x08: "\\b", 0x07: "\\a", 0x0B: "\\v", 0x09: "\\t", 0x0C: "\\f",
            0x20: "\\s", 0x00: "\\0", 0x5C: "\\\\"}


def is_clean(text: str) -> bool:
    """Whether text may stand in a line as it is."""
    # Nothing printable is unclean; what is not printable may still be clean, such as a no-break space.
    return text.isprintable() or _UNCLEAN.search(text) is None


def check_clean(text: str, limit: int, what: str) -> str:
    """Return text, or raise ValueError when it is unclean or longer than limit octets in UTF-8."""
    if not text.isprintable() and _UNCLEAN.search(text) is not None:
        raise ValueError(f"control character in {what}")
    if len(text) * 4 > limit and len(text.encode()) > limit:
        raise ValueError(f"{what} is longer than {limit} octets")
    return text


def _escape(match: re.Match[bytes]) -> bytes:
    octet = match.group()[0]
    return (_C_STYLE.get(octet) or f"\\{octet:03o}").encode()


def vis(data: bytes, *, white: bool = False) -> str:
    """Bytes as one line of printable ASCII; with ``white`` spaces are escaped as well."""
    return (_WHITE if white else _SAFE).sub(_escape, data).decode("ascii")


def bounded(data: bytes, limit: int) -> bytes:
    """At most ``limit`` octets of data, not cut inside a UTF-8 character."""
    if len(data) <= limit:
        return data
    cut = limit
    while cut > 0 and limit - cut < 3 and data[cut] & 0xC0 == 0x80:
        cut -= 1
    return data[:cut]


def line_of(data: bytes, limit: int) -> str:
    """A stranger's reply or error as clean text: one line, at most ``limit`` octets, bad bytes replaced."""
    text = data.decode("utf-8", "replace")
    return bounded(_UNCLEAN.sub(" ", text).encode(), limit).decode("utf-8", "ignore").strip()
