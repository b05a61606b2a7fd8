"""Bounces on their way to become messages.

A bounce that is due waits a second for others of the same message, sender and kind.  Then lka is asked where the
sender's mail goes, the report is composed, and one transaction stores it and deletes the bounces.  Until that is
durable the bounces are in the spool, so that no crash can lose one.
"""

from asyncio import AbstractEventLoop, TimerHandle
from typing import NamedTuple, Protocol

from pysmtpd.base import logline
from pysmtpd.base.date import Zone
from pysmtpd.base.envelope import Agent, BounceKind, Envelope, Notify, Ret
from pysmtpd.base.ids import MsgId, evpid
from pysmtpd.base.mailaddr import NULL, MailAddr
from pysmtpd.base.struct import replace
from pysmtpd.messages import Outcome, RcptExpanded
from pysmtpd.spool.backend import HAS_8BIT, HAS_UTF8_HEADER, IS_BINARY, Change, Message, SpoolError, Stored
from pysmtpd.spool.bounce import ORIGINAL_MAX, Report, compose, cut_original
from pysmtpd.spool.outcome import errorline
from pysmtpd.spool.reader import Reader

GATHER = 1.0                       # seconds after the last addition
GROUP_MAX = 100                    # recipients in one report
ANSWER_TIMEOUT = 60.0              # seconds for lka
ENVELOPES_MAX = 1000               # that a sender's address may expand to


class Post(Protocol):
    """What is needed of the queue."""

    reader: Reader
    zone: Zone

    def now(self) -> int: ...

    def new_reqid(self) -> int: ...

    def log(self, line: str) -> None: ...

    def new_msgid(self) -> int: ...

    def expand(self, reqid: int, envelope: Envelope) -> None:
        """Ask lka."""

    def inject(self, change: Change, bounces: list[int], lines: list[str]) -> None:
        """Commit it, log the lines and tell the scheduler; when that fails, the bounces failed for now."""

    def bounced(self, evpid: int, outcome: Outcome, text: str) -> None:
        """A bounce could not be sent."""


class _Key(NamedTuple):
    msgid: int
    sender: MailAddr
    kind: BounceKind
    delay: int
    smtpname: str
    ret: Ret


class _Group:
    """Bounces that become one message."""

    def __init__(self, key: _Key) -> None:
        self.key = key
        self.envelopes: list[Envelope] = []
        self.timer: TimerHandle | None = None
        self.expanded: list[Envelope] = []


