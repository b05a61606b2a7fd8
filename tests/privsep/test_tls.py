"""TLS without sockets: handshakes in memory, certificates, names, versions, and what is refused."""

import contextlib
import ssl

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from pysmtpd.privsep.tls import FEED_MAX, HANDSHAKE_MAX, TlsContext, TlsError, TlsLayer
from pysmtpd.privsep.tls_context import client_context, load_pair, server_context
from tests.support.certificates import ca_of, pair_of, pem_of, shake


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.mark.parametrize(("name", "ok"), [
    ("mx.example.org", True), ("a.wild.example.org", True), ("wild.example.org", False),
    ("a.b.wild.example.org", False), ("evil.example.org", False),
    ("192.0.2.1", True), ("192.0.2.2", False), ("2001:db8::1", True),
])
def test_the_name_is_verified(authority: trustme.CA, name: str, ok: bool) -> None:
    names = ("mx.example.org", "*.wild.example.org", "192.0.2.1", "2001:db8::1")
    server = server_context([pair_of(authority, *names)])
    client = client_context(verify=True, ca=ca_of(authority))
    ends = TlsLayer(client, server=False, name=name), TlsLayer(server, server=True)
    if ok:
        shake(*ends)
        assert ends[0].info().verified
    else:
        with pytest.raises(TlsError, match="another name"):
            shake(*ends)


def test_an_unknown_authority_is_refused_only_when_verifying(authority: trustme.CA) -> None:
    server = server_context([pair_of(authority, "mx.example.org")])
    stranger = client_context(verify=True, ca=ca_of(trustme.CA()))
    with pytest.raises(TlsError):
        shake(TlsLayer(stranger, server=False, name="mx.example.org"), TlsLayer(server, server=True))
    careless = TlsLayer(client_context(verify=False), server=False, name="other.example.org")
    shake(careless, TlsLayer(server, server=True))
    assert not careless.info().verified


def test_sni_chooses_the_certificate(authority: trustme.CA) -> None:
    server = server_context([pair_of(authority, "one.example.org"), pair_of(authority, "two.example.org"),
                             pair_of(authority, "*.three.example.org")])
    client = client_context(verify=True, ca=ca_of(authority))
    for name in ("one.example.org", "two.example.org", "TWO.example.org", "a.three.example.org"):
        shake(TlsLayer(client, server=False, name=name), TlsLayer(server, server=True))
    # A name that none is for gets the first.
    careless = client_context(verify=False)
    layer = TlsLayer(careless, server=False, name="four.example.org")
    shake(layer, TlsLayer(server, server=True))
    assert layer.info().fingerprint == fingerprint(client, server, "one.example.org")


def fingerprint(client: TlsContext, server: TlsContext, name: str) -> str:
    layer = TlsLayer(client, server=False, name=name)
    shake(layer, TlsLayer(server, server=True))
    return layer.info().fingerprint


@pytest.mark.parametrize(("cipher", "kind"), [("ECDHE+aRSA", "RSA"), ("ECDHE+aECDSA", "ECDSA")])
def test_keys_of_two_kinds_serve_one_name(authority: trustme.CA, cipher: str, kind: str) -> None:
    server = server_context([pair_of(authority, "mx.example.org"), pair_of(authority, "mx.example.org", rsa=True)])
    client = client_context(verify=True, ca=ca_of(authority), protocols="tlsv1.2", ciphers=cipher)
    layer = TlsLayer(client, server=False, name="mx.example.org")
    shake(layer, TlsLayer(server, server=True))
    assert kind in layer.info().text


def test_a_key_of_another_certificate_is_refused(authority: trustme.CA) -> None:
    cert, _ = pem_of(authority, "one.example.org")
    _, key = pem_of(authority, "two.example.org")
    with pytest.raises(TlsError, match="do not belong together"):
        load_pair(cert, key)


