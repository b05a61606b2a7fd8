"""A connection from accept() to its session: whether there is room, for whom it speaks, and whether that one may.

A connection that gets no session costs a descriptor for a moment, and one line of text.
"""

import socket
from collections.abc import Callable
from functools import partial

from pysmtpd.base import logline, reply
from pysmtpd.base.logline import Level
from pysmtpd.inbound.crowd import Crowd
from pysmtpd.inbound.door import Door, close
from pysmtpd.inbound.limited import Limited
from pysmtpd.inbound.lookups import Lookups
from pysmtpd.messages import Found
from pysmtpd.privsep.preamble import Preamble
from pysmtpd.privsep.process import Process
from pysmtpd.session.client_limits import REFUSALS
from pysmtpd.session.proxy import ProxyHeader

PROXY_TIMEOUT = 30.0               # seconds for its header
CLIENTS_MAX = 32768                # connections, or fewer that speak TLS, if there are descriptors for so many
TOO_MANY_EVERY = 60.0              # seconds between two lines in the log that say so

Open = Callable[[socket.socket, Door, str, bool], object]


class Arrivals:
    """Connections that are not sessions yet."""

    def __init__(self, process: Process, crowd: Crowd, lookups: Lookups, limited: Limited, *, most: int,
                 new_id: Callable[[], int], open: Open) -> None:
        """``most``: so many clients at once; ``open`` makes a session for an address, which counts against limits or
        does not."""
        self._process = process
        self._crowd = crowd
        self._lookups = lookups
        self._limited = limited
        self._new_id = new_id
        self._open = open
        self.most = most
        self._too_many = 0.0       # until when it is known that there are too many
        self._closed = False
        self.preambles: dict[int, Preamble] = {}

    def accepted(self, sock: socket.socket, door: Door, address: str) -> None:
        """Somebody connected."""
        if self._refused(sock, door):
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if door.proxied:
            self._proxied(sock, door, address)
        elif self._limited.any:
            self._admit(sock, door, address)
        else:
            self._open(sock, door, address, False)

    @property
    def full(self) -> bool:
        """Whether there is no room for one more."""
        return (len(self._crowd.clients) + len(self.preambles) >= self.most
                or (not self._process.config.client_limits.max_conn and self._crowd.worth >= CLIENTS_MAX))

    def close(self) -> None:
        """The daemon stops."""
        self._closed = True
        for preamble in list(self.preambles.values()):
            preamble.end("shutdown")

    def _refused(self, client: socket.socket, door: Door) -> bool:
        """Whether a client that has just been accepted has to go again."""
        process = self._process
        if "smtp" in process.paused:
            door.turn_away(client, reply.R421_PAUSED)
            return True
        if not self.full:
            return False
        if self._too_many < process.loop.time():
            self._too_many = process.loop.time() + TOO_MANY_EVERY
            process.log(logline.SMTP_TOO_MANY.format(count=len(self._crowd.clients)), Level.ERR)
        process.stats.add("smtp.limit.max-conn")
        door.turn_away(client, reply.R421_CONNECTIONS)
        return True

    def _proxied(self, sock: socket.socket, door: Door, address: str) -> None:
        """Somebody who has to be a proxy connected."""
        table = door.listener.proxy_from
        if not table:
            self._read_proxy(sock, door, address, Found.YES)
        elif self._lookups.full:
            door.turn_away(sock, reply.R421_BUSY)
        else:
            self._lookups.ask(table, address, partial(self._read_proxy, sock, door, address))

    def _read_proxy(self, sock: socket.socket, door: Door, address: str, trusted: Found) -> None:
        log, sid = self._process.log, self._new_id()
        shown = logline.address_text(address)
        if trusted is not Found.YES or self._closed:
            log(logline.SMTP_PROXY_CLOSED.format(id=sid, address=shown, reason="not a trusted proxy"))
            door.turn_away(sock, reply.R554_NO_PROXY if trusted is Found.NO else reply.R421_BUSY)
            return
        log(logline.SMTP_PROXY.format(id=sid, address=shown))
        header = ProxyHeader(v1=bool(door.listener.proxy_from))

        def done(why: str) -> None:
            del self.preambles[sid]
            if why:
                log(logline.SMTP_PROXY_CLOSED.format(id=sid, address=shown, reason=why))
                close(sock)
            else:
                self._admit(sock, door, header.address or address)

        self.preambles[sid] = Preamble(self._process.loop, sock, header, PROXY_TIMEOUT, done)

    def _admit(self, sock: socket.socket, door: Door, address: str) -> None:
        self._limited.admit(address, partial(self._admitted, sock, door, address))

    def _admitted(self, sock: socket.socket, door: Door, address: str, limit: str, counts: bool) -> None:
        """Open a session, unless this client has enough of them."""
        if self._closed:
            door.turn_away(sock, reply.R421_SHUTDOWN)
            return
        if not limit:
            self._open(sock, door, address, counts)
            return
        self._process.log(logline.SMTP_LIMITED.format(
            id=self._new_id(), address=logline.address_text(address), limit=limit))
        self._process.stats.add(f"smtp.limit.{limit}")
        door.turn_away(sock, REFUSALS[limit])
