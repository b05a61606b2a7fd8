"""Certificates that are replaced while the daemon runs."""

import datetime
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trustme

from pysmtpd.base.logline import Level
from pysmtpd.conf.config import Config, Listener, Pki, Tls
from pysmtpd.messages import SetupFile
from pysmtpd.privsep.keyfiles import Watch
from pysmtpd.privsep.server_tls import DAY, ServerTls
from pysmtpd.privsep.tls import TlsError, TlsLayer
from pysmtpd.privsep.tls_context import client_context
from tests.support.certificates import ca_of, pem_of, shake, write_pair

AUTHORITY = trustme.CA()
OTHER = trustme.CA()
NAME = "mx.example.org"


class House:
    """One listener with a certificate, one without, and one that verifies its clients."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.lines: list[str] = []
        self.tls = ServerTls()
        listeners = (
            Listener(address="127.0.0.1", port=25, pki=("mx",), tls=Tls.OFFERED),
            Listener(address="127.0.0.1", port=26),
            Listener(address="127.0.0.1", port=27, pki=("mx",), tls=Tls.SMTPS, tls_verify=True, ca="ours"),
        )
        self.config = Config(hostname=NAME, listeners=listeners, pkis={"mx": Pki(name="mx")})

    def hand(self, kind: str, name: str, data: bytes) -> None:
        path = self.directory / "handed"
        path.write_bytes(data)
        peer = cast(Any, SimpleNamespace(claim_fd=lambda: os.open(path, os.O_RDONLY)))
        self.tls.files.take(peer, SetupFile(kind, name))

    def hand_pair(self, pem: tuple[bytes, bytes]) -> None:
        self.hand("cert", "mx", pem[0])
        self.hand("key", "mx", pem[1])

    def start(self, pem: tuple[bytes, bytes]) -> None:
        self.hand_pair(pem)
        self.hand("ca", "ours", AUTHORITY.cert_pem.bytes())
        self.tls.prepare(self.config)

    def say(self, line: str, _level: Level) -> None:
        self.lines.append(line)

    def shows(self, authority: trustme.CA) -> bool:
        """Whether the first listener shows a certificate of this authority."""
        layer = TlsLayer(client_context(verify=True, ca=ca_of(authority)), server=False, name=NAME)
        try:
            shake(layer, TlsLayer(self.tls.contexts[0], server=True))
        except TlsError:
            return False
        return True


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_new_certificates_are_for_new_connections(house: House) -> None:
    house.start(pem_of(AUTHORITY, NAME))
    assert house.tls.contexts.keys() == {0, 2}
    old = house.tls.contexts[0]
    house.hand_pair(pem_of(OTHER, NAME))
    house.tls.renew(house.say)
    assert house.shows(OTHER) and house.tls.contexts[0] is not old
    assert [line.partition(", valid")[0] for line in house.lines] == [
        "info: smtp: pki mx: the new certificate is in use"]


@pytest.mark.parametrize("wrong", ["mixed", "garbage", "empty"])
def test_a_pair_that_is_none_changes_nothing(house: House, wrong: str) -> None:
    house.start(pem_of(AUTHORITY, NAME))
    new, key = pem_of(OTHER, NAME), pem_of(OTHER, NAME)[1]
    house.hand_pair({"mixed": (new[0], key), "garbage": (new[0], b"\0" * 100), "empty": (b"", b"")}[wrong])
    house.tls.renew(house.say)
    assert house.shows(AUTHORITY) and not house.shows(OTHER)
    assert len(house.lines) == 1 and house.lines[0].endswith("; the certificate in use stays")
    house.hand_pair(new)
    house.tls.renew(house.say)
    assert house.shows(OTHER)


def test_what_the_parent_could_not_open_stays(house: House) -> None:
    house.start(pem_of(AUTHORITY, NAME))
    house.tls.renew(house.say)
    assert house.shows(AUTHORITY) and house.lines == []


def test_a_new_ca_is_believed(house: House) -> None:
    house.start(pem_of(AUTHORITY, NAME))
    pair = pem_of(OTHER, "client.example.org")
    house.hand("ca", "ours", OTHER.cert_pem.bytes())
    house.tls.renew(house.say)
    from pysmtpd.privsep.tls_context import load_pair

    shake(TlsLayer(client_context(verify=False, pair=load_pair(*pair)), server=False),
          TlsLayer(house.tls.contexts[2], server=True))


def test_no_octet_of_a_file_is_kept(house: House) -> None:
    house.start(pem_of(AUTHORITY, NAME))
    assert not house.tls.files._files
    house.hand_pair(pem_of(AUTHORITY, NAME))
    house.tls.renew(house.say)
    assert not house.tls.files._files


def test_a_bad_pair_at_the_start_says_which(house: House) -> None:
    with pytest.raises(TlsError, match="pki mx: the certificate and the key do not belong together"):
        house.start((pem_of(AUTHORITY, NAME)[0], pem_of(AUTHORITY, NAME)[1]))


def test_an_end_is_announced(house: House) -> None:
    end = datetime.datetime(2030, 1, 20, 12, tzinfo=datetime.UTC)
    house.start(pem_of(AUTHORITY, NAME, until=end))
    now = int(end.timestamp())
    assert house.tls.expiries == {"mx": now}
    for before in (15 * DAY, 13 * DAY, 60, -60):
        house.tls.warn(now - before, house.say)
    assert house.lines == [
        "warn: smtp: pki mx: the certificate expires on 2030-01-20, in 13 days",
        "warn: smtp: pki mx: the certificate expires on 2030-01-20, in 0 days",
        "warn: smtp: pki mx: the certificate expired on 2030-01-20",
    ]


def test_a_change_is_told_once_it_stands_still(tmp_path: Path) -> None:
    write_pair(tmp_path, (b"one", b"one"))
    paths = [str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")]
    watch = Watch(paths)
    assert watch and not Watch([])
    assert not watch.changed()
    (tmp_path / "cert.pem").write_bytes(b"other")
    assert not watch.changed()
    (tmp_path / "key.pem").write_bytes(b"other")
    assert not watch.changed()         # something moved again
    assert watch.changed()
    assert not watch.changed()
    os.unlink(paths[0])
    assert [watch.changed() for _ in range(3)] == [False, True, False]
    write_pair(tmp_path, (b"back", b"back"))
    assert [watch.changed() for _ in range(3)] == [False, True, False]
    os.utime(paths[0])
    (tmp_path / "cert.pem").write_bytes(b"more")
    assert not watch.changed()
