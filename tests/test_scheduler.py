"""The scheduler as a process: what it hears from queue and control, and what it answers in one turn."""

import asyncio
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pysmtpd.base.envelope import Agent, Schedule
from pysmtpd.base.procs import Proc
from pysmtpd.conf.config import Config
from pysmtpd.imsg import Frame, Message
from pysmtpd.messages import (
    CtlDone,
    CtlPause,
    CtlStats,
    CtlStatsTold,
    QueueDone,
    QueueEnvelopes,
    QueueHold,
    QueueRelease,
    QueueTempfail,
    RunState,
    SchedDispatch,
    SchedExpire,
    SchedFetch,
    SchedFetched,
    SchedRetry,
    SchedStated,
    SchedStates,
)
from pysmtpd.privsep.log import Log
from pysmtpd.privsep.mproc import Peer, pair
from pysmtpd.privsep.process import Birth
from pysmtpd.scheduler import Scheduler

NOW = 1_700_000_000


class Other:
    """queue or control: remembers what it was told."""

    def __init__(self, scheduler: Scheduler, proc: Proc) -> None:
        self.heard: list[Any] = []
        mine, theirs = pair()
        ours = Peer(scheduler, mine, Proc.SCHEDULER, proc)
        scheduler._peers[proc] = [ours]
        self.peer = Peer(self, theirs, proc, Proc.SCHEDULER)
        for peer in (ours, self.peer):
            peer.attach(scheduler.loop)

    def peer_frame(self, _peer: Peer, frame: Frame) -> None:
        self.heard.append(frame.message)

    def peer_lost(self, _peer: Peer, _reason: str) -> None:
        raise AssertionError("lost")


class World:
    """A Scheduler between a queue and a control."""

    def __init__(self, paused: set[str]) -> None:
        self.loop = asyncio.new_event_loop()
        birth = Birth(proc="scheduler", uid=os.getuid(), gid=os.getgid(), spool="", socket="", stderr=True, verbose=0)
        self.scheduler = Scheduler(birth, Log(stderr=True, verbose=False))
        self.scheduler.loop = self.loop
        self.scheduler.config = Config(hostname="vm")
        self.scheduler.paused = paused
        self.time = NOW
        self.scheduler.now = lambda: self.time  # type: ignore[method-assign]
        self.lines: list[str] = []
        self.scheduler.log = lambda line, level=0: self.lines.append(line)  # type: ignore[method-assign]
        self.queue = Other(self.scheduler, Proc.QUEUE)
        self.control = Other(self.scheduler, Proc.CONTROL)
        self.scheduler.start()

    def until(self, done: Callable[[], object]) -> None:
        end = self.loop.time() + 5
        while not done():
            assert self.loop.time() < end, "never happened"
            self.loop.run_until_complete(asyncio.sleep(0))

    def tell(self, *messages: Message) -> None:
        for message in messages:
            self.queue.peer.send(message)

    def hear(self, kind: type[Message]) -> Any:
        """The next message of this kind that the queue gets."""
        self.until(lambda: any(isinstance(message, kind) for message in self.queue.heard))
        found = next(message for message in self.queue.heard if isinstance(message, kind))
        self.queue.heard.remove(found)
        return found

    def ask(self, message: Message) -> Any:
        self.control.peer.send(message)
        self.until(lambda: self.control.heard)
        return self.control.heard.pop()

    def close(self) -> None:
        for peers in self.scheduler._peers.values():
            peers[0].close()
        self.queue.peer.close()
        self.control.peer.close()
        self.loop.close()


@pytest.fixture
def paused() -> set[str]:
    return set()


@pytest.fixture
def world(paused: set[str]) -> Iterator[World]:
    one = World(paused)
    yield one
    one.close()


def plan(evpid: int, agent: Agent = Agent.MTA, due: int = NOW, **other: Any) -> Schedule:
    fields = {"expire": NOW + 86400, "ctime": NOW, "retry": 0, "last_bounce": 0, **other}
    return Schedule(evpid, agent, due, **fields)


