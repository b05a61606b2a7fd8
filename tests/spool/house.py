"""A queue process without the rest of the house: its peers are lists of what they were sent."""

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from pysmtpd.base.envelope import Agent, BounceKind, Envelope, Ret
from pysmtpd.base.mailaddr import MailAddr, parse
from pysmtpd.base.paths import under
from pysmtpd.base.procs import Proc
from pysmtpd.base.seal import KEY_SIZE, Seal
from pysmtpd.base.struct import replace
from pysmtpd.conf.config import Config
from pysmtpd.imsg import Encoder, Message
from pysmtpd.messages import (
    Delivered,
    ExpandRcpt,
    Outcome,
    QueueDeliver,
    QueueEnvelopes,
    RcptExpanded,
    Result,
    SchedDispatch,
    SealKey,
    SmtpBody,
    SmtpEnvelopes,
    SmtpMessageCommit,
    SmtpMessageCommitted,
    SmtpMsgids,
    SmtpMsgidsAsk,
)
from pysmtpd.privsep.log import Log
from pysmtpd.privsep.process import Birth
from pysmtpd.queue import Queue
from pysmtpd.spool.bodies import Disk
from pysmtpd.spool.sqlite import SqliteSpool

M = TypeVar("M", bound=Message)
KEY = b"k" * KEY_SIZE
SEAL = Seal(KEY)
NOW = 1_700_000_000
BODY = b"Subject: hello\r\nMessage-ID: <1@example.org>\r\n\r\nHello.\r\n"


def envelope(evpid: int = 0, rcpt: str = "bob@example.net", **values: Any) -> Envelope:
    """An envelope with every field at something ordinary."""
    to = parse(rcpt)
    fields: dict[str, Any] = {
        "evpid": evpid, "agent": Agent.MTA, "action": "outbound", "sender": MailAddr("alice", "example.org"),
        "rcpt": to, "dest": to, "user": "", "command": "", "tag": "", "smtpname": "mx.example.org",
        "helo": "client.example.org", "hostname": "<unknown>", "username": "", "source": "192.0.2.10", "flags": 0,
        "ctime": NOW, "ttl": 345600, "last_try": 0, "last_bounce": 0, "retry": 0, "notify": 0, "ret": Ret.NONE,
        "envid": "", "orcpt": "", "errorline": "", "esc": "", "bounce": BounceKind.NONE, "bounce_delay": 0,
    }  # fmt: skip
    return Envelope(**{**fields, **values})


def sealed(msgid: int, *envelopes: Envelope) -> bytes:
    """As lka seals the first envelopes of a message."""
    return SEAL.close([replace(envelope, evpid=n) for n, envelope in enumerate(envelopes, msgid << 32 | 1)])


def expanded(ask: ExpandRcpt, *envelopes: Envelope, reply: str = "", more: bool = False) -> RcptExpanded:
    """What lka answers."""
    return RcptExpanded(ask.reqid, SEAL.close(list(envelopes)) if envelopes else b"", len(envelopes), reply, "", more)


class FakePeer:
    """Keeps what it is sent, proved as a real one would."""

    def __init__(self, proc: Proc, index: int = 0) -> None:
        self.proc = proc
        self.index = index
        self.sent: list[Message] = []
        self._encoder = Encoder(Proc.QUEUE, proc, 1)

    def send(self, message: Message) -> None:
        self._encoder.encode(message)
        self.sent.append(message)

    def take(self, kind: type[M]) -> list[M]:
        """The messages of this type, in order; they are forgotten here."""
        found = [message for message in self.sent if isinstance(message, kind)]
        self.sent = [message for message in self.sent if not isinstance(message, kind)]
        return found


