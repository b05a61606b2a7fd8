"""What a real machine's files tell: sockets and who gets to them, certificates and keys, what is no file at all."""

import datetime
import os
import pwd
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)

from pysmtpd.conf.source import Certificate, Unusable
from pysmtpd.privsep.access import obstacle
from pysmtpd.privsep.source import SystemSource

ME = pwd.getpwuid(os.geteuid()).pw_name
START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
END = datetime.datetime(2027, 1, 1, tzinfo=datetime.UTC)


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """A socket in a directory of its own."""
    where = tmp_path / "dir" / "lmtp"
    where.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(where))
        yield where


def test_its_owner_gets_to_a_socket(path: Path) -> None:
    path.chmod(0o600)
    assert obstacle(str(path), ME) == ""


def test_what_is_not_a_socket(tmp_path: Path) -> None:
    assert obstacle(str(tmp_path / "none"), ME) == "it is not there; is its server running?"
    assert obstacle(str(tmp_path), ME) == "it is not a socket"
    assert obstacle(str(tmp_path), "no-such-user") == "there is no user no-such-user"


def test_a_socket_that_is_not_for_everybody(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.chmod(0o660)
    path.parent.chmod(0o700)
    # Where the test's own directories are is not its business.
    real, closed = os.stat, str(path.parent)
    monkeypatch.setattr(os, "stat", lambda at: real(at) if str(at).startswith(closed) else real("/"))
    assert obstacle(str(path), "").startswith(f"a recipient may not enter {closed} (mode 0700, {ME}:")
    path.parent.chmod(0o711)
    assert obstacle(str(path), "").startswith(f"a recipient may not write to it (mode 0660, {ME}:")
    path.chmod(0o666)
    assert obstacle(str(path), "") == ""


def key_and_certificate(how: KeySerializationEncryption | None = None) -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mail.example.org")])
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), START, END)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how or NoEncryption())
    return pem, made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def examine(tmp_path: Path, key: bytes, cert: bytes) -> Certificate | None:
    (tmp_path / "key").write_bytes(key)
    (tmp_path / "cert").write_bytes(cert)
    return SystemSource().certificate(str(tmp_path / "cert"), str(tmp_path / "key"))


def test_a_certificate_and_a_key(tmp_path: Path) -> None:
    (key, cert), (other_key, other_cert) = key_and_certificate(), key_and_certificate()
    times = int(START.timestamp()), int(END.timestamp())
    assert examine(tmp_path, key, cert) == Certificate(*times, fits=True)
    assert examine(tmp_path, key, cert + other_cert) == Certificate(*times, fits=True)
    assert examine(tmp_path, other_key, cert) == Certificate(*times, fits=False)
    assert examine(tmp_path, key, other_cert + cert) == Certificate(*times, fits=False)


@pytest.mark.parametrize("name, content, why", [
    ("cert", b"", "no certificate"), ("cert", b"nonsense", "no certificate"), ("key", b"", "no private key"),
    ("key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "no private key"),
    ("key", key_and_certificate(BestAvailableEncryption(b"x"))[0], "passphrase"),
])
def test_files_that_are_neither(tmp_path: Path, name: str, content: bytes, why: str) -> None:
    key, cert = key_and_certificate()
    with pytest.raises(Unusable, match=why) as raised:
        examine(tmp_path, content if name == "key" else key, content if name == "cert" else cert)
    assert raised.value.path == str(tmp_path / name)


@pytest.mark.timeout(10)
def test_neither_a_fifo_nor_a_directory_nor_a_device_holds_up_who_reads(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, why in ((tmp_path / "fifo", "Not a regular file"), (tmp_path, "Is a directory"),
                      (Path("/dev/zero"), "Not a regular file")):
        with pytest.raises(OSError, match=why):
            SystemSource().read(str(path))


def test_what_the_caller_passes_may_be_a_pipe() -> None:
    readable, writable = os.pipe()
    os.write(writable, b"match for any reject\n")
    os.close(writable)
    assert SystemSource().read(f"/dev/fd/{readable}") == b"match for any reject\n"
    os.close(readable)
