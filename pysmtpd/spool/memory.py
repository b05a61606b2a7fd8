"""What queue remembers of the spool, so that a message delivered at once is never read back from the disk.

All of it may be forgotten at any time; the oldest goes first.
"""

from pysmtpd.spool.backend import Message, Stored

ENVELOPES_MAX = 8192
MESSAGES_MAX = 8192
BODIES_MAX = 16 * 1024 * 1024      # octets


class Memory:
    """Recent envelopes, messages and small bodies."""

    def __init__(self, bodies_max: int = BODIES_MAX) -> None:
        self._envelopes: dict[int, Stored] = {}
        self._messages: dict[int, Message] = {}
        self._counts: dict[int, int] = {}          # envelopes left of the messages that came in meanwhile
        self._bodies: dict[int, bytes] = {}
        self._octets = 0
        self._bodies_max = bodies_max

    def add_envelope(self, stored: Stored) -> None:
        envelopes = self._envelopes
        envelopes[stored.envelope.evpid] = stored
        if len(envelopes) > ENVELOPES_MAX:
            del envelopes[next(iter(envelopes))]

    def take_envelope(self, evpid: int) -> Stored | None:
        """The envelope; it is remembered no longer."""
        return self._envelopes.pop(evpid, None)

    def add_message(self, message: Message, envelopes: int = 0) -> None:
        """envelopes: of a new message, how many it has."""
        self._messages[message.msgid] = message
        if envelopes:
            self._counts[message.msgid] = envelopes
        if len(self._messages) > MESSAGES_MAX:
            oldest = next(iter(self._messages))
            self._counts.pop(oldest, None)
            del self._messages[oldest]

    def envelope_added(self, msgid: int) -> None:
        """A bounce about a message is one more envelope of it."""
        if msgid in self._counts:
            self._counts[msgid] += 1

    def envelope_deleted(self, msgid: int) -> None:
        """With its last envelope a message is forgotten; one whose envelopes were not counted, at once."""
        left = self._counts.get(msgid, 1) - 1
        if left:
            self._counts[msgid] = left
            return
        self._counts.pop(msgid, None)
        self._messages.pop(msgid, None)
        self._octets -= len(self._bodies.pop(msgid, b""))

    def message(self, msgid: int) -> Message | None:
        return self._messages.get(msgid)

    def add_body(self, msgid: int, body: bytes) -> None:
        if msgid in self._bodies or len(body) > self._bodies_max:
            return
        self._bodies[msgid] = body
        self._octets += len(body)
        while self._octets > self._bodies_max:
            self._octets -= len(self._bodies.pop(next(iter(self._bodies))))

    def body(self, msgid: int) -> bytes | None:
        return self._bodies.get(msgid)

    def body_for_one(self, msgid: int) -> bytes:
        """The body of a message that has one envelope left, if it is at hand; otherwise empty."""
        return self._bodies.get(msgid, b"") if self._counts.get(msgid) == 1 else b""
