"""Tables in text files (table(5)): a key a line, or a key and its value.

Lines are physical: no comment follows an entry and no line is continued, because a password or a command may
hold any character.
"""

import re
from typing import NamedTuple

from pysmtpd.conf.config import Shape
from pysmtpd.lookup.match import parse_network
from pysmtpd.lookup.table import KEY_MAX, TableError
from pysmtpd.lookup.table_static import StaticTable

FILE_MAX = 64 * 1024 * 1024        # octets

_AT_LIST = re.compile(r"#[ \t]*@list[ \t]*")
_SEPARATOR = re.compile(r"[ \t:]")
_SURROGATE = re.compile("[\ud800-\udfff]")  # how octets that are not UTF-8 were decoded
_COLON = re.compile(r":[ \t]+")


class Content(NamedTuple):
    """What a file holds."""

    shape: Shape
    entries: list[tuple[str, str]]


def parse(text: str, path: str, shape: Shape | None = None) -> Content:
    """All entries.  Without a shape the file decides: by ``# @list`` before its first entry, else by whether the
    first entry has a value.  Raises TableError naming path and line."""
    entries: list[tuple[str, str]] = []
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip(" \t\r\v\f")
        if not line or line.startswith("#"):
            if shape is None and _AT_LIST.fullmatch(line):
                shape = Shape.LIST
            continue
        if shape is None:
            shape = Shape.LIST if _split(line) is None else Shape.HASH
        entry = (line, "") if shape is Shape.LIST else _split(line)
        if entry is None or (shape is Shape.HASH and not entry[1]):
            raise TableError(f"{path}:{number} invalid map entry")
        if _SURROGATE.search(line):
            raise TableError(f"{path}:{number} is not UTF-8")
        if len(entry[0]) * 4 > KEY_MAX and len(entry[0].encode()) > KEY_MAX:
            raise TableError(f"{path}:{number} key is longer than {KEY_MAX} octets")
        entries.append(entry)
    return Content(shape or Shape.HASH, entries)


def _split(line: str) -> tuple[str, str] | None:
    """Key and value, either of which may be empty; None without a separator.

    ``key value``, ``key: value`` and ``key : value`` are the same, but ``key :include:/path`` keeps its colon.
    An IPv6 address or network is one key, in brackets or not.
    """
    key, blank, rest = re.match(r"([^ \t]*)([ \t]*)(.*)", line).groups()  # type: ignore[union-attr]
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


class FileTable(StaticTable):
    """A static table whose entries come from a file."""

    def __init__(self, name: str, path: str, shape: Shape | None, delimiter: str = "+") -> None:
        super().__init__(name, delimiter=delimiter)
        self.path = path
        self._shape = shape

    def reload(self) -> None:
        """Read the file.  Raises TableError, and then keeps what was there before."""
        try:
            with open(self.path, "rb") as file:
                data = file.read(FILE_MAX + 1)
        except OSError as error:
            raise TableError(f"{self.path}: {error.strerror}") from None
        if len(data) > FILE_MAX:
            raise TableError(f"{self.path}: larger than {FILE_MAX} octets")
        content = parse(data.decode("utf-8", "surrogateescape"), self.path, self._shape)
        self._shape = content.shape if content.entries else self._shape
        self.fill(content.entries)
