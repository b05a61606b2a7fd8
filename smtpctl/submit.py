"""The SMTP session in which sendmail hands a message to the daemon (RFC 5321, as a client that trusts its server)."""

import os
import re
import selectors
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smtpctl.letter import Letter
    from smtpctl.options import Options

TIMEOUT = 300.0                    # seconds for each reply
LINE_MAX = 8192                    # octets of a reply line
READ_SIZE = 65536
_BARE_LF = re.compile(rb"(?<!\r)\n")
BATCH = 50                         # commands sent without waiting, so that neither side's buffer fills


class Refused(Exception):
    """The daemon said no, or nothing: its reply."""


class Submission:
    """A session, and its socket."""

    def __init__(self, sock: socket.socket, verbose: bool) -> None:
        self.hostname = "localhost"
        self.extensions: set[str] = set()
        self._socket = sock
        self._socket.settimeout(TIMEOUT)
        self._verbose = verbose
        self._buffer = b""

    def __enter__(self) -> "Submission":
        return self

    def __exit__(self, *_exception: object) -> None:
        self._socket.close()

    def greet(self) -> None:
        """Up to and including EHLO.  Raises Refused."""
        greeting = self._reply("2")
        self.hostname = greeting[0][4:].partition(" ")[0] or socket.gethostname()
        self._write(["EHLO localhost"])
        self.extensions = {line[4:].partition(" ")[0].upper() for line in self._reply("2")[1:]}

    def send(self, sender: str, recipients: list[str], letter: "Letter", options: "Options") -> None:
        """One transaction: all recipients or none.  Raises Refused."""
        commands = [self._mail(sender, recipients, letter, options)]
        commands += [f"RCPT TO:<{rcpt}>" + (f" NOTIFY={options.notify}" if options.notify else "")
                     for rcpt in recipients]
        step = BATCH if "PIPELINING" in self.extensions else 1
        for at in range(0, len(commands), step):
            batch = commands[at : at + step]
            self._write(batch)
            for command in batch:
                self._reply("2", command)
        self._write(["DATA"])
        self._reply("3")
        try:
            for piece in letter.mail_data():
                self._socket.sendall(piece)
        except OSError as error:
            raise Refused(error.strerror or "timeout") from None
        self._reply("2")
        # The message is the daemon's: nothing that goes wrong now is of interest.
        try:
            self._write(["QUIT"])
            self._reply("2")
        except Refused:
            pass

    def _mail(self, sender: str, recipients: list[str], letter: "Letter", options: "Options") -> str:
        command = f"MAIL FROM:<{sender}>"
        if letter.has_8bit and "8BITMIME" in self.extensions:
            command += " BODY=8BITMIME"
        if "SIZE" in self.extensions:
            command += f" SIZE={letter.size}"
        beyond = letter.utf8_header or not all(each.isascii() for each in (sender, *recipients))
        if beyond and "SMTPUTF8" in self.extensions:
            command += " SMTPUTF8"
        if options.ret:
            command += f" RET={options.ret}"
        if options.envid:
            command += f" ENVID={options.envid}"
        return command

    def _write(self, commands: list[str]) -> None:
        for command in commands:
            self._show(">>>", command)
        data = "".join(f"{command}\r\n" for command in commands).encode("utf-8", "surrogateescape")
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise Refused(error.strerror or "timeout") from None

    def _reply(self, expected: str, command: str = "") -> list[str]:
        """The lines of a reply that begins with the expected digit; Refused otherwise."""
        lines: list[str] = []
        while not lines or lines[-1][3:4] == "-":
            lines.append(self._line())
            self._show("<<<", lines[-1])
            if len(lines) > 100:
                raise Refused("endless reply")
        if not lines[-1].startswith(expected):
            rcpt = command.partition("<")[2].partition(">")[0] if command.startswith("RCPT") else ""
            raise Refused(lines[-1] if rcpt in lines[-1] else f"{lines[-1]}: <{rcpt}>")
        return lines

    def _line(self) -> str:
        while b"\n" not in self._buffer:
            try:
                data = self._socket.recv(LINE_MAX)
            except OSError as error:
                raise Refused(error.strerror or "timeout") from None
            if not data or len(self._buffer) > LINE_MAX:
                raise Refused("connection closed by the server" if not data else "reply too long")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.rstrip(b"\r").decode("utf-8", "replace")

    def _show(self, mark: str, text: str) -> None:
        if self._verbose:
            print(mark, text)


def splice(session: socket.socket, source: int = 0, sink: int = 1) -> int:
    """Let standard input and output speak with the daemon (-bs), until either ends.  Returns the exit status."""
    session.settimeout(TIMEOUT)
    last = b""                     # a CR whose LF may be on its way
    # select() takes regular files, which epoll refuses.
    with selectors.SelectSelector() as selector, session:
        selector.register(session, selectors.EVENT_READ)
        selector.register(source, selectors.EVENT_READ)
        while ready := selector.select(TIMEOUT):
            for key, _ in ready:
                if key.fileobj is session:
                    data = _receive(session)
                    if not data:
                        return 0
                    while data:
                        data = data[os.write(sink, data) :]
                elif data := os.read(source, READ_SIZE):
                    # People at a terminal and old programs end lines in LF; the daemon takes only CRLF.
                    _tell(session, _BARE_LF.sub(b"\r\n", last + data)[len(last) :])
                    last = b"\r" if data.endswith(b"\r") else b""
                else:
                    # Not a half-closed socket: the daemon might give up what it was just told.
                    selector.unregister(source)
                    _tell(session, b"QUIT\r\n")
    return 75


def _receive(session: socket.socket) -> bytes:
    """Empty when the daemon has hung up, whether or not it had read all we said."""
    try:
        return session.recv(READ_SIZE)
    except ConnectionError:
        return b""


def _tell(session: socket.socket, data: bytes) -> None:
    try:
        session.sendall(data)
    except ConnectionError:
        pass                       # what it said before it hung up is still to be read
