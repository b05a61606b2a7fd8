"""smtp: listeners and inbound sessions.

The conversation itself is session.smtp_session, which does no I/O; this process accepts, reads, writes, encrypts, and
carries the session's questions to lka and queue.  A session that falls behind costs nobody else anything: its client is
not read while it waits for an answer, or while the queue's window for its message is shut.
"""

import os
import resource
import socket
from collections import deque
from functools import partial

from pysmtpd.base import idn, logline
from pysmtpd.base.ids import MsgId
from pysmtpd.base.logline import Level
from pysmtpd.base.procs import Proc
from pysmtpd.base.struct import replace
from pysmtpd.conf.config import within
from pysmtpd.imsg import BY_CLASS, ImsgError, Message
from pysmtpd.inbound.arrivals import CLIENTS_MAX, Arrivals
from pysmtpd.inbound.client import Client, Host
from pysmtpd.inbound.crowd import Crowd
from pysmtpd.inbound.door import Door
from pysmtpd.inbound.limited import Limited
from pysmtpd.inbound.lookups import Lookups
from pysmtpd.inbound.names import Names
from pysmtpd.messages import (
    BODY_WINDOW,
    PKI_MAX,
    AuthChallenge,
    AuthDone,
    AuthMechanisms,
    BodyCredit,
    Certificates,
    CtlDone,
    CtlPause,
    CtlSubmit,
    CtlSubmitReady,
    Found,
    NameLookedUp,
    RcptExpanded,
    RenewFiles,
    SenderChecked,
    SetupFile,
    SetupListener,
    SmtpLookedUp,
    SmtpLookupName,
    SmtpMessageCommitted,
    SmtpMessageRollback,
    SmtpMsgids,
    SmtpMsgidsAsk,
)
from pysmtpd.privsep.mproc import Peer
from pysmtpd.privsep.process import handles
from pysmtpd.privsep.server_tls import DAY, ServerTls
from pysmtpd.privsep.tls import TlsError
from pysmtpd.session.effects import Ask
from pysmtpd.session.smtp_session import SmtpSession
from pysmtpd.session.smtp_settings import LOCAL, SessionSettings

ACCEPT_MAX = 32                    # connections accepted per event
MSGIDS_LOW = 256                   # ask for another block below this
SPARE_FDS = 16
CLIENTS_FEW = 1000                 # connections; where descriptors forbid so many the log says so

# Whom each of our questions goes to, by its route.
_ASKED: dict[type[Message], Proc] = {
    kind: route.dst for kind, spec in BY_CLASS.items() for route in spec.routes if route.src is Proc.SMTP
}

Answer = NameLookedUp | SmtpLookedUp | RcptExpanded | SmtpMessageCommitted | AuthChallenge | AuthDone | SenderChecked


def _descriptors_left() -> int:
    """How many more files this process may open, less those that it will need for itself."""
    taken = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    return max(resource.getrlimit(resource.RLIMIT_NOFILE)[0] - taken - SPARE_FDS - 16, 16)


