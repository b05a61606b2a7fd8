"""TLS as a layer without I/O: records in, plain octets out, and the other way round.

pyOpenSSL over memory BIOs, the same for both ends.  Only smtp and mta import this.  Contexts are made from the
octets of certificates and keys before the jail; the parent opened the files and never read them.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL
from OpenSSL.crypto import X509

RECORD = 16384                     # larger reads are slower: see docs/architecture.md on buffers
FEED_MAX = 64                      # records decrypted per feed, so that one peer cannot hold the loop


class TlsError(RuntimeError):
    """The handshake or the connection failed: what OpenSSL said, in a few words."""


class TlsInfo(NamedTuple):
    """What was agreed."""

    text: str                      # TLSv1.3:TLS_AES_256_GCM_SHA384:256
    fingerprint: str               # SHA256:... of the peer's certificate, or empty
    verified: bool                 # it was verified against a CA and, for a server, its name


class TlsContext:
    """An OpenSSL context, and what is expected of the peer."""

    def __init__(self, context: SSL.Context, *, verify: bool) -> None:
        self.context = context
        self.verify = verify


class TlsLayer:
    """One connection."""

    def __init__(self, context: TlsContext, *, server: bool, name: str = "") -> None:
        self.ready = False
        self.ended = False         # the peer closed its side
        self._context = context
        self._conn = SSL.Connection(context.context, None)
        if server:
            self._conn.set_accept_state()
        else:
            if name and not _is_address(name):
                self._conn.set_tlsext_host_name(name.encode("ascii", "ignore"))
            self._conn.set_connect_state()
        self._expect = name.lower() if context.verify and not server else ""

    def feed(self, data: bytes) -> list[bytes]:
        """Octets from the peer; what they decrypt to.  Raises TlsError."""
        while data:
            data = data[self._conn.bio_write(data) :]
        try:
            if not self.ready:
                self._conn.do_handshake()
                self._check_name()
                self.ready = True
            return self._read()
        except SSL.WantReadError:
            return []
        except SSL.ZeroReturnError:
            self.ended = True
            return []
        except SSL.Error as error:
            raise TlsError(_reason(error)) from None

    def encrypt(self, data: bytes) -> bytes:
        """Plain octets; what to send for them."""
        view = memoryview(data)
        out = []
        while view:
            try:
                sent = self._conn.send(view[:RECORD])
            except SSL.Error as error:
                raise TlsError(_reason(error)) from None
            view = view[sent:]
            out.append(self.outgoing())
        return b"".join(out)

    def outgoing(self) -> bytes:
        """Octets that want to be sent."""
        out = []
        with contextlib.suppress(SSL.WantReadError):
            while True:
                out.append(self._conn.bio_read(4 * RECORD))
        return b"".join(out)

    def shutdown(self) -> bytes:
        """What says good-bye."""
        if self.ready:
            with contextlib.suppress(SSL.Error):
                self._conn.shutdown()
        return self.outgoing()

    def info(self) -> TlsInfo:
        """After the handshake."""
        cert = self._conn.get_peer_certificate(as_cryptography=True)
        text = f"{self._conn.get_protocol_version_name()}:{self._conn.get_cipher_name()}:{self._conn.get_cipher_bits()}"
        return TlsInfo(text, f"SHA256:{cert.fingerprint(hashes.SHA256()).hex()}" if cert else "",
                       cert is not None and self._context.verify)

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
        try:
            for _ in range(FEED_MAX):
                pieces.append(self._conn.recv(RECORD))
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            self.ended = True
        return pieces


def _reason(error: SSL.Error) -> str:
    if error.args and isinstance(error.args[0], list) and error.args[0]:
        return str(error.args[0][-1][-1]) or "failed"
    return "unexpected end" if isinstance(error, SSL.SysCallError) else "failed"


def _is_address(name: str) -> bool:
    return ":" in name or name.replace(".", "").isdigit()


def _verify_chain(_conn: SSL.Connection, _cert: object, _error: int, _depth: int, ok: int) -> bool:
    return bool(ok)


def _base(method: int) -> SSL.Context:
    context = SSL.Context(method)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_CIPHER_SERVER_PREFERENCE)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    return context


def _load_pair(context: SSL.Context, cert: bytes, key: bytes) -> list[x509.Certificate]:
    chain = x509.load_pem_x509_certificates(cert)
    context.use_certificate(chain[0])
    for extra in chain[1:]:
        context.add_extra_chain_cert(extra)
    context.use_privatekey(load_pem_private_key(key, None))  # type: ignore[arg-type]
    context.check_privatekey()
    return chain


def _trust(context: SSL.Context, ca: bytes) -> None:
    store = context.get_cert_store()
    if not ca:
        context.set_default_verify_paths()
        return
    for cert in x509.load_pem_x509_certificates(ca):
        store.add_cert(X509.from_cryptography(cert))  # type: ignore[union-attr]


def names_of(cert: x509.Certificate) -> list[str]:
    """The DNS names and addresses a certificate is for, lower-case."""
    try:
        extension = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        found = cert.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        return [str(attribute.value).lower() for attribute in found]
    addresses = extension.value.get_values_for_type(x509.IPAddress)
    return [*(name.lower() for name in extension.value.get_values_for_type(x509.DNSName)), *map(str, addresses)]


def server_context(pairs: Sequence[tuple[bytes, bytes]], *, ca: bytes = b"", verify: bool = False,
                   ciphers: str = "") -> TlsContext:
    """For a listener: its certificates and keys in PEM, the first the default, the others chosen by SNI.

    Raises ValueError or TlsError for files that are no pair."""
    contexts: list[tuple[list[str], SSL.Context]] = []
    for cert, key in pairs:
        context = _base(SSL.TLS_SERVER_METHOD)
        try:
            names = names_of(_load_pair(context, cert, key)[0])
            if ciphers:
                context.set_cipher_list(ciphers.encode())
        except SSL.Error as error:
            raise TlsError(_reason(error)) from None
        if verify:
            _trust(context, ca)
            context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _verify_chain)
        context.set_session_id(b"pysmtpd")
        contexts.append((names, context))
    default = contexts[0][1]
    if len(contexts) > 1:
        default.set_tlsext_servername_callback(_chooser(contexts))
    return TlsContext(default, verify=verify)


def _chooser(contexts: list[tuple[list[str], SSL.Context]]) -> Callable[[SSL.Connection], None]:
    exact = {name: context for names, context in reversed(contexts) for name in names}

    def choose(conn: SSL.Connection) -> None:
        name = (conn.get_servername() or b"").decode("ascii", "replace").lower()
        context = exact.get(name) or exact.get("*." + name.partition(".")[2])
        if context is not None:
            conn.set_context(context)

    return choose


def client_context(*, verify: bool, ca: bytes = b"", pair: tuple[bytes, bytes] | None = None,
                   ciphers: str = "") -> TlsContext:
    """For a relay.  Made before the jail: the system's CA store cannot be found afterwards."""
    context = _base(SSL.TLS_CLIENT_METHOD)
    if ciphers:
        context.set_cipher_list(ciphers.encode())
    if pair is not None:
        _load_pair(context, *pair)
    if verify:
        _trust(context, ca)
        context.set_verify(SSL.VERIFY_PEER, _verify_chain)
    else:
        context.set_verify(SSL.VERIFY_NONE, None)
    return TlsContext(context, verify=verify)
