"""/etc/hosts (hosts(5)): names and addresses that come before the DNS.  Read again when it changes."""

import os
from collections.abc import Callable
from typing import NamedTuple

from pysmtpd.lookup.match import parse_address

PATH = "/etc/hosts"
CHECKED = 1.0                      # seconds between two looks at a file
FILE_MAX = 8 * 1024 * 1024         # octets; of a larger file the rest does not count

Stamp = tuple[int, int, int]


class Hosts(NamedTuple):
    """Addresses by name, and the first name by address; names in lower case."""

    addresses: dict[str, list[str]]
    names: dict[tuple[int, int], str]

    def name(self, address: str) -> str | None:
        """The canonical name of an address."""
        parsed = parse_address(address)
        return None if parsed is None else self.names.get(parsed)


def parse(text: str) -> Hosts:
    """Lines that are none are left out."""
    addresses: dict[str, list[str]] = {}
    names: dict[tuple[int, int], str] = {}
    for line in text.splitlines():
        address, *aliases = line.partition("#")[0].split() or ("",)
        parsed = parse_address(address)
        if parsed is None or not aliases:
            continue
        names.setdefault(parsed, aliases[0])
        for alias in aliases:
            known = addresses.setdefault(alias.lower().rstrip("."), [])
            if address not in known:
                known.append(address)
    return Hosts(addresses, names)


class Watched:
    """A file that is looked at again, at most once a second, and tells whether it changed."""

    def __init__(self, path: str, clock: Callable[[], float]) -> None:
        self.path = path
        self._clock = clock
        self._next = 0.0
        self._stamp: Stamp | None = None
        self._seen = False

    def changed(self) -> bool:
        """Whether it is new, other or gone since the last call that said so."""
        now = self._clock()
        if self._seen and now < self._next:
            return False
        self._next = now + CHECKED
        stamp = self._look()
        changed = not self._seen or stamp != self._stamp
        self._seen, self._stamp = True, stamp
        return changed

    def read(self) -> str:
        """Its text; empty when it cannot be read."""
        try:
            with open(self.path, "rb") as file:
                return file.read(FILE_MAX).decode("utf-8", "replace")
        except OSError:
            return ""

    def _look(self) -> Stamp | None:
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino


class HostsFile:
    """The Hosts of a file as it is now."""

    def __init__(self, clock: Callable[[], float], path: str = PATH) -> None:
        self._file = Watched(path, clock)
        self._hosts = Hosts({}, {})
        self.version = 0           # goes up with every change

    def hosts(self) -> Hosts:
        if self._file.changed():
            self._hosts = parse(self._file.read())
            self.version += 1
        return self._hosts
