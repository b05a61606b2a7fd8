"""Tables in text files (table(5)): a key a line, or a key and its value.

Lines are physical: no comment follows an entry and no line is continued, because a password or a command may
hold any character.
"""

import re
from array import array
from collections.abc import Iterator
from typing import NamedTuple

from pysmtpd.base.netaddr import parse_network
from pysmtpd.maps import BadMap

FILE_MAX = 64 * 1024 * 1024        # octets of a file
LOOK_MAX = 1024 * 1024             # octets that the first look judges
KEY_MAX = 1023                     # octets

_AT_LIST = re.compile(r"#[ \t]*@list[ \t]*")
_SEPARATOR = re.compile(r"[ \t:]")
_SURROGATE = re.compile("[\ud800-\udfff]")  # how octets that are not UTF-8 were decoded
_COLON = re.compile(r":[ \t]+")
_KEY = re.compile(r"([^ \t]*)([ \t]*)(.*)")
# Most lines are like these: a key that can be no address of IPv6, a separator, a value that begins with no colon.
_PLAIN = re.compile(r"([A-Za-z0-9._@+-]+)(?:[ \t]+|:[ \t]*)(?=[^: \t])(.*)")


class BadLine(BadMap):
    """A line that no table can hold; its number counts from 1."""

    def __init__(self, path: str, line: int, what: str) -> None:
        super().__init__(f"{path}:{line} {what}")
        self.line = line
        self.what = what


class Content(NamedTuple):
    """What a file holds: whether it is a list (None: it is empty), its entries, and the line of each."""

    is_list: bool | None
    entries: list[tuple[str, str]]
    lines: "array[int]"


def decode(data: bytes) -> str:
    """The text of a file; what is not UTF-8 is refused where it stands."""
    return data.decode("utf-8", "surrogateescape")


def parse(text: str, path: str, is_list: bool | None = None) -> Content:
    """All entries.

    Unless told, the file decides whether it is a list: by ``# @list`` before its first entry, else by whether the
    first entry has a value.  Raises BadLine."""
    entries: list[tuple[str, str]] = []
    lines = array("I")
    number = 0
    for number, line in _lines(text):
        if line.startswith("#"):
            if is_list is None and _AT_LIST.fullmatch(line):
                is_list = True
            continue
        entry = (line, "") if is_list else split(line)
        if is_list is None:
            is_list = entry is None
            entry = entry or (line, "")
        if entry is None or not (is_list or entry[1]):
            raise BadLine(path, number, "invalid map entry")
        if not line.isascii() and _SURROGATE.search(line):
            raise BadLine(path, number, "is not UTF-8")
        if len(entry[0]) * 4 > KEY_MAX and len(entry[0].encode()) > KEY_MAX:
            raise BadLine(path, number, f"key is longer than {KEY_MAX} octets")
        entries.append(entry)
        lines.append(number)
    return Content(is_list, entries, lines)


def look(data: bytes, path: str) -> tuple[bool, BadLine | None]:
    """What the first LOOK_MAX octets of a file tell: whether it is a list, and the first line that fits no table.

    A last line that may be cut is not judged."""
    text = decode(data)
    if len(data) >= LOOK_MAX:
        text = text[: text.rfind("\n") + 1]
    try:
        return bool(parse(text, path).is_list), None
    except BadLine as bad:
        return False, bad


def _lines(text: str) -> Iterator[tuple[int, str]]:
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip(" \t\r\v\f")
        if line:
            yield number, line


def split(line: str) -> tuple[str, str] | None:
    """Key and value, either of which may be empty; None without a separator.

    ``key value``, ``key: value`` and ``key : value`` are the same, but ``key :include:/path`` keeps its colon.
    An IPv6 address or network is one key, in brackets or not.
    """
    plain = _PLAIN.match(line)
    if plain is not None:
        key, value = plain.groups()
        if ":" not in value or line[len(key)] != ":" or parse_network(line.split()[0].rstrip(":")) is None:
            return key, value
    return _split_with_care(line)


def _split_with_care(line: str) -> tuple[str, str] | None:
    key, blank, rest = _KEY.match(line).groups()  # type: ignore[union-attr]
    if key.endswith(":") and parse_network(key[:-1]) is not None:
        return key[:-1], rest
    if ":" in key and parse_network(key) is not None:
        return (key, _COLON.sub("", rest, count=1) if _COLON.match(rest) else rest) if blank else None
    start = 0
    if line.startswith("["):
        start = line.find("]") + 1
        if not start:
            return "", ""
    separator = _SEPARATOR.search(line, start)
    if separator is None:
        return None
    value = line[separator.end() :].lstrip(" \t")
    if separator[0] != ":":
        colon = _COLON.match(value)
        value = value[colon.end() :] if colon else value
    return line[: separator.start()], value
