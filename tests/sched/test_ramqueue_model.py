"""sched.ramqueue against a model of the queue: whatever happens, in whatever order the two hear of it,
nothing is in flight twice, nothing is forgotten, nothing is tried before its time, and memory is bounded."""

import itertools
from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from pysmtpd.base.envelope import Agent, Schedule
from pysmtpd.base.stats import Stats
from pysmtpd.conf.config import Limits
from pysmtpd.imsg import Message
from pysmtpd.messages import (
    Outcome,
    QueueDone,
    QueueEnvelopes,
    QueueHold,
    QueueRelease,
    QueueTempfail,
    SchedDispatch,
    SchedExpire,
    SchedFetch,
    SchedFetched,
    SchedRetry,
)
from pysmtpd.sched.ramqueue import RamQueue

START = 1_700_000_000
ROOM = {Agent.BOUNCE: 4, Agent.MDA: 6, Agent.MTA: 8}
INFLIGHT = 10
AGENTS = (Agent.MDA, Agent.MTA, Agent.BOUNCE)


def changed(old: Schedule, **new: int | bool) -> Schedule:
    fields = {name: getattr(old, name) for name in Schedule.__struct_fields__}
    return Schedule(**{**fields, **new})


class World:
    """The database and the agents on one side, the scheduler on the other, and two pipes between them."""

    def __init__(self) -> None:
        ids = itertools.count(1)
        self.now = START
        self.ram = RamQueue(Limits(scheduler_max_inflight=INFLIGHT), (3600,), lambda: next(ids), Stats(), ROOM)
        self.database: dict[int, Schedule] = {}
        self.flight: set[int] = set()
        self.held: dict[int, int] = {}
        self.to_ram: deque[Message] = deque()
        self.to_queue: deque[Message] = deque()
        self.evpids = itertools.count(1)
        self.finished: set[int] = set()
        self.ordered: set[int] = set()

    # what happens

    def new(self, agent: Agent, wait: int, count: int = 1) -> None:
        now = self.now
        for evpid in itertools.islice(self.evpids, count):
            self.database[evpid] = Schedule(evpid, agent, now + wait, now + 4000, now, 0, 0)
            self.push(evpid)

    def deliver(self, pick: int, outcome: int) -> None:
        """Some attempt ends: 0 and 1 well, 2 for now, 3 with a hold."""
        if not self.flight:
            return
        evpid = sorted(self.flight)[pick % len(self.flight)]
        self.flight.discard(evpid)
        if evpid not in self.database:
            return                 # removed meanwhile
        if outcome == 2:
            self.to_ram.append(QueueTempfail(self.database[evpid]))
        elif outcome == 3:
            self.held[evpid] = pick % 3
            self.to_ram.append(QueueHold(evpid, pick % 3))
        else:
            self.finish(evpid, Outcome.OK)

    def finish(self, evpid: int, result: int) -> None:
        del self.database[evpid]
        self.finished.add(evpid)
        self.held.pop(evpid, None)
        self.to_ram.append(QueueDone([evpid], result))

    def release(self, holdq: int, count: int) -> None:
        self.to_ram.append(QueueRelease(holdq, count))

    def command(self, pick: int, command: int) -> None:
        """Schedule, suspend, resume or remove."""
        if not self.database:
            return
        evpid = sorted(self.database)[pick % len(self.database)]
        if command == 3:
            self.finish(evpid, 0)
            return
        self.ordered.add(evpid)
        new = ({"due": self.now}, {"suspended": True}, {"suspended": False})[command]
        self.database[evpid] = changed(self.database[evpid], **new)
        self.push(evpid)

    def push(self, evpid: int) -> None:
        self.to_ram.append(QueueEnvelopes([self.database[evpid]]))

    # the pipes

    def flow(self) -> None:
        self.hear(len(self.to_ram))
        self.turn()
        self.obey(len(self.to_queue))

    def elapse(self, seconds: int) -> None:
        self.now += seconds

    def turn(self) -> None:
        self.to_queue += self.ram.turn(self.now)
        for lane in self.ram._lanes.values():
            assert lane.size <= ROOM[lane.agent] + ROOM[lane.agent] // 2 + INFLIGHT
        assert 0 <= self.ram._inflight <= INFLIGHT

    def hear(self, count: int) -> None:
        """The scheduler hears some of what it was told."""
        for _ in range(min(count, len(self.to_ram))):
            message = self.to_ram.popleft()
            ram, now = self.ram, self.now
            match message:
                case QueueEnvelopes():
                    ram.envelopes(message.schedules, now)
                case QueueDone():
                    ram.done(message.evpids, message.result)
                case QueueTempfail():
                    ram.tempfail(message.schedule, now)
                case QueueHold():
                    ram.hold(message.evpid, message.holdq, now)
                case QueueRelease():
                    ram.release(message.holdq, message.count, now)
                case SchedFetched():
                    ram.fetched(message.reqid, message.schedules, message.more, now)

    def obey(self, count: int) -> None:
        """The queue does some of what it was told."""
        for _ in range(min(count, len(self.to_queue))):
            match message := self.to_queue.popleft():
                case SchedDispatch():
                    for evpid in message.evpids:
                        self.dispatch(evpid)
                case SchedExpire():
                    for evpid in message.evpids:
                        self.expire(evpid)
                case SchedRetry():
                    self.retry(message)
                case SchedFetch():
                    self.fetch(message)

    def dispatch(self, evpid: int) -> None:
        assert evpid not in self.flight, "dispatched while in flight"
        self.held.pop(evpid, None)
        if evpid not in self.database:
            self.to_ram.append(QueueDone([evpid], 0))
            return
        if evpid not in self.ordered:  # what an operator wants may cross with a new time on its way
            assert self.database[evpid].due <= self.now, "dispatched before its time"
        self.flight.add(evpid)

    def expire(self, evpid: int) -> None:
        assert evpid not in self.flight, "expired while in flight"
        if evpid in self.database:
            assert self.database[evpid].expire <= self.now, "expired before its time"
            self.finish(evpid, 0)
        else:
            self.to_ram.append(QueueDone([evpid], 0))

    def retry(self, message: SchedRetry) -> None:
        self.held.pop(message.evpid, None)
        if message.evpid in self.database:
            assert message.evpid not in self.flight, "given a new time while in flight"
            old = self.database[message.evpid]
            last_bounce = old.ctime + message.delay if message.delay else old.last_bounce
            self.database[message.evpid] = changed(old, due=message.due, retry=message.retry, last_bounce=last_bounce)
            self.push(message.evpid)
        else:
            self.to_ram.append(QueueDone([message.evpid], 0))

    def fetch(self, ask: SchedFetch) -> None:
        found = sorted(
            (s for s in self.database.values()
             if s.agent is ask.agent and (s.due, s.evpid) > (ask.after_due, ask.after_evpid) and s.due <= ask.until),
            key=lambda s: (s.due, s.evpid),
        )
        size = min(ask.limit, 2)   # small pages, so that there are many
        self.to_ram.append(SchedFetched(ask.reqid, found[:size], len(found) > size))

    def settle(self) -> None:
        """Let everything be delivered, as time goes by."""
        for evpid in list(self.database):
            if self.database[evpid].suspended:
                self.database[evpid] = changed(self.database[evpid], suspended=False)
                self.push(evpid)
        for agent in AGENTS:
            self.ram.pause(agent, False, self.now)
        for _ in range(400):
            self.flow()
            while self.flight:
                self.deliver(0, 0)
            if not self.database and not self.to_ram and not self.to_queue:
                return
            if not self.to_ram and not self.to_queue:
                wake = self.ram.wake(self.now)
                assert wake is not None, f"forgotten: {self.database}"
                self.now = max(self.now + 1, wake)
        raise AssertionError(f"forgotten: {self.database}")


