"""TLS without sockets: handshakes in memory, certificates, names, versions, and what is refused."""

import contextlib
import ssl

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL

from pysmtpd.privsep.dhe import prime
from pysmtpd.privsep.libssl import set_curves
from pysmtpd.privsep.tls import FEED_MAX, HANDSHAKE_MAX, TlsContext, TlsError, TlsLayer, names_of
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


@pytest.mark.parametrize("name", ["mx.example.org", ""])
@pytest.mark.parametrize(("cipher", "kind"), [("ECDHE+aRSA", "RSA"), ("ECDHE+aECDSA", "ECDSA")])
def test_keys_of_two_kinds_serve_a_name_that_is_one_of_several(authority: trustme.CA, cipher: str, kind: str,
                                                               name: str) -> None:
    server = server_context([pair_of(authority, "mx.example.org", "smtp.example.org"),
                             pair_of(authority, "other.example.org"), pair_of(authority, "mx.example.org", rsa=True)])
    client = client_context(verify=bool(name), ca=ca_of(authority), protocols="tlsv1.2", ciphers=cipher)
    layer = TlsLayer(client, server=False, name=name)
    shake(layer, TlsLayer(server, server=True))
    assert kind in layer.info().text


def test_a_name_never_gets_the_key_of_another(authority: trustme.CA) -> None:
    server = server_context([pair_of(authority, "mx.example.org", "smtp.example.org"),
                             pair_of(authority, "mx.example.org", rsa=True)])
    only_rsa = client_context(verify=True, ca=ca_of(authority), protocols="tlsv1.2", ciphers="ECDHE+aRSA")
    with pytest.raises(TlsError):
        shake(TlsLayer(only_rsa, server=False, name="smtp.example.org"), TlsLayer(server, server=True))


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


@pytest.mark.parametrize(("server", "client", "group"), [
    ("P-256/X25519", "X25519:P-256", "secp256r1"), ("x25519, p-384", "P-384", "secp384r1"), ("P-256", "X25519", ""),
])
@pytest.mark.parametrize("version", ["tlsv1.2", "tlsv1.3"])
def test_curves_are_the_listeners(authority: trustme.CA, version: str, server: str, client: str, group: str) -> None:
    """In its order, for both versions."""
    ours = client_context(verify=False, protocols=version)
    assert set_curves(ours.context, client)
    pair = pair_of(authority, "mx.example.org", rsa=True)      # one of ECDSA would need its own curve, too
    there = TlsLayer(server_context([pair], curves=server), server=True)
    if group:
        shake(TlsLayer(ours, server=False), there)
        assert there._conn.get_group_name() == group
    else:
        with pytest.raises(TlsError):
            shake(TlsLayer(ours, server=False), there)


@pytest.mark.parametrize(("dhe", "agreed"), [("none", False), ("auto", True), ("legacy", True)])
def test_diffie_hellman_is_for_who_asks_for_it(authority: trustme.CA, dhe: str, agreed: bool) -> None:
    pair = pair_of(authority, "mx.example.org", rsa=True)._replace(dhe=dhe)
    suite = client_context(verify=False, protocols="tlsv1.2", ciphers="DHE-RSA-AES256-GCM-SHA384")
    group = client_context(verify=False, protocols="tlsv1.3")
    assert set_curves(group.context, "ffdhe2048")
    for client in (suite, group):
        server = TlsLayer(server_context([pair]), server=True)
        if agreed:
            shake(TlsLayer(client, server=False), server)
        else:
            with pytest.raises(TlsError):
                shake(TlsLayer(client, server=False), server)


@pytest.mark.parametrize(("bits", "end"), [
    (2048, "886B423861285C97"), (3072, "25E41D2B66C62E37"), (4096, "C68A007E5E655F6A"),
])
def test_groups_of_diffie_hellman_are_those_of_rfc_7919(bits: int, end: str) -> None:
    """The ends of their primes, as appendix A prints them."""
    number = f"{prime(bits):X}"
    assert len(number) == bits // 4
    assert number.startswith("FFFFFFFFFFFFFFFFADF85458A2BB4A9AAFDC5620273D3CF1")
    assert number.endswith(end + 16 * "F")


