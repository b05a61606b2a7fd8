"""TLS contexts: certificates, keys, authorities, versions, ciphers.  Octets come in; no file is opened but the
system's list of authorities, which is read before the jail.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.utils import CryptographyDeprecationWarning
from OpenSSL import SSL
from OpenSSL.crypto import X509

from pysmtpd.base.tls_versions import Version, parse_versions
from pysmtpd.privsep import dhe
from pysmtpd.privsep.libssl import set_curves, set_dh
from pysmtpd.privsep.tls import TlsContext, TlsError, names_of, reason

SESSION_ID = b"pysmtpd"
# Where systems keep the certificates they trust, all in one file.
AUTHORITIES = (
    "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/cert.pem", "/usr/local/etc/ssl/cert.pem",
)

_NOT: dict[Version, int] = {
    Version.TLS1_0: SSL.OP_NO_TLSv1, Version.TLS1_1: SSL.OP_NO_TLSv1_1, Version.TLS1_2: SSL.OP_NO_TLSv1_2,
    Version.TLS1_3: SSL.OP_NO_TLSv1_3,
}
# The names that tls_config_set_ciphers(3) knows for lists, in OpenSSL's words.
_CIPHERS = {
    "secure": "ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AESCCM:DHE+AESGCM:DHE+CHACHA20:DHE+AESCCM",
    "compat": "HIGH:!aNULL:!eNULL",
    "legacy": "HIGH:MEDIUM:!aNULL:!eNULL:!EXPORT",
    "all": "ALL:!aNULL:!eNULL",
}
_CIPHERS |= {"default": _CIPHERS["secure"], "insecure": _CIPHERS["all"]}
# Where nothing is said: forward secrecy always, authenticated encryption first; what is left is for old clients, which
# would else speak in clear.  Of TLS 1.3 the first is the one that all must have (RFC 8446 9.1): a handshake with
# SHA-256, for which processors have instructions, costs a tenth less than one with SHA-384.
SERVER_CIPHERS = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256:" \
    "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:DHE+CHACHA20:ECDHE+AES:DHE+AES:!AESCCM:!aDSS"
# Likewise, without and with what only OpenSSL 3.5 has.
DEFAULT_CURVES = ["X25519MLKEM768:X25519:P-256:X448:P-384:P-521", "X25519:P-256:X448:P-384:P-521"]

Authorities = Sequence[x509.Certificate]
_BEGIN = b"-----BEGIN CERTIFICATE-----"


class Pair(NamedTuple):
    """A certificate with those above it, and its private key."""

    chain: list[x509.Certificate]
    key: PrivateKeyTypes
    dhe: str = "none"              # as the pki has it

    @property
    def names(self) -> list[str]:
        return names_of(self.chain[0])

    @property
    def expires(self) -> int:
        """Seconds since the epoch."""
        return int(self.chain[0].not_valid_after_utc.timestamp())


def load_pair(cert: bytes, key: bytes) -> Pair:
    """From PEM.  Raises TlsError when they cannot be read, or do not belong together."""
    try:
        pair = Pair(x509.load_pem_x509_certificates(cert), load_pem_private_key(key, None))
        if pair.chain[0].public_key() != pair.key.public_key():
            raise TlsError("the certificate and the key do not belong together")
        return pair
    except (ValueError, TypeError) as error:
        # A key that wants a passphrase is a TypeError.  What the library says may quote the file: not from a key.
        raise TlsError(f"not a certificate and a key in PEM ({type(error).__name__})") from None


def load_authorities(pem: bytes) -> Authorities:
    """Those of a ca.  Raises TlsError."""
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise TlsError("the ca is not certificates in PEM") from None


def system_authorities() -> Authorities:
    """The certificates this system trusts.  Inside the jail they cannot be found any more."""
    for path in AUTHORITIES:
        with contextlib.suppress(OSError), open(path, "rb") as file, warnings.catch_warnings():
            # Some authorities have serial numbers that RFC 5280 forbids; what cannot be read is not trusted.
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            return list(_readable(file.read()))
    return []


def _readable(pem: bytes) -> Iterator[x509.Certificate]:
    for piece in pem.split(_BEGIN)[1:]:
        with contextlib.suppress(ValueError):
            yield x509.load_pem_x509_certificate(_BEGIN + piece)


def server_context(pairs: Sequence[Pair], *, ca: Authorities = (), verify: bool = False, ciphers: str = "",
                   protocols: str = "", curves: str = "") -> TlsContext:
    """For a listener: the first pair is its default, the others are chosen by the name the client asks for (SNI).

    Pairs for the same name with keys of another kind (ECDSA and RSA) serve it together.  Raises TlsError."""
    ciphers = ciphers or SERVER_CIPHERS
    made: dict[tuple[int, ...], SSL.Context] = {}

    def serving(chosen: Sequence[Pair]) -> SSL.Context:
        found = tuple(pairs.index(pair) for pair in _kinds(chosen))
        if found not in made:
            made[found] = context = _base(SSL.TLS_SERVER_METHOD, ciphers, protocols)
            _exchange(context, pairs[found[0]], curves)
            with _told():
                for index in found:
                    _use(context, pairs[index])
                if verify:
                    _trust(context, ca)
                    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _verify_chain)
            context.set_session_id(SESSION_ID)
        return made[found]

    first = pairs[0]
    default = serving([first, *(pair for pair in pairs if any(pair in _named(name, pairs) for name in first.names))])
    if len(pairs) > 1:
        by_name = {name: serving(_named(name, pairs)) for pair in pairs for name in pair.names}
        default.set_tlsext_servername_callback(_chooser(by_name))
    return TlsContext(default, verify=verify)


def client_context(*, verify: bool, ca: Authorities = (), pair: Pair | None = None, ciphers: str = "",
                   protocols: str = "") -> TlsContext:
    """For a relay, trusting those authorities.  Raises TlsError."""
    context = _base(SSL.TLS_CLIENT_METHOD, ciphers, protocols)
    with _told():
        if pair is not None:
            _use(context, pair)
        if verify:
            _trust(context, ca)
    context.set_verify(SSL.VERIFY_PEER if verify else SSL.VERIFY_NONE, _verify_chain)
    return TlsContext(context, verify=verify)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except SSL.Error as error:
        raise TlsError(reason(error)) from None


def _verify_chain(_conn: SSL.Connection, _cert: object, _error: int, _depth: int, ok: int) -> bool:
    return bool(ok)


def _base(method: int, ciphers: str, protocols: str) -> SSL.Context:
    versions = parse_versions(protocols)
    context = SSL.Context(method)
    # Versions that are not wanted are excluded one by one; below TLS 1.2 also the ciphers must allow it.
    context.set_min_proto_version(SSL.TLS1_VERSION if versions - {Version.TLS1_2, Version.TLS1_3}
                                  else SSL.TLS1_2_VERSION)
    for version in Version:
        if version not in versions:
            context.set_options(_NOT[version])
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_CIPHER_SERVER_PREFERENCE)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    try:
        _set_ciphers(context, _CIPHERS.get(ciphers.lower(), ciphers))
    except (SSL.Error, ValueError):
        raise TlsError(f"no such cipher in: {ciphers}") from None
    return context


def _set_ciphers(context: SSL.Context, ciphers: str) -> None:
    """Those of TLS 1.3 have a list of their own in OpenSSL; here, as in libtls, they may stand in one with the rest."""
    words = ciphers.split(":") if ciphers else []
    modern = [word for word in words if word.startswith("TLS_")]
    older = [word for word in words if not word.startswith("TLS_") and word != "TLSv1.3"]
    if modern:
        context.set_tls13_ciphersuites(":".join(modern).encode())
    if older:
        context.set_cipher_list(":".join(older).encode())


def _exchange(context: SSL.Context, pair: Pair, curves: str) -> None:
    """By which groups keys are exchanged: none of Diffie-Hellman's own, unless the pki wants them."""
    if pair.dhe != "none" and not set_dh(context, dhe.parameters(pair.key)):
        raise TlsError("no parameters for Diffie-Hellman")
    wanted = [_listed(curves)] if curves else DEFAULT_CURVES if pair.dhe == "none" else []
    if wanted and not any(set_curves(context, names) for names in wanted):
        raise TlsError(f"no such curve in: {curves}")