class FakeLog(Log):
    """Keeps the lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, line: str, level: object = None) -> None:
        self.lines.append(line)

    def flush(self) -> None: ...

    def finish(self) -> None: ...


class TestQueue(Queue):
    """A queue whose clock stands still until it is set, over any disk."""

    __test__ = False
    disk: Disk | None = None
    clock = NOW

    def now(self) -> int:
        return self.clock

    def open_spool(self) -> SqliteSpool:
        return SqliteSpool(self.paths.queue, 0x1000, self.disk, self.coding())


class House:
    """The queue and all it speaks with."""

    def __init__(self, state: Path, disk: Disk | None = None, **config: Any) -> None:
        (state / "queue").mkdir(parents=True, exist_ok=True)
        self.loop = asyncio.new_event_loop()
        self.logged = FakeLog()
        birth = Birth(proc="queue", uid=0, gid=0, spool=under(str(state)).spool, socket="", stderr=True, verbose=0)
        self.queue = TestQueue(birth, self.logged)
        self.queue.disk = disk
        self.queue.loop = self.loop
        self.queue.config = Config(hostname="mx.example.org", **config)
        self.peers = {proc: FakePeer(proc) for proc in
                      (Proc.PARENT, Proc.CONTROL, Proc.LKA, Proc.SCHEDULER, Proc.SMTP, Proc.MTA, Proc.MDA)}
        self.queue._peers = {proc: [cast(Any, peer)] for proc, peer in self.peers.items()}
        self.queue.start()
        self.say(self.lka, SealKey(KEY))
        self._reqids = itertools.count(1)
        self._ids: list[int] = []

    smtp = property(lambda self: self.peers[Proc.SMTP])
    scheduler = property(lambda self: self.peers[Proc.SCHEDULER])
    mta = property(lambda self: self.peers[Proc.MTA])
    mda = property(lambda self: self.peers[Proc.MDA])
    lka = property(lambda self: self.peers[Proc.LKA])
    control = property(lambda self: self.peers[Proc.CONTROL])

    def say(self, peer: FakePeer, message: Message) -> None:
        """A message arrives at the queue."""
        self.queue._handlers[type(message)](self.queue, cast(Any, peer), message)

    def until(self, done: Callable[[], Any], timeout: float = 5.0) -> None:
        """Let the loop run until something holds."""
        end = self.loop.time() + timeout
        while not done():
            assert self.loop.time() < end, (self.logged.lines, [peer.sent for peer in self.peers.values()])
            self.loop.run_until_complete(asyncio.sleep(0.0005))

    def run(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    def expect(self, peer: FakePeer, kind: type[M]) -> M:
        """Wait for a message of this type, and take the first one."""
        self.until(lambda: any(isinstance(message, kind) for message in peer.sent))
        for at, message in enumerate(peer.sent):
            if isinstance(message, kind):
                del peer.sent[at]
                return message
        raise AssertionError

    def msgid(self) -> int:
        if not self._ids:
            self.say(self.smtp, SmtpMsgidsAsk())
            block = self.expect(self.smtp, SmtpMsgids)
            self._ids = list(range(block.first + block.count - 1, block.first - 1, -1))
        return self._ids.pop()

    def begin(self, body: bytes = BODY, envelopes: list[Envelope] | None = None, msgid: int = 0, *,
              binary: bool = False) -> int:
        """Hand a message in, up to its commit; returns its reqid."""
        reqid = next(self._reqids)
        msgid = msgid or self.msgid()
        envelopes = [envelope()] if envelopes is None else envelopes
        self.say(self.smtp, SmtpEnvelopes(reqid, [sealed(msgid, *envelopes)]))
        for at in range(0, len(body), 65536):
            self.say(self.smtp, SmtpBody(reqid, body[at : at + 65536]))
        self.say(self.smtp, SmtpMessageCommit(reqid, msgid, len(envelopes), len(body), binary))
        return reqid

    def submit(self, body: bytes = BODY, envelopes: list[Envelope] | None = None) -> list[int]:
        """Hand a message in; returns its evpids as the scheduler heard of them."""
        self.begin(body, envelopes)
        assert self.expect(self.smtp, SmtpMessageCommitted).ok
        return [schedule.evpid for schedule in self.expect(self.scheduler, QueueEnvelopes).schedules]

    def dispatch(self, evpid: int, to: FakePeer | None = None) -> QueueDeliver:
        """Send an envelope to its agent."""
        self.say(self.scheduler, SchedDispatch([evpid]))
        return self.expect(to or self.mta, QueueDeliver)

    def report(self, evpid: int, outcome: Outcome, esc: str = "", text: str = "", peer: FakePeer | None = None,
               dsn_relayed: bool = False) -> None:
        self.say(peer or self.mta, Delivered([Result(evpid, outcome, esc, text, dsn_relayed)]))

    def close(self) -> None:
        self.queue.drain()
        self.loop.run_forever()
        self.loop.close()

    def unsafe(self) -> None:
        """Do not wait for the disk, where a test is not about what survives."""
        self.queue.backend._writer.execute("PRAGMA synchronous = OFF")  # type: ignore[attr-defined]

    def kill(self) -> None:
        """As if the process had been killed: nothing is finished, nothing is closed in order."""
        self.queue.writer.close(clean=False)
        self.loop.close()
