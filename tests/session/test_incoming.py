"""What goes on of a message that comes in: our field first, in one of its two forms, whatever follows it."""

from collections.abc import Callable

import pytest

from pysmtpd.base.ids import MsgId
from pysmtpd.session.chunks import Chunk
from pysmtpd.session.incoming import Chunked, Incoming
from pysmtpd.session.received import Trace
from pysmtpd.session.smtp_tx import Tx
from tests.spool.house import envelope

TRACE = Trace(b"Received: full\r\n", b"Received: plain\r\n")


def by_data(message: bytes, size: int) -> bytes:
    tx = Tx(MsgId(1), envelope())
    incoming = Incoming(tx, 1000, TRACE, None, admd=b"mx.example")
    data = message + b".\r\n"
    for at in range(0, len(data), size):
        incoming.feed(data[at : at + size])
    assert incoming.fault is None
    return tx.flush()


def by_bdat(message: bytes, size: int) -> bytes:
    tx = Tx(MsgId(1), envelope())
    incoming = Chunked(tx, 1000, TRACE, None, admd=b"mx.example")
    incoming.begin(Chunk(len(message), True))
    for at in range(0, max(len(message), 1), size):
        incoming.feed(message[at : at + size])
    assert incoming.fault is None
    return tx.flush()


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize("take", [by_data, by_bdat])
@pytest.mark.parametrize(("message", "wanted"), [
    (b"A: b\r\n\r\nc\r\n", TRACE.plain + b"A: b\r\n\r\nc\r\n"),
    ("A: \u00fc\r\n\r\nc\r\n".encode(), TRACE.full + "A: \u00fc\r\n\r\nc\r\n".encode()),
    ("A: b\r\n\r\n\u00fc\r\n".encode(), TRACE.plain + "A: b\r\n\r\n\u00fc\r\n".encode()),
    (b"no header\r\n", TRACE.plain + b"\r\nno header\r\n"),
    (b"", TRACE.plain + b"\r\n"),
    # all that came is taken away
    (b"Authentication-Results: mx.example; none\r\n", TRACE.plain),
])
def test_our_field_comes_first(take: Callable[[bytes, int], bytes], message: bytes, wanted: bytes, size: int) -> None:
    assert take(message, size) == wanted
