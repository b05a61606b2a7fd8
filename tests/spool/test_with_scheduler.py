"""The queue and the real scheduler together, days of mail in a second: every envelope comes to exactly one end."""

import random
from collections import Counter
from pathlib import Path
from typing import Any, cast

import pytest

from pysmtpd.base.envelope import Agent
from pysmtpd.base.procs import Proc
from pysmtpd.imsg import Encoder, Message
from pysmtpd.messages import (
    Delivered,
    DeliveryHold,
    DeliveryRelease,
    ExpandRcpt,
    Outcome,
    QueueDeliver,
    Result,
    SmtpMessageCommitted,
)
from pysmtpd.privsep.process import Birth
from pysmtpd.scheduler import Scheduler
from pysmtpd.spool import bounces, writer
from tests.spool.house import NOW, FakeLog, House, envelope, expanded


class TestScheduler(Scheduler):
    """A scheduler whose clock is the house's."""

    __test__ = False
    house: House

    def now(self) -> int:
        return self.house.queue.clock


class Wire:
    """A peer whose frames arrive at the other process in the next turn of the loop."""

    def __init__(self, src: Any, dst: Any) -> None:
        self._dst = dst
        self._encoder = Encoder(src.ME, dst.ME, 1)
        self._loop = src.loop
        self.proc = dst.ME
        self.index = 0
        self.back: Any = None

    def send(self, message: Message) -> None:
        self._encoder.encode(message)
        self._loop.call_soon(lambda: self._dst._handlers[type(message)](self._dst, self.back, message))


class Town(House):
    """A house with a scheduler, and agents whose luck is drawn."""

    def __init__(self, state: Path, luck: random.Random, ends: Counter[str], clock: int) -> None:
        super().__init__(state)
        self.unsafe()
        self.luck, self.ends = luck, ends
        self.queue.clock = clock
        birth = Birth(proc="scheduler", uid=0, gid=0, spool="", socket="", stderr=True, verbose=0)
        self.sched = TestScheduler(birth, FakeLog())
        self.sched.house = self
        self.sched.loop = self.loop
        self.sched.config = self.queue.config
        there, back = Wire(self.queue, self.sched), Wire(self.sched, self.queue)
        there.back, back.back = back, there
        self.queue._peers[Proc.SCHEDULER] = [cast(Any, there)]
        self.sched._peers = {Proc.QUEUE: [cast(Any, back)]}
        self.sched.start()
        self.held: list[int] = []

    def agents(self) -> bool:
        """Let the agents and lka do what they were asked; False when there was nothing."""
        busy = False
        for ask in self.lka.take(ExpandRcpt):
            alice = envelope(rcpt="alice@example.org", ctime=self.queue.clock)
            self.say(self.lka, expanded(ask, alice))
            busy = True
        for peer in (self.mta, self.mda):
            for deliver in peer.take(QueueDeliver):
                busy = True
                self._attempt(peer, deliver)
        return busy

    def _attempt(self, peer: Any, deliver: QueueDeliver) -> None:
        e = deliver.envelope
        if e.dest.user == "held" and e.evpid not in self.held:
            self.held.append(e.evpid)
            self.say(peer, DeliveryHold(e.evpid, 5))
            return
        outcome = self.luck.choice([Outcome.OK, Outcome.OK, Outcome.TEMPFAIL, Outcome.TEMPFAIL, Outcome.PERMFAIL])
        if e.dest.user == "never":
            outcome = Outcome.TEMPFAIL
        if e.dest.user in ("alice", "held"):
            outcome = Outcome.OK
        if outcome is not Outcome.TEMPFAIL:
            self.ends[f"{e.dest.user} {e.dest.domain}"] += 1
        self.say(peer, Delivered([Result(e.evpid, outcome, "", "whatever")]))

    def settle(self) -> None:
        """Run until nothing moves."""
        quiet = 0
        while quiet < 4:
            self.run(0.004)
            quiet = 0 if self.agents() else quiet + 1
            if self.held:
                self.say(self.mta, DeliveryRelease(5, 0))

    def hours_pass(self, hours: float) -> None:
        self.queue.clock += int(hours * 3600)
        self.sched._turn_soon()
        self.settle()

    @property
    def rows(self) -> int:
        return len(self.queue.backend.walk(0, 0, 1000))


@pytest.mark.parametrize("seed", [1, 2])
def test_every_envelope_ends_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(bounces, "GATHER", 0.006)
    monkeypatch.setattr(writer, "LAZY", 0.002)
    luck, ends = random.Random(seed), Counter[str]()
    town = Town(tmp_path, luck, ends, NOW)
    rcpts = [f"{luck.choice(['bob', 'bob', 'carol', 'held', 'never'])}@{n}.example" for n in range(60)]
    for at in range(0, 60, 3):
        town.begin(envelopes=[
            envelope(rcpt=rcpt, agent=luck.choice([Agent.MTA, Agent.MDA]), user="bob") for rcpt in rcpts[at : at + 3]
        ])
    town.until(lambda: len([m for m in town.smtp.sent if isinstance(m, SmtpMessageCommitted)]) == 20)
    assert all(message.ok for message in town.smtp.take(SmtpMessageCommitted))
    town.settle()
    for step in range(30):
        town.hours_pass(luck.choice([0.1, 0.5, 1, 3, 6]))
        if step == 8:
            # A restart: nothing is in flight any more, and nothing is lost.
            town.kill()
            town = Town(tmp_path, luck, ends, town.queue.clock)
            town.settle()
    for _ in range(5):
        town.hours_pass(30)
    assert town.rows == 0
    wanted = {rcpt.replace("@", " ") for rcpt in rcpts if not rcpt.startswith("never")}
    assert {end: count for end, count in ends.items() if not end.startswith("alice")} == dict.fromkeys(wanted, 1)
    assert ends["alice example.org"] > 0
    assert len(town.queue.flights) == 0
    assert not any("bug" in line or "invalid" in line for line in town.logged.lines)
    town.close()
