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
    envelopes = [e if e.evpid == n else replace(e, evpid=n) for n, e in enumerate(expanded.envelopes, first)]
    if len(envelopes) > 1:
        batch: list[Envelope] = []
        size = 0
        for envelope in envelopes:
            length = len(msgspec.msgpack.encode(envelope))
            if batch and size + length > ROOM:
                yield RcptExpanded(reqid, seal.close(batch), len(batch), "", "", True)
                batch, size = [], 0
            batch.append(envelope)
            size += length
        envelopes = batch
    sealed = seal.close(envelopes) if envelopes else b""
    yield RcptExpanded(reqid, sealed, len(envelopes), expanded.reply, expanded.why, whole=expanded.whole)
