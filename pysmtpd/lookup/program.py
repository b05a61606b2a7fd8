"""The conversation with a table program: smtpd-tables(7), version 0.1, without its sockets.

Lines, fields between ``|``.  We say who we are, the program says which services it has, then requests and replies go
their ways, each with an id.  Whatever a program says that is none of this ends the conversation.
"""

import re
from typing import NamedTuple

from pysmtpd.lookup.service import Service

VERSION = "0.1"
LINE_MAX = 65536                   # octets of one line of a program
REQUEST_MAX = 4096                 # octets of one of ours
FORGOTTEN_MAX = 4096               # requests nobody waits for any more, whose replies may still come

_OLD = "it does not speak the text protocol of OpenSMTPD 7.6 and later (older table programs are binary)"


class ProtocolError(Exception):
    """The program said what it must not say; before that, these replies."""

    replies: "tuple[Reply, ...]" = ()


class Reply(NamedTuple):
    """What became of a request: ok, found, not-found or error, with the value found or the reason of the error."""

    ident: int
    outcome: str
    value: str


class Conversation:
    """One run of one program."""

    def __init__(self, table: str, software: str) -> None:
        """software: name and version of ours."""
        self.services: set[Service] = set()
        self.unknown: list[str] = []       # services it has and we do not know
        self.ready = False
        self._table = table
        self._software = software
        self._open: dict[int, str] = {}    # operations by id
        self._forgotten: dict[int, None] = {}
        self._buffer = b""
        self._next = 0

    def hello(self) -> bytes:
        """What is said first."""
        lines = (f"smtpd-version|{self._software}", f"protocol|{VERSION}", f"tablename|{self._table}", "ready")
        return "".join(f"config|{line}\n" for line in lines).encode()

    @property
    def open(self) -> int:
        """How many requests have no reply yet."""
        return len(self._open)

    def request(self, now: float, operation: str, service: str = "", key: str = "") -> tuple[int, bytes]:
        """A request and its id: update, check, lookup or fetch.  now: seconds since the epoch.

        Raises ValueError for a key that does not fit into a line."""
        if any(char in key for char in "\r\n\0") or len(key.encode("utf-8", "surrogateescape")) > REQUEST_MAX:
            raise ValueError("a key that cannot be sent")
        self._next = ident = (self._next + 1) & 0xFFFFFFFF
        fields = ["table", VERSION, f"{now:.6f}", self._table, operation]
        fields += [service] if service else []
        fields.append(f"{ident:08x}")
        fields += [key] if operation in ("check", "lookup") else []
        self._open[ident] = operation
        return ident, ("|".join(fields) + "\n").encode()

    def forget(self, ident: int) -> None:
        """Nobody waits for this reply any more; it may still come."""
        if self._open.pop(ident, None) is not None:
            if len(self._forgotten) >= FORGOTTEN_MAX:
                del self._forgotten[next(iter(self._forgotten))]
            self._forgotten[ident] = None

    def receive(self, data: bytes) -> list[Reply]:
        """The replies that are complete now.  Raises ProtocolError, after which there is no more to say."""
        lines = (self._buffer + data).split(b"\n")
        self._buffer = lines.pop()
        replies: list[Reply] = []
        try:
            for line in lines:
                reply = self._line(line)
                if reply is not None:
                    replies.append(reply)
            if len(self._buffer) > LINE_MAX:
                raise ProtocolError(f"a line of more than {LINE_MAX} octets")
            if not self.ready and not b"register|".startswith(self._buffer[:9]):
                raise ProtocolError(_OLD)
        except ProtocolError as error:
            error.replies = tuple(replies)
            raise
        return replies

    def _line(self, line: bytes) -> Reply | None:
        if len(line) > LINE_MAX:
            raise ProtocolError(f"a line of more than {LINE_MAX} octets")
        try:
            text = line.decode()
        except UnicodeDecodeError:
            raise ProtocolError("a line that is not UTF-8" if self.ready else _OLD) from None
        if not self.ready:
            self._register(text)
            return None
        return self._reply(text)

    def _register(self, text: str) -> None:
        word, bar, name = text.partition("|")
        if word != "register" or not bar:
            raise ProtocolError(_OLD)
        if name == "ready":
            if not self.services:
                raise ProtocolError("it has no service that we know")
            self.ready = True
        elif name in Service.__members__.values():
            self.services.add(Service(name))
        elif len(self.unknown) < 16:
            self.unknown.append(name[:64])

    def _reply(self, text: str) -> Reply | None:
        kind, _, rest = text.partition("|")
        ident, _, rest = rest.partition("|")
        outcome, _, value = rest.partition("|")
        number = int(ident, 16) if _IDENT.fullmatch(ident) else -1
        operation = self._open.get(number)
        if operation is None:
            if number not in self._forgotten:
                raise ProtocolError("a reply to nothing that was asked")
            del self._forgotten[number]
            return None
        # The manual's example answers a fetch with lookup-result.
        if kind != f"{operation}-result" and (kind, operation) != ("lookup-result", "fetch"):
            raise ProtocolError("a reply of another kind than what was asked")
        if outcome not in _OUTCOMES[operation] or (outcome == "found" and operation != "check" and not value):
            raise ProtocolError("a reply that is none")
        del self._open[number]
        return Reply(number, outcome, value)


_FOUND = ("found", "not-found", "error")
_OUTCOMES = {"update": ("ok", "error"), "check": _FOUND, "lookup": _FOUND, "fetch": _FOUND}

_IDENT = re.compile("[0-9a-fA-F]{1,8}")
