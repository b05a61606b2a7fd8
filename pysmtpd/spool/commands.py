"""What smtpctl may ask and command about the spool.

A command on many envelopes goes page by page, each page one commit, so that new mail never waits for more than a
page of it.
"""

from typing import Protocol

import msgspec

from pysmtpd.base import logline
from pysmtpd.base.envelope import Agent, Envelope
from pysmtpd.imsg import BODY_MAX, CHUNK_MAX
from pysmtpd.messages import (
    CtlCounted,
    CtlDone,
    CtlEnvelopes,
    CtlShowEnvelope,
    CtlShowMessage,
    CtlShowQueue,
    CtlText,
    EnvelopeCommand,
    QueueListed,
)
from pysmtpd.spool.backend import Change, SpoolError, Stored, Unreadable
from pysmtpd.spool.bounces import Bounces
from pysmtpd.spool.envelope_text import dump
from pysmtpd.spool.flights import Flight, Flights
from pysmtpd.spool.memory import Memory
from pysmtpd.spool.reader import Reader
from pysmtpd.spool.writer import Writer

PAGE = 500                         # envelopes changed in one commit
LISTED_MAX = 64                    # envelopes in one QueueListed
UNREADABLE = "the spool cannot be read; see the log"
STOPPED = "the spool cannot be written; {count} done, see the log"


class Asker(Protocol):
    """Whom an answer goes to."""

    def send(self, message: CtlCounted | CtlDone | CtlText | QueueListed) -> None: ...


class Spool(Protocol):
    """What is needed of the queue."""

    bounces: Bounces
    flights: Flights
    memory: Memory
    reader: Reader
    writer: Writer

    def now(self) -> int: ...

    def changed(self, stored: Stored) -> None: ...

    def ended(self, evpid: int, result: int) -> None: ...

    def log_admin(self, line: str, envelope: Envelope) -> None: ...

    def cancel(self, flights: list[Flight]) -> None:
        """Those who have these envelopes need not try any more."""


class _Nobody:
    """Asked, and wants no answer."""

    def send(self, message: object) -> None: ...


