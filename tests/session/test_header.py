"""The header on its way: counted, completed where it is a user's own, otherwise untouched."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pysmtpd.base.reply import R552_HEADER, R554_LOOP
from pysmtpd.session import header
from pysmtpd.session.header import Completion, Header
from pysmtpd.session.qualify import qualify

PARTS = [b"A: b", b"Date: x", b"Bcc: y", b"Bcc", b"\r\n", b" z", b"\t", b":", b"\r\n\r\n", b"m"]
DATE, MESSAGE_ID = b"Date: now\r\n", b"Message-ID: <1@x>\r\n"


def whole(data: bytes, complete: bool = False) -> bytes:
    return Header(Completion(DATE, MESSAGE_ID) if complete else None).feed(data, last=True)


def octets(data: bytes, complete: bool = False) -> bytes:
    head = Header(Completion(DATE, MESSAGE_ID) if complete else None)
    out = b"".join(head.feed(data[i : i + 1], last=False) for i in range(len(data)))
    return out + head.feed(b"", last=True)


@pytest.mark.parametrize("data", [
    b"A: b\r\n\r\nbody\r\n", b"A: b\r\n", b"A: b\r\n c\r\n\td\r\nE:f\r\n\r\n", b"A :b\r\n\r\nReceived: x\r\n",
    b"Bcc: x\r\nA: b\r\n\r\n", b"Received: x\r\n" * 99 + b"\r\n" + b"Received: x\r\n" * 5,
])
def test_untouched(data: bytes) -> None:
    assert whole(data) == octets(data) == data


@pytest.mark.parametrize("data", [b"", b"\r\n", b"\r\nbody\r\n", b"\r\nA: b\r\n\r\n"])
def test_empty_header(data: bytes) -> None:
    """The empty line that ends a header without fields ends ours."""
    assert whole(data) == octets(data) == (data or b"\r\n")
    assert whole(data, True) == octets(data, True) == DATE + MESSAGE_ID + (data or b"\r\n")


@pytest.mark.parametrize("data", [
    b"hello\r\n", b" folded: nothing\r\n\r\n", b"two words: x\r\n", b": x\r\n", b"hello\r\nA: b\r\n\r\n",
    b"x" * 5000 + b": y\r\n",
    b"\xe9: x\r\n",
])
def test_no_header(data: bytes) -> None:
    assert whole(data) == octets(data) == b"\r\n" + data


def test_a_body_without_header_is_not_held() -> None:
    head = Header(None)
    assert head.feed(b"hello\r\n", last=False) == b"\r\nhello\r\n"
    head = Header(None)
    assert head.feed(b"x" * 1000, last=False) == b"\r\n" + b"x" * 1000
    assert head.feed(b"y" * 100_000, last=False) == b"y" * 100_000


def test_loop() -> None:
    data = b"rEceived: x\r\n" * 100 + b"\r\n"
    for head in (Header(None), Header(Completion(DATE, MESSAGE_ID))):
        assert head.feed(data, last=True) == b""
        assert head.fault == R554_LOOP
    head = Header(None)
    for i in range(len(data)):
        assert head.feed(data[i : i + 1], last=False) == b""
    assert head.fault == R554_LOOP
    assert head.feed(b"more", last=True) == b""


def test_header_too_big(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header, "HEADER_MAX", 100)
    good = b"A: " + b"x" * 95 + b"\r\n" + b"\r\n" + b"y" * 1000
    bad = b"A: " + b"x" * 96 + b"\r\n" + b"\r\n"
    assert whole(good) == octets(good) == good
    for data in (bad, bad[:-2], b"A: " + b"x" * 1000):
        for size in (1, 10_000):
            head = Header(None)
            out = b"".join(head.feed(data[i : i + size], last=False) for i in range(0, len(data), size))
            assert out + head.feed(b"", last=True) == b""
            assert head.fault == R552_HEADER


@pytest.mark.parametrize("data, wanted", [
    (b"A: b\r\n\r\nbody\r\n", b"A: b\r\n" + DATE + MESSAGE_ID + b"\r\nbody\r\n"),
    (b"A: b\r\n", b"A: b\r\n" + DATE + MESSAGE_ID),
    (b"DATE: x\r\nA: b\r\n c\r\n\r\n", b"DATE: x\r\nA: b\r\n c\r\n" + MESSAGE_ID + b"\r\n"),
    (b"message-id : x\r\n\r\n", b"message-id : x\r\n" + DATE + b"\r\n"),
    (b"Date: x\r\nMessage-Id: y\r\n\r\nz", b"Date: x\r\nMessage-Id: y\r\n\r\nz"),
    (b"X-Date: x\r\n Date: y\r\n\r\n", b"X-Date: x\r\n Date: y\r\n" + DATE + MESSAGE_ID + b"\r\n"),
    (b"Dated: x\r\nMessage-ID: y\r\n\r\n", b"Dated: x\r\nMessage-ID: y\r\n" + DATE + b"\r\n"),
    (b"Date: x\r\nBcc: y\r\n z\r\nMessage-ID: y\r\nbcc:\r\n\r\nBcc: z", b"Date: x\r\nMessage-ID: y\r\n\r\nBcc: z"),
    (b"Bcc: y\r\nDate: x\r\nMessage-ID: y\r\n\r\n", b"Date: x\r\nMessage-ID: y\r\n\r\n"),
    # what was sent again by somebody else has other fields of the same kinds (RFC 5322 3.6.6)
    (b"Resent-Bcc: y,\r\n\tz\r\nResent-To: a\r\nDate: x\r\nMessage-ID: y\r\n\r\n",
     b"Resent-To: a\r\nDate: x\r\nMessage-ID: y\r\n\r\n"),
    (b"Resent-Date: x\r\nResent-Message-ID: y\r\n\r\n",
     b"Resent-Date: x\r\nResent-Message-ID: y\r\n" + DATE + MESSAGE_ID + b"\r\n"),
    (b"Bcc \t: y\r\nBccc: z\r\nDate: x\r\nMessage-ID: y\r\n", b"Bccc: z\r\nDate: x\r\nMessage-ID: y\r\n"),
    # a line that is no field ends the header: what was added stands before it, and an empty line between
    (b"A: b\r\nhello\r\nDate : x\r\n\r\n", b"A: b\r\n" + MESSAGE_ID + b"\r\nhello\r\nDate : x\r\n\r\n"),
])
def test_completed(data: bytes, wanted: bytes) -> None:
    assert whole(data, True) == octets(data, True) == wanted


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(PARTS), max_size=16), st.booleans(), st.integers(1, 9))
def test_pieces_do_not_matter(parts: list[bytes], complete: bool, size: int) -> None:
    data = b"".join(parts) + b"\r\n"
    head = Header(Completion(DATE, MESSAGE_ID) if complete else None)
    out = b"".join(head.feed(data[i : i + size], last=i + size >= len(data)) for i in range(0, len(data), size))
    assert out == whole(data, complete)
    if not complete:
        assert out in (data, b"\r\n" + data)


@pytest.mark.parametrize("field, wanted", [
    (b"joe", b"joe@x.test"),
    (b" joe, jane@example.org,\r\n\tjim", b" joe@x.test, jane@example.org,\r\n\tjim@x.test"),
    (b" Joe Smith <joe>", b" Joe Smith <joe@x.test>"),
    (b' "joe@home, or not" <joe> (a, b), <\r\n jane >',
     b' "joe@home, or not" <joe@x.test> (a, b), <\r\n jane@x.test >'),
    (b' <"joe smith">', b' <"joe smith"@x.test>'),
    (b" joe (his @ comment)", b" joe@x.test (his @ comment)"),
    (b" (one) joe (two)", b" (one) joe@x.test (two)"),
    # left alone: complete ones, groups, what is no address, what has no end
    (b" joe@example.org, <jane@example.org>, <@a,@b:jim@c>", b" joe@example.org, <jane@example.org>, <@a,@b:jim@c>"),
    (b" undisclosed-recipients:;", b" undisclosed-recipients:;"),
    (b" friends: joe, jane;, <>", b" friends: joe, jane;, <>"),
    (b" Joe Smith", b" Joe Smith"),
    (b' "joe, jane', b' "joe, jane'),
    (b" joe (jane", b" joe (jane"),
    (b"", b""),
])
@pytest.mark.parametrize("name", [b"From:", b"To :", b"cc:", b"Sender:", b"Reply-To:", b"Resent-To:", b"RESENT-From:"])
def test_addresses_without_domain_get_ours(name: bytes, field: bytes, wanted: bytes) -> None:
    before, behind = b"Subject: joe\r\n", b"\r\nIn-Reply-To: joe\r\nX-To: joe\r\n\r\nTo: joe\r\n"
    data = DATE + MESSAGE_ID + before + name + field + behind
    head = Header(Completion(DATE, MESSAGE_ID, b"x.test"))
    assert head.feed(data, last=True) == DATE + MESSAGE_ID + before + name + wanted + behind


TEXT = [b"joe", b"@", b"a.test", b",", b" ", b"\r\n ", b"<", b">", b'"', b"\\", b"(", b")", b":", b";", b"\xe9",
        b"\r\nTo:", b"\r\nFrom: ", b"\r\nSubject:"]


@given(st.lists(st.sampled_from(TEXT), max_size=30))
def test_nothing_but_domains_is_added(parts: list[bytes]) -> None:
    header = b"To: " + b"".join(parts) + b"\r\n"
    made = qualify(header, b"x.test")
    assert made.replace(b"@x.test", b"") == header
    assert qualify(made, b"x.test") == made


@given(st.lists(st.sampled_from([*TEXT, b"\r\nBcc: ", b"\r\nDate: ", b"\r\nX-Long: " + b"y" * 70000]), max_size=12),
       st.binary(max_size=200))
def test_what_is_not_completed_is_not_changed(parts: list[bytes], body: bytes) -> None:
    """Each field but Bcc is there as it came, in its order, and so is the body."""
    block = b"Subject: x" + b"".join(parts) + b"\r\n"
    head = Header(Completion(DATE, MESSAGE_ID, b"x.test"))
    out = head.feed(block + b"\r\n" + body, last=True)
    assert out.endswith(b"\r\n" + body)
    assert Header(None).feed(block + b"\r\n" + body, last=True) == block + b"\r\n" + body