def test_it_begins_by_reading_what_is_due_for_each_agent(world: World) -> None:
    asks = [world.hear(SchedFetch) for _ in Agent]
    assert {ask.agent for ask in asks} == set(Agent)
    assert {(ask.after_due, ask.after_evpid) for ask in asks} == {(0, 0)}
    world.tell(*(SchedFetched(ask.reqid, [plan(n, ask.agent)], False) for n, ask in enumerate(asks, 1)))
    world.until(lambda: sum(len(m.evpids) for m in world.queue.heard if isinstance(m, SchedDispatch)) == 3)


def test_new_envelopes_of_one_turn_leave_in_one_frame(world: World) -> None:
    world.tell(QueueEnvelopes([plan(1)]), QueueEnvelopes([plan(2), plan(3)]))
    assert world.hear(SchedDispatch) == SchedDispatch([1, 2, 3])


def test_an_attempt_that_fails_is_tried_again_when_the_time_has_come(world: World) -> None:
    world.tell(QueueEnvelopes([plan(1)]))
    world.hear(SchedDispatch)
    world.tell(QueueTempfail(plan(1)))
    assert world.hear(SchedRetry) == SchedRetry(1, 1, NOW + 400, 0)
    world.tell(QueueEnvelopes([plan(1, due=NOW + 400, retry=1)]))
    world.until(lambda: world.scheduler.ram.states([1]) == [(RunState.PENDING, NOW + 400)])
    assert world.scheduler._alarm <= NOW + 60
    world.time = NOW + 400
    world.scheduler._turn_soon()
    assert world.hear(SchedDispatch) == SchedDispatch([1])
    world.tell(QueueDone([1], 1))
    world.until(lambda: world.scheduler.ram.states([1]) == [(RunState.UNKNOWN, 0)])


def test_it_wakes_by_itself(world: World) -> None:
    world.tell(QueueEnvelopes([plan(1, due=NOW + 1)]))
    world.until(lambda: world.scheduler._alarm == NOW + 1)
    assert world.scheduler._timer is not None
    assert world.scheduler._timer.when() - world.loop.time() <= 1.5
    world.time = NOW + 1
    assert world.hear(SchedDispatch) == SchedDispatch([1])


def test_held_released_and_expired(world: World) -> None:
    world.tell(QueueEnvelopes([plan(1), plan(2, expire=NOW)]))
    assert world.hear(SchedExpire) == SchedExpire([2])
    assert world.hear(SchedDispatch) == SchedDispatch([1])
    world.tell(QueueHold(1, 7))
    world.until(lambda: world.scheduler.ram.states([1])[0][0] is RunState.HELD)
    world.tell(QueueRelease(7, 0))
    assert world.hear(SchedDispatch) == SchedDispatch([1])


def test_control_pauses_asks_for_states_and_counters(world: World) -> None:
    assert world.ask(CtlPause(1, "mta", False)) == CtlDone(1, True, "")
    assert world.ask(CtlPause(2, "mta", False)) == CtlDone(2, False, "")
    assert world.ask(CtlPause(3, "smtp", False)).ok is False
    world.tell(QueueEnvelopes([plan(1), plan(2, Agent.MDA)]))
    assert world.hear(SchedDispatch) == SchedDispatch([2])
    assert world.ask(SchedStates(4, [1, 2, 3])) == SchedStated(
        4, [(RunState.PENDING, NOW), (RunState.INFLIGHT, NOW), (RunState.UNKNOWN, 0)]
    )
    told = world.ask(CtlStats(5))
    assert isinstance(told, CtlStatsTold)
    assert dict(told.values)["scheduler.envelope.inflight"] == 1
    assert dict(told.values)["scheduler.envelope.incoming"] == 2
    assert world.ask(CtlPause(6, "mta", True)) == CtlDone(6, True, "")
    assert world.hear(SchedDispatch) == SchedDispatch([1])
    assert world.lines == ["info: mta paused", "info: mta resumed"]


@pytest.mark.parametrize("paused", [{"mta", "smtp"}])
def test_what_starts_paused(world: World) -> None:
    world.tell(QueueEnvelopes([plan(1), plan(2, Agent.MDA)]))
    assert world.hear(SchedDispatch) == SchedDispatch([2])