class Commands:
    """The answers."""

    def __init__(self, queue: Spool) -> None:
        self._queue = queue
        self._size = msgspec.msgpack.Encoder().encode

    # schedule, remove, pause, resume

    def envelopes(self, peer: Asker, ask: CtlEnvelopes) -> None:
        """Answered with the number of envelopes when all is durable."""
        self._page(peer, ask, 0, 0)

    def hurry(self, evpids: list[int]) -> None:
        """These are due now, as mta found out."""
        reader = self._queue.reader
        try:
            found = reader.load(evpids)
        except SpoolError as error:
            reader.failed(error)
            return
        self._do(_Nobody(), CtlEnvelopes(0, EnvelopeCommand.SCHEDULE, 0, 0, 0), found, 0, None)

    def _page(self, peer: Asker, ask: CtlEnvelopes, after: int, count: int) -> None:
        reader = self._queue.reader
        try:
            found = reader.load_each([ask.evpid]) if ask.evpid else reader.walk(ask.msgid, after, PAGE)
        except SpoolError as error:
            self._unreadable(peer, ask.reqid, error)
            return
        last = _last(found) if len(found) == PAGE else None
        self._do(peer, ask, reader.readable(found), count, last)

    def _unreadable(self, peer: Asker, reqid: int, error: SpoolError) -> None:
        """Nobody should take a disk that fails for an empty queue."""
        self._queue.reader.failed(error)
        peer.send(CtlDone(reqid, False, UNREADABLE))

    def _do(self, peer: Asker, ask: CtlEnvelopes, found: list[Stored], count: int, last: int | None) -> None:
        """Change a page of envelopes; last: from where to go on."""
        changes = [(stored, change) for stored in found if (change := self._change(ask.command, stored)) is not None]

        def done(ok: bool) -> None:
            total = count
            if ok:
                total += len(changes)
                ended = [self._changed(stored, new) for stored, (new, _) in changes]
                self._queue.cancel([flight for flight in ended if flight is not None])
            if not ok:
                peer.send(CtlDone(ask.reqid, False, STOPPED.format(count=total)))
            elif last is not None:
                self._page(peer, ask, last, total)
            else:
                peer.send(CtlCounted(ask.reqid, total))

        updates = [update for _, (_, update) in changes if update is not None]
        deletes = [stored.envelope.evpid for stored, (new, _) in changes if new is None]
        if changes:
            self._queue.writer.submit(Change(update=updates, delete=deletes), done)
        else:
            done(True)

    def _change(
        self, command: EnvelopeCommand, stored: Stored
    ) -> tuple[Stored | None, tuple[int, dict[str, object]] | None] | None:
        """The envelope as it will be (None: gone) and the update that makes it so; None when nothing changes."""
        evpid = stored.envelope.evpid
        if command is EnvelopeCommand.REMOVE:
            return None, None
        if command is EnvelopeCommand.SCHEDULE:
            if evpid in self._queue.flights or stored.suspended:
                return None
            now = self._queue.now()
            return stored._replace(due=now), (evpid, {"due": now})
        suspended = command is EnvelopeCommand.PAUSE
        if stored.suspended is suspended:
            return None
        return stored._replace(suspended=suspended), (evpid, {"suspended": int(suspended)})

    def _changed(self, old: Stored, new: Stored | None) -> Flight | None:
        """What was being done with an envelope that is gone."""
        queue, evpid = self._queue, old.envelope.evpid
        queue.memory.take_envelope(evpid)
        if new is None:
            queue.log_admin(logline.QUEUE_REMOVED, old.envelope)
            ended = queue.flights.end(evpid)
            if old.envelope.agent is Agent.BOUNCE:
                queue.bounces.drop({evpid})
            queue.ended(evpid, 0)
            return ended
        flight = queue.flights.get(evpid)
        if flight is not None:
            flight.stored = flight.stored._replace(suspended=new.suspended)
        queue.changed(new)
        return None

    # show

    def show_queue(self, peer: Asker, ask: CtlShowQueue) -> None:
        reader = self._queue.reader
        try:
            found = reader.walk(ask.msgid, ask.after, LISTED_MAX)
            while not (readable := reader.readable(found)) and len(found) == LISTED_MAX:
                found = reader.walk(ask.msgid, _last(found), LISTED_MAX)
        except SpoolError as error:
            self._unreadable(peer, ask.reqid, error)
            return
        page = self._fitting(readable)
        more = len(found) == LISTED_MAX or len(page) < len(readable)
        peer.send(QueueListed(ask.reqid, [s.envelope for s in page], [s.schedule for s in page], more))

    def _fitting(self, readable: list[Stored]) -> list[Stored]:
        """As many as a frame has room for; one always has."""
        left = BODY_MAX - 64
        for count, stored in enumerate(readable):
            left -= len(self._size(stored.envelope)) + len(self._size(stored.schedule))
            if left < 0:
                return readable[: max(count, 1)]
        return readable

    def show_envelope(self, peer: Asker, ask: CtlShowEnvelope) -> None:
        try:
            found = self._queue.reader.load([ask.evpid])
        except SpoolError as error:
            self._unreadable(peer, ask.reqid, error)
            return
        text = dump(found[0].envelope).encode() if found else b""
        peer.send(CtlText(ask.reqid, text, True, bool(found)))

    def show_message(self, peer: Asker, ask: CtlShowMessage) -> None:
        reader = self._queue.reader
        try:
            message = reader.message(ask.msgid)
            piece = None if message is None else reader.piece(message, ask.offset, CHUNK_MAX)
        except SpoolError as error:
            self._unreadable(peer, ask.reqid, error)
            return
        if message is None or piece is None:
            peer.send(CtlText(ask.reqid, b"", True, False))
            return
        peer.send(CtlText(ask.reqid, piece, not piece or ask.offset + len(piece) >= message.size))


def _last(found: list[Stored | Unreadable]) -> int:
    last = found[-1]
    return last.evpid if isinstance(last, Unreadable) else last.envelope.evpid


