"""Tables: what every back end offers, and the set of them that one configuration names.

A look-up ends in a value, in None when the table has no such key, or in a TableError, which always means
"not now": whoever asked fails temporarily.  A back end that takes time is a SlowTable; whoever asks it gets Pending.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from pysmtpd.base.text import vis
from pysmtpd.lookup.memo import Memo
from pysmtpd.lookup.service import Service, TableError
from pysmtpd.lookup.table_slow import SlowTable

__all__ = ["KEY_MAX", "AnyTable", "Service", "Table", "TableError", "Tables"]

KEY_MAX = 1023                     # octets


class Table(Protocol):
    """A back end that answers at once, and compares keys itself.  Keys come in lower case.  Each may raise
    TableError."""

    name: str
    backend: str

    def match(self, service: Service, key: str) -> bool:
        """Whether there is an entry for the key."""

    def lookup(self, service: Service, key: str) -> str | None:
        """The value of the entry for the key."""

    def fetch(self, service: Service) -> str | None:
        """The next entry of all, round robin."""


AnyTable = Table | SlowTable


class Tables:
    """The tables of one configuration, by name.

    ``trace``, when set, is told each look-up in the words of ``-T lookup``.  A look-up in a SlowTable finds its
    answer in ``memo``, or raises Pending.
    """

    def __init__(self, tables: Iterable[AnyTable], delimiter: str = "+") -> None:
        self._tables: Mapping[str, AnyTable] = {table.name: table for table in tables}
        self.delimiter = delimiter
        self.trace: Callable[[str], None] | None = None

    def get(self, name: str) -> AnyTable | None:
        """One of them."""
        return self._tables.get(name)

    def __iter__(self) -> Iterator[AnyTable]:
        return iter(self._tables.values())

    def match(self, name: str, service: Service, key: str, memo: Memo | None = None) -> bool:
        """As Table.match; a table that does not exist is a TableError, and so is a key that is too long."""
        table, key = self._open(name, key)
        memo = memo if memo is not None else Memo()
        try:
            if isinstance(table, SlowTable):
                found = table.match(service, key, memo, self.delimiter)
            else:
                found = table.match(service, key)
        except TableError:
            self._tell("match", table, service, key, "error", memo)
            raise
        if self.trace is not None:
            self._tell("match", table, service, key, "true" if found else "false", memo)
        return found

    def lookup(self, name: str, service: Service, key: str, memo: Memo | None = None) -> str | None:
        """As Table.lookup; a table that does not exist is a TableError, and so is a key that is too long."""
        table, key = self._open(name, key)
        memo = memo if memo is not None else Memo()
        try:
            if isinstance(table, SlowTable):
                value = table.lookup(service, key, memo, self.delimiter)
            else:
                value = table.lookup(service, key)
        except TableError:
            self._tell("lookup", table, service, key, "error", memo)
            raise
        if self.trace is not None:
            self._tell("lookup", table, service, key, _shown(service, value), memo)
        return value

    def first(self, name: str, service: Service, keys: Sequence[str], memo: Memo | None = None,
              ) -> tuple[str, str] | None:
        """The first of several exact keys that the table has, with its value.  A slow table is asked for all of
        them at once."""
        memo = memo if memo is not None else Memo()
        table = self._tables.get(name)
        if isinstance(table, SlowTable):
            table.expect(service, [self._open(name, key)[1] for key in keys], memo)
        for key in keys:
            value = self.lookup(name, service, key, memo)
            if value is not None:
                return key, value
        return None

    def fetch(self, name: str, service: Service, memo: Memo | None = None) -> str | None:
        """As Table.fetch; a table that does not exist is a TableError."""
        table, _ = self._open(name, "")
        if isinstance(table, SlowTable):
            value = table.fetch(service, memo if memo is not None else Memo())
        else:
            value = table.fetch(service)
        if self.trace is not None:
            self.trace(f"fetch {service.value} from table {table.backend}:{table.name} -> {_shown(service, value)}")
        return value

    def _open(self, name: str, key: str) -> tuple[AnyTable, str]:
        table = self._tables.get(name)
        if table is None:
            raise TableError(f"no such table: {name}")
        if len(key) * 4 > KEY_MAX and len(key.encode()) > KEY_MAX:
            raise TableError(f"lookup key too long: {vis(key.encode()[:64])}...")
        return table, key.lower()

    def _tell(self, what: str, table: AnyTable, service: Service, key: str, result: str, memo: Memo) -> None:
        if self.trace is None:
            return
        line = f'{what} "{vis(key.encode())}" as {service.value} in table {table.backend}:{table.name} -> {result}'
        if isinstance(table, SlowTable):
            if line in memo.told:
                return
            memo.told.add(line)
        self.trace(line)


def _shown(service: Service, value: str | None) -> str:
    if value is None:
        return "none"
    return '"..."' if service in (Service.CREDENTIALS, Service.AUTH) else f'"{vis(value.encode())}"'
