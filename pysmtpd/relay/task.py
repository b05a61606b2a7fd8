"""A task: envelopes of one message that go to one relay in one transaction."""

from typing import NamedTuple

from pysmtpd.base import xtext
from pysmtpd.base.envelope import ORCPT_MAX, Envelope, Ret
from pysmtpd.base.ids import EvpId, msgid_of
from pysmtpd.session.client_commands import Recipient, Transaction

RCPT_MAX = 100                     # RFC 5321 4.5.3.1.8: every server takes as many


class TaskKey(NamedTuple):
    """What envelopes of one transaction have in common."""

    msgid: int
    sender: str
    ret: Ret
    envid: str
    smtputf8: bool = False         # an address or the header is beyond ASCII


class Task:
    """One transaction to be."""

    __slots__ = ("binary", "body", "envelopes", "has_8bit", "key", "size", "tries")

    def __init__(self, key: TaskKey, size: int, has_8bit: bool, body: bytes = b"", *, binary: bool = False) -> None:
        """body: when it came along with the envelope; otherwise empty."""
        self.key = key
        self.body = body
        self.binary = binary
        self.size = size
        self.has_8bit = has_8bit
        self.envelopes: list[Envelope] = []
        self.tries = 0             # sessions that ended before they decided it

    @property
    def full(self) -> bool:
        return len(self.envelopes) >= RCPT_MAX

    def split(self, first: list[Envelope]) -> "Task":
        """Leave these in this one; all others are in the task that is returned."""
        rest = Task(self.key, self.size, self.has_8bit, self.body, binary=self.binary)
        kept = set(map(id, first))
        rest.envelopes = [envelope for envelope in self.envelopes if id(envelope) not in kept]
        rest.tries = self.tries
        self.envelopes = first
        return rest

    def transaction(self) -> Transaction:
        recipients = [Recipient(str(env.dest), env.notify, env.orcpt or _orcpt(env)) for env in self.envelopes]
        return Transaction(self.key.sender, tuple(recipients), self.size, self.has_8bit, self.key.ret, self.key.envid,
                           self.binary, self.key.smtputf8, self.envelopes[0].auth)


def _orcpt(envelope: Envelope) -> str:
    """For reports of others to show whom the sender wrote to, where an alias led elsewhere (RFC 3461 5.2.1)."""
    if envelope.rcpt == envelope.dest or envelope.sender.is_null:
        return ""
    orcpt = xtext.orcpt(str(envelope.rcpt))
    return orcpt if len(orcpt) <= ORCPT_MAX else ""


def key_of(envelope: Envelope, mail_from: str, rewritten: str = "", *,
           utf8_header: bool = False) -> TaskKey:
    """``mail_from``: the action's; it replaces what it has of the sender, but never the null reverse-path.
    ``rewritten``: the sender by SRS."""
    sender = envelope.sender
    text = rewritten or str(sender)
    if mail_from and text and not rewritten:
        user, _, domain = mail_from.rpartition("@") if "@" in mail_from else (mail_from, "", "")
        text = f"{user or sender.user}@{domain or sender.domain}"
    return TaskKey(msgid_of(EvpId(envelope.evpid)), text, envelope.ret, envelope.envid,
                   utf8_header or not (text.isascii() and envelope.dest.user.isascii()))
