"""The trace fields of a final delivery, and the search for our own among those a message already has."""

import re

from pysmtpd.base.envelope import Envelope
from pysmtpd.base.mailaddr import MailAddr

HEADER_MAX = 256 * 1024            # octets of a header that are searched
_FIELD = re.compile(rb"^delivered-to:[ \t]*(.*?)[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)


def trace_fields(envelope: Envelope) -> bytes:
    """Return-Path and Delivered-To, to stand before the message (RFC 5321 4.4).

    The recipient the client named comes first, as OpenSMTPD writes it; where expansion led is added when that is
    another address, because it is what the search for loops compares."""
    out = f"Return-Path: <{envelope.sender}>\r\nDelivered-To: {envelope.rcpt}\r\n"
    if str(envelope.dest).lower() != str(envelope.rcpt).lower():
        out += f"Delivered-To: {envelope.dest}\r\n"
    return out.encode()


class LoopSearch:
    """Whether the header of a body, which comes in pieces, says that it was delivered to this address before."""

    def __init__(self, dest: MailAddr) -> None:
        self._wanted = str(dest).lower().encode()
        self._head: bytes | None = b""  # None: nothing more is looked at

    def feed(self, chunk: bytes, *, last: bool) -> bool:
        """True when the address was found."""
        if self._head is None:
            return False
        head = self._head + chunk if self._head else chunk
        end = head.find(b"\r\n\r\n")
        if end < 0 and not last and len(head) < HEADER_MAX:
            self._head = head
            return False
        self._head = None
        return self._found(head[:end] if end >= 0 else head[:HEADER_MAX])

    def _found(self, head: bytes) -> bool:
        return any(match[1].lower() == self._wanted for match in _FIELD.finditer(head))
