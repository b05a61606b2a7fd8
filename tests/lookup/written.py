"""What the lists of a case say, member by member, as OpenSMTPD 7.8 and as pysmtpd read them."""

import enum
import ipaddress
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple


class Kind(enum.Enum):
    """In OpenSMTPD's order."""

    USER = 1
    FILE = 2
    COMMAND = 3
    INCLUDE = 4
    ADDRESS = 5
    ERROR = 6
    BAD = 7


USER, FILE, COMMAND, INCLUDE, ADDRESS, ERROR, BAD = Kind


class Item(NamedTuple):
    """One member."""

    kind: Kind
    text: str
    user: str = ""
    domain: str = ""
    direct: bool = False
    why: str = ""

    @property
    def octets(self) -> bytes:
        """As they are in memory there."""
        if self.kind is ADDRESS:
            return self.user.encode().ljust(256, b"\0") + self.domain.encode()
        return self.text.encode()


class Bad(NamedTuple):
    """One that is none."""

    text: str


# The switches that reading is about.
READING = frozenset({"bad address", "empty command", "case", "direct"})

_ERROR = re.compile(r":?error:([45]\d\d [a-z0-9].*)", re.IGNORECASE)
_INCLUDE = re.compile(r":?include:(/.*)", re.IGNORECASE)
_LOCAL = re.compile(r"[a-zA-Z0-9!#$%*/?|^{}`~&'+=_.-]*")
_HOST = re.compile(r"[a-zA-Z0-9.-]+")
_NAME = re.compile(r"[a-zA-Z0-9_.+-]*")


def items(line: str, quirks: frozenset[str]) -> list[Item | Bad]:
    """The members of a list."""
    return _items(line, quirks & READING)


@lru_cache(4096)
def _items(line: str, quirks: frozenset[str]) -> list[Item | Bad]:
    return list(_read_all(line, quirks))


def _read_all(line: str, quirks: frozenset[str]) -> Iterator[Item | Bad]:
    for text, direct in split(line, comments="bad address" not in quirks):
        if text is None:
            yield Bad(line)
            return
        yield read(text, direct, quirks)


def split(line: str, *, comments: bool) -> Iterator[tuple[str | None, bool]]:
    """Texts, and whether a backslash was before each; None for an end within quotes or behind a backslash."""
    text, quote, escaping, direct = "", "", False, False
    for char in line:
        if escaping:
            escaping = False
        elif char == "\\":
            escaping = True
            direct = direct or not text.strip()
            continue
        elif char == "," and not quote:
            if text.strip():
                yield text.strip(), direct
            text, direct = "", False
            continue
        elif comments and char == "#" and not quote and (not text or text[-1] in " \t") \
                and text.lstrip()[:1] not in ("|", '"', "/") and ":" not in text:
            break
        elif char in "\"'" and quote in ("", char):
            quote = "" if quote else char
        text += char
    if quote or escaping:
        yield None, False
    elif text.strip():
        yield text.strip(), direct


def read(text: str, direct: bool, quirks: frozenset[str]) -> Item | Bad:
    """One of them."""
    for kind, pattern in ((ERROR, _ERROR), (INCLUDE, _INCLUDE)):
        if found := pattern.fullmatch(text):
            return Item(kind, found[1])
    if text.startswith("|") or (text.startswith('"|') and text.endswith('"') and len(text) > 2):
        command = text[2:-1] if text.startswith('"') else text[1:]
        if "empty command" in quirks:
            return Item(COMMAND, command)
        return Item(COMMAND, command.strip()) if command.strip() else Bad(text)
    if text.startswith("/"):
        return Item(FILE, text)
    if "@" in text[1:-1] and not (text.startswith("@") and "bad address" in quirks):
        return _address(text, direct, quirks)
    return _user(text, direct, quirks)


def _user(text: str, direct: bool, quirks: frozenset[str]) -> Item | Bad:
    if _NAME.fullmatch(text) is None:
        return Bad(text)
    return Item(USER, text if "case" in quirks else text.lower(), direct=direct and "direct" not in quirks)


def _address(text: str, direct: bool, quirks: frozenset[str]) -> Item | Bad:
    if "bad address" in quirks:
        user, _, domain = text.partition("@")
        if _LOCAL.fullmatch(user) and _HOST.fullmatch(domain):
            return Item(ADDRESS, text, user, domain)
        # What stands before the @ remains.
        return _user(user, direct, quirks)
    user, _, domain = text.rpartition("@")
    if not user or not _LOCAL.fullmatch(user) or not _is_domain(domain):
        return Bad(text)
    return Item(ADDRESS, text, user, domain)


def _is_domain(text: str) -> bool:
    if text.startswith("["):
        try:
            ipaddress.ip_address(text[1:-1].removeprefix("IPv6:"))
        except ValueError:
            return False
        return text.endswith("]")
    return re.fullmatch(r"[a-zA-Z0-9_]([a-zA-Z0-9_-]*[a-zA-Z0-9_])?(\.[a-zA-Z0-9_]([a-zA-Z0-9_-]*[a-zA-Z0-9_])?)*",
                        text) is not None


def lines_of(text: str, *, continued: str, comment: str) -> Iterator[str]:
    """The lines of a file of members: which character at an end joins two lines, and which begins a comment."""
    text = re.sub(rf"(?<!\\){re.escape(continued)}\n", "", text)
    for line in text.split("\n"):
        kept = re.sub(rf"(?<!\\){re.escape(comment)}.*", "", line) if comment else line
        if kept.strip():
            yield kept.strip()
