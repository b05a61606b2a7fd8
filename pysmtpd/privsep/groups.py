"""Groups of network interfaces, where Linux keeps them: those of ip-link(8) by name, and OpenBSD's ``egress``."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

NAMES = ("/etc/iproute2/group", "/usr/share/iproute2/group", "/usr/lib/iproute2/group")
EGRESS = "egress"                  # the interfaces with a default route
_NO_GROUP = "0"
_ZERO_4, _ZERO_6 = "0" * 8, "0" * 32


def groups(*, proc: str = "/proc/net", sys: str = "/sys/class/net", names: tuple[str, ...] = NAMES
           ) -> dict[str, list[str]]:
    """The interfaces of each group; empty on other systems."""
    found: dict[str, list[str]] = {}
    known = {number: name for path in reversed(names) for number, name in _named(path)}
    with contextlib.suppress(OSError):
        for interface in sorted(os.listdir(sys)):
            for number in _words(f"{sys}/{interface}/netdev_group"):
                if number[0] != _NO_GROUP and number[0] in known:
                    found.setdefault(known[number[0]], []).append(interface)
    egress = dict.fromkeys((*_default_4(f"{proc}/route"), *_default_6(f"{proc}/ipv6_route")))
    return {**found, EGRESS: [*egress]} if egress else found


def _words(path: str) -> Iterator[list[str]]:
    """The words of each line that has some."""
    with contextlib.suppress(OSError):
        for line in Path(path).read_text(encoding="ascii", errors="replace").splitlines():
            if words := line.partition("#")[0].split():
                yield words


def _named(path: str) -> Iterator[tuple[str, str]]:
    return ((words[0], words[1]) for words in _words(path) if len(words) == 2)


def _default_4(path: str) -> Iterator[str]:
    return (words[0] for words in _words(path) if len(words) > 7 and words[1] == words[7] == _ZERO_4)


def _default_6(path: str) -> Iterator[str]:
    return (words[9] for words in _words(path)
            if len(words) > 9 and words[0] == _ZERO_6 and words[1] == "00" and words[9] != "lo")
