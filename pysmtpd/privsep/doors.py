"""The listening sockets of the configured listeners: bound once, by the parent, or inherited from the service manager.

An address that is not there yet (an interface still coming up, IPv6 still looking for duplicates) is tried again; one
that another of our own listeners serves already is left to that one.  Whatever else fails, fails the start.
"""

import errno
import os
import socket
from collections.abc import Callable, Mapping, Sequence

from pysmtpd.base.logline import Level
from pysmtpd.conf.config import EVERYWHERE, Listener, within
from pysmtpd.privsep.startup import StartError

BACKLOG = 511
AGAIN = 5.0                        # seconds until absent addresses are tried again
INHERITED_FIRST = 3                # sd_listen_fds(3)
INHERITED_MAX = 128

_ABSENT = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
Say = Callable[[str, Level], None]
Bound = list[tuple[int, socket.socket]]


def inherited(environ: Mapping[str, str], pid: int) -> list[socket.socket]:
    """The sockets that the service manager listens on for us, as in sd_listen_fds(3).  Raises StartError."""
    if environ.get("LISTEN_PID") != str(pid):
        return []
    count = environ.get("LISTEN_FDS", "")
    if not count.isdigit() or not 0 < int(count) <= INHERITED_MAX:
        raise StartError(f"LISTEN_FDS={count}: expected a number from 1 to {INHERITED_MAX}")
    sockets = []
    for fd in range(INHERITED_FIRST, INHERITED_FIRST + int(count)):
        try:
            sock = socket.socket(fileno=fd)
            listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as error:
            raise StartError(f"descriptor {fd} of the service manager: {error.strerror}") from None
        sockets.append(sock)
        if sock.family not in (socket.AF_INET, socket.AF_INET6) or not listening:
            for one in sockets:
                one.close()
            raise StartError(f"descriptor {fd} of the service manager does not listen on TCP")
        sock.setblocking(False)
        os.set_inheritable(fd, False)
    return sockets


class Doors:
    """All of them.  Numbers are those of the listeners in the configuration."""

    def __init__(self, listeners: Sequence[Listener], ready: Sequence[socket.socket], say: Say) -> None:
        """ready: inherited sockets."""
        self._all = [(number, one) for number, one in enumerate(listeners) if not one.is_socket]
        self._ready = list(ready)
        self._say = say
        self._within = within(listeners)
        self._open: dict[int, Listener] = {}
        self._absent: dict[int, Listener] = {}

    def open(self) -> Bound:
        """Every socket that can be had now.  Raises StartError."""
        bound = [found for number, one in self._all if (found := self._inherit(number, one))]
        bound += self._bind_all(self._all)
        for sock in self._ready:
            address, port = sock.getsockname()[:2]
            self._say(f"warn: the service manager listens on {address} port {port}, which smtpd.conf does not name",
                      Level.ERR)
            sock.close()
        for one in self._absent.values():
            self._say(f"warn: {_place(one)}: not an address of this machine now; it is tried again", Level.ERR)
        return sorted(bound, key=lambda entry: entry[0])

    @property
    def waiting(self) -> bool:
        """Whether some are to be tried again."""
        return bool(self._absent)

    def again(self) -> Bound:
        """Those that can be had by now."""
        bound: Bound = []
        for number, one in sorted(self._absent.items(), key=_narrow):
            try:
                bound += (found := self._bind_all([(number, one)]))
            except StartError as error:
                self._say(f"warn: {error}; not tried again", Level.ERR)
                del self._absent[number]
                continue
            if found:
                self._say(f"info: listening on {one.address} port {one.port}", Level.INFO)
        return bound

    def _bind_all(self, listeners: Sequence[tuple[int, Listener]]) -> Bound:
        """What is for all addresses comes first, and then accepts for those that are for one of them."""
        bound: Bound = []
        for number, one in sorted(listeners, key=_narrow):
            first = self._accepted_for(one)
            if first is not None:
                self._absent.pop(number, None)
                if first != number:
                    self._left(one, dict(self._all)[first])
            elif number not in self._open and (sock := self._bind(number, one)):
                bound.append((number, sock))
        return bound

    def _accepted_for(self, listener: Listener) -> int | None:
        """The number that this address has on an open socket of all addresses."""
        return next((inside[listener.address] for wide, inside in self._within.items()
                     if wide in self._open and self._open[wide].port == listener.port and listener.address in inside),
                    None)

    def _left(self, listener: Listener, other: Listener) -> None:
        self._say(f"warn: {_place(listener)} is left to the listener at {other.at}", Level.ERR)

    def _inherit(self, number: int, listener: Listener) -> tuple[int, socket.socket] | None:
        for sock in self._ready:
            if sock.getsockname()[:2] == (listener.address, listener.port):
                self._ready.remove(sock)
                self._open[number] = listener
                return number, sock
        return None

    def _bind(self, number: int, listener: Listener) -> socket.socket | None:
        """None when it is absent, or served already."""
        try:
            sock = _listen(listener)
        except OSError as error:
            self._failed(number, listener, error)
            return None
        self._absent.pop(number, None)
        self._open[number] = listener
        return sock

    def _failed(self, number: int, listener: Listener, error: OSError) -> None:
        if error.errno in _ABSENT:
            self._absent[number] = listener
            return
        other = next((one for one in self._open.values() if _covers(one, listener)), None)
        if error.errno != errno.EADDRINUSE or other is None:
            hint = "; ports below 1024 need root, CAP_NET_BIND_SERVICE or a socket of the service manager" \
                if isinstance(error, PermissionError) else ""
            at = f"{listener.at}: " if listener.at.line else ""
            where = f"{listener.address} port {listener.port}"
            raise StartError(f"{at}cannot listen on {where}: {error.strerror}{hint}") from None
        self._absent.pop(number, None)
        self._left(listener, other)


def _narrow(entry: tuple[int, Listener]) -> bool:
    return entry[1].address not in EVERYWHERE


def _place(listener: Listener) -> str:
    at = f" ({listener.at})" if listener.at.line else ""
    return f"{listener.address} port {listener.port}{at}"


def _covers(one: Listener, other: Listener) -> bool:
    """Whether two of our own cannot both be bound."""
    if one.port != other.port or (":" in one.address) is not (":" in other.address):
        return False
    return one.address == other.address or bool({one.address, other.address} & {*EVERYWHERE})


def _listen(listener: Listener) -> socket.socket:
    family = socket.AF_INET6 if ":" in listener.address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Never SO_REUSEPORT: a stranger's process could share the port.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)
        sock.bind(socket.getaddrinfo(listener.address, listener.port, family, socket.SOCK_STREAM,
                                     flags=socket.AI_NUMERICHOST)[0][4])
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock
