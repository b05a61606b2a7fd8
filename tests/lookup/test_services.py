"""lookup.services: what mta looks up in tables."""

import pytest

from pysmtpd.lookup.services import look_up
from pysmtpd.lookup.table import TableError, Tables
from tests.lookup.made import DownTable, static

TABLES = Tables([
    static("hosts", "smtp://a.example", "smtp://b.example"),
    static("domains", **{"example.org": "smtp://relay.example"}),
    static("sources", "192.0.2.1", "[IPv6:2001:db8::1]"),
    static("bad-sources", "mx.example"),
    static("names", **{"192.0.2.1": "mx1.example.org", "[2001:db8::1]": "mx2.example.org", "::9": "mx9.example.org",
                       "192.0.2.9": "bad name"}),
    static("secrets", label="user:pass:word", bob="password", empty="user:", short="ab", lines="user:a\nb"),
    static("nothing"),
    DownTable("down"),
])


@pytest.mark.parametrize("service, table, key, value", [
    ("relayhost", "domains", "Example.org", "smtp://relay.example"),
    ("relayhost", "domains", "a.example.org", None),
    ("relayhost", "nothing", "", None),
    ("source", "nothing", "", None),
    ("addrname", "names", "192.0.2.1", "mx1.example.org"),
    ("addrname", "names", "2001:db8::1", "mx2.example.org"),
    ("addrname", "names", "[2001:db8::1]", "mx2.example.org"),
    ("addrname", "names", "[::9]", "mx9.example.org"),
    ("addrname", "names", "192.0.2.2", None),
    ("credentials", "secrets", "label", "AHVzZXIAcGFzczp3b3Jk"),
    ("credentials", "secrets", "Bob", "AGJvYgBwYXNzd29yZA=="),
    ("credentials", "secrets", "nobody", None),
])
def test_a_look_up(service: str, table: str, key: str, value: str | None) -> None:
    assert look_up(TABLES, service, table, key) == value


def test_smarthosts_and_sources_take_turns() -> None:
    assert [look_up(TABLES, "relayhost", "hosts", "") for _ in range(3)] == [
        "smtp://a.example", "smtp://b.example", "smtp://a.example"]
    assert [look_up(TABLES, "source", "sources", "") for _ in range(2)] == ["192.0.2.1", "2001:db8::1"]


@pytest.mark.parametrize("service, table, key", [
    ("source", "bad-sources", ""),
    ("addrname", "names", "192.0.2.9"),
    ("credentials", "secrets", "empty"),
    ("credentials", "secrets", "short"),
    ("credentials", "secrets", "lines"),
    ("relayhost", "down", ""),
    ("relayhost", "gone", ""),
])
def test_what_is_wrong_fails_for_now_and_shows_no_secret(service: str, table: str, key: str) -> None:
    with pytest.raises(TableError) as caught:
        look_up(TABLES, service, table, key)
    assert "user" not in str(caught.value)
