"""Mail data on its way out: dots doubled, lines ending in CRLF, and nothing else (RFC 5321 4.5.2).

Works on whole chunks.  The spool keeps lines ending in CRLF; should a bare CR or LF ever come out of it, it
leaves as CRLF, because what one server takes for the end of a line another may take for the end of the data.
"""

import re

_LINE_END = re.compile(rb"\r\n|\r|\n")


class DotStuffer:
    """The mail data of one message."""

    __slots__ = ("_held", "_line_start")

    def __init__(self) -> None:
        self._held = b""           # a CR whose LF may be the first octet of the next chunk
        self._line_start = True

    def chunk(self, data: bytes) -> bytes:
        """What to send for the next piece."""
        if self._held:
            data = self._held + data
            self._held = b""
        if data.endswith(b"\r"):
            self._held = b"\r"
            data = data[:-1]
        if not data:
            return data
        # Two passes in C; counting CR and LF one by one takes three times as long.
        if len(data) - len(data.translate(None, b"\r\n")) != 2 * data.count(b"\r\n"):
            data = _LINE_END.sub(b"\r\n", data)
        out = data.replace(b"\r\n.", b"\r\n..")
        if self._line_start and data.startswith(b"."):
            out = b"." + out
        self._line_start = data.endswith(b"\r\n")
        return out

    def end(self) -> bytes:
        """What ends the mail data."""
        complete = self._line_start and not self._held
        return b".\r\n" if complete else b"\r\n.\r\n"


class Chunker:
    """The same of a message that is not text: chunks, each with its length before it (RFC 3030)."""

    __slots__ = ()

    def chunk(self, data: bytes, *, last: bool) -> bytes:
        """A command and its data.  Nothing when there are none and more will come."""
        if not data and not last:
            return b""
        return b"BDAT %d%s\r\n%b" % (len(data), b" LAST" if last else b"", data)
