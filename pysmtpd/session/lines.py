"""Command lines out of bytes: CRLF ends them, and nothing else does (RFC 5321 2.3.8)."""

from pysmtpd.base.reply import R500_BARE_NEWLINE, R500_COMMAND_TOO_LONG, Reply

LINE_MAX = 2048                    # octets of a command line, with its CRLF
AUTH_LINE_MAX = 12288              # and of one that carries credentials (RFC 4954 4)


class LineError(ValueError):
    """A line after which this client's bytes cannot be trusted to be commands; says what to reply."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply)
        self.reply = reply


class Lines:
    """Bytes that came and were not yet looked at."""

    __slots__ = ("_at", "_data")

    def __init__(self) -> None:
        self._data = b""
        self._at = 0

    def __len__(self) -> int:
        return len(self._data) - self._at

    def feed(self, data: bytes) -> int:
        """Octets came; returns how many there are now."""
        self._data = data = self._data[self._at :] + data if self._at < len(self._data) else data
        self._at = 0
        return len(data)

    def next(self, *, credentials: bool = False) -> bytes | None:
        """The next line without its CRLF; None when it is not complete.  ``credentials``: it answers a challenge.

        Raises LineError for one that is too long or ends in a bare LF: whoever sends that may be carrying
        somebody else's text, so the session should end."""
        at, data = self._at, self._data
        if at == len(data):
            return None
        end = data.find(b"\n", at, at + LINE_MAX)
        if end < 0:
            limit = AUTH_LINE_MAX if credentials or data[at : at + 5].upper() == b"AUTH " else LINE_MAX
            end = data.find(b"\n", at, at + limit)
            if end < 0:
                if len(data) - at >= limit:
                    raise LineError(R500_COMMAND_TOO_LONG)
                return None
        if end == at or data[end - 1] != 0x0D:
            raise LineError(R500_BARE_NEWLINE)
        self._at = end + 1
        return data[at : end - 1]

    def take(self, size: int) -> bytes:
        """So many octets, or all there are when they are fewer."""
        data = self._data[self._at : self._at + size]
        self._at += len(data)
        return data

    def rest(self) -> bytes:
        """Everything there is; it is forgotten here."""
        data = self._data[self._at :] if self._at else self._data
        self._data = b""
        self._at = 0
        return data
