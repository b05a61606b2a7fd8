"""A message that has arrived: its envelopes opened, its id checked, then one commit; only then is it answered.

What gathers until then is in spool.incoming."""

from collections.abc import Callable, Hashable
from typing import Protocol

from pysmtpd.base.envelope import Envelope
from pysmtpd.base.seal import Seal, SealError
from pysmtpd.base.stats import Stats
from pysmtpd.messages import SmtpMessageCommitted
from pysmtpd.spool.backend import HAS_8BIT, ROOM_MIN, Backend, Change, Message, Stored
from pysmtpd.spool.bodies import Bodies
from pysmtpd.spool.incoming import Inbox, Incoming, Key
from pysmtpd.spool.memory import Memory
from pysmtpd.spool.msgids import Ids
from pysmtpd.spool.news import News
from pysmtpd.spool.writer import Writer


class Spool(Protocol):
    """What is needed of the queue."""

    backend: Backend
    bodies: Bodies
    inbox: Inbox
    memory: Memory
    news: News
    seal: Seal | None
    stats: Stats
    writer: Writer

    def now(self) -> int: ...

    def warn(self, line: str) -> None: ...


class Arrivals:
    """Ids given to the smtp processes, and what they hand in under them."""

    def __init__(self, queue: Spool, owner: Callable[[], Ids]) -> None:
        self._queue = queue
        self._owner = owner
        self._ids: dict[Hashable, Ids] = {}

    def ids_of(self, peer: Hashable) -> Ids:
        """Those of one smtp process: of others it can store nothing."""
        ids = self._ids.get(peer)
        if ids is None:
            ids = self._ids[peer] = self._owner()
        return ids

    def add_envelopes(self, key: Key, blobs: list[bytes]) -> None:
        """Envelopes as lka sealed them."""
        for sealed in blobs:
            try:
                self._queue.inbox.add_envelopes(key, self.unseal(sealed))
            except SealError as error:
                self._queue.inbox.fail(key, f"envelopes {error}")

    def unseal(self, sealed: bytes) -> list[Envelope]:
        """Raises SealError."""
        if self._queue.seal is None:
            raise SealError("before lka gave its key")
        return self._queue.seal.open(sealed)

    def commit(self, key: Key, msgid: int, envelopes: int | None, size: int, flags: int = 0) -> None:
        """All of a message was sent: store and answer.  envelopes: None when they came with it."""
        def arrived(incoming: Incoming | None, reason: str) -> None:
            if incoming is None:
                self._refuse(key, msgid, reason, size)
            else:
                self._store(key, msgid, incoming, flags)

        ids = self._ids.get(key[0])
        if ids is None or not ids.take(msgid):
            self._queue.inbox.rollback(key)
            self._refuse(key, msgid, "not an id of this process", 0)
            return
        self._queue.inbox.commit(key, msgid, envelopes, size, arrived)

    def _refuse(self, key: Key, msgid: int, reason: str, size: int) -> None:
        peer, reqid = key
        self._queue.warn(f"warn: queue: message {msgid:08x} refused: {reason}")
        peer.send(SmtpMessageCommitted(reqid, False, self._no_room(size)))

    def _no_room(self, size: int) -> bool:
        """Whether a message that could not be stored was too much for the disk.  A body is written twice."""
        return self._queue.backend.room() < 2 * (ROOM_MIN + size)

    def _store(self, key: Key, msgid: int, incoming: Incoming, flags: int) -> None:
        (peer, reqid), now, file = key, self._queue.now(), incoming.file is not None
        flags |= HAS_8BIT * incoming.eight_bit | self._queue.bodies.coding.flags
        message = Message(msgid, incoming.size, flags, now, file)
        body = b"" if file else incoming.body
        insert = [Stored(envelope, now, False) for envelope in incoming.envelopes]

        def done(ok: bool) -> None:
            peer.send(SmtpMessageCommitted(reqid, ok, not ok and self._no_room(message.size)))
            if ok:
                self.stored(message, body, insert)
            elif file:
                self._queue.bodies.remove(msgid)

        self._queue.writer.submit(Change(message, body, insert), done)

    def stored(self, message: Message, body: bytes, insert: list[Stored]) -> None:
        """A new message is durable: of a client, or a report of ours."""
        self._queue.stats.add("queue.commit.message")
        memory = self._queue.memory
        memory.add_message(message, len(insert))
        if not message.file:
            memory.add_body(message.msgid, body)
        for stored in insert:
            memory.add_envelope(stored)
        self._queue.news.changed(insert)
