"""Certificates for tests, and handshakes in memory."""

import datetime
import os
from pathlib import Path

import trustme
from trustme import KeyType

from pysmtpd.privsep.tls import TlsLayer
from pysmtpd.privsep.tls_context import Authorities, Pair, load_authorities, load_pair


def pem_of(authority: trustme.CA, *names: str, rsa: bool = False,
           until: datetime.datetime | None = None) -> tuple[bytes, bytes]:
    """A certificate with its chain, and its key."""
    leaf = authority.issue_cert(*names, not_after=until, key_type=KeyType.RSA if rsa else KeyType.ECDSA)
    return b"".join(blob.bytes() for blob in leaf.cert_chain_pems), leaf.private_key_pem.bytes()


def pair_of(authority: trustme.CA, *names: str, rsa: bool = False) -> Pair:
    """The same, loaded."""
    return load_pair(*pem_of(authority, *names, rsa=rsa))


def ca_of(authority: trustme.CA) -> Authorities:
    """What to trust, for that."""
    return load_authorities(authority.cert_pem.bytes())


def write_pair(directory: Path, pem: tuple[bytes, bytes], uid: int = -1) -> None:
    """As cert.pem and key.pem of a user, each replaced at once."""
    for name, data in zip(("cert.pem", "key.pem"), pem, strict=True):
        new = directory / f"{name}.new"
        new.write_bytes(data)
        new.chmod(0o600)
        os.chown(new, uid, -1)
        new.rename(directory / name)


def shake(client: TlsLayer, server: TlsLayer) -> None:
    """Carry records to and fro until both are ready; raises TlsError."""
    client.feed(b"")
    for _ in range(10):
        server.feed(client.outgoing())
        client.feed(server.outgoing())
        if client.ready and server.ready:
            return
    raise AssertionError("no handshake")
