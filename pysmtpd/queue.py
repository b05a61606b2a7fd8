"""queue: the only process that touches the spool.

smtp hands messages in, and is told "committed" when they are on stable storage; the scheduler says when an envelope
is due; mta and mda say how it went; lka says where a bounce goes; control asks and commands.  Everything durable
happens in spool/; this file translates.  See docs/spool.md.
"""

import sqlite3
import zlib
from asyncio import TimerHandle
from collections.abc import Iterable

from pysmtpd.base import logline
from pysmtpd.base.envelope import Agent, Envelope
from pysmtpd.base.logline import Level
from pysmtpd.base.procs import Proc
from pysmtpd.base.seal import Seal, SealError
from pysmtpd.base.trace import Trace
from pysmtpd.imsg import ImsgError
from pysmtpd.messages import (
    BODY_WINDOW,
    CARRIED_MAX,
    BodyClose,
    BodyCredit,
    BodyOpen,
    CtlEnvelopes,
    CtlShowEnvelope,
    CtlShowMessage,
    CtlShowQueue,
    Delivered,
    DeliveryHold,
    DeliveryRelease,
    DeliverySchedule,
    ExpandRcpt,
    Outcome,
    QueueBody,
    QueueCancel,
    QueueDeliver,
    QueueHold,
    QueueRelease,
    QueueTempfail,
    RcptExpanded,
    Result,
    SchedDispatch,
    SchedExpire,
    SchedFetch,
    SchedFetched,
    SchedRetry,
    SealKey,
    SmtpBody,
    SmtpEnvelopes,
    SmtpMessage,
    SmtpMessageCommit,
    SmtpMessageRollback,
    SmtpMsgids,
    SmtpMsgidsAsk,
)
from pysmtpd.privsep.mproc import Peer
from pysmtpd.privsep.process import Process, handles
from pysmtpd.spool import coding
from pysmtpd.spool.arrivals import Arrivals
from pysmtpd.spool.backend import HAS_8BIT, HAS_UTF8_HEADER, IS_BINARY, Backend, Change, SpoolError, Stored
from pysmtpd.spool.bodies import Bodies
from pysmtpd.spool.bounces import Bounces
from pysmtpd.spool.coding import Coding
from pysmtpd.spool.commands import Commands
from pysmtpd.spool.endings import Endings
from pysmtpd.spool.flights import Flight, Flights
from pysmtpd.spool.incoming import Inbox, Key
from pysmtpd.spool.memory import Memory
from pysmtpd.spool.msgids import Ids, MsgIds
from pysmtpd.spool.news import REMOVED, SCHEDULES_MAX, News
from pysmtpd.spool.outgoing import Outbox
from pysmtpd.spool.reader import Reader
from pysmtpd.spool.sqlite import SqliteSpool
from pysmtpd.spool.writer import Thread, Writer

CARRIED_WINDOW = 4 * 1024 * 1024   # octets of bodies that an agent holds unasked
BOUNCER = "bounce"                 # the agent of bounces
DRAIN_TIMEOUT = 20.0
COUNT_PAUSE = 100                  # times what it took, until the envelopes are counted anew
READ_AGAIN = 10.0                  # seconds until what could not be read is tried again