pick = st.integers(0, 1000)
agent = st.sampled_from((Agent.MTA, Agent.MTA, Agent.MDA, Agent.BOUNCE))
step = st.one_of(
    st.tuples(st.just("new"), agent, st.sampled_from((0, 5, 500, 700, 3000)), st.integers(1, 6)),
    st.tuples(st.just("new"), agent, st.just(0), st.integers(1, 12)),
    st.tuples(st.just("deliver"), pick, st.integers(0, 3)),
    st.tuples(st.just("deliver"), pick, st.just(2)),
    st.tuples(st.just("release"), st.integers(0, 2), st.sampled_from((-1, 0, 1, 2))),
    st.tuples(st.just("command"), pick, st.integers(0, 3)),
    st.tuples(st.just("pause"), st.sampled_from((Agent.MDA, Agent.MTA)), st.booleans()),
    st.tuples(st.just("hear"), st.integers(1, 5)),
    st.tuples(st.just("turn")),
    st.tuples(st.just("obey"), st.integers(1, 3)),
    st.tuples(st.just("flow")),
    st.tuples(st.just("flow")),
    st.tuples(st.just("elapse"), st.sampled_from((1, 30, 400, 1000, 5000))),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(step, min_size=20, max_size=80))
def test_nothing_is_tried_twice_too_early_or_never(steps: list[tuple[object, ...]]) -> None:
    world = World()
    for name, *arguments in steps:
        if name == "pause":
            world.ram.pause(*arguments, world.now)  # type: ignore[arg-type, call-arg]
        else:
            getattr(world, str(name))(*arguments)
    world.settle()
    assert len(world.ram._entries) == 0
    assert world.ram._inflight == 0 and len(world.ram._holdqs) == 0


def test_a_flood_far_larger_than_memory_is_delivered_whole() -> None:
    world = World()
    for n in range(300):
        world.new(AGENTS[n % 3], 0)
        world.hear(2)
        world.turn()
    world.settle()
    assert len(world.finished) == 300
