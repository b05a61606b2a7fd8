"""Replies of a server, as a client reads them (RFC 5321 4.2).

Octets in, whole replies out.  A line has at most 2048 octets, a reply at most 128 lines; what is not a reply
at all is a ReplyError.  Lines may end in LF alone.  When the lines of a reply differ in their code the
last one counts.
"""

import re
from collections import deque

from pysmtpd.base.text import line_of

LINE_MAX = 2048
LINES_MAX = 128
TEXT_MAX = 1000                    # octets of a reply as it is logged and reported

_CODES = {b"%d" % code: code for code in range(200, 600)}
_ESC = re.compile(rb"([245]\.[0-9]{1,3}\.[0-9]{1,3})(?:[ \t]+|$)")


class ReplyError(ValueError):
    """What arrived is no reply: why, in a few words."""


class Reply:
    """One reply: its code, and the text of its lines as it came."""

    __slots__ = ("code", "lines")

    def __init__(self, code: int, lines: list[bytes]) -> None:
        self.code = code
        self.lines = lines

    def __repr__(self) -> str:
        return f"<Reply {self.text}>"

    @property
    def positive(self) -> bool:
        return self.code < 300

    @property
    def esc(self) -> str:
        """The enhanced status code (RFC 2034), or empty: one of another class than the reply's is none."""
        match = _ESC.match(self.lines[0])
        if match is None or match.group(1)[0] - 48 != self.code // 100:
            return ""
        return match.group(1).decode()

    @property
    def text(self) -> str:
        """All of it as one clean line, e.g. ``550 5.1.1 No such user here``."""
        if len(self.lines) == 1:
            line = self.lines[0]
            if len(line) < TEXT_MAX - 4 and line.isascii() and (text := line.decode()).isprintable():
                return f"{self.code} {text}".rstrip()
            return line_of(b"%d %b" % (self.code, self.lines[0]), TEXT_MAX)
        rest = [_ESC.sub(b"", line, count=1) if _ESC.match(line) else line for line in self.lines[1:]]
        return line_of(b" ".join([b"%d" % self.code, self.lines[0], *rest]), TEXT_MAX)


class ReplyReader:
    """Cuts what a server sends into replies."""

    def __init__(self) -> None:
        self._tail = b""
        self._lines: deque[bytes] = deque()
        self._text: list[bytes] = []

    @property
    def pending(self) -> bool:
        """Whether anything is left that was not handed out."""
        return bool(self._lines or self._text or self._tail)

    def feed(self, data: bytes) -> None:
        """Take octets.  Raises ReplyError for a line that is too long."""
        lines = (self._tail + data).split(b"\n")
        self._tail = lines.pop()
        if len(self._tail) > LINE_MAX:
            raise ReplyError("line too long")
        self._lines.extend(lines)

    def next(self) -> Reply | None:
        """The next whole reply, None when there is none yet.  Raises ReplyError."""
        while self._lines:
            line = self._lines.popleft()
            if len(line) > LINE_MAX:
                raise ReplyError("line too long")
            if line.endswith(b"\r"):
                line = line[:-1]
            code, more, text = _parse(line)
            if more:
                self._text.append(text)
                if len(self._text) >= LINES_MAX:
                    raise ReplyError("too many lines")
                continue
            if not self._text:
                return Reply(code, [text])
            lines = [*self._text, text]
            self._text = []
            return Reply(code, lines)
        return None


def _parse(line: bytes) -> tuple[int, bool, bytes]:
    """Code, whether more lines follow, and the text of a line."""
    code = _CODES.get(line[:3])
    separator = line[3:4]
    if code is not None and separator in b" -":
        return code, separator == b"-", line[4:]
    if len(line) < 3:
        raise ReplyError("line too short")
    raise ReplyError("not a reply" if code is not None or not line[:3].isdigit() else "reply code out of range")
