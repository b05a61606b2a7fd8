"""smtp: listeners and inbound sessions.

The conversation itself is session.smtp_session, which does no I/O; this process accepts, reads, writes, encrypts, and
carries the session's questions to lka and queue.  A session that falls behind costs nobody else anything: its client is
not read while it waits for an answer, or while the queue's window for its message is shut.
"""

import contextlib
import os
import resource
import socket
from collections import deque
from collections.abc import Callable
from functools import partial

from pysmtpd.base import idn, logline, reply
from pysmtpd.base.ids import MsgId
from pysmtpd.base.logline import Level
from pysmtpd.base.procs import Proc
from pysmtpd.base.reply import Reply
from pysmtpd.base.struct import replace
from pysmtpd.base.text import vis
from pysmtpd.base.trace import Trace
from pysmtpd.conf.config import Listener, Tls
from pysmtpd.imsg import BY_CLASS, ImsgError, Message
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
    SmtpBody,
    SmtpLookedUp,
    SmtpLookup,
    SmtpLookupName,
    SmtpMessageCommitted,
    SmtpMessageRollback,
    SmtpMsgids,
    SmtpMsgidsAsk,
)
from pysmtpd.privsep.ioev import Io
from pysmtpd.privsep.mproc import Peer
from pysmtpd.privsep.preamble import Preamble
from pysmtpd.privsep.process import Process, handles
from pysmtpd.privsep.server_tls import DAY, ServerTls
from pysmtpd.privsep.tls import TlsContext, TlsError, TlsInfo
from pysmtpd.session.client_limits import CONN_RATE, MAX_CONN_PER_CLIENT, Clients
from pysmtpd.session.effects import Ask, AuthFailed, Body, Close, Count, Effect, Log, Send, StartTls, Wait
from pysmtpd.session.proxy import ProxyHeader
from pysmtpd.session.smtp_session import LOCAL, SessionSettings, SmtpSession

SESSION_TIMEOUT = 300.0
PROXY_TIMEOUT = 30.0               # seconds for its header
CLOSE_TIMEOUT = 30.0               # for the last reply to leave
ACCEPT_MAX = 32                    # connections accepted per event
MSGIDS_LOW = 256                   # ask for another block below this
SPARE_FDS = 16
NAMES_MAX = 1000                   # names of clients remembered
NAME_KEEP = 5.0                    # seconds; lka knows how long DNS lets it
QUEUE_BACKLOG_MAX = 8 * 1024 * 1024
CLIENTS_MAX = 32768                # connections, if there are descriptors for so many
HELD_MAX = 128 * 1024 * 1024       # octets kept for all clients: unanswered commands, unfinished headers, replies
HELD_LOW = HELD_MAX // 8 * 7       # and down to what, when those who hold most have to go
LOOKUPS_MAX = 4096                 # questions about addresses that are out at once
TOO_MANY_EVERY = 60.0              # seconds between two lines in the log that say so

_LIMITED = {MAX_CONN_PER_CLIENT: reply.R421_CLIENT_CONNECTIONS, CONN_RATE: reply.R421_CLIENT_RATE}

# Whom each of our questions goes to, by its route.
_ASKED: dict[type[Message], Proc] = {
    kind: route.dst for kind, spec in BY_CLASS.items() for route in spec.routes if route.src is Proc.SMTP
}


Answer = RcptExpanded | SmtpMessageCommitted | AuthChallenge | AuthDone | SenderChecked


def _close(sock: socket.socket) -> None:
    """What was not read would make a reset of it, which takes our last words from the client's hands."""
    with contextlib.suppress(OSError):
        sock.recv(65536)
    sock.close()


class Door:
    """A listener with what its sessions need."""

    def __init__(self, listener: Listener, settings: SessionSettings, context: TlsContext | None) -> None:
        self.listener = listener
        self.settings = settings
        self.context = context
        self.proxied = listener.proxy_v2 or listener.proxy_from != ""