class Bounces:
    """All bounces in flight."""

    def __init__(self, post: Post, loop: AbstractEventLoop, hostname: str) -> None:
        self._post = post
        self._loop = loop
        self._hostname = hostname
        self._gathering: dict[_Key, _Group] = {}
        self._asking: dict[int, _Group] = {}

    @property
    def sessions(self) -> int:
        """Reports being sent now."""
        return len(self._asking)

    @property
    def envelopes(self) -> int:
        return sum(len(group.envelopes) for groups in (self._gathering, self._asking) for group in groups.values())

    def add(self, envelope: Envelope) -> None:
        """A bounce is due."""
        e = envelope
        name = e.smtpname or self._hostname
        key = _Key(e.evpid >> 32, e.sender, e.bounce, e.bounce_delay, name, e.ret)
        group = self._gathering.get(key)
        if group is None:
            group = self._gathering[key] = _Group(key)
        group.envelopes.append(replace(e, smtpname=name) if name != e.smtpname else e)
        if group.timer is not None:
            group.timer.cancel()
        if len(group.envelopes) >= GROUP_MAX:
            self._ask(group)
        else:
            group.timer = self._loop.call_later(GATHER, self._ask, group)

    def answered(self, message: RcptExpanded, envelopes: list[Envelope]) -> None:
        """lka has found out where a sender's mail goes: these were sealed in its answer."""
        group = self._asking.get(message.reqid)
        if group is None:
            return
        group.expanded += envelopes
        if message.more and len(group.expanded) <= ENVELOPES_MAX:
            return
        del self._asking[message.reqid]
        if group.timer is not None:
            group.timer.cancel()
        if message.reply or not group.expanded:
            self._refused(group, message.reply or "550 nobody receives it")
        else:
            self._send(group, message.reqid)

    def drop(self, evpids: set[int]) -> None:
        """These were removed by the administrator."""
        for groups in (self._gathering, self._asking):
            for group in groups.values():
                group.envelopes = [envelope for envelope in group.envelopes if envelope.evpid not in evpids]

    def _ask(self, group: _Group) -> None:
        del self._gathering[group.key]
        if not group.envelopes:
            return
        reqid = self._post.new_reqid()
        self._asking[reqid] = group
        group.timer = self._loop.call_later(ANSWER_TIMEOUT, self._unanswered, reqid)
        self._post.expand(reqid, _template(group.key, self._post.now()))

    def _unanswered(self, reqid: int) -> None:
        self._refused(self._asking.pop(reqid), "451 no answer from lka")

    def _refused(self, group: _Group, reply: str) -> None:
        permanent = reply.startswith("5")
        line = logline.BOUNCE_PERMFAIL if permanent else logline.BOUNCE_TEMPFAIL
        count = len(group.envelopes)
        if count:
            self._post.log(line.format(
                msgid=group.key.msgid, rcpt=group.key.sender, count=count, s="" if count == 1 else "s", reason=reply
            ))
        for envelope in group.envelopes:
            self._post.bounced(envelope.evpid, Outcome.PERMFAIL if permanent else Outcome.TEMPFAIL, errorline(reply))

    def _head(self, message: Message) -> bytes:
        """What the report can show of the original: nothing, where the body cannot be read."""
        try:
            return self._post.reader.piece(message, 0, ORIGINAL_MAX) or b""
        except SpoolError as error:
            self._post.reader.failed(error)
            return b""

    def _send(self, group: _Group, token: int) -> None:
        post, key = self._post, group.key
        if not group.envelopes:
            return
        try:
            message = post.reader.message(key.msgid)
        except SpoolError as error:
            # Not "gone": a bounce that is refused for good is dropped, and nobody would ever hear of the failure.
            post.reader.failed(error)
            self._refused(group, "451 the message cannot be read")
            return
        if message is None:
            # Its message went away under it: there is nothing left to tell about.
            self._refused(group, "550 the message is gone")
            return
        msgid, now = post.new_msgid(), post.now()
        head = self._head(message)
        original = cut_original(head, message.size, key.kind, key.ret, binary=bool(message.flags & IS_BINARY))
        body = compose(Report(msgid, token, key.sender, group.envelopes, message.ctime, original, now, post.zone))
        flags = 0 if body.isascii() else HAS_8BIT
        flags |= 0 if body.partition(b"\r\n\r\n")[0].isascii() else HAS_UTF8_HEADER
        envelopes = [
            replace(envelope, evpid=evpid(MsgId(msgid), number)) for number, envelope in enumerate(group.expanded, 1)
        ]
        bounces = [envelope.evpid for envelope in group.envelopes]
        change = Change(
            Message(msgid, len(body), flags, now, False),
            body,
            [Stored(envelope, now, False) for envelope in envelopes],
            delete=bounces,
        )
        lines = [logline.SMTP_MESSAGE.format(id=token, msgid=msgid, size=len(body), nrcpt=1, proto="ESMTP")]
        lines += [
            logline.SMTP_ENVELOPE.format(id=token, evpid=envelope.evpid, sender="", rcpt=key.sender)
            for envelope in envelopes
        ]
        post.inject(change, bounces, lines)


def _template(key: _Key, now: int) -> Envelope:
    """The transaction that lka is asked about: from this machine, with the null reverse-path, and with no wish but
    to hear nothing of it (RFC 3461 6.1)."""
    name, to = key.smtpname, key.sender
    return Envelope(
        0, Agent.MTA, "", NULL, to, to, "", "", "", name, name, name, "", "local", 0, now, 0, 0, 0, 0,
        int(Notify.NEVER), Ret.NONE, "", "", "", "", BounceKind.NONE, 0,
    )  # fmt: skip
