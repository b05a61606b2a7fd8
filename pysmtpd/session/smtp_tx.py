"""One mail transaction: everything that RSET forgets."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pysmtpd.base.envelope import Agent, BounceKind, Envelope, Flag
from pysmtpd.base.ids import MsgId, evpid
from pysmtpd.base.mailaddr import MailAddr
from pysmtpd.imsg import BODY_MAX, CHUNK_MAX
from pysmtpd.session.parameters import Parameters

if TYPE_CHECKING:
    from pysmtpd.session.incoming import Chunked

BATCH_MAX = 1000                   # in SmtpEnvelopes and SmtpMessage
_LENGTH = 8                        # octets, at most, of a length or a number in a frame


class Tx:
    """A message on its way in: sender, recipients, and the octets not yet handed on."""

    __slots__ = ("_chunks", "_expansion", "_held", "_template", "asking", "binary", "chunked", "envelopes", "expanding",
                 "may_be_binary", "msgid", "rcpts", "sealed", "sender", "sent", "size", "smtputf8", "utf8_header")

    def __init__(self, msgid: MsgId, template: Envelope, *, may_be_binary: bool = False) -> None:
        """``template``: an envelope that says everything but the recipient.  ``may_be_binary``: BODY=BINARYMIME."""
        self.msgid = msgid
        self.sender = template.sender
        self.rcpts: list[tuple[MailAddr, int]] = []   # as given, and the last envelope made for it
        self.envelopes = 0         # how many they are
        self.sealed: list[bytes] = []  # by lka; nobody else can read or make them
        self.asking = template.sender  # the recipient being looked up, and how many envelopes came of it so far
        self.expanding = 0
        self.size = 0              # octets of the message, our header included
        self.sent = False          # something of it is with the queue
        self.smtputf8 = bool(template.flags & Flag.SMTPUTF8)
        self.utf8_header = False   # it has a header beyond ASCII, by SMTPUTF8
        self.may_be_binary = may_be_binary
        self.binary = False        # it is: not all of it are lines of text
        self.chunked: Chunked | None = None  # BDAT was given
        self._template = template
        self._expansion: list[bytes] = []
        self._chunks: list[bytes] = []
        self._held = 0

    def asked(self, rcpt: MailAddr, parameters: Parameters) -> Envelope:
        """The envelope that asks where a recipient goes."""
        self.asking = rcpt
        t = self._template
        return Envelope(
            evpid(self.msgid, self.envelopes + 1), t.agent, t.action, t.sender, rcpt, rcpt, t.user, t.command,
            t.tag, t.smtpname, t.helo, t.hostname, t.username, t.source, t.flags, t.ctime, t.ttl, 0, 0, 0,
            int(parameters.notify), t.ret, t.envid, parameters.orcpt, "", "", BounceKind.NONE, 0, t.auth,
        )

    def expanded(self, sealed: bytes, count: int) -> None:
        """Some of the envelopes of the recipient that was asked about."""
        if count:
            self._expansion.append(sealed)
            self.expanding += count

    def accept(self) -> None:
        """The recipient that was asked about stays."""
        self.envelopes += self.expanding
        self.sealed += self._expansion
        self.rcpts.append((self.asking, evpid(self.msgid, self.envelopes)))
        self.refuse()

    def refuse(self) -> None:
        """The recipient that was asked about does not stay: the next one gets its numbers."""
        self._expansion.clear()
        self.expanding = 0

    def write(self, data: bytes) -> list[bytes]:
        """Take octets of the message; the pieces that are full go to the queue."""
        self.size += len(data)
        if self._held + len(data) <= CHUNK_MAX:
            self._chunks.append(data)
            self._held += len(data)
            return []
        data = b"".join((*self._chunks, data))
        whole = (len(data) - 1) // CHUNK_MAX * CHUNK_MAX
        self._chunks = [data[whole:]]
        self._held = len(data) - whole
        self.sent = True
        return [data[at : at + CHUNK_MAX] for at in range(0, whole, CHUNK_MAX)]

    def flush(self) -> bytes:
        """The last piece, which may be empty."""
        data = b"".join(self._chunks)
        self._chunks.clear()
        self._held = 0
        return data

    @property
    def held(self) -> int:
        """Octets not yet handed on."""
        return self._held

    @property
    def fits(self) -> bool:
        """Whether all of it may go to the queue in one frame."""
        sealed = self.sealed
        return not (self.sent or self.binary or self.utf8_header) and len(sealed) <= BATCH_MAX and (
            self._held + sum(map(len, sealed)) + (len(sealed) + 4) * _LENGTH <= CHUNK_MAX)

    def batches(self) -> Iterator[list[bytes]]:
        """What was sealed, as much at a time as one frame holds."""
        if len(self.sealed) == 1:
            yield self.sealed
            return
        batch: list[bytes] = []
        room = BODY_MAX - 3 * _LENGTH
        for sealed in self.sealed:
            weight = len(sealed) + _LENGTH
            if batch and (weight > room or len(batch) == BATCH_MAX):
                yield batch
                batch, room = [], BODY_MAX - 3 * _LENGTH
            batch.append(sealed)
            room -= weight
        yield batch


def template(*, sender: MailAddr, parameters: Parameters, tag: str, smtpname: str, helo: str, hostname: str,
             username: str, source: str, authenticated: bool, now: int, vouches: bool = False) -> Envelope:
    """What all envelopes of a transaction have in common; the rules decide about the rest.

    ``vouches``: the client is trusted to say by AUTH= who submitted the message; of others it is taken for ``<>``
    (RFC 4954 5)."""
    flags = (Flag.AUTHENTICATED if authenticated else 0) | (Flag.BODY_8BIT if parameters.body_8bit else 0)
    flags |= Flag.SMTPUTF8 if parameters.smtputf8 else 0
    return Envelope(
        0, Agent.MTA, "", sender, sender, sender, "", "", tag, smtpname, helo, hostname, username, source, int(flags),
        now, 0, 0, 0, 0, 0, parameters.ret, parameters.envid, "", "", "", BounceKind.NONE, 0,
        parameters.auth if vouches or not parameters.auth else "<>",
    )
