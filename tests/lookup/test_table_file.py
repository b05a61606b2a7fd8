"""lookup.table_file: tables in text files."""

import os
from pathlib import Path

import pytest

from pysmtpd.lookup.table import Service, TableError
from pysmtpd.lookup.table_file import FileTable


def test_a_file_that_went_wrong_keeps_the_last_good_content(tmp_path: Path) -> None:
    path = tmp_path / "aliases"
    path.write_text("root bob\n")
    table = FileTable("aliases", str(path))
    path.write_text("root\n")
    with pytest.raises(TableError, match="aliases:1 invalid map entry"):
        table.reload()
    assert table.lookup(Service.ALIAS, "root") == "bob"
    path.unlink()
    with pytest.raises(TableError, match="No such file"):
        table.reload()
    assert table.lookup(Service.ALIAS, "root") == "bob"
    path.write_text("root alice\n")
    table.reload()
    assert table.lookup(Service.ALIAS, "root") == "alice"


def test_octets_that_are_not_utf8_may_stand_in_comments_only(tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_bytes(b"# Gr\xfc\xdfe\na b\n")
    table = FileTable("t", str(path))
    assert table.lookup(Service.ALIAS, "a") == "b"
    path.write_bytes(b"a b\nc \xfc\n")
    with pytest.raises(TableError, match=":2 is not UTF-8"):
        table.reload()


def test_an_entry_is_found_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "aliases"
    path.write_text("# c\nroot bob\nRoot alice\nbob carol\n")
    table = FileTable("aliases", str(path))
    assert table.where("root") == f"{path}:3"
    assert table.where("BOB") == f"{path}:4"
    assert table.where("nobody") == str(path)


def test_new_content_is_indexed_before_it_is_installed(tmp_path: Path) -> None:
    path = tmp_path / "domains"
    path.write_text("*.example.org\n")
    table = FileTable("domains", str(path))
    assert table.match(Service.DOMAIN, "a.example.org")
    path.write_text("*.example.net\n")
    held = table.read()
    assert set(held.finders) == {Service.DOMAIN}
    assert table.match(Service.DOMAIN, "a.example.org")
    table.install(held)
    assert table.match(Service.DOMAIN, "a.example.net") and not table.match(Service.DOMAIN, "a.example.org")


def test_a_fifo_in_place_of_a_table_is_refused_and_nobody_waits_for_it(tmp_path: Path) -> None:
    path = tmp_path / "table"
    path.write_text("bob: carol\n")
    table = FileTable("table", str(path))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(TableError, match="table: not a regular file"):
        table.reload()
    assert table.lookup(Service.ALIAS, "bob") == "carol"
