"""lmtp: the message is handed to another program's LMTP server (RFC 2033), at a path or at host:port.

The conversation is session.smtp_client's; this is the socket around it.  It blocks, as all of a worker does, but never
beyond the time a delivery has, nor after mda is gone.
"""

import contextlib
import select
import socket
import time

from pysmtpd.deliver.verdict import DELIVERED, Failed, Gone, Verdict, of_error, permfail, tempfail
from pysmtpd.messages import Outcome
from pysmtpd.session import client_effects as client
from pysmtpd.session import effects
from pysmtpd.session.client_commands import Transaction
from pysmtpd.session.smtp_client import SmtpClient

DEFAULT_PORT = 25
DEFAULT_DESTINATION = "localhost"
HELO = "localhost"
CONNECT_TIMEOUT = 30.0             # seconds, for each address
READ_SIZE = 65536
_HANGUP = getattr(select, "POLLRDHUP", 0)


def parse_destination(text: str) -> tuple[str, int]:
    """``/path`` as (path, 0); ``host``, ``host:port``, ``[v6]`` or ``[v6]:port`` as (host, port).  Raises Failed."""
    if text.startswith("/"):
        return text, 0
    host, port = text or DEFAULT_DESTINATION, ""
    if host.startswith("["):
        host, bracket, rest = host[1:].partition("]")
        port = rest[1:] if rest.startswith(":") else rest
        wrong = not bracket or (rest != "" and not (rest.startswith(":") and port))
    else:
        host, colon, port = host.partition(":")
        wrong = bool(colon) and not port
    number = int(port) if port.isascii() and port.isdigit() and len(port) < 6 else DEFAULT_PORT if not port else 0
    if wrong or not host or not 0 < number < 65536:
        raise tempfail("4.3.5", f"{text}: not a path, host or host:port")
    return host, number