class Queue(Process):
    """The process."""

    ME = Proc.QUEUE

    def preload(self) -> None:
        sqlite3.connect(":memory:").execute("SELECT 1").connection.close()
        zlib.crc32(b"")

    def setup(self) -> None:
        coding.preload(encrypts=self.config.queue_key is not None)

    def start(self) -> None:
        spool = self.open_spool()
        self.backend: Backend = spool
        self.bodies: Bodies = spool.bodies
        for line in spool.warnings:
            self.log(line, Level.INFO if line.startswith("info") else Level.ERR)
        self.writer = Writer(spool, self.loop, self.warn)
        self.writer.on_group = self._tell_scheduler
        self.msgids = MsgIds(spool.next_msgid(), spool.used_msgid)
        self._own_ids = self.msgids.owner()
        self._own_block = (0, 0)
        self.inbox = Inbox(spool.bodies, Thread(self.loop), self._credit)
        self.seal: Seal | None = None  # until lka has given its key
        self.outbox = Outbox(self._send_body, BODY_WINDOW)
        self.memory = Memory()
        self.reader = Reader(spool, spool.bodies, self.memory, self.warn)
        self.flights = Flights()
        self.bounces = Bounces(self, self.loop, self.config.hostname)
        self.news = News()
        self.arrivals = Arrivals(self, self.msgids.owner)
        self.endings = Endings(self, self.config.queue_ttl)
        self.commands = Commands(self)
        self._drain_timer: TimerHandle | None = None
        self._count_at = 0.0

    def open_spool(self) -> SqliteSpool:
        """Opened in the jail: opened before, its files would stay root's."""
        try:
            return SqliteSpool(self.paths.queue, self.random.randint(1, 1 << 31), coding=self.coding())
        except SpoolError as error:
            self.fatal(str(error))

    def coding(self) -> Coding:
        """What is done to bodies before they are written."""
        key = self.config.queue_key
        for what, wanted in (("compression", self.config.queue_compression), ("encryption", key is not None)):
            if wanted:
                self.log(f"queue: queue {what} enabled")
        return Coding(compress=self.config.queue_compression, key=key.value.encode() if key is not None else b"")

    def warn(self, line: str) -> None:
        self.log(line, Level.ERR)

    # smtp: messages come in

    @handles(SmtpMsgidsAsk)
    def msgids_ask(self, peer: Peer, _ask: SmtpMsgidsAsk) -> None:
        peer.send(SmtpMsgids(*self._block(self.arrivals.ids_of(peer))))

    def _block(self, ids: Ids) -> tuple[int, int]:
        block = self.msgids.block(ids)
        self.writer.later(Change(next_msgid=self.msgids.mark), lambda _ok: None)
        return block

    @handles(SealKey)
    def seal_key(self, _peer: Peer, message: SealKey) -> None:
        self.seal = Seal(message.key)

    @handles(SmtpEnvelopes)
    def envelopes(self, peer: Peer, message: SmtpEnvelopes) -> None:
        self.arrivals.add_envelopes((peer, message.reqid), message.sealed)

    @handles(SmtpBody)
    def body(self, peer: Peer, message: SmtpBody) -> None:
        self.inbox.add_body((peer, message.reqid), message.chunk)

    @handles(SmtpMessageRollback)
    def message_rollback(self, peer: Peer, message: SmtpMessageRollback) -> None:
        self.inbox.rollback((peer, message.reqid))

    @handles(SmtpMessage)
    def whole_message(self, peer: Peer, message: SmtpMessage) -> None:
        key = peer, message.reqid
        self.inbox.rollback(key)
        self.arrivals.add_envelopes(key, message.sealed)
        self.inbox.add_body(key, message.body)
        self.arrivals.commit(key, message.msgid, None, len(message.body))

    @handles(SmtpMessageCommit)
    def message_commit(self, peer: Peer, ask: SmtpMessageCommit) -> None:
        self.arrivals.commit((peer, ask.reqid), ask.msgid, ask.envelope_count, ask.size,
                             IS_BINARY * ask.binary | HAS_UTF8_HEADER * ask.utf8_header)

    def _credit(self, key: Key, size: int) -> None:
        peer, reqid = key
        peer.send(BodyCredit(reqid, size))

    # the scheduler: what is due

    def _tell_scheduler(self) -> None:
        """What the last group changed."""
        self.stats.set("queue.commit", self.writer.commits)
        self.news.tell(self.peer(Proc.SCHEDULER))

    def ended(self, evpid: int, result: int) -> None:
        """An envelope was deleted; the scheduler hears of it with the rest of the group."""
        self.endings.deleted(evpid, result)

    def _ended_now(self, evpids: Iterable[int], result: int = REMOVED) -> None:
        """These were not to be found."""
        self.news.ended(evpids, result)
        self._tell_scheduler()

    def changed(self, stored: Stored) -> None:
        """An envelope is new or changed, and that is durable."""
        self.news.changed((stored,))

    @handles(SchedFetch)
    def fetch(self, peer: Peer, ask: SchedFetch) -> None:
        limit = min(ask.limit, SCHEDULES_MAX)
        try:
            found = self.backend.due(ask.agent, ask.after_due, ask.after_evpid, ask.until, limit)
        except SpoolError as error:
            # No answer: an empty one would say that there is nothing.  The scheduler will ask again.
            self.reader.failed(error)
            return
        peer.send(SchedFetched(ask.reqid, found, len(found) == limit > 0))

    @handles(SchedDispatch)
    def dispatch(self, peer: Peer, message: SchedDispatch) -> None:
        unknown: list[int] = []
        for evpid in message.evpids:
            stored = self.memory.take_envelope(evpid)
            if evpid in self.flights:
                self.trace(Trace.QUEUE, f"{evpid:016x} is in flight already")
            elif stored is None or self.memory.message(evpid >> 32) is None:
                unknown.append(evpid)
            else:
                self._deliver(stored)
        if unknown:
            self._dispatch_unknown(peer, unknown)

    def _dispatch_unknown(self, peer: Peer, unknown: list[int]) -> None:
        try:
            found = self.reader.load(unknown)
            for msgid in {stored.envelope.evpid >> 32 for stored in found}:
                self.reader.message(msgid)
        except SpoolError as error:
            self.reader.failed(error)
            self.loop.call_later(READ_AGAIN, self.dispatch, peer, SchedDispatch(unknown))
            return
        for stored in found:
            self._deliver(stored)
        self._ended_now(set(unknown) - {stored.envelope.evpid for stored in found})

    @handles(SchedExpire)
    def expire(self, peer: Peer, message: SchedExpire) -> None:
        try:
            found = self.reader.load([evpid for evpid in message.evpids if evpid not in self.flights])
        except SpoolError as error:
            self.reader.failed(error)
            self.loop.call_later(READ_AGAIN, self.expire, peer, message)
            return
        for stored in found:
            envelope = stored.envelope
            self.memory.take_envelope(envelope.evpid)
            self.log_admin(logline.QUEUE_EXPIRED, envelope)
            self.endings.expired(envelope)
        gone = set(message.evpids) - {stored.envelope.evpid for stored in found}
        self._ended_now(evpid for evpid in gone if evpid not in self.flights)

    def log_admin(self, line: str, envelope: Envelope) -> None:
        """A removal or an expiry, in OpenSMTPD's words."""
        self.log(line.format(
            agent="delivery" if envelope.agent is Agent.MDA else "relay", evpid=envelope.evpid,
            sender=envelope.sender, dest=envelope.dest, rcpt=envelope.rcpt,
            delay=logline.duration(max(0, self.now() - envelope.ctime)),
        ))

    @handles(SchedRetry)
    def retry(self, peer: Peer, ask: SchedRetry) -> None:
        flight = self.flights.end(ask.evpid)
        if flight is not None:
            self._retry(flight.stored, flight.esc, flight.text, ask, flight.remote)
            return
        try:
            found = self.reader.load([ask.evpid])
        except SpoolError as error:
            self.reader.failed(error)
            self.loop.call_later(READ_AGAIN, self.retry, peer, ask)
            return
        if found:
            self._retry(found[0], "", "", ask)
        else:
            self._ended_now([ask.evpid])

    def _retry(self, stored: Stored, esc: str, text: str, ask: SchedRetry, remote: str = "") -> None:
        self.memory.take_envelope(ask.evpid)
        self.endings.retried(stored, esc, text, ask, remote)

    # mta and mda: messages go out

    def _deliver(self, stored: Stored) -> None:
        envelope = stored.envelope
        msgid = envelope.evpid >> 32
        message = self.reader.find_message(msgid)
        if message is None:
            self.warn(f"warn: queue: invalid envelope {envelope.evpid:016x}: no message")
            self._ended_now([envelope.evpid])
        elif envelope.agent is Agent.BOUNCE:
            self.flights.begin(stored, BOUNCER)
            self.bounces.add(envelope)
        else:
            peer = self._agent(envelope)
            # Many recipients of one message share the body they open; one alone saves the round trip.
            body = self.memory.body_for_one(msgid)
            if len(body) > CARRIED_MAX or self.flights.carried(peer) + len(body) > CARRIED_WINDOW:
                body = b""
            self.flights.begin(stored, peer, len(body))
            try:
                peer.send(QueueDeliver(envelope, message.size, bool(message.flags & HAS_8BIT), body,
                                       bool(message.flags & IS_BINARY), bool(message.flags & HAS_UTF8_HEADER)))
            except ImsgError:
                self._landed(peer, Result(envelope.evpid, Outcome.PERMFAIL, "5.3.0", "The envelope is too large"))

    def _agent(self, envelope: Envelope) -> Peer:
        if envelope.agent is Agent.MDA:
            return self.peer(Proc.MDA)
        peers = self.peers(Proc.MTA)
        # Mail of one domain goes the same way, to share its sessions.
        return peers[zlib.crc32(envelope.dest.domain.lower().encode()) % len(peers)] if len(peers) > 1 else peers[0]

    @handles(BodyOpen)
    def body_open(self, peer: Peer, ask: BodyOpen) -> None:
        key = peer, ask.reqid
        message = self.reader.find_message(ask.msgid) if self.flights.may_read(peer, ask.msgid) else None
        if message is None:
            self.outbox.refuse(key)
            return
        try:
            if message.file:
                self.outbox.open_file(key, self.bodies.open(message), message.size)
                return
            body = self.reader.body(ask.msgid)
        except SpoolError as error:
            self.reader.failed(error)
            body = None
        if body is None:
            self.outbox.refuse(key)
        else:
            self.outbox.open_body(key, body)

    @handles(BodyCredit)
    def body_credit(self, peer: Peer, message: BodyCredit) -> None:
        self.outbox.credit((peer, message.reqid), message.size)

    @handles(BodyClose)
    def body_close(self, peer: Peer, message: BodyClose) -> None:
        self.outbox.close((peer, message.reqid))

    def _send_body(self, key: Key, piece: bytes, last: bool, ok: bool) -> None:
        peer, reqid = key
        peer.send(QueueBody(reqid, piece, last, ok))

    @handles(Delivered)
    def delivered(self, peer: Peer, message: Delivered) -> None:
        for result in message.results:
            self._landed(peer, result)

    def _landed(self, agent: Peer | str, result: Result) -> None:
        flight = self.flights.land(result.evpid, agent)
        if flight is None:
            self.trace(Trace.QUEUE, f"{result.evpid:016x} is not in flight there")
            return
        envelope = flight.stored.envelope
        if result.outcome is Outcome.TEMPFAIL:
            flight.esc, flight.text, flight.remote = result.esc, result.text, result.remote
            self.peer(Proc.SCHEDULER).send(QueueTempfail(flight.stored.schedule))
            return
        self.flights.end(result.evpid)
        self.endings.decided(envelope, result)

    @handles(DeliveryHold)
    def hold(self, peer: Peer, message: DeliveryHold) -> None:
        flight = self.flights.land(message.evpid, peer)
        if flight is not None:
            self.flights.end(message.evpid)
            self.memory.add_envelope(flight.stored)
            self.peer(Proc.SCHEDULER).send(QueueHold(message.evpid, _holdq(peer, message.holdq)))

    @handles(DeliveryRelease)
    def release(self, peer: Peer, message: DeliveryRelease) -> None:
        self.peer(Proc.SCHEDULER).send(QueueRelease(_holdq(peer, message.holdq), message.count))

    @handles(DeliverySchedule)
    def hurry(self, _peer: Peer, message: DeliverySchedule) -> None:
        self.commands.hurry(message.evpids)

    # bounces: what spool.bounces.Post wants

    @handles(RcptExpanded)
    def expanded(self, _peer: Peer, message: RcptExpanded) -> None:
        try:
            envelopes = self.arrivals.unseal(message.sealed) if message.count else []
        except SealError as error:
            raise ImsgError(f"RcptExpanded: {error}") from None
        self.bounces.answered(message, envelopes)

    def expand(self, reqid: int, envelope: Envelope) -> None:
        self.peer(Proc.LKA).send(ExpandRcpt(reqid, envelope, tls=False, local=True))

    def new_msgid(self) -> int:
        first, count = self._own_block
        if not count:
            first, count = self._block(self._own_ids)
        self._own_block = first + 1, count - 1
        return first

    def inject(self, change: Change, bounces: list[int], lines: list[str]) -> None:
        assert change.message is not None
        message = change.message = change.message._replace(flags=change.message.flags | self.bodies.coding.flags)

        def done(ok: bool) -> None:
            if not ok:
                for evpid in bounces:
                    self.bounced(evpid, Outcome.TEMPFAIL, "The report could not be stored")
                return
            for line in lines:
                self.log(line)
            for evpid in bounces:
                self.flights.end(evpid)
                self.ended(evpid, Outcome.OK)
            self.arrivals.stored(message, change.body, list(change.insert))

        self.writer.submit(change, done)

    def bounced(self, evpid: int, result: Outcome, text: str) -> None:
        if result is Outcome.TEMPFAIL:
            self._landed(BOUNCER, Result(evpid, result, "", text))
            return
        flight = self.flights.end(evpid)
        if flight is not None:
            self.endings.delete(flight.stored.envelope, result)

    # control

    @handles(CtlEnvelopes)
    def ctl_envelopes(self, peer: Peer, ask: CtlEnvelopes) -> None:
        self.commands.envelopes(peer, ask)

    @handles(CtlShowQueue)
    def ctl_show_queue(self, peer: Peer, ask: CtlShowQueue) -> None:
        self.commands.show_queue(peer, ask)

    @handles(CtlShowEnvelope)
    def ctl_show_envelope(self, peer: Peer, ask: CtlShowEnvelope) -> None:
        self.commands.show_envelope(peer, ask)

    @handles(CtlShowMessage)
    def ctl_show_message(self, peer: Peer, ask: CtlShowMessage) -> None:
        self.commands.show_message(peer, ask)

    def cancel(self, flights: list[Flight]) -> None:
        for peer in (*self.peers(Proc.MTA), *self.peers(Proc.MDA)):
            evpids = [flight.stored.envelope.evpid for flight in flights if flight.agent is peer]
            if evpids:
                peer.send(QueueCancel(evpids))

    def _count(self) -> None:
        """How many envelopes there are, for a hundredth of the time at most."""
        began = self.loop.time()
        if began < self._count_at:
            return
        try:
            self.stats.set("scheduler.envelope", self.backend.count())
        except SpoolError as error:
            self.reader.failed(error)
        took = self.loop.time() - began
        self._count_at = began + COUNT_PAUSE * took

    def tell_stats(self) -> None:
        self._count()
        self.stats.set("bounce.session", self.bounces.sessions)
        self.stats.set("bounce.envelope", self.bounces.envelopes)

    # the end

    def drain(self) -> None:
        self._drain_timer = self.loop.call_later(DRAIN_TIMEOUT, self._give_up)
        self.writer.drain(self._drained)

    def _drained(self) -> None:
        if self._drain_timer is None:
            return
        self._drain_timer.cancel()
        self._drain_timer = None
        try:
            self.writer.close(clean=True)
        except SpoolError as error:
            self.warn(f"warn: queue: the spool was not closed in order: {error}")
        self.leave()

    def _give_up(self) -> None:
        self._drain_timer = None
        self.warn("warn: queue: the spool is busy; leaving")
        self.leave()


def _holdq(peer: Peer, holdq: int) -> int:
    """A hold queue of one agent, among those of all agents."""
    return (holdq & (1 << 54) - 1) << 9 | peer.index << 1 | (peer.proc is Proc.MTA)