def _listed(names: str) -> str:
    """Also with commas, as libtls has them."""
    return ":".join(name.strip() for name in names.replace(",", ":").split(":"))


def knows(kind: str, names: str) -> bool:
    """Whether OpenSSL knows all of a list of ``ciphers`` or ``curves``, and anything is left of it."""
    if not names or kind == "curves":
        return names != "" and set_curves(SSL.Context(SSL.TLS_METHOD), _listed(names))
    try:
        _base(SSL.TLS_METHOD, names, "")
    except TlsError:
        return False
    return True


def _named(name: str, pairs: Sequence[Pair]) -> list[Pair]:
    """Those for a name: exactly, then by wildcard."""
    wildcard = "*." + name.partition(".")[2]
    return [pair for wanted in (name, wildcard) for pair in pairs if wanted in pair.names]


def _kinds(pairs: Sequence[Pair]) -> list[Pair]:
    """The first of each kind of key."""
    found: dict[type, Pair] = {}
    for pair in pairs:
        found.setdefault(type(pair.key), pair)
    return list(found.values())


def _use(context: SSL.Context, pair: Pair) -> None:
    context.use_certificate(pair.chain[0])
    context.use_privatekey(pair.key)  # type: ignore[arg-type]
    context.check_privatekey()
    for extra in pair.chain[1:]:
        context.add_extra_chain_cert(extra)


def _trust(context: SSL.Context, ca: Authorities) -> None:
    if not ca:
        raise TlsError("there are no certificates to verify a peer with: name a ca")
    store = context.get_cert_store()
    for cert in ca:
        store.add_cert(X509.from_cryptography(cert))  # type: ignore[union-attr]


def _chooser(by_name: Mapping[str, SSL.Context]) -> Callable[[SSL.Connection], None]:
    def choose(conn: SSL.Connection) -> None:
        name = (conn.get_servername() or b"").decode("ascii", "replace").lower()
        context = by_name.get(name) or by_name.get("*." + name.partition(".")[2])
        if context is not None:
            conn.set_context(context)

    return choose
