r"""The header of a message as it passes: counted, and for a user's own mail completed.

``feed`` gives back what may go on; everything but what is added or removed stays as it came, folding
included.  The header is held until its end was seen.  All searches are over the whole block, with ``\r\n``
put before it so that every field begins after one.
"""

import re
from typing import NamedTuple

from pysmtpd.base.reply import R550_HEADER, R552_HEADER, R554_LOOP, Reply
from pysmtpd.session import authres
from pysmtpd.session.masquerade import masquerade
from pysmtpd.session.qualify import qualify

HEADER_MAX = 1024 * 1024
HOPS_MAX = 100
_NAME_MAX = 1000                   # the first colon comes within so many octets, or there is no header

_FIELD = re.compile(rb"[!-9;-~]+[ \t]*:")
_HEADER = re.compile(rb"(?:[!-9;-~]+[ \t]*:[^\r]*(?:\r\n[ \t][^\r]*)*\r\n(?![ \t]))*")


class Completion(NamedTuple):
    """What a user's own mail gets where it is missing: two fields, and the domain of addresses without one."""

    date: bytes
    message_id: bytes
    domain: bytes = b""


class Header:
    """The header of one message on its way."""

    __slots__ = ("_admd", "_complete", "_done", "_fault", "_held", "_masked", "_seen", "_strict",
                 "beyond_ascii")

    def __init__(self, complete: Completion | None, masked: bytes = b"", admd: bytes = b"", *,
                 strict: bool = False) -> None:
        """``complete``: what to add where it is missing, Bcc and Resent-Bcc are then removed; None leaves the header
        alone.
        ``masked``: an address that takes the place of those in From.  ``admd``: our name, in lower case, by which
        nobody else shall tell results of authentication; empty where they may.  ``strict``: the
        body may be binary (RFC 3030 3), which the header must not."""
        self._masked = masked
        self._admd = admd
        self._complete = complete
        self._strict = strict
        self.beyond_ascii = False  # it has such characters
        self._held = bytearray()
        self._seen = 0
        self._done = False
        self._fault: Reply | None = None

    @property
    def held(self) -> int:
        """Octets of a header whose end has not come."""
        return len(self._held)

    @property
    def fault(self) -> Reply | None:
        """Why this message is refused."""
        return self._fault

    def feed(self, data: bytes, *, last: bool) -> bytes:
        """What may go on after data came; ``last``: it was the end of the message."""
        if self._done:
            return b"" if self._fault else data
        if not self._held and last:
            return self._finish(data, _end(data, 0))
        self._held += data
        end = _end(self._held, max(self._seen - 3, 0))
        self._seen = len(self._held)
        if end >= 0 or last or self._no_header():
            block, self._held = bytes(self._held), bytearray()
            return self._finish(block, end)
        if self._seen > HEADER_MAX + 2:
            self._fault, self._done = R552_HEADER, True
            self._held.clear()
        return b""

    def _no_header(self) -> bool:
        """Whether enough is there to know that the first line is no header field."""
        line = self._held[:_NAME_MAX]
        return (len(line) == _NAME_MAX or b"\r\n" in line) and _FIELD.match(line) is None

    def _finish(self, data: bytes, end: int) -> bytes:
        """data from its beginning; its header has ``end`` octets, all of it when -1."""
        self._done = True
        if _FIELD.match(data[:_NAME_MAX]) is None:
            # No header at all: ours ends here, and everything that came is the body (RFC 5322 3.5).
            fields = b"".join(self._complete[:2]) if self._complete else b""
            return fields + (data if data.startswith(b"\r\n") else b"\r\n" + data)
        if end < 0:
            end = len(data)
        if end > HEADER_MAX:
            self._fault = R552_HEADER
            return b""
        if self._strict and not _is_text(data[:end]):
            self._fault = R550_HEADER
            return b""
        folded = b"\r\n" + data[:end].lower()
        if folded.count(b"\r\nreceived:") >= HOPS_MAX:
            self._fault = R554_LOOP
            return b""
        if self._masked and _has(folded, b"from"):
            header = masquerade(data[:end], self._masked)
            data, folded = header + data[end:], b"\r\n" + header.lower()
        if self._admd and _has(folded, authres.NAME):
            header = authres.without_claims(data[:end], self._admd)
            data, folded = header + data[end:], b"\r\n" + header.lower()
        self.beyond_ascii = not folded.isascii()
        return self._completed(data, folded) if self._complete else data

    def _completed(self, data: bytes, folded: bytes) -> bytes:
        assert self._complete is not None
        bcc = _has(folded, b"bcc") or _has(folded, b"resent-bcc")
        fields = b"".join(field for field in self._complete[:2] if not _has(folded, field[: field.index(b":")].lower()))
        domain = self._complete.domain
        if not bcc and not fields and not domain:
            return data
        match = _HEADER.match(data)
        end = match.end() if match else 0
        header = _without(data[:end], b"(?:resent-)?bcc") if bcc else data[:end]
        rest = data[end:]
        if domain:
            header = qualify(header, domain)
        if not fields and not bcc:
            return header + rest
        # A line that is no field ended the header without the empty line that should have.
        return header + fields + (rest if rest.startswith(b"\r\n") or not rest else b"\r\n" + rest)


def _end(data: bytes | bytearray, start: int) -> int:
    """Where the header ends: behind its last field's CRLF; -1 when that is not known."""
    if data.startswith(b"\r\n"):
        return 0
    found = data.find(b"\r\n\r\n", start)
    return found + 2 if found >= 0 else -1


def _is_text(block: bytes) -> bool:
    """Whether it is lines ending in CRLF, without NUL."""
    return b"\0" not in block and block.count(b"\n") == block.count(b"\r\n") == block.count(b"\r")


def _has(folded: bytes, name: bytes) -> bool:
    """Whether the block, in lower case and with CRLF before it, has a field of this name."""
    at = folded.find(b"\r\n" + name)
    while at >= 0:
        if folded[at + 2 + len(name) : at + 66 + len(name)].lstrip(b" \t").startswith(b":"):
            return True
        at = folded.find(b"\r\n" + name, at + 2)
    return False


def _without(header: bytes, name: bytes) -> bytes:
    """The header without the fields of this name, a pattern, and their continuation lines."""
    pattern = rb"(?:^|(?<=\r\n))" + name + rb"[ \t]*:[^\r]*(?:\r\n[ \t][^\r]*)*\r\n"
    return re.sub(pattern, b"", header, flags=re.IGNORECASE)
