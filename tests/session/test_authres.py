"""Results of authentication that claim to be ours are removed from what strangers send, and no others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pysmtpd.session.authres import authserv_id, without_claims
from pysmtpd.session.header import Header

ADMD = b"mx.example"
REST = b"From: joe@x.example\r\nSubject: Authentication-Results: mx.example; spf=pass\r\n"


@pytest.mark.parametrize("value, name", [
    (b" mx.example; spf=pass smtp.mailfrom=x.example", b"mx.example"),
    (b"MX.Example", b"mx.example"),
    (b" mx.example 1; none", b"mx.example"),
    (b"\r\n\tmx.example;\r\n\tdkim=pass", b"mx.example"),
    (b" (a comment (of mine\\)) ) mx.example (more); none", b"mx.example"),
    (b' "mx.example"; none', b"mx.example"),
    (b' "mx\\.example"; none', b"mx.example"),
    (b" mx.example(x); none", b"mx.example"),
    (b" mx.example.org; none", b"mx.example.org"),
    (b" (mx.example; none", b""),
    (b"", b""),
    (b" ; mx.example", b""),
])
def test_whose_results_they_are(value: bytes, name: bytes) -> None:
    assert authserv_id(value) == name
    field = b"Authentication-Results:" + value + b"\r\n"
    assert without_claims(field + REST, ADMD) == (b"" if name == ADMD else field) + REST


def test_all_of_ours_go_and_nothing_else() -> None:
    ours = b"AUTHENTICATION-RESULTS : mx.example;\r\n dkim=pass header.d=x.example\r\n"
    theirs = b"Authentication-Results: elsewhere.example; spf=fail\r\n"
    other = b"X-Authentication-Results: mx.example; none\r\n"
    assert without_claims(ours + theirs + ours + other + REST + ours, ADMD) == theirs + other + REST


@given(st.lists(st.sampled_from([
    b"Authentication-Results: mx.example; none\r\n", b"Authentication-Results:\r\n mx.example\r\n", b"To: a\r\n",
    b"Authentication-Results: b.example; none\r\n", b"X: y\r\n z\r\n"])), st.integers(1, 50))
def test_in_any_pieces(fields: list[bytes], size: int) -> None:
    data = REST + b"".join(fields) + b"\r\nAuthentication-Results: mx.example; in the body\r\n"
    wanted = REST + b"".join(one for one in fields if b"mx.example" not in one)
    head, out = Header(None, b"", ADMD), b""
    for at in range(0, len(data), size):
        out += head.feed(data[at : at + size], last=at + size >= len(data))
    assert out == wanted + b"\r\nAuthentication-Results: mx.example; in the body\r\n"
    assert Header(None).feed(data, last=True) == data
