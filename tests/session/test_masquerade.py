"""senders ... masquerade: every address of From becomes the sender's, and nothing else changes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pysmtpd.session.header import Header
from pysmtpd.session.masquerade import masquerade

ME = b"me@x.example"


@pytest.mark.parametrize("value, wanted", [
    (b" a@b.example", b" me@x.example"),
    (b" Ann <a@b.example>", b" Ann <me@x.example>"),
    (b' "Ann, (of) <B>" <a@b.example> (home)', b' "Ann, (of) <B>" <me@x.example> (home)'),
    (b" Ann <a@b.example>,\r\n\tBob <b@c.example>, c@d.example",
     b" Ann <me@x.example>,\r\n\tBob <me@x.example>, me@x.example"),
    (b" a@b.example (Ann (not nested)", b" a@b.example (Ann (not nested)"),
    (b" (Ann) a@b.example (x)", b" (Ann) me@x.example (x)"),
    (b"\r\n a@b.example", b"\r\n me@x.example"),
    (b" ann", b" me@x.example"),
    (b" <>", b" <>"), (b"", b""), (b" ", b" "), (b' "open <a@b.example>', b' "open <a@b.example>'),
    (b" friends: a@b.example;", b" friends: a@b.example;"), (b" x <a@b", b" x <a@b"),
])
def test_from(value: bytes, wanted: bytes) -> None:
    before, after = b"Subject: x\r\n", b"\r\nTo: y@z.example\r\n\r\nFrom: <a@b.example>\r\n"
    head = before + b"From:" + value + b"\r\nTo: y@z.example\r\n"
    assert masquerade(head, ME) == before + b"From:" + wanted + b"\r\nTo: y@z.example\r\n"
    # Through the header, in pieces: the body has a From of its own, which stays.
    for size in (1, 7, 1000):
        data, header, out = before + b"FROM :" + value + after, Header(None, ME), b""
        for at in range(0, len(data), size):
            out += header.feed(data[at : at + size], last=at + size >= len(data))
        assert out == before + b"FROM :" + wanted + after


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab@<>(),:;\"\\ \t", max_size=40))
def test_any_value(value: str) -> None:
    """It stays one field, and its address is the sender's or as it was."""
    head = b"From:" + value.encode() + b"\r\nTo: x\r\n"
    found = masquerade(head, ME)
    assert found.endswith(b"\r\nTo: x\r\n") and found.count(b"\r\n") == 2
