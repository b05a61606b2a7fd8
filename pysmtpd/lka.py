"""lka: answers questions.  Which rule, which table entry, which host; it starts nothing itself.

Rules and tables in memory are asked at once; the DNS is asked by tasks of the loop, and other questions are answered
meanwhile.  Whatever fails here fails temporarily there: a question is always answered.
"""

import asyncio
import errno
import os
import socket
import time
import zlib
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from pysmtpd.base.logline import Level
from pysmtpd.base.procs import Proc
from pysmtpd.base.seal import KEY_SIZE, Seal, SealError
from pysmtpd.base.text import line_of
from pysmtpd.base.trace import Trace
from pysmtpd.conf.config import Expectation, local_keys
from pysmtpd.imsg import CHUNK_MAX, ImsgError, Message
from pysmtpd.lookup import auth_build, mx, resolver, rewritten, senders, services
from pysmtpd.lookup.answers import Answers
from pysmtpd.lookup.auth import Authenticator
from pysmtpd.lookup.auth_dovecot import DovecotBackend
from pysmtpd.lookup.auth_system import Children
from pysmtpd.lookup.build import Means, bad_patterns, build_tables
from pysmtpd.lookup.client_names import NO_NAME, ClientNames
from pysmtpd.lookup.expand import Expander, explain
from pysmtpd.lookup.expanded_frames import frames
from pysmtpd.lookup.explain import Explainer, Unexplained
from pysmtpd.lookup.forward import STATES, Forward, Forwards, Includes, Lists, User
from pysmtpd.lookup.hosts import HostsFile
from pysmtpd.lookup.match import parse_address
from pysmtpd.lookup.memo import Memo, Pending
from pysmtpd.lookup.node import TEMPORARY, Expanded
from pysmtpd.lookup.records import Status, is_hostname
from pysmtpd.lookup.ruleset import Ruleset
from pysmtpd.lookup.table import Service, TableError
from pysmtpd.lookup.table_reload import Reloader
from pysmtpd.lookup.table_slow import SlowTable
from pysmtpd.lookup.table_static import StaticTable
from pysmtpd.lookup.userinfo import userinfo
from pysmtpd.messages import (
    AuthAnswered,
    AuthMechanisms,
    AuthRefused,
    AuthStarted,
    CtlDone,
    CtlExplain,
    CtlText,
    CtlUpdateTable,
    ExpandRcpt,
    ForwardMissing,
    ForwardOpen,
    ForwardOpened,
    Found,
    MtaLookedUp,
    MtaLookup,
    MtaResolve,
    MtaResolved,
    NameLookedUp,
    RcptExpanded,
    SealKey,
    SenderChecked,
    SmtpAuth,
    SmtpAuthCancel,
    SmtpAuthResponse,
    SmtpCheckSender,
    SmtpLookedUp,
    SmtpLookup,
    SmtpLookupName,
    TableRefused,
    TableStart,
    TableStarted,
    TableStop,
    UserAsk,
    UserTold,
)
from pysmtpd.privsep.interfaces import getifaddrs
from pysmtpd.privsep.mproc import Peer
from pysmtpd.privsep.process import Process, handles

READERS = 4                        # threads that read :include: files
EXPLAIN_TIMEOUT = 50.0             # seconds; control gives up after 60
ADDRESSES_KEPT = 10.0              # seconds until the machine is asked again which addresses it has
EXPAND_TIMEOUT = 60.0              # seconds for all look-ups of one recipient
TEXT_MAX = 1024
DISCARD_PORT = 9
SMTP_SERVICES = frozenset({"netaddr", "addrname"})

_NO_ROUTE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


