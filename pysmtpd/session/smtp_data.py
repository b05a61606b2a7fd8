r"""Mail data (RFC 5321 4.1.1.4) as it arrives: where it ends, its dots, its faults, its size.

The end of data is CRLF.CRLF and nothing else.  A message with a bare CR, a bare LF or a NUL is refused,
but only after its true end was seen, so that no octet of a message is ever read as a command: what
another server takes for the end of a message, and we do not, stays inside the message we refuse.  Where the
configuration wants them normalized instead, the end and the dots are found first, in the octets as they came.

Everything here is a search over whole buffers, never a walk over lines.
"""

from pysmtpd.base.reply import R550_BARE_NEWLINE, R550_NUL, R554_TOO_BIG, Reply
from pysmtpd.session.newlines import normalized

END = b"\r\n.\r\n"


class MailData:
    """The mail data of one message."""

    __slots__ = ("_bare", "_held", "_limit", "_normalize", "_nul", "_skip", "size")

    def __init__(self, limit: int, *, normalize: bool = False) -> None:
        self._normalize = normalize
        self.size = 0              # octets so far, dots unstuffed (RFC 1870 5)
        self._limit = limit
        self._bare = False
        self._nul = False
        # The CRLF of the DATA command begins the first line, and is no part of the message.
        self._held = b"\r\n"
        self._skip = 2

    @property
    def fault(self) -> Reply | None:
        """The gravest of the faults, so that the answer does not depend on how the bytes came in pieces."""
        if self._bare:
            return R550_BARE_NEWLINE
        if self._nul:
            return R550_NUL
        return R554_TOO_BIG if self.size > self._limit else None

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        """Mail data with dots unstuffed, and what follows its end once that was seen.

        After a fault there is no mail data any more, only the search for the end."""
        data = self._held + data
        # One search tells both whether the end can be here and whether a dot can be stuffed.
        dot = data.find(b"\r\n.")
        end = data.find(END, dot) if dot >= 0 else -1
        if end >= 0:
            rest: bytes | None = data[end + len(END) :]
            data = data[: end + 2]
            self._held = b""
        else:
            rest = None
            keep = len(data) - _held_back(data)
            self._held = data[keep:]
            data = data[:keep]
        if dot >= 0 and dot != end:
            return self._accept(data, data.replace(b"\r\n.", b"\r\n")), rest
        return self._accept(data, data), rest

    def _accept(self, data: bytes, unstuffed: bytes) -> bytes:
        newlines = data.count(b"\n")
        bare = newlines != data.count(b"\r\n") or newlines != data.count(b"\r")
        nul = b"\0" in data
        if self._skip and unstuffed:
            unstuffed = unstuffed[self._skip :]
            self._skip = 0
        if bare or nul:
            if self._normalize:
                unstuffed = normalized(unstuffed)
            else:
                self._bare |= bare
                self._nul |= nul
        self.size += len(unstuffed)
        return b"" if self._bare or self._nul or self.size > self._limit else unstuffed


def _held_back(data: bytes) -> int:
    """How many octets at the end of data may be the beginning of the end, or of a stuffed dot."""
    last = data[-1] if data else 0
    if last == 0x0D:
        return 4 if data.endswith(b"\r\n.\r") else 1
    if last == 0x0A:
        return 2 if data.endswith(b"\r\n") else 0
    if last == 0x2E:
        return 3 if data.endswith(b"\r\n.") else 0
    return 0
