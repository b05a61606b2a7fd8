"""Messages that arrive, until they are committed: gathered in memory, or in a file when they are large.

A message is known by its key: the smtp process and its reqid.  Memory is bounded: a body of more than INLINE_MAX
octets goes to a file, earlier when many arrive at once, and its sender gets credit only for what was written.
What breaks a bound fails; its sender learns that from the answer to its commit.
"""

from collections.abc import Callable
from typing import Any, Protocol

from pysmtpd.base.envelope import Envelope
from pysmtpd.spool.backend import INLINE_MAX, SpoolError
from pysmtpd.spool.bodies import Bodies, BodyFile

Key = tuple[Any, int]              # a peer and its reqid
ENVELOPES_MAX = 65536              # of one message
ENVELOPE_OCTETS = 1024             # that an envelope takes in memory, about
PRESSURE = 32 * 1024 * 1024        # octets in memory above which bodies go to files early
PRESSED_MAX = 16 * 1024
HELD_MAX = 128 * 1024 * 1024       # octets in memory above which new ones are refused


class Runner(Protocol):
    """The thread that writes."""

    def run(self, job: Callable[[], None], done: Callable[[SpoolError | None], None]) -> None: ...


class Incoming:
    """One message on its way in."""

    __slots__ = ("chunks", "eight_bit", "envelopes", "failed", "file", "held", "size")

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []
        self.chunks: list[bytes] = []
        self.size = 0              # octets of body that arrived
        self.held = 0              # octets in memory, with those handed to the thread
        self.eight_bit = False
        self.file: BodyFile | None = None
        self.failed = ""           # why it cannot be committed

    @property
    def body(self) -> bytes:
        """All of it, when it is not a file."""
        return self.chunks[0] if len(self.chunks) == 1 else b"".join(self.chunks)


class Inbox:
    """All messages on their way in."""

    def __init__(self, bodies: Bodies, thread: Runner, credit: Callable[[Key, int], None]) -> None:
        self.held = 0
        self._bodies = bodies
        self._thread = thread
        self._credit = credit
        self._all: dict[Key, Incoming] = {}

    def __len__(self) -> int:
        return len(self._all)

    def add_envelopes(self, key: Key, envelopes: list[Envelope]) -> None:
        incoming = self._get(key)
        if len(incoming.envelopes) + len(envelopes) > ENVELOPES_MAX:
            self._fail(incoming, "too many envelopes")
        if not incoming.failed:
            incoming.envelopes += envelopes
            self._hold(incoming, ENVELOPE_OCTETS * len(envelopes))

    def add_body(self, key: Key, chunk: bytes) -> None:
        incoming = self._get(key)
        incoming.size += len(chunk)
        if self.held > HELD_MAX:
            self._fail(incoming, "too much arrives at once")
        if incoming.failed:
            # What is thrown away costs nothing: its sender need not wait.
            self._credit(key, len(chunk))
            return
        if not incoming.eight_bit:
            incoming.eight_bit = not chunk.isascii()
        incoming.chunks.append(chunk)
        self._hold(incoming, len(chunk))
        if incoming.file is not None or incoming.size > self._inline_max():
            self._write(key, incoming)

    def fail(self, key: Key, reason: str) -> None:
        """This message cannot be committed."""
        self._fail(self._get(key), reason)

    def rollback(self, key: Key) -> None:
        """Forget it.  A key that is not known is no error."""
        incoming = self._all.pop(key, None)
        if incoming is not None:
            self._fail(incoming, "rolled back")

    def commit(
        self, key: Key, msgid: int, envelope_count: int | None, size: int, done: Callable[[Incoming | None, str], None]
    ) -> None:
        """All has arrived: done gets it, its file durable, or None and the reason.

        envelope_count: None when they came together and none can be missing."""
        incoming = self._all.pop(key, None) or Incoming()
        if not incoming.failed and not incoming.envelopes:
            self._fail(incoming, "no envelopes")
        if envelope_count is None:
            envelope_count = len(incoming.envelopes)
        if len(incoming.envelopes) != envelope_count or incoming.size != size:
            self._fail(incoming, "not all of it arrived")
        if any(e.evpid != n for n, e in enumerate(incoming.envelopes, msgid << 32 | 1)):
            # Sealed for another message, or for another place in this one.
            self._fail(incoming, "envelopes of another message")
        if incoming.failed:
            done(None, incoming.failed)
        elif incoming.file is None:
            self._let_go(incoming, incoming.held)
            done(incoming, "")
        else:
            self._finish(incoming, incoming.file, msgid, done)

    def _get(self, key: Key) -> Incoming:
        incoming = self._all.get(key)
        if incoming is None:
            incoming = self._all[key] = Incoming()
        return incoming

    def _inline_max(self) -> int:
        return INLINE_MAX if self.held <= PRESSURE else PRESSED_MAX

    def _hold(self, incoming: Incoming, octets: int) -> None:
        incoming.held += octets
        self.held += octets

    def _let_go(self, incoming: Incoming, octets: int) -> None:
        octets = min(octets, incoming.held)
        incoming.held -= octets
        self.held -= octets

    def _write(self, key: Key, incoming: Incoming) -> None:
        file = incoming.file
        if file is None:
            file = incoming.file = self._bodies.create()
        chunks, incoming.chunks = incoming.chunks, []
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)

        def written(error: SpoolError | None) -> None:
            self._let_go(incoming, len(data))
            if error is not None and not incoming.failed:
                self._fail(incoming, str(error))
            if self._all.get(key) is incoming:
                self._credit(key, len(data))

        self._thread.run(lambda: file.write(data), written)

    def _finish(
        self, incoming: Incoming, file: BodyFile, msgid: int, done: Callable[[Incoming | None, str], None]
    ) -> None:
        def finish() -> None:
            # Every write ran before this, in the same thread.
            if not incoming.failed:
                file.finish(msgid)

        def finished(error: SpoolError | None) -> None:
            self._let_go(incoming, incoming.held)
            reason = incoming.failed or (str(error) if error is not None else "")
            done(None if reason else incoming, reason)

        self._thread.run(finish, finished)

    def _fail(self, incoming: Incoming, reason: str) -> None:
        if incoming.failed:
            return
        incoming.failed = reason
        incoming.chunks.clear()
        incoming.envelopes.clear()
        if incoming.file is None:
            self._let_go(incoming, incoming.held)
            return
        # After the writes that are still under way.
        self._thread.run(incoming.file.discard, lambda _error: self._let_go(incoming, incoming.held))