def has_route(address: str) -> bool:
    """Whether the kernel knows a way to an address: connecting a datagram socket asks it, and sends nothing."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((address, DISCARD_PORT))
    except OSError as error:
        return error.errno not in _NO_ROUTE
    return True


class _Keeper:
    """What table programs need of the process."""

    def __init__(self, process: "Lka") -> None:
        self._process = process

    def start_program(self, table: str) -> None:
        self._process.peer(Proc.PARENT).send(TableStart(table))

    def stop_program(self, table: str) -> None:
        self._process.peer(Proc.PARENT).send(TableStop(table))

    def tell(self, text: str) -> None:
        self._process.log(line_of(text.encode(), TEXT_MAX), Level.ERR)

    def now(self) -> float:
        return time.time()


class Lka(Process):
    """The process."""

    ME = Proc.LKA

    def preload(self) -> None:
        resolver.preload()
        self.answers = Answers(lambda text: self.log(text, Level.CRIT), lambda work: self.loop.create_task(work))
        self._traced = 0
        self._addresses_due = 0.0

    def setup(self) -> None:
        self.reloader = Reloader(self.log)
        try:
            self.tables = build_tables(
                self.config, Means(time.monotonic, self.reloader.tell, self.reloader.later, _Keeper(self)))
        except TableError as error:
            self.fatal(str(error))
        self.reloader.tables = self.tables
        for warning in bad_patterns(self.config, self.tables):
            self.log(warning, Level.ERR)
        self.ruleset = Ruleset(self.config.rules, self.tables)
        includes = Includes(ThreadPoolExecutor(READERS, "include"))
        lists = Lists(ThreadPoolExecutor(1, "list"))
        self.forwards = Forwards(self._open_forward, time.monotonic)
        self.expander = Expander(self.config, self.ruleset, self.tables, self.forwards, includes, lists=lists,
                                 only_uid=os.geteuid() if self.config.user else None)
        self.rewritten = rewritten.of(self.config, self.now, self.log)
        if self.rewritten is not None:
            self.expander.reverse = self.rewritten.reverse
        self._key = self.random.randbytes(KEY_SIZE)
        self.seal = Seal(self._key)
        self.hosts = HostsFile(time.monotonic)
        self.hosts.hosts()
        self.names = ClientNames(self.hosts, time.monotonic)
        self.auth_children = Children(lambda message: self.peer(Proc.PARENT).send(message), self.new_reqid)
        self.auth = Authenticator(lambda text: self.log(text, Level.ERR), self._tell_mechanisms)
        self.auth.backends = auth_build.build(self.config.listeners, self.tables, self.auth_children,
                                              self.random.randbytes)

    def start(self) -> None:
        self.peer(Proc.QUEUE).send(SealKey(self._key))
        for table in self.tables:
            if isinstance(table, SlowTable):
                table.start(self.loop)
        servers = resolver.NameServers(self.config.resolvers, time.monotonic)
        self.resolver = resolver.Resolver(servers, self.hosts)
        self._tell_mechanisms()

    # recipients

    @handles(ExpandRcpt)
    def expand_rcpt(self, peer: Peer, message: ExpandRcpt) -> None:
        if self.traces != self._traced:
            self._retrace()
        self._look_at_addresses()
        step = self.expander.expansion(message.envelope, tls=message.tls, local=message.local).run
        memo = Memo()
        try:
            expanded = memo.run(step)
        except Pending as pending:
            failed = RcptExpanded(message.reqid, b"", 0, TEMPORARY, "internal error")
            self.answers.later(peer, self._expand_later(peer, message, memo.settle(step, pending)), failed)
            return
        for _ in self._send_expanded(peer, message, expanded):
            pass

    def _look_at_addresses(self) -> None:
        """What ``local`` means changes with the machine's addresses."""
        now = time.monotonic()
        if now < self._addresses_due:
            return
        self._addresses_due = now + ADDRESSES_KEPT
        try:
            addresses = [address for _, address in getifaddrs()]
        except OSError:
            return
        for name, keys in local_keys(self.config.hostname, addresses).items():
            table = self.tables.get(name)
            if isinstance(table, StaticTable) and table.entries.keys() != set(keys):
                self.log(f"info: lka: {name} is now {' '.join(keys)}")
                table.fill((key, "") for key in keys)

    async def _expand_later(self, peer: Peer, message: ExpandRcpt, work: Coroutine[Any, Any, Expanded]
                            ) -> RcptExpanded | None:
        """Answer when the slow tables have answered."""
        try:
            async with asyncio.timeout(EXPAND_TIMEOUT):
                expanded = await work
        except TimeoutError:
            return RcptExpanded(message.reqid, b"", 0, TEMPORARY, f"look-ups took more than {EXPAND_TIMEOUT:g} seconds")
        for _ in self._send_expanded(peer, message, expanded):
            await asyncio.sleep(0)     # a list of thousands takes hundreds of frames
        return None

    def _send_expanded(self, peer: Peer, message: ExpandRcpt, expanded: Expanded) -> Iterator[None]:
        """Stops after each frame."""
        if self._traced:
            self._trace_expansion(expanded)
        for problem in expanded.problems:
            self.log(f"warn: lka: {problem}", Level.ERR)
        try:
            for frame in frames(message.reqid, message.envelope.evpid, expanded, self.seal):
                peer.send(frame)
                yield
        except (SealError, ImsgError) as error:
            self.log(f"bug: lka: expansion of <{message.envelope.rcpt}>: {error}", Level.CRIT)
            peer.send(RcptExpanded(message.reqid, b"", 0, TEMPORARY, "internal error"))

    @handles(CtlExplain)
    def explain(self, peer: Peer, ask: CtlExplain) -> None:
        failed = CtlDone(ask.reqid, False, "it cannot be explained: see the log")
        self.answers.later(peer, self._explain(ask), failed)

    async def _explain(self, ask: CtlExplain) -> Message:
        """The expansion of that recipient, as sessions get it."""
        client = Expectation(sender=ask.sender, rcpt=ask.rcpt, verdict="", source=ask.source, rdns=ask.rdns,
                             helo=ask.helo, username=ask.username, tls=ask.tls, tag=ask.tag)
        try:
            async with asyncio.timeout(EXPLAIN_TIMEOUT):
                explainer = Explainer(self.config, self.expander, self.resolver, self.random.shuffle)
                explained = await explainer.explain(client)
        except Unexplained as error:
            return CtlDone(ask.reqid, False, line_of(str(error).encode(), TEXT_MAX))
        except TimeoutError:
            return CtlDone(ask.reqid, False, f"look-ups took more than {EXPLAIN_TIMEOUT:g} seconds")
        data = zlib.compress(msgspec.json.encode(explained))
        if len(data) > CHUNK_MAX:
            return CtlDone(ask.reqid, False, "the explanation is too long; ask with -f, without the daemon")
        return CtlText(ask.reqid, data, True)

    # .forward, and who users of a userbase are

    def _open_forward(self, reqid: int, user: User) -> None:
        self.peer(Proc.PARENT).send(ForwardOpen(reqid, user.action, user.name, user.uid, user.home))

    @handles(ForwardOpened)
    def forward_opened(self, peer: Peer, message: ForwardOpened) -> None:
        self.forwards.opened(message.reqid, peer.claim_fd())

    @handles(ForwardMissing)
    def forward_missing(self, _peer: Peer, message: ForwardMissing) -> None:
        if message.why:
            self.log(f"warn: lka: {message.why}", Level.ERR)
        self.forwards.missing(message.reqid, Forward(STATES[message.state], b"", message.why))

    @handles(UserAsk)
    def user_ask(self, peer: Peer, message: UserAsk) -> None:
        def step(memo: Memo) -> Message:
            return self._user_told(message, memo)

        self.answers.step(peer, step, UserTold(message.reqid, Found.TEMPFAIL, 0, 0, ""))

    def _user_told(self, message: UserAsk, memo: Memo) -> Message:
        try:
            value = self.tables.lookup(message.table, Service.USERINFO, message.user, memo)
            info = userinfo(value, message.table, message.user) if value is not None else None
        except TableError as error:
            self.log(f"warn: lka: {line_of(str(error).encode(), TEXT_MAX)}", Level.ERR)
            return UserTold(message.reqid, Found.TEMPFAIL, 0, 0, "")
        if info is None:
            return UserTold(message.reqid, Found.NO, 0, 0, "")
        return UserTold(message.reqid, Found.YES, *info)

    def _retrace(self) -> None:
        """Whom the tables tell of look-ups depends on what is traced now."""
        self._traced = self.traces
        self.tables.trace = (lambda text: self.trace(Trace.LOOKUP, text)) if self.traces & Trace.LOOKUP else None

    def _trace_expansion(self, expanded: Expanded) -> None:
        if self.traces & Trace.RULES and expanded.root.decision is not None:
            for line in expanded.root.decision.trace(self.config.rules):
                self.trace(Trace.RULES, line)
        if self.traces & Trace.EXPAND:
            for line in explain(expanded.root, self.ruleset):
                self.trace(Trace.EXPAND, line)

    # names of clients

    @handles(SmtpLookupName)
    def lookup_name(self, peer: Peer, message: SmtpLookupName) -> None:
        known = self.names.known(message.address)
        if known is not None:
            peer.send(NameLookedUp(message.reqid, *known))
            return
        failed = NameLookedUp(message.reqid, *NO_NAME)
        if parse_address(message.address) is None:
            peer.send(failed)
            return
        self.answers.later(peer, self._client_name(message), failed)

    async def _client_name(self, message: SmtpLookupName) -> Message:
        return NameLookedUp(message.reqid, *await self.names.ask(self.resolver, message.address))

    # what mta asks

    @handles(MtaResolve)
    def resolve(self, peer: Peer, message: MtaResolve) -> None:
        failure = mx.MX_FAILED if message.mx else mx.HOST_FAILED
        failed = MtaResolved(message.reqid, failure.status, [], failure.text, failure.esc)
        self.answers.later(peer, self._resolve(message), failed)

    async def _resolve(self, message: MtaResolve) -> Message:
        find = mx.resolve_domain if message.mx else mx.resolve_host
        found = await find(self.resolver, message.name, self.random.shuffle)
        # Most machines have no way to one of the two families: half of all hosts would fail only to say so.
        hosts = [host for host in found.hosts if has_route(host.address)] or found.hosts
        return MtaResolved(message.reqid, found.status, hosts, found.text, found.esc)

    @handles(MtaLookup)
    def lookup(self, peer: Peer, message: MtaLookup) -> None:
        if message.service == "ptr":
            self.answers.later(peer, self._ptr(message), MtaLookedUp(message.reqid, Found.TEMPFAIL, ""))
            return
        if message.service == "srs":
            found = self.rewritten.sender(message.key, message.table) if self.rewritten is not None else None
            peer.send(MtaLookedUp(message.reqid, Found.NO if found is None else Found.YES, found or message.key))
            return
        if self.traces != self._traced:
            self._retrace()

        def step(memo: Memo) -> Message:
            return self._look_up(message, memo)

        self.answers.step(peer, step, MtaLookedUp(message.reqid, Found.TEMPFAIL, ""))

    def _look_up(self, message: MtaLookup, memo: Memo) -> Message:
        try:
            if message.service not in services.SERVICES:
                raise TableError(f"no such service: {message.service}")
            value = services.look_up(self.tables, message.service, message.table, message.key, memo)
        except TableError as error:
            self.log(f"warn: lka: {line_of(str(error).encode(), TEXT_MAX)}", Level.ERR)
            return MtaLookedUp(message.reqid, Found.TEMPFAIL, "")
        return MtaLookedUp(message.reqid, Found.NO if value is None else Found.YES, value or "")

    async def _ptr(self, message: MtaLookup) -> Message:
        if parse_address(message.key) is None:
            return MtaLookedUp(message.reqid, Found.NO, "")
        found = await self.resolver.reverse(message.key.partition("%")[0])
        names = [name for name in found.values if is_hostname(name)]
        if names:
            return MtaLookedUp(message.reqid, Found.YES, names[0])
        failed = found.status is Status.TEMPFAIL
        return MtaLookedUp(message.reqid, Found.TEMPFAIL if failed else Found.NO, "")

    # who a client is

    @handles(SmtpAuth)
    def auth_begin(self, peer: Peer, message: SmtpAuth) -> None:
        self.auth.begin(message, peer, peer.send)

    @handles(SmtpAuthResponse)
    def auth_response(self, peer: Peer, message: SmtpAuthResponse) -> None:
        self.auth.respond(message.reqid, peer, message.data)

    @handles(SmtpAuthCancel)
    def auth_cancel(self, peer: Peer, message: SmtpAuthCancel) -> None:
        self.auth.cancel(peer, message.reqid)

    def _tell_mechanisms(self) -> None:
        """smtp offers what the back ends can do; Dovecot's are known once it was asked."""
        for number, backend in self.auth.backends.items():
            for peer in self.peers(Proc.SMTP):
                peer.send(AuthMechanisms(number, list(backend.mechanisms())))
                if isinstance(backend, DovecotBackend):
                    failed = AuthMechanisms(number, list(backend.mechanisms()))
                    self.answers.later(peer, self._greet(number, backend), failed)

    async def _greet(self, number: int, backend: DovecotBackend) -> Message | None:
        try:
            await backend.greet()
        except TableError as error:
            self.log(f"warn: lka: authentication: {line_of(str(error).encode(), TEXT_MAX)}", Level.ERR)
            return None
        return AuthMechanisms(number, list(backend.mechanisms()))

    @handles(AuthStarted)
    def auth_started(self, peer: Peer, message: AuthStarted) -> None:
        self.auth_children.started(message.reqid, self.adopt(socket.socket(fileno=peer.claim_fd()), Proc.AUTH))

    @handles(AuthRefused)
    def auth_refused(self, _peer: Peer, message: AuthRefused) -> None:
        self.auth_children.refused(message)

    @handles(AuthAnswered)
    def auth_answered(self, peer: Peer, message: AuthAnswered) -> None:
        self.auth_children.answered(peer, message)

    def lost(self, peer: Peer, reason: str) -> None:
        self.auth_children.lost(peer)

    @handles(SmtpLookup)
    def lookup_for_smtp(self, peer: Peer, message: SmtpLookup) -> None:
        # Nothing else: smtp, which a stranger may have taken over, has no business with passwords.
        if message.service not in SMTP_SERVICES:
            raise ImsgError(f"no such service: {message.service}")

        def step(memo: Memo) -> Message:
            try:
                value = services.look_up(self.tables, message.service, message.table, message.key, memo)
            except TableError as error:
                self.log(f"warn: lka: {line_of(str(error).encode(), TEXT_MAX)}", Level.ERR)
                return SmtpLookedUp(message.reqid, Found.TEMPFAIL, "")
            return SmtpLookedUp(message.reqid, Found.NO if value is None else Found.YES, value or "")

        self.answers.step(peer, step, SmtpLookedUp(message.reqid, Found.TEMPFAIL, ""))

    @handles(SmtpCheckSender)
    def check_sender(self, peer: Peer, message: SmtpCheckSender) -> None:
        def step(memo: Memo) -> Message:
            try:
                found = senders.may_send(self.tables, message.table, message.user, message.sender,
                                         self.config.sub_addr_delim, memo)
            except TableError as error:
                self.log(f"warn: lka: {line_of(str(error).encode(), TEXT_MAX)}", Level.ERR)
                return SenderChecked(message.reqid, Found.TEMPFAIL)
            return SenderChecked(message.reqid, Found.YES if found else Found.NO)

        self.answers.step(peer, step, SenderChecked(message.reqid, Found.TEMPFAIL))

    # tables that are read again

    @handles(CtlUpdateTable)
    def update_table(self, peer: Peer, message: CtlUpdateTable) -> None:
        self.answers.later(peer, self._update(message), CtlDone(message.reqid, False, "internal error"))

    async def _update(self, message: CtlUpdateTable) -> Message:
        why = await self.reloader.reload(message.table)
        if not why:
            self._tell_mechanisms()    # SCRAM depends on what a table holds
        return CtlDone(message.reqid, not why, why)

    @handles(TableStarted)
    def table_started(self, peer: Peer, message: TableStarted) -> None:
        table = self.tables.get(message.table)
        if isinstance(table, SlowTable):
            table.begun(peer.claim_fd(), errors=message.errors)

    @handles(TableRefused)
    def table_refused(self, _peer: Peer, message: TableRefused) -> None:
        table = self.tables.get(message.table)
        if isinstance(table, SlowTable):
            table.refused(message.text)
