"""Dovecot's authentication protocol, the client's side, without I/O (doc/auth-protocol.txt of Dovecot, version 1).

Lines of fields that tabs part.  After the server's DONE any number of requests may be under way, told apart by their
numbers; the mechanisms are Dovecot's own, and what a client says is passed on as it is.
"""

import base64
import binascii
from collections.abc import Iterator
from typing import NamedTuple

LINE_MAX = 65536                   # octets; Dovecot sends at most 8192 of base64
MAJOR = 1
_ESCAPES = {b"\x010": b"\0", b"\x011": b"\x01", b"\x01t": b"\t", b"\x01r": b"\r", b"\x01n": b"\n"}
_UNSAFE = frozenset(("ANONYMOUS", "EXTERNAL", "GSSAPI", "GSS-SPNEGO", "NTLM"))


class ProtocolError(Exception):
    """What the server says is not this protocol."""


class Ready(NamedTuple):
    """The server's mechanisms; requests may be sent."""

    mechanisms: tuple[str, ...]


class Continue(NamedTuple):
    """Ask the client this."""

    id: int
    data: bytes


class Passed(NamedTuple):
    """The client is this user."""

    id: int
    user: str


class Failed(NamedTuple):
    """It is not; temporary: or that could not be found out."""

    id: int
    temporary: bool
    user: str


Event = Ready | Continue | Passed | Failed


def escape(text: str) -> bytes:
    """A value as a field has it."""
    data = text.encode()
    # What escapes goes first.
    for long, short in sorted(_ESCAPES.items(), key=lambda pair: pair[1] != b"\x01"):
        data = data.replace(short, long)
    return data


def unescape(field: bytes) -> str:
    out, at = b"", 0
    while (found := field.find(b"\x01", at)) >= 0:
        out += field[at:found] + _ESCAPES.get(field[found : found + 2], b"")
        at = found + 2
    return (out + field[at:]).decode("utf-8", "replace")


class DovecotClient:
    """One connection."""

    def __init__(self, pid: int) -> None:
        """``pid``: a number that no other connection has at the same time."""
        self.greeting = f"VERSION\t{MAJOR}\t2\nCPID\t{pid}\n".encode()
        self._buffer = b""
        self._mechanisms: list[str] = []
        self._version = False
        self._ready = False

    def begin(self, id: int, mechanism: str, initial: bytes | None, address: str) -> bytes:
        """The octets of a request.  smtp has seen to TLS."""
        fields = [b"AUTH", str(id).encode(), mechanism.encode(), b"service=smtp", b"secured"]
        if address:
            fields.append(b"rip=" + escape(address))
        if initial is not None:
            fields.append(b"resp=" + base64.b64encode(initial))
        return b"\t".join(fields) + b"\n"

    def respond(self, id: int, data: bytes) -> bytes:
        """The octets of an answer to Continue."""
        return b"CONT\t%d\t%s\n" % (id, base64.b64encode(data))

    def cancel(self, id: int) -> bytes:
        """The octets that end a request."""
        return b"CANCEL\t%d\n" % id

    def feed(self, data: bytes) -> Iterator[Event]:
        """What octets from the server say.  Raises ProtocolError."""
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        if len(self._buffer) > LINE_MAX or any(len(line) > LINE_MAX for line in lines):
            raise ProtocolError("a line is too long")
        for line in lines:
            command, *fields = line.split(b"\t")
            event = self._line(command, fields)
            if event is not None:
                yield event

    def _line(self, command: bytes, fields: list[bytes]) -> Event | None:
        if command in (b"OK", b"FAIL", b"CONT"):
            if not self._ready:
                raise ProtocolError(f"{command.decode()} before DONE")
            return self._answer(command, fields)
        if command == b"VERSION":
            if not fields or fields[0] != str(MAJOR).encode():
                raise ProtocolError("its version is another")
            self._version = True
        elif command == b"MECH" and fields:
            self._mechanism(fields)
        elif command == b"DONE":
            if not self._version:
                raise ProtocolError("no VERSION")
            self._ready = True
            return Ready(tuple(self._mechanisms))
        return None                # SPID, CUID, COOKIE, and what later versions add

    def _mechanism(self, fields: list[bytes]) -> None:
        name = fields[0].decode("ascii", "replace").upper()
        # Binding to a channel needs what only smtp knows; the others need more than a client's words, or prove nothing.
        if name not in _UNSAFE and not name.endswith("-PLUS") and b"private" not in fields[1:] \
                and name.replace("-", "").replace("_", "").isalnum() and len(name) <= 20:
            self._mechanisms.append(name)

    def _answer(self, command: bytes, fields: list[bytes]) -> Event:
        if not fields or not fields[0].isdigit() or len(fields[0]) > 10:
            raise ProtocolError(f"{command.decode()} without a number")
        number = int(fields[0])
        if command == b"CONT":
            try:
                return Continue(number, binascii.a2b_base64(fields[1] if len(fields) > 1 else b"", strict_mode=True))
            except ValueError:
                raise ProtocolError("CONT is not base64") from None
        parameters = {name: unescape(value) for name, _, value in (field.partition(b"=") for field in fields[1:])}
        user = parameters.get(b"user", "")
        if command == b"OK":
            if not user:
                raise ProtocolError("OK without a user")
            return Passed(number, user)
        return Failed(number, b"temp" in parameters or parameters.get(b"code") == "temp_fail", user)
