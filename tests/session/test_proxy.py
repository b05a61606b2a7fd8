"""The PROXY header: what is taken, what is refused, and that not an octet behind it is touched."""

import contextlib
import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pysmtpd.session.proxy import SIGNATURE, ProxyError, ProxyHeader


def v2(command: int, family: int, addresses: bytes, tlvs: bytes = b"", version: int = 2) -> bytes:
    rest = addresses + tlvs
    return SIGNATURE + struct.pack("!BBH", version << 4 | command, family, len(rest)) + rest


INET = bytes([192, 0, 2, 7, 127, 0, 0, 1]) + struct.pack("!HH", 1234, 25)
INET6 = bytes.fromhex("20010db8000000000000000000000007") + bytes(15) + b"\1" + struct.pack("!HH", 4321, 25)
MAPPED = bytes(10) + b"\xff\xff" + bytes([192, 0, 2, 9]) + INET6[16:]
TLVS = b"\x04" + struct.pack("!H", 3000) + bytes(3000)

GOOD = {
    b"PROXY TCP4 192.0.2.7 127.0.0.1 1234 25\r\n": ("192.0.2.7", 1234),
    b"PROXY TCP6 2001:db8::7 ::1 4321 25\r\n": ("2001:db8::7", 4321),
    b"PROXY TCP6 ::ffff:192.0.2.9 ::1 4321 25\r\n": ("192.0.2.9", 4321),
    b"PROXY UNKNOWN\r\n": ("", 0),
    b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n": ("", 0),
    v2(1, 0x11, INET): ("192.0.2.7", 1234),
    v2(1, 0x11, INET, TLVS): ("192.0.2.7", 1234),
    v2(1, 0x21, INET6): ("2001:db8::7", 4321),
    v2(1, 0x21, MAPPED, TLVS): ("192.0.2.9", 4321),
    v2(0, 0, b""): ("", 0),
    v2(0, 0x11, INET, TLVS): ("", 0),
    v2(1, 0x11, INET, bytes(65535 - 16 - 12)): ("192.0.2.7", 1234),
}
BAD = {
    b"EHLO x\r\n": "invalid signature",
    b"PROXY TCP4 192.0.2.7 127.0.0.1 1234\r\n": "invalid header",
    b"PROXY TCP5 192.0.2.7 127.0.0.1 1234 25\r\n": "invalid header",
    b"PROXY  TCP4 192.0.2.7 127.0.0.1 1234 25\r\n": "invalid header",
    b"PROXY TCP4 2001:db8::7 ::1 1234 25\r\n": "invalid address",
    b"PROXY TCP6 192.0.2.7 ::1 1234 25\r\n": "invalid address",
    b"PROXY TCP6 fe80::1%lo ::1 1234 25\r\n": "invalid address",
    b"PROXY TCP4 192.0.2.7 127.0.0.1 01234 25\r\n": "invalid address",
    b"PROXY TCP4 192.0.2.7 127.0.0.1 65536 25\r\n": "invalid address",
    b"PROXY " + b"x" * 200: "header too long",
    v2(1, 0x11, INET, version=1): "invalid version",
    v2(2, 0x11, INET): "unknown command",
    v2(1, 0, INET): "UNSPEC family",
    v2(1, 0x12, INET): "unsupported address family",
    v2(1, 0x31, bytes(216)): "unsupported address family",
    v2(1, 0x21, INET): "address info too short",
    SIGNATURE + struct.pack("!BBH", 0x21, 0x11, 65535): "header too long",
}


def feed(header: ProxyHeader, pieces: list[bytes]) -> bytes:
    """Show it a stream as a socket would; what it did not take."""
    waiting = b""
    for piece in pieces:
        waiting += piece
        while waiting and not header.done:
            taken = header.feed(waiting)
            assert 0 < taken <= len(waiting)
            waiting = waiting[taken:]
    return waiting


@given(st.sampled_from(sorted(GOOD)), st.binary(max_size=40), st.lists(st.integers(0, 200), max_size=6))
def test_what_follows_is_left_alone_however_it_comes(data: bytes, rest: bytes, cuts: list[int]) -> None:
    header, whole = ProxyHeader(v1=True), data + rest
    places = sorted({0, len(whole), *(cut % (len(whole) + 1) for cut in cuts)})
    pieces = [whole[a:b] for a, b in itertools.pairwise(places)]
    assert feed(header, pieces) == rest
    assert header.done
    assert (header.address, header.port) == GOOD[data]


@pytest.mark.parametrize("data", [data for data in sorted(GOOD) if len(data) < 200])
def test_octet_by_octet(data: bytes) -> None:
    header = ProxyHeader(v1=True)
    for at in range(len(data)):
        assert not header.done
        assert header.feed(data[at : at + 1]) == 1
    assert header.done
    assert (header.address, header.port) == GOOD[data]


@pytest.mark.parametrize("data", sorted(BAD))
def test_what_is_refused(data: bytes) -> None:
    with pytest.raises(ProxyError, match=BAD[data]):
        feed(ProxyHeader(v1=True), [data])
    with pytest.raises(ProxyError, match=BAD[data]):
        feed(ProxyHeader(v1=True), [data[at : at + 1] for at in range(len(data))])


def test_version_1_only_where_it_is_taken() -> None:
    with pytest.raises(ProxyError, match="invalid signature"):
        ProxyHeader(v1=False).feed(b"P")


@given(st.binary(min_size=1, max_size=300), st.booleans())
def test_garbage_never_raises_anything_else(data: bytes, v1: bool) -> None:
    for start in (b"", b"PROXY ", SIGNATURE, SIGNATURE + b"\x21\x11"):
        with contextlib.suppress(ProxyError):
            feed(ProxyHeader(v1=v1), [start + data])
