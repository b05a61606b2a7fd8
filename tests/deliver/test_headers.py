"""Trace fields, and the search for them in any pieces."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pysmtpd.base.mailaddr import MailAddr
from pysmtpd.deliver.headers import HEADER_MAX, LoopSearch, trace_fields
from tests.deliver.support import envelope

JOE = MailAddr("joe", "example.com")


def found(*pieces: bytes, dest: MailAddr = JOE) -> bool:
    one = LoopSearch(dest)
    return any(one.feed(piece, last=index == len(pieces) - 1) for index, piece in enumerate(pieces))


@pytest.mark.parametrize("body, wanted", [
    (b"Delivered-To: joe@example.com\r\n\r\n", True),
    (b"a: b\r\nDELIVERED-to:Joe@Example.COM \r\n\r\nx", True),
    (b"a: b\r\nDelivered-To: joe@example.com", True),
    (b"Delivered-To: joe@example.com.org\r\n\r\n", False),
    (b"Delivered-To: jane@example.com\r\n\r\n", False),
    (b"a: b\r\n\r\nDelivered-To: joe@example.com\r\n", False),
    (b"X-Delivered-To: joe@example.com\r\n\r\n", False),
    (b"a: b\r\n Delivered-To: joe@example.com\r\n\r\n", False),
    (b"", False),
])
def test_search(body: bytes, wanted: bool) -> None:
    assert found(body) is wanted
    assert found(*[body[at : at + 1] for at in range(len(body))]) is wanted


def test_only_so_much_of_a_header_is_kept() -> None:
    one = LoopSearch(JOE)
    for _ in range(HEADER_MAX // 1000 + 1):
        assert not one.feed(b"x" * 998 + b"\r\n", last=False)
    assert one._head is None


@settings(max_examples=100)
@given(st.lists(st.sampled_from([b"delivered-to:", b"Delivered-To: ", b"joe@example.com", b"\r\n", b"\r", b"\n", b"x"]),
                max_size=12))
def test_pieces_do_not_matter(pieces: list[bytes]) -> None:
    assert found(*pieces) is found(b"".join(pieces))


def test_what_is_written_is_found() -> None:
    one = envelope(rcpt="List@Example.com", dest="joe@example.com")
    for address in ("list@example.com", "JOE@example.com"):
        user, _, domain = address.partition("@")
        assert found(trace_fields(one) + b"\r\n", dest=MailAddr(user, domain))


def test_one_field_where_nothing_was_expanded() -> None:
    assert trace_fields(envelope(rcpt="Joe@example.com")).count(b"Delivered-To") == 1
