"""``sqlite:/etc/mail/sqlite.conf``: tables in an SQLite database, with the settings of OpenSMTPD's table-sqlite.

    dbpath /etc/mail/smtp.sqlite
    query_alias SELECT destination FROM virtuals WHERE email = ?
    query_credentials SELECT email, password FROM credentials WHERE email = ?
    query_userinfo SELECT uid, gid, home FROM users WHERE name = ?
    fetch_source SELECT address FROM sources

A service is there when its query is.  Aliases and mailaddrmap take all rows, the others the first.  The database is
opened when it is first needed, only to be read, and again after an error.
"""

import sqlite3
import sys
from typing import NoReturn

from pysmtpd.tables.program import Failed, read_config, run

# Services by their setting, and how many columns each query has.
QUERIES = {
    "query_alias": ("alias", 1), "query_domain": ("domain", 1), "query_credentials": ("credentials", 2),
    "query_netaddr": ("netaddr", 1), "query_userinfo": ("userinfo", 3), "query_source": ("source", 1),
    "query_mailaddr": ("mailaddr", 1), "query_addrname": ("addrname", 1), "query_mailaddrmap": ("mailaddrmap", 1),
    "query_relayhost": ("relayhost", 1), "query_string": ("string", 1),
}
FETCHES = {"fetch_source": "source", "fetch_relayhost": "relayhost"}
IGNORED = ("fetch_source_expire", "fetch_source_refresh")  # entries are fetched anew whenever all were given
LISTS = ("alias", "mailaddrmap")
ROWS_MAX = 1000                    # of one key
ENTRIES_MAX = 100_000              # of one fetch
BUSY_TIMEOUT = 3.0                 # seconds that a writer may hold the database


class Settings:
    """A configuration file."""

    def __init__(self, path: str) -> None:
        """Raises Failed."""
        self.dbpath = ""
        self.queries: dict[str, tuple[str, int]] = {}
        self.fetches: dict[str, str] = {}
        for number, key, value in read_config(path):
            if key == "dbpath":
                self.dbpath = value
            elif key in QUERIES:
                service, columns = QUERIES[key]
                self.queries[service] = (value, columns)
            elif key in FETCHES:
                self.fetches[FETCHES[key]] = value
            elif key not in IGNORED:
                raise Failed(f"{path}:{number}: nothing is named {key}; there is dbpath, "
                             f"{', '.join((*QUERIES, *FETCHES))}")
        if not self.dbpath:
            raise Failed(f"{path}: no dbpath")
        if not self.queries and not self.fetches:
            raise Failed(f"{path}: no query")


class Sqlite:
    """The back end."""

    def __init__(self, path: str) -> None:
        """Raises Failed."""
        self._path = path
        self._settings = Settings(path)
        self._connection: sqlite3.Connection | None = None
        self._entries: dict[str, list[str]] = {}

    def services(self) -> list[str]:
        return sorted({*self._settings.queries, *self._settings.fetches})

    def update(self) -> None:
        settings, before = Settings(self._path), self.services()
        self._settings = settings
        self._close()
        self._entries.clear()
        if set(self.services()) - set(before):
            raise Failed(f"{self._path}: a service that was added is known after a restart only")
        self._database()

    def lookup(self, service: str, key: str) -> str | None:
        query = self._settings.queries.get(service)
        if query is None:
            raise Failed(f"no query_{service} in {self._path}")
        text, columns = query
        rows = self._ask(text, (key,) * text.count("?"), ROWS_MAX if service in LISTS else 1)
        if not rows:
            return None
        if len(rows[0]) != columns:
            raise Failed(f"query_{service} gives {len(rows[0])} columns, and {columns} are needed")
        values = [":".join(_text(column) for column in row) for row in rows]
        return ", ".join(value for value in values if value) or None

    def fetch(self, service: str) -> str | None:
        """One after the other; when all were given the query is asked again."""
        left = self._entries.get(service)
        if not left:
            query = self._settings.fetches.get(service)
            if query is None:
                raise Failed(f"no fetch_{service} in {self._path}")
            rows = self._ask(query, (), ENTRIES_MAX)
            left = self._entries[service] = [_text(row[0]) for row in reversed(rows)]
        return left.pop() if left else None

    def _ask(self, query: str, parameters: tuple[str, ...], most: int) -> list[tuple[object, ...]]:
        try:
            return self._database().execute(query, parameters).fetchmany(most)
        except (sqlite3.Error, sqlite3.Warning, UnicodeError) as error:
            self._close()
            raise Failed(f"{self._settings.dbpath}: {error}") from None

    def _database(self) -> sqlite3.Connection:
        if self._connection is None:
            try:
                uri = "file:" + _quoted(self._settings.dbpath) + "?mode=ro"
                self._connection = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT, isolation_level=None)
                self._connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
            except sqlite3.Error as error:
                self._close()
                raise Failed(f"{self._settings.dbpath}: {error}") from None
        return self._connection

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _quoted(path: str) -> str:
    return "".join(char if char not in "%?#" else f"%{ord(char):02x}" for char in path)


def _text(value: object) -> str:
    return "" if value is None else value.decode() if isinstance(value, bytes) else str(value)


def main(arguments: list[str]) -> NoReturn:
    """arguments: the path of the configuration."""
    try:
        backend = Sqlite(arguments[0])
    except Failed as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(1)
    run(backend)
