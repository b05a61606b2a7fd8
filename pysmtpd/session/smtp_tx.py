"""One mail transaction: everything that RSET forgets."""

from collections.abc import Iterator

from msgspec.structs import replace

from pysmtpd.base.envelope import Agent, BounceKind, Envelope, Flag
from pysmtpd.base.ids import MsgId, evpid
from pysmtpd.base.mailaddr import MailAddr
from pysmtpd.imsg import BODY_MAX, CHUNK_MAX
from pysmtpd.session.parameters import Parameters

_NUMBERS = 256                     # octets, at most, of an envelope's numbers and lengths


class Tx:
    """A message on its way in: sender, recipients, and the octets not yet handed on."""

    __slots__ = ("_chunks", "_held", "_template", "asking", "envelopes", "expansion", "msgid", "rcpts", "sender",
                 "sent", "size")

    def __init__(self, msgid: MsgId, template: Envelope) -> None:
        """``template``: an envelope that says everything but the recipient."""
        self.msgid = msgid
        self.sender = template.sender
        self.rcpts: list[tuple[MailAddr, int]] = []   # as given, and the last envelope made for it
        self.envelopes: list[Envelope] = []
        self.asking = template.sender  # the recipient being looked up, and what came of it so far
        self.expansion: list[Envelope] = []
        self.size = 0              # octets of the message, our header included
        self.sent = False          # something of it is with the queue
        self._template = template
        self._chunks: list[bytes] = []
        self._held = 0

    def asked(self, rcpt: MailAddr, parameters: Parameters) -> Envelope:
        """The envelope that asks where a recipient goes."""
        self.asking = rcpt
        t = self._template
        return Envelope(
            evpid(self.msgid, len(self.envelopes) + 1), t.agent, t.action, t.sender, rcpt, rcpt, t.user, t.command,
            t.tag, t.smtpname, t.helo, t.hostname, t.username, t.source, t.flags, t.ctime, t.ttl, 0, 0, 0,
            int(parameters.notify), t.ret, t.envid, parameters.orcpt, "", "", BounceKind.NONE, 0,
        )

    def expanded(self, envelopes: list[Envelope]) -> None:
        """Some of the envelopes of the recipient that was asked about."""
        self.expansion.extend(envelopes)

    def accept(self) -> None:
        """The recipient that was asked about stays; its envelopes get their numbers."""
        number = len(self.envelopes)
        last = 0
        for envelope in self.expansion:
            number += 1
            last = evpid(self.msgid, number)
            if envelope.evpid != last:
                envelope = replace(envelope, evpid=last)  # type: ignore[type-var]
            self.envelopes.append(envelope)
        self.rcpts.append((self.asking, last))
        self.expansion.clear()

    def refuse(self) -> None:
        """The recipient that was asked about does not stay."""
        self.expansion.clear()

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

    def batches(self) -> Iterator[list[Envelope]]:
        """The envelopes, as many at a time as one frame holds."""
        if len(self.envelopes) == 1:
            yield self.envelopes
            return
        batch: list[Envelope] = []
        room = BODY_MAX - _NUMBERS
        for envelope in self.envelopes:
            weight = _weight(envelope)
            if batch and weight > room:
                yield batch
                batch, room = [], BODY_MAX - _NUMBERS
            batch.append(envelope)
            room -= weight
        yield batch


def template(*, sender: MailAddr, parameters: Parameters, tag: str, smtpname: str, helo: str, hostname: str,
             username: str, source: str, authenticated: bool, now: int) -> Envelope:
    """What all envelopes of a transaction have in common; the rules decide about the rest."""
    flags = (Flag.AUTHENTICATED if authenticated else 0) | (Flag.BODY_8BIT if parameters.body_8bit else 0)
    return Envelope(
        0, Agent.MTA, "", sender, sender, sender, "", "", tag, smtpname, helo, hostname, username, source, int(flags),
        now, 0, 0, 0, 0, 0, parameters.ret, parameters.envid, "", "", "", BounceKind.NONE, 0,
    )


def _weight(e: Envelope) -> int:
    """At least as many octets as an envelope has in a frame."""
    text = (
        f"{e.action}{e.sender.user}{e.sender.domain}{e.rcpt.user}{e.rcpt.domain}{e.dest.user}{e.dest.domain}{e.user}"
        f"{e.command}{e.tag}{e.smtpname}{e.helo}{e.hostname}{e.username}{e.source}{e.envid}{e.orcpt}{e.errorline}{e.esc}"
    )
    return _NUMBERS + (len(text) if text.isascii() else len(text.encode()))
