"""What pyOpenSSL lacks or does slowly: still there in this version of it, and still worth it."""

import trustme

from bench.tls import compare, our_ends, raw_ends, raw_pass
from pysmtpd.privsep import libssl
from pysmtpd.privsep.tls_context import client_context, server_context
from tests.support.certificates import pair_of

GENEROUS = 0.6                     # of pyOpenSSL's rate; bench/tls.py asks for 0.8, and finds more than 1


def test_the_layer_is_not_much_slower_than_pyopenssl_alone() -> None:
    client, server = client_context(verify=False), server_context([pair_of(trustme.CA(), "mx.example.org")])
    raw, ours = compare(lambda: raw_ends(client, server), lambda: our_ends(client, server), 8)
    assert raw / ours > GENEROUS
    ends, (one, other) = raw_ends(client, server), our_ends(client, server)
    for size in (100, 65536):
        data = b"x" * size
        raw, ours = compare(lambda data=data: raw_pass(ends, data),        # type: ignore[misc]
                            lambda data=data: other.feed(one.encrypt(data)), 50)   # type: ignore[misc]
        assert raw / ours > GENEROUS, size


def test_what_openssl_does_not_know_is_told_and_leaves_no_error_behind() -> None:
    context = client_context(verify=False).context
    assert not libssl.set_curves(context, "P-256:nonsense")
    assert not libssl.set_dh(context, b"no parameters")
    assert libssl.set_curves(context, "P-256:X25519")
    one, other = our_ends(client_context(verify=False), server_context([pair_of(trustme.CA(), "mx.example.org")]))
    assert other.feed(one.encrypt(b"hello")) == [b"hello"]
