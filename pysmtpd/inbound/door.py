"""A listener, and how those leave again who get no session there."""

import contextlib
import socket

from pysmtpd.base.reply import Reply
from pysmtpd.conf.config import Listener, Tls
from pysmtpd.privsep.tls import TlsContext
from pysmtpd.session.smtp_settings import SessionSettings


class Door:
    """A listener with what its sessions need."""

    def __init__(self, listener: Listener, settings: SessionSettings, context: TlsContext | None) -> None:
        self.listener = listener
        self.settings = settings
        self.context = context
        self.within: dict[str, Door] = {}      # on a listener for all addresses, those for one of them
        self.proxied = listener.proxy_v2 or listener.proxy_from != ""

    def led_to(self, sock: socket.socket) -> "Door":
        """The one that a connection is for."""
        return self.within.get(sock.getsockname()[0], self) if self.within else self

    def turn_away(self, client: socket.socket, text: Reply) -> None:
        """Say why and close; one that expects a handshake could not read it."""
        client.setblocking(False)
        if self.listener.tls is not Tls.SMTPS:
            with contextlib.suppress(OSError):
                client.send(f"{text}\r\n".encode("ascii"))
        close(client)


def close(sock: socket.socket) -> None:
    """What was not read would make a reset of it, which takes our last words from the client's hands."""
    with contextlib.suppress(OSError):
        sock.recv(65536)
    sock.close()
