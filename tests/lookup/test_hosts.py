"""lookup.hosts: /etc/hosts, and files that are watched."""

from pathlib import Path

from pysmtpd.lookup.hosts import CHECKED, HostsFile, parse
from tests.lookup.made import Clock

TEXT = """
# comment
127.0.0.1  localhost loop   # the machine
::1        localhost
192.0.2.1  mx.example.org mx
192.0.2.1  again.example.org
not-an-address name
192.0.2.9
"""


def test_names_and_addresses() -> None:
    hosts = parse(TEXT)
    assert hosts.addresses["localhost"] == ["127.0.0.1", "::1"]
    assert hosts.addresses["mx"] == ["192.0.2.1"]
    assert hosts.name("192.0.2.1") == "mx.example.org"
    assert hosts.name("0:0::1") == "localhost"
    assert hosts.name("192.0.2.9") is None
    assert "name" not in hosts.addresses


def test_a_change_is_seen_within_a_second(tmp_path: Path) -> None:
    path, clock = tmp_path / "hosts", Clock()
    file = HostsFile(clock, str(path))
    assert file.hosts().name("192.0.2.1") is None
    path.write_text("192.0.2.1 a.example\n")
    assert file.hosts().name("192.0.2.1") is None
    clock.now += CHECKED
    assert file.hosts().name("192.0.2.1") == "a.example"
    version = file.version
    clock.now += CHECKED
    file.hosts()
    assert file.version == version
    path.unlink()
    clock.now += CHECKED
    assert file.hosts().name("192.0.2.1") is None
    assert file.version == version + 1


def test_octets_of_any_kind_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_bytes(b"192.0.2.1 \xff\xfe\n\x00\n192.0.2.2 good\n")
    assert HostsFile(Clock(), str(path)).hosts().name("192.0.2.2") == "good"
