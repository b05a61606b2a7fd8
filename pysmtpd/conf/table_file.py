"""What the first look at the file of a table tells: its shape, and the first line that no table can hold.

lookup.table_file reads the entries themselves, when the daemon starts.
"""

import ipaddress
import re

from pysmtpd.conf.config import Shape

LOOK_MAX = 1024 * 1024             # octets that are looked at
_LIST = re.compile(r"#[ \t]*@list[ \t]*")
_ENTRY = re.compile(r"(\[[^\]]*\]|)[^ \t:]*[ \t:][ \t]*(.*)")


def look(data: bytes) -> tuple[Shape, int]:
    """The shape of a table's file, and the number of a line that does not fit it (0: none).

    ``data`` are at most its first LOOK_MAX octets; a last line that may be cut is not judged."""
    lines = data.decode("utf-8", "replace").split("\n")
    if len(data) >= LOOK_MAX:
        lines.pop()
    shape: Shape | None = None
    for number, raw in enumerate(lines, 1):
        line = raw.strip(" \t\r\v\f")
        if not line or line.startswith("#"):
            if shape is None and _LIST.fullmatch(line):
                return Shape.LIST, 0
            continue
        entry = None if _is_network(line) else _ENTRY.match(line)
        if shape is None:
            if entry is None and not line.startswith("["):
                return Shape.LIST, 0
            shape = Shape.HASH
        if entry is None or not entry[2]:
            return shape, number
    return shape or Shape.HASH, 0


def _is_network(line: str) -> bool:
    """Whether a line is one IPv6 address or network, whose colons part nothing."""
    if ":" not in line or " " in line or "\t" in line:
        return False
    base, slash, mask = line.partition("/")
    if base.startswith("["):
        base, mask = base[1:], mask.removesuffix("]") if slash else mask
        base = base.removesuffix("]")
    base = base[5:] if base[:5].lower() == "ipv6:" else base
    try:
        ipaddress.ip_address(base.partition("%")[0])
    except ValueError:
        return False
    return not slash or (mask.isdigit() and int(mask) <= 128)