class Lmtp:
    """One message on its way into an LMTP server.  Raises Failed; then the connection is closed."""

    def __init__(self, destination: str, tx: Transaction, *, timeout: float, watch: int = -1) -> None:
        self._destination = destination
        self._tx = tx
        self._deadline = time.monotonic() + timeout
        self._watch = watch
        self._client = SmtpClient(HELO, lmtp=True)
        self._verdict: Verdict | None = None
        self._ready = False
        self._wanted = False           # the server waits for mail data
        self._over = False             # of the transaction
        self._sock = self._connect()
        self._run(self._client.start())
        self._begin()

    def _begin(self) -> None:
        while not self._ready:
            self._hear()
        limit = self._client.extensions.size
        if limit and self._tx.size > limit:
            self._quit()
            raise permfail("5.3.4", "LMTP server error: message is too big for it")
        if self._tx.binary and not self._client.extensions.takes_binary:
            self._quit()
            raise permfail("5.6.1", "LMTP server error: it does not take binary mail (BINARYMIME)")
        if self._tx.smtputf8 and not self._client.extensions.smtputf8:
            self._quit()
            raise permfail("5.6.7", "LMTP server error: it does not take internationalized mail (SMTPUTF8)")
        # Whether the header is beyond ASCII is not known here: who knows of SMTPUTF8 is told that it may be.
        tx = self._tx._replace(smtputf8=self._tx.smtputf8 or self._tx.has_8bit)
        try:
            self._run(self._client.send(tx))
        except ValueError as error:
            self.abort()
            raise permfail("5.1.0", f"{error}") from None
        while not self._wanted and not self._over:
            self._hear()

    def write(self, chunk: bytes) -> None:
        if self._wanted:
            # Each chunk of a binary message has its reply.
            self._wanted = not (self._tx.binary and chunk)
            self._run(self._client.body(chunk, last=False))
        while not self._wanted and not self._over:
            self._hear()

    def finish(self) -> Verdict:
        if self._wanted:
            self._run(self._client.body(b"", last=True))
        while not self._over:
            self._hear()
        self._quit()
        if self._verdict is None:
            raise tempfail("4.3.0", "LMTP server error: no reply for the recipient")
        return self._verdict

    def abort(self) -> None:
        """Without the end of the mail data the server forgets the message."""
        with contextlib.suppress(OSError):
            self._sock.close()

    def _quit(self) -> None:
        # Its answer is of no interest any more.
        with contextlib.suppress(OSError, Failed):
            self._run(self._client.quit())
        self.abort()

    # the socket

    def _connect(self) -> socket.socket:
        host, port = parse_destination(self._destination)
        error: OSError = OSError(0, "no address")
        for family, address in _addresses(host, port):
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.settimeout(max(0.1, min(CONNECT_TIMEOUT, self._deadline - time.monotonic())))
            try:
                sock.connect(address)
            except OSError as failed:
                sock.close()
                error = failed
                continue
            sock.setblocking(False)
            if port:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        raise tempfail("4.4.1", of_error(self._destination, error).verdict.text)

    def _hear(self) -> None:
        """Wait for the server, and let the session hear what it says."""
        self._wait(select.POLLIN)
        try:
            data = self._sock.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError as error:
            self._run(self._client.lost(error.strerror or "connection lost"))
            return
        self._run(self._client.receive(data) if data else self._client.eof())

    def _send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[self._sock.send(view) :]
            except BlockingIOError:
                self._wait(select.POLLOUT)
            except OSError as error:
                self._last_words(error)
                return

    def _last_words(self, error: OSError) -> None:
        """The server closed while we sent: it may have said why."""
        with contextlib.suppress(OSError):
            if data := self._sock.recv(READ_SIZE):
                self._run(self._client.receive(data))
        if not self._over:
            self._run(self._client.lost(error.strerror or "connection lost"))

    def _wait(self, event: int) -> None:
        left = self._deadline - time.monotonic()
        poll = select.poll()
        poll.register(self._sock, event)
        if self._watch >= 0:
            poll.register(self._watch, _HANGUP)
        ready = dict(poll.poll(left * 1000)) if left > 0 else {}
        if self._watch in ready:
            self.abort()
            raise Gone
        if not ready:
            self.abort()
            raise tempfail("4.4.2", f"{self._destination}: no answer in time")

    # what the session wants

    def _run(self, wanted: list[client.Effect]) -> None:
        for effect in wanted:
            match effect:
                case effects.Send(data):
                    self._send(data)
                case client.Ready():
                    self._ready = True
                case client.NeedBody():
                    self._wanted = True
                case client.RcptDone(_, outcome, esc, text):
                    self._verdict = _verdict(outcome, esc, text)
                case client.TxDone() | client.TxAborted():
                    self._over = True
                    self._wanted = False
                case client.Failed(reason, esc):
                    self._failed(reason, esc)
                case _:
                    pass

    def _failed(self, reason: str, esc: str) -> None:
        self.abort()
        self._over = True
        self._wanted = False
        if self._verdict is None:
            raise tempfail(esc if esc.startswith("4") else "4.4.2", f"LMTP server error: {reason}")


def _verdict(outcome: Outcome, esc: str, text: str) -> Verdict:
    if outcome is Outcome.OK:
        return DELIVERED
    kind = "5" if outcome is Outcome.PERMFAIL else "4"
    return Verdict(outcome, esc if esc.startswith(kind) else f"{kind}.0.0", f"LMTP server error: {text}".encode())


def _addresses(host: str, port: int) -> list[tuple[socket.AddressFamily, str | tuple[object, ...]]]:
    """Where to connect, in the order to try.  Raises Failed."""
    if not port:
        return [(socket.AF_UNIX, host)]
    try:
        # As octets, because text would be encoded by a codec that is imported when it is first used.
        found = socket.getaddrinfo(host.encode(), port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise tempfail("4.4.3", f"{host}: {error.strerror}") from None
    return [(family, address) for family, _, _, _, address in found]
