"""The tables of a configuration, made and filled while files can still be read that the jail hides."""

import time
from collections.abc import Callable

from pysmtpd.conf.config import Config
from pysmtpd.conf.config import Table as TableConf
from pysmtpd.lookup.table import AnyTable, TableError, Tables
from pysmtpd.lookup.table_file import FileTable
from pysmtpd.lookup.table_getpwnam import GetpwnamTable, Passwd
from pysmtpd.lookup.table_static import StaticTable, UnknownTable
from pysmtpd.lookup.userinfo import GETPWNAM


def build_tables(config: Config, clock: Callable[[], float] = time.monotonic, *, strict: bool = True) -> Tables:
    """All tables.  Raises TableError for a file that cannot be read or has a bad line; if not strict, each look-up in
    that table will."""
    make = _table if strict else _table_or_none
    tables: list[AnyTable] = [make(table, config.sub_addr_delim, clock) for table in config.tables.values()]
    if GETPWNAM not in config.tables:
        tables.append(GetpwnamTable(GETPWNAM, Passwd().find, clock))
    return Tables(tables, config.sub_addr_delim)


def _table_or_none(table: TableConf, delimiter: str, clock: Callable[[], float]) -> AnyTable:
    try:
        return _table(table, delimiter, clock)
    except TableError as error:
        return UnknownTable(table.name, table.backend, str(error))


def _table(table: TableConf, delimiter: str, clock: Callable[[], float]) -> AnyTable:
    if table.backend == "getpwnam":
        return GetpwnamTable(table.name, Passwd().find, clock)
    if table.backend not in ("static", "file"):
        return UnknownTable(table.name, table.backend)
    if not table.path:
        static = StaticTable(table.name, delimiter=delimiter)
        static.fill([*((key, "") for key in table.keys), *((key, value.value) for key, value in table.pairs)])
        return static
    file = FileTable(table.name, table.path, None, delimiter)
    try:
        file.reload()
    except TableError as error:
        raise TableError(f"table {table.name}: {error}") from None
    return file


def bad_patterns(config: Config, tables: Tables) -> list[str]:
    """Warnings about regular expressions that do not compile, in tables that rules use as such."""
    used = {criterion.table for rule in config.rules for criterion in rule.criteria if criterion.regex}
    return [
        f"warn: table {table.name}: {bad.pattern}: {bad.reason}: matches nothing"
        for table in tables
        if table.name in used and isinstance(table, StaticTable)
        for bad in table.bad_patterns()
    ]
