"""An expansion as lka sends it: numbered and sealed, in as many messages as it takes."""

from collections.abc import Iterator

import msgspec

from pysmtpd.base.envelope import Envelope
from pysmtpd.base.seal import Seal
from pysmtpd.base.struct import replace
from pysmtpd.lookup.node import Expanded
from pysmtpd.messages import SEALED_MAX, RcptExpanded

ROOM = SEALED_MAX - 64             # octets of envelopes in one frame


def frames(reqid: int, first: int, expanded: Expanded, seal: Seal) -> Iterator[RcptExpanded]:
    """An expansion in as many messages as it takes; nearly always one.  first: the evpid of its first envelope.

    Raises SealError for an envelope that queue would refuse."""
    batch: list[Envelope] = []
    size, several = 0, len(expanded.envelopes) > 1
    for number, envelope in enumerate(expanded.envelopes, first):
        numbered = envelope if envelope.evpid == number else replace(envelope, evpid=number)
        length = len(msgspec.msgpack.encode(numbered)) if several else 0
        if batch and size + length > ROOM:
            yield RcptExpanded(reqid, seal.close(batch), len(batch), "", "", True)
            batch, size = [], 0
        batch.append(numbered)
        size += length
    sealed = seal.close(batch) if batch else b""
    yield RcptExpanded(reqid, sealed, len(batch), expanded.reply, expanded.why, whole=expanded.whole)
