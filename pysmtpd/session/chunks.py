"""BDAT (RFC 3030): mail data in chunks whose length is told before them, and nothing in them has a meaning.

What was not announced as BODY=BINARYMIME has the rules of DATA: only CRLF ends a line, and there is no NUL.  A chunk
may end between CR and LF.
"""

import re
from typing import NamedTuple

from pysmtpd.base.reply import R550_BARE_NEWLINE, R550_NUL, R554_TOO_BIG, Reply
from pysmtpd.session.newlines import is_text, normalized

_ARGUMENT = re.compile(r"([0-9]{1,19})(?:[ \t]+(LAST))?", re.IGNORECASE)


class Chunk(NamedTuple):
    """What BDAT announced."""

    size: int                      # octets
    last: bool


def parse_chunk(argument: str) -> Chunk | None:
    """The argument of BDAT; None for a syntax error, after which nobody knows where the chunk ends."""
    match = _ARGUMENT.fullmatch(argument)
    return Chunk(int(match[1]), match[2] is not None) if match else None


class ChunkData:
    """The mail data of one message that comes in chunks."""

    __slots__ = ("_bare", "_carry", "_limit", "_normalize", "_nul", "_size", "last", "left", "may_be_binary")

    def __init__(self, limit: int, *, may_be_binary: bool, normalize: bool = False) -> None:
        self._normalize = normalize and not may_be_binary
        self.left = 0              # octets of the chunk that did not come yet
        self.last = False          # it is the last chunk
        self.may_be_binary = may_be_binary
        self._size = 0             # octets that were announced
        self._limit = limit
        self._bare = False
        self._nul = False
        self._carry = b""          # a CR whose LF may come

    @property
    def binary(self) -> bool:
        """Whether it is more than lines of text."""
        return self._bare or self._nul

    @property
    def fault(self) -> Reply | None:
        """Why the message is refused, once the chunk was seen.  The size is known before."""
        if self._size > self._limit:
            return R554_TOO_BIG
        if self.may_be_binary:
            return None
        if self._bare:
            return R550_BARE_NEWLINE
        return R550_NUL if self._nul else None

    def begin(self, chunk: Chunk) -> None:
        """The next chunk was announced."""
        self.left, self.last = chunk
        self._size += chunk.size

    def feed(self, data: bytes) -> bytes:
        """Octets of the chunk, not more than are left; gives those of the message: none after a fault."""
        self.left -= len(data)
        end = self.last and not self.left
        if self._normalize:
            return self._normalized(data, end=end)
        self._look(data, end=end)
        return data if self.fault is None else b""

    def _normalized(self, data: bytes, *, end: bool) -> bytes:
        data = self._carry + data
        self._carry = b""
        if not end and data.endswith(b"\r"):
            self._carry, data = b"\r", data[:-1]
        if self.fault is not None:
            return b""
        return data if is_text(data) else normalized(data)

    def _look(self, data: bytes, *, end: bool) -> None:
        data = self._carry + data if self._carry else data
        self._carry = b""
        if not end and data.endswith(b"\r"):
            self._carry, data = b"\r", data[:-1]
        newlines = data.count(b"\n")
        if newlines != data.count(b"\r\n") or newlines != data.count(b"\r"):
            self._bare = True
        elif b"\0" in data:
            self._nul = True
