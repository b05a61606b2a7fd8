"""Which of many tables of domains a name is in, found at once: a configuration may have a rule for each customer.

Only tables in memory whose entries are plain names, ``*.name`` or ``*`` are here; what is not is asked by itself.
"""

from collections.abc import Iterable, Mapping

from pysmtpd.base import idn
from pysmtpd.conf.config import LOCALNAMES
from pysmtpd.lookup.order import keys_for
from pysmtpd.lookup.service import Service
from pysmtpd.lookup.table_file import FileTable
from pysmtpd.lookup.table_static import StaticTable


class DomainTables:
    """An index over the tables of numbered tests."""

    def __init__(self, tables: Mapping[int, StaticTable]) -> None:
        self._tables = tables
        self._changing = [table for table in tables.values()
                          if isinstance(table, FileTable) or table.name == LOCALNAMES]
        self._read()

    def _read(self) -> None:
        self._seen = [table.entries for table in self._changing]
        self._numbers: dict[str, list[int]] = {}
        self.known: list[int] = []     # the tests that are answered here
        for number, table in self._tables.items():
            entries = [idn.fold(entry.lower()) for entry in table.entries]
            if _plain(entries):
                self.known.append(number)
                for entry in entries:
                    self._numbers.setdefault(entry, []).append(number)

    def refresh(self) -> bool:
        """Read again what has changed.  Returns whether anything has."""
        if all(table.entries is seen for table, seen in zip(self._changing, self._seen, strict=True)):
            return False
        self._read()
        return True

    def find(self, name: str) -> Iterable[int]:
        """The tests whose table has this name, or a pattern for it."""
        for key in keys_for(Service.DOMAIN, name, ""):
            yield from self._numbers.get(key, ())


def _plain(entries: Iterable[str]) -> bool:
    return all("*" not in entry or entry == "*" or (entry.startswith("*.") and "*" not in entry[2:])
               for entry in entries)
