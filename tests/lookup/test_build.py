"""lookup.build: the table of each back end."""

from pathlib import Path
from typing import Any, cast

import pytest

from pysmtpd.conf.config import Config, Position, Secret, Table
from pysmtpd.lookup.build import Means, build_tables
from pysmtpd.lookup.service import Service, TableError
from pysmtpd.lookup.table_db import DbTable
from pysmtpd.lookup.table_program import ProgramTable
from pysmtpd.lookup.table_static import StaticTable
from tests.conf.machine import read


def config(*tables: Table) -> Config:
    return Config(hostname="mx.example.org", tables={table.name: table for table in tables})


def test_entries_in_place_know_where_they_stand() -> None:
    at = Position("smtpd.conf", 3, 7)
    table = build_tables(config(Table(name="t", pairs=(("Root", Secret("bob")),), at=at))).get("t")
    assert isinstance(table, StaticTable)
    assert table.lookup(Service.ALIAS, "root") == "bob" and table.where("root") == "smtpd.conf:3:7"


def test_a_program_is_asked_by_a_daemon_only() -> None:
    made = config(Table(name="t", backend="sqlite", path="/etc/c"))
    keeper: Any = cast(Any, object())
    assert isinstance(build_tables(made, Means(keeper=keeper)).get("t"), ProgramTable)
    with pytest.raises(TableError, match=r"^table t: only a daemon asks its program$"):
        build_tables(made).match("t", Service.DOMAIN, "example.org")


@pytest.mark.parametrize("backend", ["file", "db"])
def test_a_file_that_cannot_be_used_is_named_with_its_table(backend: str, tmp_path: Path) -> None:
    made = config(Table(name="t", backend=backend, path=str(tmp_path / "none")))
    with pytest.raises(TableError, match=r"^table t: .*/none: No such file"):
        build_tables(made)
    with pytest.raises(TableError, match=r"^table t: .*/none: No such file"):
        build_tables(made, strict=False).match("t", Service.DOMAIN, "example.org")


def test_a_map_of_opensmtpd() -> None:
    path = Path(__file__).parent.parent / "maps/data/libdb53-hash.db"
    assert isinstance(build_tables(config(Table(name="t", backend="db", path=str(path)))).get("t"), DbTable)


def test_a_configuration_of_a_program_that_is_missing_is_warned_of() -> None:
    loaded = read('table t sqlite:/etc/none\naction a mbox\nmatch for domain <t> action a\n')
    assert loaded.errors == []
    assert any("/etc/none: No such file or directory" in str(warning) for warning in loaded.warnings)
