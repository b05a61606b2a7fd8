"""TLS as a layer without I/O: records in, plain octets out, and the other way round.

pyOpenSSL over memory BIOs, the same for both ends.  Only smtp and mta import this; privsep.tls_context makes the
contexts.
"""

import contextlib
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from OpenSSL import SSL

from pysmtpd.base.text import is_clean
from pysmtpd.privsep.libssl import Records

RECORD = 16384                     # octets: larger reads are slower, see docs/architecture.md on buffers
HANDSHAKE_MAX = 65536              # octets of a peer that has not finished its handshake
FEED_MAX = 64                      # records decrypted per feed, so that one peer cannot hold the loop


class TlsError(RuntimeError):
    """The handshake or the connection failed: what OpenSSL said, in a few words."""


class TlsInfo(NamedTuple):
    """What was agreed."""

    text: str                      # TLSv1.3:TLS_AES_256_GCM_SHA384:256
    fingerprint: str               # SHA256:... of the peer's certificate, or empty
    verified: bool                 # it was verified against a CA and, for a server, its name
    identities: tuple[str, ...] = ()   # the people that a verified client's certificate names


class TlsContext:
    """An OpenSSL context, and what is expected of the peer."""

    def __init__(self, context: SSL.Context, *, verify: bool) -> None:
        self.context = context
        self.verify = verify

    def begin(self, *, server: bool, name: str = "") -> "TlsLayer":
        """A new connection."""
        return TlsLayer(self, server=server, name=name)


class TlsLayer:
    """One connection."""

    Failed = TlsError

    __slots__ = ("_conn", "_context", "_expect", "_records", "_server", "_taken", "ended", "more", "ready")

    def __init__(self, context: TlsContext, *, server: bool, name: str = "") -> None:
        self.ready = False
        self.ended = False         # the peer closed its side
        self.more = False          # there are records left: feed on, with nothing, before anything new
        self._taken = 0            # octets of the handshake
        self._server = server
        self._context = context
        self._conn = SSL.Connection(context.context, None)
        if server:
            self._conn.set_accept_state()
        else:
            if name and not _is_address(name):
                self._conn.set_tlsext_host_name(name.encode("ascii", "ignore"))
            self._conn.set_connect_state()
        self._records = Records(self._conn)
        self._expect = name.lower() if context.verify and not server else ""

    def feed(self, data: bytes) -> list[bytes]:
        """Octets from the peer; what they decrypt to.  Raises TlsError."""
        records = self._records
        if data:
            records.put(data)
        try:
            if not self.ready:
                if not records.shake():
                    return self._unfinished(len(data))
                self._check_name()
                self.ready = True
            return self._read()
        except SSL.Error as error:
            raise TlsError(reason(error)) from None

    def _unfinished(self, size: int) -> list[bytes]:
        self._taken += size
        if self._taken > HANDSHAKE_MAX:
            raise TlsError("the handshake is too long")
        self.ended = self._records.closed
        return []

    def encrypt(self, data: bytes) -> bytes:
        """Plain octets; what to send for them."""
        records = self._records
        try:
            if len(data) <= RECORD:
                if data:
                    records.write(data)
                return records.take()
            view, out = memoryview(data), []
            for start in range(0, len(data), RECORD):
                records.write(view[start : start + RECORD])
                out.append(records.take())
        except SSL.Error as error:
            raise TlsError(reason(error)) from None
        return b"".join(out)

    def outgoing(self) -> bytes:
        """Octets that want to be sent."""
        return self._records.take()

    def shutdown(self) -> bytes:
        """What says good-bye."""
        if self.ready:
            self._records.shut()
        return self._records.take()

    def info(self) -> TlsInfo:
        """After the handshake."""
        text = self._records.agreed()
        if self._server and not self._context.verify:
            return TlsInfo(text, "", False)        # no client was asked for a certificate
        cert = self._conn.get_peer_certificate(as_cryptography=True)
        verified = cert is not None and self._context.verify
        return TlsInfo(text, f"SHA256:{cert.fingerprint(hashes.SHA256()).hex()}" if cert else "", verified,
                       people_of(cert) if cert is not None and verified and not self._expect else ())

    def _check_name(self) -> None:
        """RFC 6125 6.4: the name must be among the certificate's, a wildcard stands for its first label."""
        if not self._expect:
            return
        cert = self._conn.get_peer_certificate(as_cryptography=True)
        names = names_of(cert) if cert else []
        wildcard = "" if _is_address(self._expect) else "*." + self._expect.partition(".")[2]
        if self._expect not in names and wildcard not in names:
            raise TlsError("the certificate is for another name")

    def _read(self) -> list[bytes]:
        pieces: list[bytes] = []
        for _ in range(FEED_MAX):
            piece = self._records.read()
            if not piece:
                self.more = False
                self.ended = self._records.closed
                return pieces
            pieces.append(piece)
        self.more = True
        return pieces


def reason(error: SSL.Error) -> str:
    """What OpenSSL says of an error, in a few words."""
    if error.args and isinstance(error.args[0], list) and error.args[0]:
        return str(error.args[0][-1][-1]) or "failed"
    return "unexpected end" if isinstance(error, SSL.SysCallError) else "failed"


def _is_address(name: str) -> bool:
    return ":" in name or name.replace(".", "").isdigit()


def names_of(cert: x509.Certificate) -> list[str]:
    """The DNS names and addresses a certificate is for, lower-case."""
    try:
        extension = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        found = cert.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        return [str(attribute.value).lower() for attribute in found]
    addresses = extension.value.get_values_for_type(x509.IPAddress)
    return [*(name.lower() for name in extension.value.get_values_for_type(x509.DNSName)), *map(str, addresses)]


def people_of(cert: x509.Certificate) -> tuple[str, ...]:
    """Whom a client's certificate names: its mail addresses (RFC 5280 4.2.1.6), then its common name."""
    found: list[str] = []
    with contextlib.suppress(x509.ExtensionNotFound, ValueError):
        extension = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        found += extension.value.get_values_for_type(x509.RFC822Name)
    with contextlib.suppress(ValueError):
        found += [str(name.value) for name in cert.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
    return tuple(dict.fromkeys(name for name in found if 0 < len(name) < 256 and is_clean(name)))[:16]
