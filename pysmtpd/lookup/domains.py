"""Which of many tables a domain or a mail address is in, found at once: a configuration may have a rule for each
customer.

Only tables in memory whose domains are plain names, ``*.name`` or ``*`` are here; what is not is asked by itself.
"""

from collections.abc import Iterable, Mapping

from pysmtpd.base import idn
from pysmtpd.conf.config import LOCALNAMES
from pysmtpd.lookup.order import keys_for
from pysmtpd.lookup.service import Service
from pysmtpd.lookup.table_file import FileTable
from pysmtpd.lookup.table_static import StaticTable

LARGE = 5000                       # entries; a table with more is not read twice, and asked by itself


class ManyTables:
    """An index over the tables of numbered tests, which ask all of them for one service."""

    def __init__(self, service: Service, tables: Mapping[int, StaticTable], delimiter: str = "") -> None:
        """service: domain or mailaddr."""
        self._service = service
        self._delimiter = delimiter
        self._tables = tables
        self._changing = [table for table in tables.values()
                          if isinstance(table, FileTable) or table.name == LOCALNAMES]
        self._read()

    def _read(self) -> None:
        self._seen = [table.entries for table in self._changing]
        self._numbers: dict[str, list[int]] = {}
        self.known: list[int] = []     # the tests that are answered here
        for number, table in self._tables.items():
            if len(table.entries) > LARGE:
                continue
            entries = [self._folded(entry.lower()) for entry in table.entries]
            if all(map(_PLAIN[self._service], entries)):
                self.known.append(number)
                for entry in entries:
                    self._numbers.setdefault(entry, []).append(number)

    def _folded(self, entry: str) -> str:
        return entry if self._service is Service.MAILADDR and "@" not in entry else idn.fold(entry)

    def refresh(self) -> bool:
        """Read again what has changed.  Returns whether anything has."""
        if all(table.entries is seen for table, seen in zip(self._changing, self._seen, strict=True)):
            return False
        self._read()
        return True

    def find(self, name: str) -> Iterable[int]:
        """The tests whose table has this name, or a pattern for it."""
        for key in keys_for(self._service, name, self._delimiter):
            yield from self._numbers.get(key, ())


def _plain(domain: str) -> bool:
    return "*" not in domain or domain == "*" or (domain.startswith("*.") and "*" not in domain[2:])


def _plain_address(entry: str) -> bool:
    _, at, domain = entry.rpartition("@")
    return not at or entry == "@" or (domain != "" and _plain(domain))


_PLAIN = {Service.DOMAIN: _plain, Service.MAILADDR: _plain_address}