class Smtp(Host):
    """The smtp process."""

    ME = Proc.SMTP

    def preload(self) -> None:
        idn.preload()
        self.sockets: dict[int, socket.socket] = {}
        self.server_tls = ServerTls()
        self.doors: list[Door] = []
        self.serving = False
        self.crowd = Crowd(self)
        self._msgids: deque[MsgId] = deque()
        self._asked = False
        self._counter = self.random.getrandbits(32)

    @handles(SetupListener)
    def setup_listener(self, peer: Peer, message: SetupListener) -> None:
        sock = self.sockets[message.index] = socket.socket(fileno=peer.claim_fd())
        if self.serving:
            self._listen_on(message.index, sock)   # an address that was absent until now

    @handles(SetupFile)
    def setup_file(self, peer: Peer, message: SetupFile) -> None:
        self.server_tls.files.take(peer, message)

    @handles(RenewFiles)
    def renew_files(self, _peer: Peer, _message: RenewFiles) -> None:
        """Connections that speak TLS already keep what they began with."""
        self.server_tls.renew(self.log)
        for number, door in enumerate(self.doors):
            door.context = self.server_tls.contexts.get(number)
        self._report_certificates()

    def setup(self) -> None:
        try:
            self.server_tls.prepare(self.config)
        except TlsError as error:
            self.fatal(str(error))
        for number, listener in enumerate(self.config.listeners):
            settings = SessionSettings.of(self.config, listener, self.zone, number)
            self.doors.append(Door(listener, settings, self.server_tls.contexts.get(number)))
        for number, inside in within(self.config.listeners).items():
            self.doors[number].within = {address: self.doors[other] for address, other in inside.items()}

    def _report_certificates(self) -> None:
        """To the log and to ``show status``; all smtp processes have the same ones."""
        if self.index == 0 and self.server_tls.expiries:
            self.server_tls.warn(self.now(), self.log)
            self.peer(Proc.CONTROL).send(Certificates(list(self.server_tls.expiries.items())[:PKI_MAX]))

    def _report_daily(self) -> None:
        self._report_certificates()
        self.loop.call_later(DAY, self._report_daily)

    def start(self) -> None:
        self.queue = self.peer(Proc.QUEUE)
        self._socket_door = next(door for door in self.doors if door.listener.is_socket)
        limits = self.config.client_limits
        self._lookups = Lookups(self.peer(Proc.LKA), self._new_id)
        self.limited = Limited(limits, self._lookups, self.loop.time)
        self.names = Names(self.loop.time)
        self.arrivals = Arrivals(
            self, self.crowd, self._lookups, self.limited, new_id=self._new_id, open=self._open,
            most=self._most(limits.max_conn))
        self._want_msgids()
        if self.server_tls.contexts:
            self._report_daily()
        self.serving = True
        self._listen()

    def _most(self, wanted: int) -> int:
        """How many clients at once, if so many are wanted; 0 is no wish."""
        left = _descriptors_left()
        if left < (wanted or CLIENTS_FEW):
            self.log(logline.SMTP_FEW_FILES.format(count=left), Level.ERR)
        return min(left, wanted or CLIENTS_MAX)

    def _listen(self) -> None:
        for index, sock in self.sockets.items():
            self._listen_on(index, sock)

    def _listen_on(self, index: int, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.loop.add_reader(sock.fileno(), self._accept, sock, self.doors[index])

    def _unlisten(self) -> None:
        for sock in self.sockets.values():
            self.loop.remove_reader(sock.fileno())

    def _accept(self, sock: socket.socket, door: Door) -> None:
        for _ in range(ACCEPT_MAX):
            try:
                client, address = sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self.log(f"warn: Disabling incoming SMTP connections: {error.strerror}", Level.ERR)
                self._unlisten()
                self.loop.call_later(1.0, self._relisten)
                return
            self.arrivals.accepted(client, door.led_to(client), address[0])

    def _relisten(self) -> None:
        if not self._leaving:
            self._listen()

    @handles(SmtpLookedUp)
    def looked_up(self, _peer: Peer, message: SmtpLookedUp) -> None:
        if not self._lookups.answered(message.reqid, message.found):
            self._answer(message)          # the name of this server

    def _new_id(self) -> int:
        self._counter = (self._counter + 1) & 0xFFFFFFFF
        return self._counter << 32 | self.random.getrandbits(32) | 1

    def _open(self, sock: socket.socket, door: Door, address: str, counted: bool) -> None:
        """A session begins."""
        sid = self._new_id()
        local = sock.getsockname()[0].partition("%")[0] if door.listener.hostnames else ""
        session = SmtpSession(door.listener, door.settings, sid, address, self._next_msgid,
                              random=self.random.getrandbits, local=local, may_log_in=self.limited.may_log_in)
        client = Client(self, sock, door, session, sid, address, counted=counted)
        self.crowd.add(client)
        self.stats.add("smtp.session")
        self.stats.add("smtp.session.local" if address == LOCAL else
                       "smtp.session.inet6" if ":" in address else "smtp.session.inet4")
        client.begin()

    # what clients need

    def secure(self, client: Client) -> None:
        self.crowd.secure(client)

    def weigh(self, client: Client, held: int) -> None:
        self.crowd.weigh(client, held)

    def wait_for_queue(self, client: Client) -> None:
        self.crowd.wait_for_queue(client)

    def forget(self, client: Client) -> None:
        if self.crowd.remove(client):
            if client.counted:
                self.limited.closed(client.address)
            self.stats.add("smtp.session", -1)
            if self._leaving and not self.crowd.clients:
                self.leave()

    def admit(self, client: Client, address: str) -> None:
        if client.counted:
            client.counted = False
            self.limited.closed(client.address)
        client.address = address
        self.limited.admit(address, partial(self._admitted, client))

    def _admitted(self, client: Client, limit: str, counts: bool) -> None:
        if client.id not in self.crowd.clients:
            if counts:
                self.limited.closed(client.address)
            return
        client.counted = counts
        client.answer(SmtpLookedUp(client.id, Found.NO if limit else Found.YES, limit))

    def auth_failed(self, client: Client, user: str) -> None:
        self.stats.add("smtp.auth.failed")
        self.limited.auth_failed(client.address)

    def ask(self, client: Client, effect: Ask) -> None:
        message = effect.message
        if isinstance(message, SmtpMessageRollback):
            client.credit = BODY_WINDOW
        elif isinstance(message, SmtpLookupName):
            known = self.names.get(message.address)
            if known is not None:
                self.loop.call_soon(self._answer, replace(known, reqid=message.reqid))
                return
        self.peer(_ASKED[type(message)]).send(message)

    # answers

    def _answer(self, message: Answer) -> None:
        client = self.crowd.clients.get(message.reqid)
        if client is not None:
            client.answer(message)

    @handles(NameLookedUp)
    def name_looked_up(self, _peer: Peer, message: NameLookedUp) -> None:
        client = self.crowd.clients.get(message.reqid)
        if client is not None:
            self.names.remember(client.address, message)
            client.answer(message)

    @handles(AuthMechanisms)
    def auth_mechanisms(self, _peer: Peer, message: AuthMechanisms) -> None:
        """Sessions that begin from now on offer these."""
        if message.listener >= len(self.doors):
            raise ImsgError("there is no such listener")
        door = self.doors[message.listener]
        door.settings = door.settings._replace(mechanisms=tuple(message.names))

    @handles(RcptExpanded, SmtpMessageCommitted, AuthChallenge, AuthDone, SenderChecked)
    def answered(self, _peer: Peer, message: Answer) -> None:
        self._answer(message)

    @handles(BodyCredit)
    def body_credit(self, _peer: Peer, message: BodyCredit) -> None:
        client = self.crowd.clients.get(message.reqid)
        if client is not None:
            client.credited(message.size)

    # message ids, by the block

    def _next_msgid(self) -> MsgId | None:
        if len(self._msgids) < MSGIDS_LOW:
            self._want_msgids()
        return self._msgids.popleft() if self._msgids else None

    def _want_msgids(self) -> None:
        if not self._asked:
            self._asked = True
            self.queue.send(SmtpMsgidsAsk())

    @handles(SmtpMsgids)
    def msgids(self, _peer: Peer, message: SmtpMsgids) -> None:
        self._asked = False
        self._msgids.extend(MsgId(message.first + i) for i in range(message.count))

    # control

    @handles(CtlSubmit)
    def submit(self, peer: Peer, message: CtlSubmit) -> None:
        if "smtp" in self.paused or self._leaving or self.arrivals.full:
            peer.send(CtlDone(message.reqid, False, "server disallowed submission request"))
            return
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._open(mine, self._socket_door, LOCAL, False)
        peer.send(CtlSubmitReady(message.reqid), theirs.detach())

    @handles(CtlPause)
    def pause(self, peer: Peer, message: CtlPause) -> None:
        ok = message.what == "smtp" and message.resume is ("smtp" in self.paused)
        if ok and message.resume:
            self.paused.discard("smtp")
            self.log(logline.RESUMED.format(what="smtp"))
        elif ok:
            self.paused.add("smtp")
            self.log(logline.PAUSED.format(what="smtp"))
        peer.send(CtlDone(message.reqid, ok, ""))

    def drain(self) -> None:
        """No new connections; sessions hear 421 between commands, and have a moment to finish their message."""
        self._unlisten()
        for sock in self.sockets.values():
            sock.close()
        self.sockets.clear()
        if self.serving:
            self.arrivals.close()
        for client in list(self.crowd.clients.values()):
            client.run(client.session.shutdown(self.now()))
        if self.crowd.clients and not self.queue.closed:
            self.loop.call_later(2.0, self.leave)
        else:
            self.leave()
