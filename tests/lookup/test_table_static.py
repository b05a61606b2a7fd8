"""lookup.table, lookup.table_static: entries in memory, and the set of all tables."""

import pytest

from pysmtpd.lookup.table import Service, TableError, Tables
from pysmtpd.lookup.table_static import StaticTable, UnknownTable
from tests.lookup.made import DownTable, static


def test_a_mapping_gives_values_and_folds_keys() -> None:
    table = StaticTable("t")
    table.fill([("Root", "Bob")])
    assert table.lookup(Service.ALIAS, "root") == "Bob"
    assert table.lookup(Service.ALIAS, "bob") is None
    assert table.match(Service.STRING, "root")


def test_of_equal_keys_the_last_counts() -> None:
    table = StaticTable("t")
    table.fill([("a", "1"), ("A", "2")])
    assert table.lookup(Service.ALIAS, "a") == "2"


def test_the_service_decides_how_keys_are_compared() -> None:
    table = static("t", "*.example.org", "10.0.0.0/8", "@example.com")
    assert table.match(Service.DOMAIN, "a.example.org")
    assert not table.match(Service.STRING, "a.example.org")
    assert table.match(Service.NETADDR, "10.1.2.3")
    assert table.match(Service.MAILADDR, "x@example.com")


def test_new_content_replaces_the_old_in_every_way_of_asking() -> None:
    table = static("t", "*.old.example")
    assert table.match(Service.DOMAIN, "a.old.example")
    table.fill([("*.new.example", "")])
    assert not table.match(Service.DOMAIN, "a.old.example")
    assert table.match(Service.DOMAIN, "a.new.example")


def test_fetch_goes_round_in_order() -> None:
    table = static("t", "c", "a", "b")
    assert [table.fetch(Service.RELAYHOST) for _ in range(4)] == ["a", "b", "c", "a"]
    assert static("empty").fetch(Service.SOURCE) is None


def test_keys_are_folded_before_they_reach_a_table() -> None:
    tables = Tables([static("t", root="bob")])
    assert tables.lookup("t", Service.ALIAS, "ROOT") == "bob"


def test_a_table_that_does_not_exist_fails_for_now() -> None:
    with pytest.raises(TableError, match="no such table: t"):
        Tables([]).match("t", Service.STRING, "x")


def test_a_back_end_that_does_not_exist_fails_for_now() -> None:
    tables = Tables([UnknownTable("t", "ldap")])
    with pytest.raises(TableError, match="backend ldap does not exist"):
        tables.lookup("t", Service.ALIAS, "x")


def test_a_key_that_is_too_long_fails_and_is_shown_as_one_line() -> None:
    with pytest.raises(TableError, match=r"^lookup key too long: \\n") as caught:
        Tables([static("t")]).match("t", Service.STRING, "\n" + "é" * 512)
    assert str(caught.value).isascii()


def test_look_ups_are_traced_in_the_words_of_smtpd() -> None:
    lines: list[str] = []
    tables = Tables([static("t", root="bob"), DownTable("d")])
    tables.trace = lines.append
    tables.lookup("t", Service.ALIAS, "root")
    tables.lookup("t", Service.ALIAS, "none")
    tables.match("t", Service.STRING, "root")
    tables.lookup("t", Service.CREDENTIALS, "root")
    with pytest.raises(TableError):
        tables.match("d", Service.STRING, "x")
    assert lines == [
        'lookup "root" as alias in table static:t -> "bob"',
        'lookup "none" as alias in table static:t -> none',
        'match "root" as string in table static:t -> true',
        'lookup "root" as credentials in table static:t -> "..."',
        'match "x" as string in table proc:d -> error',
    ]
