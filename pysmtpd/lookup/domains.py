"""Which of many tables a domain, a mail address or a client's address is in, found at once: a configuration may have a
rule for each customer.

Only tables in memory whose domains are plain names, ``*.name`` or ``*`` are here; what is not is asked by itself.
"""

from collections.abc import Iterable, Mapping

from pysmtpd.base import idn
from pysmtpd.base.netaddr import parse_address, parse_network
from pysmtpd.conf.config import LOCALHOST, LOCALNAMES
from pysmtpd.lookup.order import keys_for
from pysmtpd.lookup.service import Service
from pysmtpd.lookup.table_file import FileTable
from pysmtpd.lookup.table_static import StaticTable

LARGE = 5000                       # entries; a table with more is not read twice, and asked by itself


class ManyTables:
    """An index over the tables of numbered tests, which ask all of them for one service."""

    def __init__(self, service: Service, tables: Mapping[int, StaticTable], delimiter: str = "") -> None:
        """service: domain, mailaddr or netaddr."""
        self._service = service
        self._delimiter = delimiter
        self._tables = tables
        self._changing = [table for table in tables.values()
                          if isinstance(table, FileTable) or table.name in (LOCALHOST, LOCALNAMES)]
        self._read()

    def _read(self) -> None:
        self._seen = [table.entries for table in self._changing]
        self._numbers: dict[str, list[int]] = {}
        self._networks: dict[tuple[int, int], dict[int, list[int]]] = {}
        self.known: list[int] = []     # the tests that are answered here
        for number, table in self._tables.items():
            if len(table.entries) > LARGE:
                continue
            entries = [self._folded(entry.lower()) for entry in table.entries]
            if all(map(_PLAIN[self._service], entries)):
                self.known.append(number)
                for entry in entries:
                    self._add(entry, number)

    def _add(self, entry: str, number: int) -> None:
        self._numbers.setdefault(entry, []).append(number)
        network = parse_network(entry) if self._service is Service.NETADDR else None
        if network is not None:
            version, length, prefix = network
            self._networks.setdefault((version, length), {}).setdefault(prefix, []).append(number)

    def _folded(self, entry: str) -> str:
        if self._service is Service.NETADDR:
            return entry
        return entry if self._service is Service.MAILADDR and "@" not in entry else idn.fold(entry)

    def refresh(self) -> bool:
        """Read again what has changed.  Returns whether anything has."""
        if all(table.entries is seen for table, seen in zip(self._changing, self._seen, strict=True)):
            return False
        self._read()
        return True

    def find(self, name: str) -> Iterable[int]:
        """The tests whose table has this name, or a pattern or network for it."""
        if self._service is Service.NETADDR:
            yield from self._numbers.get(name, ())
            yield from self._around(name)
            return
        for key in keys_for(self._service, name, self._delimiter):
            yield from self._numbers.get(key, ())

    def _around(self, name: str) -> Iterable[int]:
        """The tests whose table has a network that this address is in."""
        address = parse_address(name)
        if address is None:
            return
        version, number = address
        bits = 32 if version == 4 else 128
        for (family, length), networks in self._networks.items():
            if family == version:
                yield from networks.get(number >> (bits - length), ())


def _plain(domain: str) -> bool:
    return "*" not in domain or domain == "*" or (domain.startswith("*.") and "*" not in domain[2:])


def _plain_address(entry: str) -> bool:
    _, at, domain = entry.rpartition("@")
    return not at or entry == "@" or (domain != "" and _plain(domain))


_PLAIN = {Service.DOMAIN: _plain, Service.MAILADDR: _plain_address, Service.NETADDR: lambda _entry: True}