class Client:
    """One connection: the shell around a session."""

    __slots__ = ("address", "counted", "credit", "door", "held", "id", "io", "process", "session", "started")

    def __init__(self, process: "Smtp", sock: socket.socket, door: Door, session: SmtpSession, sid: int,
                 address: str) -> None:
        self.address = address
        self.process = process
        self.door = door
        self.session = session
        self.id = sid
        self.credit = BODY_WINDOW
        self.held = 0              # octets, as far as was looked
        self.counted = False       # among the connections of its address
        self.started = False
        self.io = Io(process, sock, self, SESSION_TIMEOUT)

    def begin(self) -> None:
        """Greet, or first shake hands."""
        if self.door.listener.tls is Tls.SMTPS and self.door.context is not None:
            self.process.stats.add("smtp.smtps")
            self.io.start_tls(self.door.context, server=True)
        else:
            self._start()

    def _start(self) -> None:
        self.started = True
        self.run(self.session.start(self.process.now()))
        self.pace()

    # what the socket tells

    def io_data(self, data: bytes) -> None:
        # A client that speaks out of turn is read once more, then not until the answer came: watching the socket less
        # for each question would cost more than the question.
        early = not self.session.reading
        self.run(self.session.receive(data, self.process.now()))
        held = self.session.held + self.io.backlog
        if held != self.held:
            self.weigh(held)
        if early or self._shut():
            self.io.pause()

    def io_eof(self) -> None:
        # It may have said all it wants and still listen: the session closes when it is through.
        self.run(self.session.eof(self.process.now()))

    def io_error(self, text: str) -> None:
        self.run(self.session.error(text, self.process.now()))
        self.end()

    def io_drained(self) -> None:
        self.pace()

    def io_tls(self, info: TlsInfo) -> None:
        self.process.stats.add("smtp.tls")
        self.run(self.session.tls_ready(info.text, self.process.now(), info.fingerprint, info.verified,
                                        info.identities))
        if not self.started:
            self._start()

    def io_timeout(self) -> None:
        if self.session.closed:
            self.io.abort()        # it never took the last reply
        else:
            self.run(self.session.timeout(self.process.now()))

    def io_connected(self) -> None:
        raise AssertionError("an accepted socket is connected")

    # what the session wants

    def run(self, effects: list[Effect]) -> None:
        """Carry out effects in their order; a session says all it has to say of a turn in one Send."""
        for effect in effects:
            if isinstance(effect, Send):
                if self.process.traces and self.process.traces & Trace.SMTP:
                    self._trace_replies(effect.data)
                self.io.write(effect.data)
            elif isinstance(effect, Ask):
                self.process.ask(self, effect)
            elif isinstance(effect, Log):
                self.process.log(effect.line, effect.level)
            elif isinstance(effect, Body):
                self._body(effect.chunk)
            elif isinstance(effect, Count):
                self.process.stats.add(effect.key, effect.amount)
            elif isinstance(effect, AuthFailed):
                self.process.auth_failed(self.address, effect.user)
            else:
                self._control(effect)

    def _trace_replies(self, data: bytes) -> None:
        """What the client says is not traced: it may be a password, and in time it is the mail."""
        for line in data.splitlines():
            self.process.trace(Trace.SMTP, f"{self.id:016x} >>> {vis(line)}")

    def _control(self, effect: StartTls | Close | Wait) -> None:
        if isinstance(effect, StartTls):
            assert self.door.context is not None
            self.io.start_tls(self.door.context, server=True)
        elif isinstance(effect, Close):
            self.io.set_timeout(CLOSE_TIMEOUT)
            self.io.close()
            self.process.forget(self)
        else:
            self.io.pause()
            self.process.loop.call_later(effect.seconds, self._wake)

    def _wake(self) -> None:
        if not self.io.closed:
            self.run(self.session.wake(self.process.now()))
            self.pace()

    def answer(self, message: Message) -> None:
        """A process answered."""
        if isinstance(message, SmtpMessageCommitted):
            self.credit = BODY_WINDOW  # the window is one body's
        self.run(self.session.answer(message, self.process.now()))
        self.pace()

    def shed(self) -> None:
        """It holds too much: nothing of it stays, not even replies that it does not take."""
        if self.io.closed:
            return
        waiting = self.io.backlog
        self.run(self.session.shed(self.process.now()))
        if waiting:
            self.io.abort()

    def end(self) -> None:
        self.process.forget(self)
        self.io.abort()

    # the way of a body to the queue

    def _body(self, chunk: bytes) -> None:
        self.credit -= len(chunk)
        self.process.queue.send(SmtpBody(self.id, chunk))

    def credited(self, size: int) -> None:
        """The queue consumed so much."""
        self.credit = min(self.credit + size, BODY_WINDOW)
        self.pace()

    def weigh(self, held: int) -> None:
        """It holds so many octets now."""
        self.process.held += held - self.held
        self.held = held
        if self.process.held > HELD_MAX:
            self.process.relieve()

    def pace(self) -> None:
        """Read on, unless there is a reason not to."""
        if self.held or self.io.backlog:
            self.weigh(self.session.held + self.io.backlog)
        if self._shut():
            self.io.pause()
        elif not self.io.reading and self.session.reading:
            # Otherwise each answer would let in another buffer, however little of the last one it used up.
            self.io.resume()

    def _shut(self) -> bool:
        """Whether more from this client would only pile up."""
        if self.process.queue.backlog > QUEUE_BACKLOG_MAX:
            self.process.wait_for_queue(self)
            return True
        return self.credit <= 0 or self.io.backlog > BODY_WINDOW


