"""Tables: what every back end offers, and the set of them that one configuration names.

A look-up ends in a value, in None when the table has no such key, or in a TableError, which always means
"not now": whoever asked fails temporarily.
"""

import enum
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from pysmtpd.base.text import vis

KEY_MAX = 1023                     # octets


class Service(enum.StrEnum):
    """What a table is asked for; it decides how keys are compared and what values mean (table(5))."""

    ALIAS = "alias"
    DOMAIN = "domain"
    CREDENTIALS = "credentials"
    NETADDR = "netaddr"
    USERINFO = "userinfo"
    SOURCE = "source"
    MAILADDR = "mailaddr"
    ADDRNAME = "addrname"
    MAILADDRMAP = "mailaddrmap"
    RELAYHOST = "relayhost"
    STRING = "string"
    REGEX = "regex"


class TableError(Exception):
    """A look-up that cannot be answered now; its text is for the log."""


class Table(Protocol):
    """A back end.  Keys come in lower case.  Each may raise TableError."""

    name: str
    backend: str

    def match(self, service: Service, key: str) -> bool:
        """Whether there is an entry for the key."""

    def lookup(self, service: Service, key: str) -> str | None:
        """The value of the entry for the key."""

    def fetch(self, service: Service) -> str | None:
        """The next entry of all, round robin."""


class Tables:
    """The tables of one configuration, by name.

    ``trace``, when set, is told each look-up in the words of ``-T lookup``.
    """

    def __init__(self, tables: Iterable[Table]) -> None:
        self._tables: Mapping[str, Table] = {table.name: table for table in tables}
        self.trace: Callable[[str], None] | None = None

    def get(self, name: str) -> Table | None:
        """One of them."""
        return self._tables.get(name)

    def __iter__(self) -> Iterator[Table]:
        return iter(self._tables.values())

    def match(self, name: str, service: Service, key: str) -> bool:
        """As Table.match; a table that does not exist is a TableError, and so is a key that is too long."""
        table, key = self._open(name, key)
        try:
            found = table.match(service, key)
        except TableError:
            self._tell("match", table, service, key, "error")
            raise
        if self.trace is not None:
            self._tell("match", table, service, key, "true" if found else "false")
        return found

    def lookup(self, name: str, service: Service, key: str) -> str | None:
        """As Table.lookup; a table that does not exist is a TableError, and so is a key that is too long."""
        table, key = self._open(name, key)
        try:
            value = table.lookup(service, key)
        except TableError:
            self._tell("lookup", table, service, key, "error")
            raise
        if self.trace is not None:
            self._tell("lookup", table, service, key, _shown(service, value))
        return value

    def fetch(self, name: str, service: Service) -> str | None:
        """As Table.fetch; a table that does not exist is a TableError."""
        table, _ = self._open(name, "")
        value = table.fetch(service)
        if self.trace is not None:
            self.trace(f"fetch {service.value} from table {table.backend}:{table.name} -> {_shown(service, value)}")
        return value

    def _open(self, name: str, key: str) -> tuple[Table, str]:
        table = self._tables.get(name)
        if table is None:
            raise TableError(f"no such table: {name}")
        if len(key) * 4 > KEY_MAX and len(key.encode()) > KEY_MAX:
            raise TableError(f"lookup key too long: {vis(key.encode()[:64])}...")
        return table, key.lower()

    def _tell(self, what: str, table: Table, service: Service, key: str, result: str) -> None:
        if self.trace is not None:
            shown = vis(key.encode())
            self.trace(f'{what} "{shown}" as {service.value} in table {table.backend}:{table.name} -> {result}')


def _shown(service: Service, value: str | None) -> str:
    if value is None:
        return "none"
    return '"..."' if service is Service.CREDENTIALS else f'"{vis(value.encode())}"'
