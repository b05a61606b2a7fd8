"""The machine that smtpd.conf is read on, and the sample that comes with us."""

import os
import socket
from pathlib import Path

import pytest

from pysmtpd.conf.config import Method
from pysmtpd.conf.load import load
from pysmtpd.privsep import source as source_module
from pysmtpd.privsep.interfaces import getifaddrs
from pysmtpd.privsep.source import SystemSource

SAMPLE = Path(__file__).parents[2] / "etc" / "smtpd.conf.sample"


def test_the_loopback_interface_has_its_address() -> None:
    assert "127.0.0.1" in [address for _, address in getifaddrs()]
    interfaces = SystemSource().interfaces()
    assert interfaces == SystemSource().interfaces()
    for name, addresses in interfaces.items():
        assert name
        for address in addresses:
            bare, _, scope = address.partition("%")
            socket.inet_pton(socket.AF_INET6 if ":" in bare else socket.AF_INET, bare)
            assert bool(scope) == bare.startswith("fe80:")


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "a.conf"
    path.write_bytes(b"0123456789")
    path.chmod(0o640)
    source = SystemSource()
    assert source.read(str(path)) == b"0123456789"
    assert source.read(str(path), 4) == b"0123"
    assert source.stat(str(path)) == (os.geteuid(), 0o640, True)
    assert not source.stat(str(tmp_path)).is_file
    (tmp_path / "b.conf").touch()
    assert source.glob(f"{tmp_path}/*.conf") == [str(path), str(tmp_path / "b.conf")]
    with pytest.raises(FileNotFoundError):
        source.read(str(tmp_path / "none"))
    assert source.read(os.devnull) == b""
    with pytest.raises(OSError, match="Not a regular file"):
        source.read("/dev/zero")
    with pytest.raises(IsADirectoryError):
        source.read(str(tmp_path))


def hosts(tmp_path: Path, text: str) -> SystemSource:
    path = tmp_path / "hosts"
    path.write_text(text)
    return SystemSource(hosts=str(path))


def test_names_come_from_the_hosts_file(tmp_path: Path) -> None:
    source = hosts(tmp_path, "# comment\n127.0.0.1 localhost # loop\n::1\tLocalhost\n\n192.0.2.1 a.example a\nbroken\n")
    assert source.resolve("localhost") == ["127.0.0.1", "::1"]
    assert source.resolve("A") == ["192.0.2.1"]
    assert source.resolve("comment") is None
    assert source.resolve("b.example") is None
    assert SystemSource(hosts=str(tmp_path / "none")).resolve("a") is None


def test_a_check_asks_no_resolver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def getaddrinfo(name: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        asked.append(name)
        return [(2, 1, 6, "b.example.org", ("192.0.2.9", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(socket, "gethostname", lambda: "b")
    monkeypatch.setattr(source_module, "MAILNAME_FILES", ())
    assert hosts(tmp_path, "").resolve("b.example") is None
    assert hosts(tmp_path, "").hostname() == "b"
    assert asked == []
    network = SystemSource(network=True, hosts=str(tmp_path / "hosts"))
    assert network.resolve("b.example") == ["192.0.2.9"]
    assert network.hostname() == "b.example.org"
    assert asked == ["b.example", "b"]


def test_the_name_of_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mailname = tmp_path / "mailname"
    monkeypatch.setattr(source_module, "MAILNAME_FILES", (str(tmp_path / "none"), str(mailname)))
    monkeypatch.setattr(socket, "gethostname", lambda: "short")
    source = hosts(tmp_path, "192.0.2.1 short short.example.org\n")
    assert source.hostname() == "short.example.org"
    monkeypatch.setattr(socket, "gethostname", lambda: "long.example.org")
    assert source.hostname() == "long.example.org"
    mailname.write_text("mail.example.org\nsecond line\n")
    assert source.hostname() == "mail.example.org"
    mailname.write_text("\n")
    assert source.hostname() == ""


@pytest.mark.parametrize(("kind", "names", "known"), [
    ("ciphers", "HIGH:!aNULL", True), ("ciphers", "secure", True), ("ciphers", "TLS_AES_128_GCM_SHA256", True),
    ("ciphers", "nonsense", False), ("ciphers", "TLS_nonsense", False), ("ciphers", "HIGH:!ALL", False),
    ("curves", "X25519:P-256", True), ("curves", "x25519, secp384r1", True), ("curves", "P-256:nonsense", False),
    ("curves", "", False),
])
def test_openssl_knows_its_own_words(kind: str, names: str, known: bool) -> None:
    assert SystemSource().knows(kind, names) is known


def test_services() -> None:
    source = SystemSource()
    assert source.service("smtp") == 25
    assert source.service("smtps") == 465
    assert source.service("no such service") is None
    assert source.service("\udcff") is None
    assert source.service("a\0b") is None


@pytest.mark.parametrize("delivery", ["", 'maildir "~/Maildir"', 'maildir "/tmp/%{user.username}"'])
def test_the_sample_loads(delivery: str) -> None:
    macros = {"smtp_port": "2626", "delivery": delivery} if delivery.startswith("maildir") else {}
    found = load(str(SAMPLE), SystemSource(), macros, unprivileged_user="joe", state_dir="/state")
    assert [str(one) for one in [*found.errors, *found.warnings]] == []
    assert found.not_in_effect == []
    assert found.config is not None
    assert [(one.address, one.port) for one in found.config.listeners] == [
        ("socket", 0), ("127.0.0.1", 2626 if macros else 2525)]
    assert found.config.actions["local"].method is (Method.MAILDIR if macros else Method.MBOX)
