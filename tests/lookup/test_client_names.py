"""The names of clients, as they are kept."""

from pathlib import Path

import pytest

from pysmtpd.lookup import client_names
from pysmtpd.lookup.client_names import KEPT, ClientNames
from pysmtpd.lookup.hosts import HostsFile
from pysmtpd.lookup.records import Records, Status
from pysmtpd.messages import Fcrdns
from tests.lookup.made import Clock, run


class Asked:
    """A resolver that counts."""

    def __init__(self) -> None:
        self.count = 0

    async def reverse(self, address: str) -> Records:
        self.count += 1
        assert "%" not in address
        return Records(Status.FOUND, ("mx.example.com",))

    async def addresses(self, name: str) -> Records:
        return Records(Status.FOUND, ("192.0.2.7", "fe80::1"))


def test_a_name_is_kept_for_a_while(tmp_path: Path) -> None:
    clock = Clock()
    names, asked = ClientNames(HostsFile(clock, str(tmp_path / "hosts")), clock), Asked()
    assert names.known("192.0.2.7") is None
    found = run(names.ask(asked, "192.0.2.7"))
    assert (found.hostname, found.fcrdns) == ("mx.example.com", Fcrdns.PASS)
    clock.now += KEPT - 1
    assert names.known("192.0.2.7") == found
    clock.now += 2
    assert names.known("192.0.2.7") is None


def test_an_address_with_a_scope_is_kept_under_it(tmp_path: Path) -> None:
    clock = Clock()
    names = ClientNames(HostsFile(clock, str(tmp_path / "hosts")), clock)
    assert names.known("fe80::1%eth0") is None
    run(names.ask(Asked(), "fe80::1%eth0"))
    assert names.known("fe80::1%eth0") is not None and names.known("fe80::1") is None


def test_no_more_names_are_kept_than_allowed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(client_names, "NAMES_MAX", 2)
    clock = Clock()
    names = ClientNames(HostsFile(clock, str(tmp_path / "hosts")), clock)
    for address in ("192.0.2.1", "192.0.2.2", "192.0.2.3"):
        assert names.known(address) is None
        run(names.ask(Asked(), address))
    assert len(names) == 2 and names.known("192.0.2.1") is None and names.known("192.0.2.3") is not None


def test_another_hosts_file_forgets_them(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "hosts"
    names = ClientNames(HostsFile(clock, str(path)), clock)
    assert names.known("192.0.2.7") is None
    run(names.ask(Asked(), "192.0.2.7"))
    assert names.known("192.0.2.7") is not None
    path.write_text("192.0.2.7 other.example.com\n")
    clock.now += 20
    assert names.known("192.0.2.7") is None
