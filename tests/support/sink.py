"""An SMTP or LMTP server for tests that keeps what it is given, and answers as it is told.

    with Sink() as sink:
        sink.replies["RCPT"] = lambda line: "550 5.1.1 nobody here" if "gone" in line else ""
        ... sink.port ... sink.messages ...
"""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from types import TracebackType
from typing import BinaryIO, NamedTuple

# Given a command line, the reply instead of the usual one; empty: the usual one.
Reply = Callable[[str], str]
TIMEOUT = 30.0


class Received(NamedTuple):
    """One message."""

    sender: str
    rcpts: list[str]
    data: bytes                    # dots unstuffed, as lines ending in CRLF
    tls: bool
    session: int                   # 1 for the first connection


class Sink:
    """The server; a context manager."""

    def __init__(self, *, lmtp: bool = False, tls: ssl.SSLContext | None = None, smtps: bool = False,
                 address: str = "127.0.0.1", port: int = 0, extensions: tuple[str, ...] = ("PIPELINING", "8BITMIME"),
                 ) -> None:
        self.messages: list[Received] = []
        self.commands: list[str] = []
        self.sessions = 0
        self.replies: dict[str, Reply] = {}
        self.extensions = extensions
        self._lmtp, self._tls, self._smtps = lmtp, tls, smtps
        self._lock = threading.Lock()
        self._socket = socket.create_server((address, port), backlog=128)
        self.address, self.port = self._socket.getsockname()[:2]
        self._thread = threading.Thread(target=self._accept, daemon=True)

    @property
    def url(self) -> str:
        """For ``relay host``."""
        return f"{'lmtp' if self._lmtp else 'smtps' if self._smtps else 'smtp'}://{self.address}:{self.port}"

    def __enter__(self) -> "Sink":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(TIMEOUT)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._socket.accept()
            except OSError:
                return
            with self._lock:
                self.sessions += 1
                number = self.sessions
            threading.Thread(target=self._serve, args=(sock, number), daemon=True).start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        sock.settimeout(TIMEOUT)
        # It answers pipelined commands one by one; without this every message takes the 40 ms of a delayed ACK.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sessions: list[_Session] = []
        with contextlib.suppress(OSError, ssl.SSLError, EOFError):
            sessions.append(_Session(self, sock, number))
            sessions[0].run()
        with contextlib.suppress(OSError):
            sock.close()
            for session in sessions:
                session.file.close()
                session.sock.close()       # TLS made it another one

    def keep(self, message: Received) -> None:
        with self._lock:
            self.messages.append(message)

    def heard(self, line: str) -> None:
        with self._lock:
            self.commands.append(line)


class _Session:
    def __init__(self, sink: Sink, sock: socket.socket, number: int) -> None:
        self.sink, self.sock, self.number = sink, sock, number
        self.secure = False
        self.sender, self.rcpts = "", list[str]()
        if sink._smtps:
            self._secure()
        self.file: BinaryIO = self.sock.makefile("rb")

    def _secure(self) -> None:
        assert self.sink._tls is not None
        self.sock = self.sink._tls.wrap_socket(self.sock, server_side=True)
        self.file = self.sock.makefile("rb")
        self.secure = True

    def say(self, text: str) -> None:
        self.sock.sendall(text.encode() + b"\r\n")

    def run(self) -> None:
        greeting = self.sink.replies.get("CONNECT")
        text = greeting("") if greeting else ""
        self.say(text or "220 sink.example ESMTP")
        while not text.startswith(("4", "5")):
            line = self.file.readline(2048)
            if not line:
                return
            command = line.decode("latin-1").rstrip("\r\n")
            self.sink.heard(command)
            verb = command.split(" ")[0].split(":")[0].upper()
            told = self.sink.replies.get(verb)
            reply = told(command) if told else ""
            if reply == "drop":
                return
            if reply:
                self.say(reply)
                if reply.startswith("421"):
                    return
            elif not self._usual(verb, command):
                return

    def _usual(self, verb: str, line: str) -> bool:
        if verb in ("EHLO", "LHLO"):
            offered = [*self.sink.extensions]
            if self.sink._tls is not None and not self.secure:
                offered.append("STARTTLS")
            names = ["sink.example", *offered]
            lines = [f"250{' ' if at == len(names) - 1 else '-'}{name}" for at, name in enumerate(names)]
            self.say("\r\n".join(lines))
        elif verb == "STARTTLS":
            self.say("220 2.0.0 go on")
            self._secure()
        elif verb == "DATA":
            self._data()
        elif verb == "QUIT":
            self.say("221 2.0.0 bye")
            return False
        else:
            if verb == "MAIL":
                self.sender, self.rcpts = _path(line), []
            elif verb == "RCPT":
                self.rcpts.append(_path(line))
            self.say("250 2.0.0 ok")
        return True

    def _data(self) -> None:
        self.say("354 go on")
        lines: list[bytes] = []
        while (line := self.file.readline()) != b".\r\n":
            if not line:
                raise EOFError
            lines.append(line[1:] if line.startswith(b".") else line)
        told = self.sink.replies.get(".")
        reply = told("") if told else ""
        if reply == "drop":
            raise EOFError
        reply = reply or "250 2.0.0 kept"
        if reply.startswith("2"):
            self.sink.keep(Received(self.sender, self.rcpts, b"".join(lines), self.secure, self.number))
        for _ in self.rcpts if self.sink._lmtp else [""]:
            self.say(reply)


def _path(line: str) -> str:
    return line[line.find("<") + 1 : line.rfind(">")]
