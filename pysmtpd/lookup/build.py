"""The tables of a configuration, made and filled while files can still be read that the jail hides."""

import time
from collections.abc import Callable
from typing import NamedTuple

from pysmtpd import VERSION
from pysmtpd.conf.config import Config
from pysmtpd.conf.config import Table as TableConf
from pysmtpd.lookup.keeper import Keeper
from pysmtpd.lookup.table import AnyTable, TableError, Tables
from pysmtpd.lookup.table_file import FileTable
from pysmtpd.lookup.table_getpwnam import GetpwnamTable
from pysmtpd.lookup.table_reload import Reloaded
from pysmtpd.lookup.table_static import StaticTable, UnknownTable
from pysmtpd.lookup.userinfo import GETPWNAM
from pysmtpd.privsep.passwd import Passwd


class Means(NamedTuple):
    """What tables need of the process they are in.

    clock: seconds of any kind that only go up.  tell: where it is said that a file cannot be used any more.  later: has
    a table read again by a thread.  keeper: starts and ends programs; without it no table has one."""

    clock: Callable[[], float] = time.monotonic
    tell: Callable[[str], None] = lambda _text: None
    later: Callable[[Reloaded], None] | None = None
    keeper: Keeper | None = None


ALONE = Means()
SOFTWARE = f"7.8.0-pysmtpd-{VERSION}"  # for table programs: what they may expect, and who we are


def build_tables(config: Config, means: Means = ALONE, *, strict: bool = True) -> Tables:
    """All tables.  Raises TableError for a file that cannot be read or has a bad line; if not strict, each look-up in
    that table will."""
    make = _table if strict else _table_or_none
    tables: list[AnyTable] = [make(table, config.sub_addr_delim, means) for table in config.tables.values()]
    if GETPWNAM not in config.tables:
        tables.append(GetpwnamTable(GETPWNAM, Passwd().find, means.clock))
    return Tables(tables, config.sub_addr_delim)


def _table_or_none(table: TableConf, delimiter: str, means: Means) -> AnyTable:
    try:
        return _table(table, delimiter, means)
    except TableError as error:
        return UnknownTable(table.name, table.backend, str(error))


def _table(table: TableConf, delimiter: str, means: Means) -> AnyTable:
    try:
        if table.backend == "getpwnam":
            return GetpwnamTable(table.name, Passwd().find, means.clock)
        if table.backend == "file":
            return FileTable(table.name, table.path, delimiter)
        if table.backend == "db":
            from pysmtpd.lookup.table_db import DbTable  # for those who have one

            return DbTable(table.name, table.path, delimiter, means.tell, means.later)
    except TableError as error:
        raise TableError(f"table {table.name}: {error}") from None
    if table.backend != "static" and means.keeper is not None:
        from pysmtpd.lookup.table_program import ProgramTable  # likewise

        return ProgramTable(table.name, table.backend, means.keeper, SOFTWARE)
    if table.backend != "static":
        return UnknownTable(table.name, table.backend, f"table {table.name}: only a daemon asks its program")
    static = StaticTable(table.name, delimiter=delimiter, at=str(table.at))
    static.fill([*((key, "") for key in table.keys), *((key, value.value) for key, value in table.pairs)])
    return static


def bad_patterns(config: Config, tables: Tables) -> list[str]:
    """Warnings about regular expressions that do not compile, in tables that rules use as such."""
    used = {criterion.table for rule in config.rules for criterion in rule.criteria if criterion.regex}
    return [
        f"warn: table {table.name}: {bad.pattern}: {bad.reason}: matches nothing"
        for table in tables
        if table.name in used and isinstance(table, StaticTable)
        for bad in table.bad_patterns()
    ]