class Smtp(Process):
    """The smtp process."""

    ME = Proc.SMTP

    def preload(self) -> None:
        idn.preload()
        self.sockets: dict[int, socket.socket] = {}
        self.server_tls = ServerTls()
        self.doors: list[Door] = []
        self.serving = False
        self.clients: dict[int, Client] = {}
        self.held = 0              # octets, by all of them
        self.limits: Clients | None = None     # none are configured
        self._preambles: dict[int, Preamble] = {}
        self._lookups: dict[int, Callable[[Found], None]] = {}
        self._choked: dict[int, Client] = {}
        self._too_many = 0.0       # until when it is known that there are too many
        self._msgids: deque[MsgId] = deque()
        self._asked = False
        self._counter = self.random.getrandbits(32)
        # Clients that come again and again: their names, by address, and until when they are believed.
        self._names: dict[str, tuple[float, NameLookedUp]] = {}

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
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._max_clients = max(limit - len(os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ())
                                - SPARE_FDS - 16, 16)
        limits = self.config.client_limits
        self._max_clients = min(self._max_clients, limits.max_conn or CLIENTS_MAX)
        if limits.max_conn_per_client or limits.conn_rate.count or limits.auth_fail.count:
            self.limits = Clients(limits)
        self._want_msgids()
        if self.server_tls.contexts:
            self._report_daily()
        self.serving = True
        self._listen()

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
            if self._refused(client, door):
                continue
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.limits is None and not door.proxied:
                self._open(client, door, address[0])
            elif door.proxied:
                self._proxied(client, door, address[0])
            else:
                self._admit(client, door, address[0])

    def _relisten(self) -> None:
        if not self._leaving:
            self._listen()

    def _refused(self, client: socket.socket, door: Door) -> bool:
        """Whether a client that has just been accepted has to go again."""
        if "smtp" in self.paused:
            self._turn_away(client, door, reply.R421_PAUSED)
            return True
        if len(self.clients) + len(self._preambles) < self._max_clients:
            return False
        if self._too_many < self.loop.time():
            self._too_many = self.loop.time() + TOO_MANY_EVERY
            self.log(logline.SMTP_TOO_MANY.format(count=len(self.clients)), Level.ERR)
        self.stats.add("smtp.limit.max-conn")
        self._turn_away(client, door, reply.R421_CONNECTIONS)
        return True

    def _proxied(self, sock: socket.socket, door: Door, address: str) -> None:
        """Somebody who has to be a proxy connected."""
        table = door.listener.proxy_from
        if not table:
            self._read_proxy(sock, door, address, Found.YES)
        elif len(self._lookups) < LOOKUPS_MAX:
            self._look_up(table, address, partial(self._read_proxy, sock, door, address))
        else:
            self._turn_away(sock, door, reply.R421_BUSY)

    def _read_proxy(self, sock: socket.socket, door: Door, address: str, trusted: Found) -> None:
        sid = self._new_id()
        shown = logline.address_text(address)
        if trusted is not Found.YES or self._leaving:
            self.log(logline.SMTP_PROXY_CLOSED.format(id=sid, address=shown, reason="not a trusted proxy"))
            self._turn_away(sock, door, reply.R554_NO_PROXY if trusted is Found.NO else reply.R421_BUSY)
            return
        self.log(logline.SMTP_PROXY.format(id=sid, address=shown))
        header = ProxyHeader(v1=bool(door.listener.proxy_from))

        def done(why: str) -> None:
            del self._preambles[sid]
            if why:
                self.log(logline.SMTP_PROXY_CLOSED.format(id=sid, address=shown, reason=why))
                _close(sock)
            else:
                self._admit(sock, door, header.address or address)

        self._preambles[sid] = Preamble(self.loop, sock, header, PROXY_TIMEOUT, done)

    def _admit(self, sock: socket.socket, door: Door, address: str) -> None:
        """Open a session, unless this client has enough of them."""
        if self.limits is None:
            self._open(sock, door, address)
            return
        limit = self.limits.open(address, self.loop.time())
        exempt = self.config.client_limits.exempt
        if not limit:
            self._open(sock, door, address).counted = True
        elif not exempt or len(self._lookups) >= LOOKUPS_MAX:
            self._limit(sock, door, address, limit)
        else:
            self._look_up(exempt, address, partial(self._admit_exempt, sock, door, address, limit))

    def _admit_exempt(self, sock: socket.socket, door: Door, address: str, limit: str, found: Found) -> None:
        if found is Found.YES and not self._leaving:
            self._open(sock, door, address)
        else:
            self._limit(sock, door, address, limit)

    def _limit(self, sock: socket.socket, door: Door, address: str, limit: str) -> None:
        self.log(logline.SMTP_LIMITED.format(id=self._new_id(), address=logline.address_text(address), limit=limit))
        self.stats.add(f"smtp.limit.{limit}")
        self._turn_away(sock, door, _LIMITED[limit])

    def _look_up(self, table: str, address: str, then: Callable[[Found], None]) -> None:
        """Whether a table has this address."""
        reqid = self._new_id()
        self._lookups[reqid] = then
        self.peer(Proc.LKA).send(SmtpLookup(reqid, "netaddr", table, address))

    @handles(SmtpLookedUp)
    def looked_up(self, _peer: Peer, message: SmtpLookedUp) -> None:
        then = self._lookups.pop(message.reqid, None)
        client = self.clients.get(message.reqid)
        if then is not None:
            then(message.found)
        elif client is not None:
            client.answer(message)         # the name of this server

    def _turn_away(self, client: socket.socket, door: Door, text: Reply) -> None:
        """Say why and close; one that expects a handshake could not read it."""
        client.setblocking(False)
        if door.listener.tls is not Tls.SMTPS:
            with contextlib.suppress(OSError):
                client.send(f"{text}\r\n".encode("ascii"))
        _close(client)

    def relieve(self) -> None:
        """Clients hold more than is good: those who hold most have to go, as many as it takes."""
        for client in self.clients.values():
            client.held = 0 if client.io.closed else client.session.held + client.io.backlog
        self.held = size = sum(client.held for client in self.clients.values())
        if size <= HELD_MAX:
            return
        shed = []
        for client in sorted(self.clients.values(), key=lambda one: -one.held):
            if self.held <= HELD_LOW:
                break
            self.held -= client.held
            client.held = 0
            shed.append(client)
        self.log(logline.SMTP_OVERLOAD.format(size=size, count=len(shed)), Level.ERR)
        for client in shed:
            # From the loop: one of them is in the middle of something.
            self.loop.call_soon(client.shed)

    def _new_id(self) -> int:
        self._counter = (self._counter + 1) & 0xFFFFFFFF
        return self._counter << 32 | self.random.getrandbits(32) | 1

    def _open(self, sock: socket.socket, door: Door, address: str) -> Client:
        sid = self._new_id()
        local = sock.getsockname()[0].partition("%")[0] if door.listener.hostnames else ""
        session = SmtpSession(door.listener, door.settings, sid, address, self._next_msgid,
                              random=self.random.getrandbits, local=local, may_log_in=self._may_log_in)
        client = Client(self, sock, door, session, sid, address)
        self.clients[sid] = client
        self.stats.add("smtp.session")
        self.stats.add("smtp.session.local" if address == LOCAL else
                       "smtp.session.inet6" if ":" in address else "smtp.session.inet4")
        client.begin()
        return client

    def forget(self, client: Client) -> None:
        """A session is over."""
        if self.clients.pop(client.id, None) is not None:
            self.held -= client.held
            client.held = 0
            if client.counted and self.limits is not None:
                self.limits.close(client.address)
            self.stats.add("smtp.session", -1)
            if self._leaving and not self.clients:
                self.leave()

    def wait_for_queue(self, client: Client) -> None:
        """The queue is behind: nothing else may ever happen that makes this client be read again."""
        if not self._choked:
            self.queue.when_room(QUEUE_BACKLOG_MAX, self._unchoke)
        self._choked[client.id] = client

    def _unchoke(self) -> None:
        choked, self._choked = self._choked, {}
        for client in choked.values():
            if not client.io.closed:
                client.pace()

    # questions and answers

    def ask(self, client: Client, effect: Ask) -> None:
        """Carry a session's question to whom its route names."""
        message = effect.message
        if isinstance(message, SmtpMessageRollback):
            client.credit = BODY_WINDOW
        elif isinstance(message, SmtpLookupName):
            known = self._names.get(message.address)
            if known is not None and known[0] > self.loop.time():
                self.loop.call_soon(self._name_known, replace(known[1], reqid=message.reqid))
                return
        self.peer(_ASKED[type(message)]).send(message)

    @handles(NameLookedUp)
    def name_looked_up(self, _peer: Peer, message: NameLookedUp) -> None:
        client = self.clients.get(message.reqid)
        if client is not None:
            if len(self._names) >= NAMES_MAX:
                self._names.clear()
            self._names[client.address] = (self.loop.time() + NAME_KEEP, message)
            client.answer(message)

    def _name_known(self, message: NameLookedUp) -> None:
        client = self.clients.get(message.reqid)
        if client is not None:
            client.answer(message)

    @handles(AuthMechanisms)
    def auth_mechanisms(self, _peer: Peer, message: AuthMechanisms) -> None:
        """Sessions that begin from now on offer these."""
        if message.listener >= len(self.doors):
            raise ImsgError("there is no such listener")
        door = self.doors[message.listener]
        door.settings = door.settings._replace(mechanisms=tuple(message.names))

    def auth_failed(self, address: str, _user: str) -> None:
        """Somebody at this address was not this user."""
        self.stats.add("smtp.auth.failed")
        if self.limits is None or not self.limits.counts_failures:
            return
        exempt = self.config.client_limits.exempt
        if exempt and len(self._lookups) < LOOKUPS_MAX:
            self._look_up(exempt, address, partial(self._failure_counts, address))
        else:
            self._failure_counts(address, Found.NO)

    def _failure_counts(self, address: str, exempt: Found) -> None:
        if self.limits is not None and exempt is not Found.YES:
            self.limits.failed(address, self.loop.time())

    def _may_log_in(self, address: str) -> bool:
        return self.limits is None or self.limits.may_log_in(address, self.loop.time())

    @handles(RcptExpanded, SmtpMessageCommitted, AuthChallenge, AuthDone, SenderChecked)
    def answered(self, _peer: Peer, message: Answer) -> None:
        client = self.clients.get(message.reqid)
        if client is not None:
            client.answer(message)

    @handles(BodyCredit)
    def body_credit(self, _peer: Peer, message: BodyCredit) -> None:
        client = self.clients.get(message.reqid)
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
        if "smtp" in self.paused or self._leaving or len(self.clients) >= self._max_clients:
            peer.send(CtlDone(message.reqid, False, "server disallowed submission request"))
            return
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._open(mine, self._socket_door, LOCAL)
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
        for preamble in list(self._preambles.values()):
            preamble.end("shutdown")
        for client in list(self.clients.values()):
            client.run(client.session.shutdown(self.now()))
        if self.clients and not self.queue.closed:
            self.loop.call_later(2.0, self.leave)
        else:
            self.leave()