def test_what_a_scanner_looks_for(authority: trustme.CA) -> None:
    """No version before 1.2, forward secrecy always, authenticated encryption first, no client's order."""
    pair = pair_of(authority, "mx.example.org", rsa=True)
    server = server_context([pair])
    offered = TlsLayer(server, server=True)._conn.get_cipher_list()
    assert all(name.startswith(("TLS_", "ECDHE-", "DHE-RSA-")) for name in offered)
    kinds = ["GCM" in name or "CHACHA" in name for name in offered]
    assert kinds == sorted(kinds, reverse=True)
    assert not any(word in name for name in offered for word in ("RC4", "DES", "MD5", "NULL", "EXP", "DSS"))
    for version, refused in (("tlsv1.0", True), ("tlsv1.1", True), ("tlsv1.2", False), ("tlsv1.3", False)):
        client = client_context(verify=False, protocols=version, ciphers="ALL:@SECLEVEL=0")
        if refused:
            with pytest.raises(TlsError):
                shake(TlsLayer(client, server=False), TlsLayer(server, server=True))
        else:
            shake(TlsLayer(client, server=False), TlsLayer(server, server=True))
    theirs = client_context(verify=False, protocols="tlsv1.2",
                            ciphers="ECDHE-RSA-AES128-SHA:ECDHE-RSA-AES256-GCM-SHA384")
    layer = TlsLayer(theirs, server=False)
    shake(layer, TlsLayer(server, server=True))
    assert "AES256-GCM" in layer.info().text
    layer = TlsLayer(client_context(verify=False), server=False)
    shake(layer, TlsLayer(server, server=True))
    assert layer.info().text == "TLSv1.3:TLS_AES_128_GCM_SHA256:128"


def test_nobody_renegotiates(authority: trustme.CA) -> None:
    client = TlsLayer(client_context(verify=False, protocols="tlsv1.2"), server=False)
    server = TlsLayer(server_context([pair_of(authority, "mx.example.org")]), server=True)
    shake(client, server)
    with contextlib.suppress(SSL.Error):
        client._conn.renegotiate()
        client._conn.do_handshake()
    with contextlib.suppress(TlsError):
        server.feed(client.outgoing())
        client.feed(server.outgoing())
    assert server._conn.total_renegotiations() == 0
    assert client._conn.total_renegotiations() == 0


def test_a_good_bye_is_one(authority: trustme.CA) -> None:
    client = TlsLayer(client_context(verify=False), server=False)
    server = TlsLayer(server_context([pair_of(authority, "mx.example.org")]), server=True)
    shake(client, server)
    assert client.feed(server.encrypt(b"221 bye\r\n") + server.shutdown()) == [b"221 bye\r\n"]
    assert client.ended and not server.ended
    assert server.feed(client.shutdown()) == []
    assert server.ended


@pytest.mark.parametrize(("sni", "chosen"), [
    (b"mx.example.org", "mx.example.org"), (b"MX.Example.ORG", "mx.example.org"), (b"a.wild.example", "*.wild.example"),
    (b"a.b.wild.example", "default.example"), (b"xn--mller-kva.example", "xn--mller-kva.example"),
    (b"unknown.example", "default.example"), (b"", "default.example"), (b"mx.example.org.", "default.example"),
    (b"\xff\xfe", "default.example"), (b"x" * 200, "default.example"),
])
@pytest.mark.parametrize("version", ["tlsv1.2", "tlsv1.3"])
def test_each_name_has_its_certificate_and_others_the_first(
        authority: trustme.CA, version: str, sni: bytes, chosen: str) -> None:
    names = ["default.example", "mx.example.org", "*.wild.example", "xn--mller-kva.example"]
    server = server_context([pair_of(authority, name) for name in names])
    client = TlsLayer(client_context(verify=False, protocols=version), server=False)
    if sni:
        client._conn.set_tlsext_host_name(sni)
    shake(client, TlsLayer(server, server=True))
    cert = client._conn.get_peer_certificate(as_cryptography=True)
    assert cert is not None and names_of(cert) == [chosen]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_ticket_of_the_old_certificate_does_no_harm(authority: trustme.CA, version: ssl.TLSVersion) -> None:
    """A new context has new keys for tickets: the client just shakes hands, and sees the new certificate."""
    pairs = [pair_of(authority, "mx.example.org") for _ in range(2)]
    context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    context.minimum_version = context.maximum_version = version
    first = Stdlib(context)
    first.shake(TlsLayer(server_context(pairs[:1]), server=True))
    second = Stdlib(context, first.tls.session)
    second.shake(TlsLayer(server_context(pairs[1:]), server=True))
    assert not second.tls.session_reused
    assert first.tls.getpeercert(True) != second.tls.getpeercert(True)


def test_a_session_of_a_verified_client_is_verified_when_resumed(authority: trustme.CA) -> None:
    server = server_context([pair_of(authority, "mx.example.org")], verify=True, ca=ca_of(authority))
    context = client_context(verify=False, pair=pair_of(authority, "joe@example.org"))
    first, there = TlsLayer(context, server=False), TlsLayer(server, server=True)
    shake(first, there)
    assert there.info().identities == ("joe@example.org",)
    first.feed(there.outgoing())
    session = first._conn.get_session()
    assert session is not None
    second, again = TlsLayer(context, server=False), TlsLayer(server, server=True)
    second._conn.set_session(session)
    shake(second, again)
    assert again.info() == there.info()