@pytest.mark.parametrize("damage", [b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_what_is_no_pem_is_refused_without_a_word_of_it(authority: trustme.CA, damage: bytes) -> None:
    cert, key = pem_of(authority, "one.example.org")
    for pair in ((damage, key), (cert, damage), (key, cert)):
        with pytest.raises(TlsError, match=r"not a certificate and a key in PEM \(\w+\)"):
            load_pair(*pair)


@pytest.mark.parametrize(("server", "client", "agreed"), [
    ("", "", "TLSv1.3"), ("tlsv1.2", "", "TLSv1.2"), ("", "TLSv1.2", "TLSv1.2"), ("secure,!tlsv1.2", "", "TLSv1.3"),
    ("tlsv1.3", "tlsv1.2", ""), ("tlsv1.2", "tlsv1.3", ""),
])
def test_versions_are_those_of_protocols(authority: trustme.CA, server: str, client: str, agreed: str) -> None:
    context = server_context([pair_of(authority, "mx.example.org")], protocols=server)
    layer = TlsLayer(client_context(verify=False, protocols=client), server=False)
    if not agreed:
        with pytest.raises(TlsError):
            shake(layer, TlsLayer(context, server=True))
        return
    shake(layer, TlsLayer(context, server=True))
    assert layer.info().text.startswith(f"{agreed}:")


@pytest.mark.parametrize(("ciphers", "agreed"), [
    ("TLS_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256"), ("TLS_CHACHA20_POLY1305_SHA256:HIGH", "TLS_CHACHA20"),
    ("secure", "TLS_AES_256"), ("compat", "TLS_AES_256"), ("legacy", "TLS_AES_256"),
])
def test_ciphers_of_both_lists(authority: trustme.CA, ciphers: str, agreed: str) -> None:
    context = server_context([pair_of(authority, "mx.example.org")], ciphers=ciphers)
    layer = TlsLayer(client_context(verify=False), server=False)
    shake(layer, TlsLayer(context, server=True))
    assert agreed in layer.info().text


@pytest.mark.parametrize("ciphers", ["nonsense", "TLS_NONSENSE"])
def test_ciphers_that_do_not_exist(authority: trustme.CA, ciphers: str) -> None:
    with pytest.raises(TlsError, match=f"no such cipher in: {ciphers}"):
        server_context([pair_of(authority, "mx.example.org")], ciphers=ciphers)


def test_a_client_must_show_a_certificate_where_it_is_asked_for(authority: trustme.CA) -> None:
    ca = ca_of(authority)
    server = server_context([pair_of(authority, "mx.example.org")], verify=True, ca=ca)
    known = TlsLayer(server, server=True)
    shake(TlsLayer(client_context(verify=True, ca=ca, pair=pair_of(authority, "client.example.org")), server=False,
                   name="mx.example.org"), known)
    assert known.info().verified
    stranger = pair_of(trustme.CA(), "client.example.org")
    for pair in (None, stranger):
        with pytest.raises(TlsError):
            shake(TlsLayer(client_context(verify=False, pair=pair), server=False), TlsLayer(server, server=True))
    with pytest.raises(TlsError, match="name a ca"):
        server_context([pair_of(authority, "mx.example.org")], verify=True)


class Stdlib:
    """A client of the standard library, which knows whether a session was resumed."""

    def __init__(self, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="mx.example.org", session=session)

    def shake(self, server: TlsLayer) -> None:
        """And read a greeting, with which TLS 1.3 brings the ticket."""
        for _ in range(10):
            with contextlib.suppress(ssl.SSLWantReadError):
                self.tls.do_handshake()
            server.feed(self.outgoing.read())
            self.incoming.write(server.outgoing())
            if server.ready:
                break
        self.incoming.write(server.encrypt(b"220 hello\r\n"))
        assert self.tls.read(100) == b"220 hello\r\n"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("names", [("mx.example.org",), ("other.example.org", "mx.example.org")])
def test_a_session_is_resumed(authority: trustme.CA, version: ssl.TLSVersion, names: tuple[str, ...]) -> None:
    server = server_context([pair_of(authority, name) for name in names])
    context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    context.minimum_version = context.maximum_version = version
    first = Stdlib(context)
    first.shake(TlsLayer(server, server=True))
    assert not first.tls.session_reused
    second = Stdlib(context, first.tls.session)
    second.shake(TlsLayer(server, server=True))
    assert second.tls.session_reused


_CA = trustme.CA()
_SERVER: TlsContext = server_context([pair_of(_CA, "mx.example.org")])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=5))
def test_garbage_raises_only_tls_errors(pieces: list[bytes]) -> None:
    layer = TlsLayer(_SERVER, server=True)
    for piece in pieces:
        try:
            layer.feed(piece)
        except TlsError:
            return


def test_small_records_are_taken_in_turns(authority: trustme.CA) -> None:
    """One peer does not hold the loop, and nothing of it stays behind."""
    client = TlsLayer(client_context(verify=False), server=False)
    server = TlsLayer(server_context([pair_of(authority, "mx.example.org")]), server=True)
    shake(client, server)
    sent = b"".join(client.encrypt(b"%03d" % number) for number in range(3 * FEED_MAX // 2))
    first = server.feed(sent)
    assert len(first) == FEED_MAX and server.more
    rest = server.feed(b"")
    assert b"".join(first + rest) == b"".join(b"%03d" % number for number in range(3 * FEED_MAX // 2))
    assert not server.more


def test_a_handshake_without_end_is_ended(authority: trustme.CA) -> None:
    """Pieces of a message of 100 KiB, each of which is fine."""
    server = TlsLayer(server_context([pair_of(authority, "mx.example.org")]), server=True)
    head = b"\x16\3\1" + (1000).to_bytes(2, "big")
    server.feed(head + (b"\x01" + (100_000).to_bytes(3, "big") + b"\3\3").ljust(1000, b"\0"))
    for _ in range(HANDSHAKE_MAX // 1005 - 1):
        server.feed(head + bytes(1000))
    with pytest.raises(TlsError, match="the handshake is too long"):
        server.feed(head + bytes(1000))


@pytest.mark.parametrize("version", ["tlsv1.2", "tlsv1.3"])
def test_a_handshake_octet_by_octet(authority: trustme.CA, version: str) -> None:
    client = TlsLayer(client_context(verify=False, protocols=version), server=False)
    server = TlsLayer(server_context([pair_of(authority, "mx.example.org")]), server=True)
    client.feed(b"")
    for _ in range(10):
        for source, target in ((client, server), (server, client)):
            data = source.outgoing()
            for number in range(len(data)):
                target.feed(data[number : number + 1])
    assert client.ready and server.ready


def test_a_good_bye_in_the_middle_of_the_handshake_is_an_end(authority: trustme.CA) -> None:
    server = TlsLayer(server_context([pair_of(authority, "mx.example.org")]), server=True)
    with contextlib.suppress(TlsError):
        server.feed(b"\x15\3\1\0\2\1\0")
    assert not server.ready
