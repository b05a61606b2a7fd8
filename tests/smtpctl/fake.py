"""A daemon for the client's tests: a control socket in a thread, which answers from a script, and an SMTP session."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pysmtpd.base.procs import Proc
from pysmtpd.imsg import Decoder, Encoder, Message
from pysmtpd.messages import CtlSubmit, CtlSubmitReady

Answer = Callable[[Message], Message | bytes]


class Daemon:
    """What clients asked, and what it answers."""

    def __init__(self, path: Path, answer: Answer, smtp: "Smtp | None" = None) -> None:
        self.path = path
        self.asked: list[Message] = []
        self.versions: set[int] = set()
        self._answer = answer
        self._smtp = smtp
        self._ended = False
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.settimeout(10)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ended = True
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knock:
            knock.connect(str(self.path))
        self._thread.join(10)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with sock:
                if self._ended:
                    return
                sock.settimeout(10)
                self._talk(sock)

    def _talk(self, sock: socket.socket) -> None:
        decoder = Decoder(Proc.CLIENT, Proc.CONTROL)
        encoder = Encoder(Proc.CONTROL, Proc.CLIENT, os.getpid())
        while data := sock.recv(65536):
            for frame in decoder.feed(data):
                self.asked.append(frame.message)
                self.versions.add(frame.peerid)
                if isinstance(frame.message, CtlSubmit) and self._smtp is not None:
                    mine, theirs = socket.socketpair()
                    socket.send_fds(sock, [encoder.encode(CtlSubmitReady(1))], [theirs.fileno()])
                    theirs.close()
                    with mine:
                        mine.settimeout(10)
                        self._smtp.serve(mine)
                    continue
                answer = self._answer(frame.message)
                if answer == b"":
                    return
                sock.sendall(answer if isinstance(answer, bytes) else encoder.encode(answer))


class Smtp:
    """An SMTP server that takes everything except what ``refuse`` names: the beginning of a command, and a reply."""

    def __init__(self, refuse: dict[str, str] | None = None,
                 extensions: tuple[str, ...] = ("PIPELINING", "8BITMIME", "SIZE 1000000")) -> None:
        self.refuse = refuse or {}
        self.extensions = extensions
        self.commands: list[str] = []
        self.data = b""

    def serve(self, sock: socket.socket) -> None:
        # Whoever is refused may hang up before it has heard all.
        with suppress(ConnectionError):
            self._serve(sock)

    def _serve(self, sock: socket.socket) -> None:
        if "220" in self.refuse:
            sock.sendall(self.refuse["220"].encode() + b"\r\n")
            return
        sock.sendall(b"220 mail.example ESMTP pysmtpd\r\n")
        with sock.makefile("rb") as lines:
            for raw in lines:
                command = raw.decode("utf-8", "surrogateescape").rstrip("\r\n")
                self.commands.append(command)
                reply = self._reply(command)
                sock.sendall(reply.encode())
                if reply.startswith("354"):
                    self._take_data(lines)
                    sock.sendall(self._reply(".").encode())
                if command == "QUIT":
                    return

    def _take_data(self, lines: Iterator[bytes]) -> None:  # type: ignore[type-arg, unused-ignore]
        for line in lines:
            assert line.endswith(b"\r\n") and b"\r" not in line[:-2], line
            if line == b".\r\n":
                return
            self.data += line

    def _reply(self, command: str) -> str:
        for beginning, reply in self.refuse.items():
            if command.startswith(beginning):
                return reply + "\r\n"
        if command.startswith("EHLO"):
            lines = ["mail.example", *self.extensions]
            return "".join(f"250-{line}\r\n" for line in lines[:-1]) + f"250 {lines[-1]}\r\n"
        return {"DATA": "354 go\r\n", "QUIT": "221 bye\r\n"}.get(command, "250 2.0.0 Ok\r\n")


@contextmanager
def daemon(path: Path, answer: Answer, smtp: Smtp | None = None) -> Iterator[Daemon]:
    """A daemon that answers on the control socket at path."""
    one = Daemon(path, answer, smtp)
    try:
        yield one
    finally:
        one.close()
