"""How an attempt ends for an envelope: the change that spool.outcome says, made durable, remembered and told."""

from typing import Protocol

from pysmtpd.base import logline
from pysmtpd.base.envelope import Agent, BounceKind, Envelope
from pysmtpd.base.stats import Stats
from pysmtpd.messages import Outcome, Result, SchedRetry
from pysmtpd.spool import outcome
from pysmtpd.spool.backend import Change, Stored
from pysmtpd.spool.memory import Memory
from pysmtpd.spool.news import REMOVED, News
from pysmtpd.spool.writer import Writer


class Spool(Protocol):
    """What is needed of the queue."""

    memory: Memory
    news: News
    stats: Stats
    writer: Writer

    def now(self) -> int: ...

    def warn(self, line: str) -> None: ...


class Endings:
    """Delivered, failed for good, removed; or to be tried again.  ttl: seconds a bounce is tried at least."""

    def __init__(self, queue: Spool, ttl: int) -> None:
        self._queue = queue
        self._ttl = ttl

    def decided(self, envelope: Envelope, result: Result) -> None:
        """An agent's last word on it: not a temporary failure."""
        if result.outcome is Outcome.LOOP:
            self.failed(envelope, outcome.LOOP_ESC, result.text, Outcome.LOOP, result.remote)
        elif result.outcome is Outcome.PERMFAIL:
            self.failed(envelope, result.esc, result.text, Outcome.PERMFAIL, result.remote)
        elif outcome.wanted(envelope, BounceKind.DELIVERED) and not result.dsn_relayed:
            self._turn(envelope, BounceKind.DELIVERED, result.esc, result.text, Outcome.OK, result.remote)
        else:
            self.delete(envelope, Outcome.OK)

    def expired(self, envelope: Envelope) -> None:
        """Its time to live is over."""
        esc, text = outcome.EXPIRED
        if envelope.errorline:
            text = f"{text}{outcome.LAST_ERROR}{envelope.errorline}"
        self.failed(envelope, esc, text, REMOVED, envelope.remote)

    def failed(self, envelope: Envelope, esc: str, text: str, result: int, remote: str = "") -> None:
        """It will never be delivered: tell the sender, if he can be told and wants to.  remote: who said so."""
        if outcome.wanted(envelope, BounceKind.FAILED):
            self._turn(envelope, BounceKind.FAILED, esc, text, result, remote)
            return
        if not outcome.can_return(envelope):
            double = envelope.agent is Agent.BOUNCE
            self._queue.warn(logline.QUEUE_DOUBLE_BOUNCE if double else logline.QUEUE_NO_RETURN_PATH)
        self.delete(envelope, result)

    def delete(self, envelope: Envelope, result: int) -> None:
        """It is done with, and nobody is told."""
        evpid = envelope.evpid

        def done(_ok: bool) -> None:
            self.deleted(evpid, result)

        self._queue.writer.later(Change(delete=(evpid,)), done)

    def deleted(self, evpid: int, result: int) -> None:
        """It is deleted, and that is durable."""
        self._queue.memory.envelope_deleted(evpid >> 32)
        self._queue.news.ended((evpid,), result)

    def retried(self, stored: Stored, esc: str, text: str, ask: SchedRetry, remote: str) -> None:
        """It failed for now; the scheduler says when next, and whether the sender is told."""
        queue = self._queue
        new, change = outcome.retried(stored, esc, text, queue.now(), ask.retry, ask.due, ask.delay, remote)

        def done(ok: bool) -> None:
            if change.gone or not ok:
                queue.news.ended((ask.evpid,), REMOVED)
                return
            queue.news.changed((new,))
            for notice in change.numbered:
                queue.stats.add("queue.bounce")
                queue.memory.envelope_added(notice.envelope.evpid >> 32)
                queue.news.changed((notice,))

        queue.writer.later(change, done)

    def _turn(self, envelope: Envelope, kind: BounceKind, esc: str, text: str, result: int, remote: str) -> None:
        """It becomes the bounce about itself."""
        queue = self._queue
        bounce = outcome.bounce_of(envelope, kind, esc, text, queue.now(), self._ttl, remote=remote)
        change = outcome.turned(bounce)

        def done(ok: bool) -> None:
            queue.news.ended((envelope.evpid,), result)
            if ok and not change.gone:
                queue.stats.add("queue.bounce")
                queue.memory.add_envelope(bounce)
                queue.news.changed((bounce,))

        queue.writer.later(change, done)
