"""What to do with every envelope, and when.  No I/O: messages and the time go in, messages come out.

The database is the queue's; here is only what is due soon.  The rules that keep this safe:

* An envelope that was dispatched stays in memory until the queue says how it ended, so it is never dispatched
  twice, whatever a page of the database says: what memory knows of an envelope is newer than any page.
* The times in memory are those of the database.  A new time is a SchedRetry, and counts when the queue confirms it.
* Memory is bounded for each agent (see lane.py): what is due last is forgotten, and fetched again later.
"""

from collections.abc import Callable, Iterable

from pysmtpd.base.backoff import next_try, overflow
from pysmtpd.base.envelope import Agent, Schedule
from pysmtpd.base.stats import Stats
from pysmtpd.conf.config import Limits
from pysmtpd.imsg import Message
from pysmtpd.messages import Outcome, RunState, SchedDispatch, SchedExpire, SchedFetch, SchedRetry
from pysmtpd.sched.holdq import HoldQueues
from pysmtpd.sched.lane import FETCH_TIMEOUT, WINDOW, Asked, Entry, Lane, State

PAGE = 256                         # envelopes fetched at once
BATCH_MAX = 256                    # envelopes in one frame
HOLD_TIME = 3600                   # seconds after which a held envelope is tried again, released or not

# Entries that may be in memory, with OpenSMTPD's max-inflight: together 20,000 (and half of that held), about 10 MB.
ROOM: dict[Agent, int] = {Agent.BOUNCE: 2000, Agent.MDA: 6000, Agent.MTA: 12000}

_RESULTS: dict[int, str] = {
    0: "scheduler.envelope.removed",
    Outcome.OK: "scheduler.delivery.ok",
    Outcome.PERMFAIL: "scheduler.delivery.permfail",
    Outcome.LOOP: "scheduler.delivery.loop",
}
_WAITING = frozenset({State.READY, State.PENDING})
_SHOWN: dict[State, RunState] = {
    State.PENDING: RunState.PENDING,
    State.READY: RunState.PENDING,
    State.UPDATING: RunState.PENDING,
    State.INFLIGHT: RunState.INFLIGHT,
    State.HELD: RunState.HELD,
}


class RamQueue:
    """The envelopes due soon.

    Every method that hears something is followed, once per turn, by turn(), whose messages go to the queue, and by
    wake(), which says when to call turn() again though nothing was heard.
    """

    def __init__(self, limits: Limits, warn_intervals: Iterable[int], new_reqid: Callable[[], int], stats: Stats,
                 room: dict[Agent, int] = ROOM) -> None:
        self._limits = limits
        self._warn_intervals = sorted(warn_intervals, reverse=True)
        self._new_reqid = new_reqid
        self._stats = stats
        self._entries: dict[int, Entry] = {}
        self._holdqs = HoldQueues()
        self._out: list[Message] = []
        self._inflight = 0
        # No agent may have all of max-inflight, so that dead relays never keep mail from the user next door.
        share = max(1, limits.scheduler_max_inflight * 4 // 5)
        scale = max(1, limits.scheduler_max_inflight // Limits().scheduler_max_inflight)
        self._lanes = {agent: Lane(agent, room[agent] * scale, share) for agent in room}

    # what the queue tells

    def envelopes(self, schedules: Iterable[Schedule], now: int) -> None:
        """New or changed, and durable."""
        for schedule in schedules:
            entry = self._entries.get(schedule.evpid)
            if entry is None:
                self._new(schedule, now)
            elif entry.lane.agent is not schedule.agent:
                # It has become a bounce: another envelope, as far as we are concerned.
                self._forget(entry)
                self._new(schedule, now)
            elif entry.state is State.INFLIGHT:
                # How the attempt ends decides; the queue remembers the change.
                continue
            else:
                self._stats.add("scheduler.envelope.updated")
                self._place(entry, schedule, now)

    def fetched(self, reqid: int, schedules: list[Schedule], more: bool, now: int) -> None:
        """A page of the database."""
        for lane in self._lanes.values():
            if lane.asked is not None and lane.asked.reqid == reqid:
                for schedule in schedules:
                    if schedule.agent is lane.agent and schedule.evpid not in self._entries:
                        self._insert(schedule, now)
                lane.page_done(schedules[-1] if schedules else None, more)

    def done(self, evpids: Iterable[int], result: int) -> None:
        """Gone from the database; result is an Outcome, or 0 when it was removed."""
        key = _RESULTS.get(result)
        for evpid in evpids:
            if key is not None:
                self._stats.add(key)
            entry = self._entries.get(evpid)
            if entry is not None:
                self._forget(entry)

    def tempfail(self, schedule: Schedule, now: int) -> None:
        """An attempt failed for now: choose the time of the next."""
        self._stats.add("scheduler.delivery.tempfail")
        _, due = next_try(schedule.agent, schedule.ctime, schedule.retry, now)
        due = min(due, schedule.expire)
        self._retry(schedule, schedule.retry + 1, due, self._warning(schedule, due))

    def hold(self, evpid: int, holdq: int, now: int) -> None:
        """Its agent has enough: keep it until release()."""
        entry = self._entries.get(evpid)
        if entry is None or entry.state is not State.INFLIGHT:
            return
        lane = entry.lane
        if lane.held >= lane.room // 2 or not self._holdqs.add(entry, holdq):
            self._stats.add("scheduler.ramqueue.hold-overflow")
            schedule = entry.schedule
            self._retry(schedule, schedule.retry, min(overflow(schedule.ctime, now), schedule.expire), 0)
            return
        self._land(entry)
        entry.state = State.HELD
        lane.held += 1
        # Nothing waits for ever: not for an agent that forgot it, nor beyond its time to live.
        lane.wait_until(entry, min(now + HOLD_TIME, max(entry.schedule.expire, now)))

    def release(self, holdq: int, count: int, now: int) -> None:
        """``count`` of a hold queue may go: 0 is all, -1 is all, but at their normal time."""
        for entry in self._holdqs.first(holdq, count):
            if count < 0:
                schedule = entry.schedule
                _, due = next_try(schedule.agent, schedule.ctime, schedule.retry, now)
                self._retry(schedule, schedule.retry, min(due, schedule.expire), 0)
            else:
                self._unhold(entry)
                self._ripe(entry, now)

    # what an operator asks

    def pause(self, agent: Agent, paused: bool, now: int) -> bool:
        """Dispatch nothing to this agent, or again; what is in flight goes on, and what is too old still expires.
        False when it is so already."""
        lane = self._lanes[agent]
        if lane.paused is paused:
            return False
        lane.paused = paused
        lane.ready.clear()
        waiting = [entry for entry in self._entries.values() if entry.lane is lane and entry.state in _WAITING]
        for entry in sorted(waiting, key=lambda entry: entry.key):
            if entry.state is State.READY:
                self._ripe(entry, now)
            else:
                self._wait(entry, now)
        return True

    def states(self, evpids: Iterable[int]) -> list[tuple[RunState, int]]:
        """For each: what is done with it, and since when (in flight) or until when (the others)."""
        return [self._state(self._entries.get(evpid)) for evpid in evpids]

    def count(self) -> None:
        """Bring the gauges up to date."""
        self._stats.set("scheduler.ramqueue.envelope", len(self._entries))
        self._stats.set("scheduler.envelope.inflight", self._inflight)
        self._stats.set("scheduler.ramqueue.holdq", len(self._holdqs))
        self._stats.set("scheduler.ramqueue.hold", sum(lane.held for lane in self._lanes.values()))

    # once per turn

    def turn(self, now: int) -> list[Message]:
        """What the queue has to be told now."""
        for lane in self._lanes.values():
            for entry in lane.ripen(now):
                if entry.state is State.HELD:
                    self._unhold(entry)
                self._ripe(entry, now)
        self._dispatch(now)
        for lane in self._lanes.values():
            if lane.full:
                self._shrink(lane)
            page = lane.next_page()
            if page is not None and page <= now:
                self._fetch(lane, now)
        out, self._out = self._out, []
        return out

    def wake(self, now: int) -> int | None:
        """The time by which turn() is to be called again; None when only news can change anything."""
        times = [when for lane in self._lanes.values() for when in (lane.next_time(), lane.next_page())]
        known = [when for when in times if when is not None]
        return max(now, min(known)) if known else None

    # entries

    def _new(self, schedule: Schedule, now: int) -> None:
        if schedule.retry == 0 and schedule.last_bounce == 0 and not schedule.suspended:
            self._stats.add("scheduler.envelope.incoming")
        if self._lanes[schedule.agent].knows((schedule.due, schedule.evpid)):
            self._insert(schedule, now)

    def _insert(self, schedule: Schedule, now: int) -> None:
        if schedule.suspended:
            return
        lane = self._lanes[schedule.agent]
        self._entries[schedule.evpid] = entry = Entry(schedule, lane)
        lane.size += 1
        self._wait(entry, now)

    def _place(self, entry: Entry, schedule: Schedule, now: int) -> None:
        """What was known of an entry that is not in flight has changed."""
        if entry.state is State.HELD:
            self._unhold(entry)
        was_ready = entry.state is State.READY
        entry.schedule = schedule
        if schedule.suspended or not entry.lane.knows(entry.key):
            self._forget(entry)
        elif not (was_ready and schedule.due <= now):
            self._wait(entry, now)

    def _wait(self, entry: Entry, now: int) -> None:
        when = min(entry.schedule.due, entry.schedule.expire)
        if when <= now:
            self._ripe(entry, now)
        else:
            entry.state = State.PENDING
            entry.lane.wait_until(entry, when)

    def _ripe(self, entry: Entry, now: int) -> None:
        """Its time has come; for a paused agent, only the end of its time counts."""
        if entry.lane.paused and entry.schedule.expire > now:
            entry.state = State.PENDING
            entry.lane.wait_until(entry, entry.schedule.expire)
        else:
            entry.lane.make_ready(entry)

    def _forget(self, entry: Entry) -> None:
        if entry.state is State.INFLIGHT:
            self._land(entry)
        elif entry.state is State.HELD:
            self._unhold(entry)
        entry.state = State.GONE
        entry.lane.size -= 1
        del self._entries[entry.schedule.evpid]

    def _land(self, entry: Entry) -> None:
        entry.lane.inflight -= 1
        self._inflight -= 1

    def _unhold(self, entry: Entry) -> None:
        self._holdqs.discard(entry)
        entry.lane.held -= 1
        entry.state = State.GONE

    def _retry(self, schedule: Schedule, retry: int, due: int, delay: int) -> None:
        """Ask for a new time; until that is durable the entry stays in memory, so that no page can revive the old."""
        entry = self._entries.get(schedule.evpid)
        if entry is None:
            lane = self._lanes[schedule.agent]
            self._entries[schedule.evpid] = entry = Entry(schedule, lane)
            lane.size += 1
        elif entry.state is State.INFLIGHT:
            self._land(entry)
        elif entry.state is State.HELD:
            self._unhold(entry)
        entry.state = State.UPDATING
        self._out.append(SchedRetry(schedule.evpid, retry, due, delay))

    def _warning(self, schedule: Schedule, due: int) -> int:
        """The warn-interval to report when the next attempt lies beyond it, or 0.  Of several, the longest: one
        warning is enough."""
        if schedule.agent is Agent.BOUNCE:
            return 0
        for interval in self._warn_intervals:
            if schedule.last_bounce < schedule.ctime + interval <= due:
                return interval
        return 0

    def _state(self, entry: Entry | None) -> tuple[RunState, int]:
        if entry is None:
            return RunState.UNKNOWN, 0
        return _SHOWN[entry.state], entry.since if entry.state is State.INFLIGHT else entry.schedule.due

    # dispatching

    def _dispatch(self, now: int) -> None:
        """Fill the room in flight, the agents taking turns."""
        dispatch: list[int] = []
        expire: list[int] = []
        lanes = [lane for lane in self._lanes.values() if lane.ready]
        while lanes and self._inflight < self._limits.scheduler_max_inflight:
            lanes = [lane for lane in lanes if self._take(lane, now, dispatch, expire)]
        step = max(1, min(BATCH_MAX, self._limits.scheduler_max_evp_batch))
        for at in range(0, len(expire), step):
            self._out.append(SchedExpire(expire[at : at + step]))
        for at in range(0, len(dispatch), step):
            self._out.append(SchedDispatch(dispatch[at : at + step]))
        if expire:
            self._stats.add("scheduler.envelope.expired", len(expire))

    def _take(self, lane: Lane, now: int, dispatch: list[int], expire: list[int]) -> bool:
        """Take up to max-schedule envelopes of a lane; False when it has no more that may go."""
        quantum = min(
            max(1, self._limits.scheduler_max_schedule),
            self._limits.scheduler_max_inflight - self._inflight,
            lane.inflight_max - lane.inflight,
        )
        while quantum > 0 and lane.ready:
            entry = lane.ready.popleft()
            if entry.state is not State.READY:
                continue
            (expire if entry.schedule.expire <= now else dispatch).append(entry.schedule.evpid)
            entry.state = State.INFLIGHT
            entry.since = now
            lane.inflight += 1
            self._inflight += 1
            quantum -= 1
        return bool(lane.ready) and lane.inflight < lane.inflight_max

    # reading ahead

    def _shrink(self, lane: Lane) -> None:
        for entry in lane.excess([e for e in self._entries.values() if e.lane is lane and e.state in _WAITING]):
            self._forget(entry)

    def _fetch(self, lane: Lane, now: int) -> None:
        lane.asked = Asked(self._new_reqid(), now + WINDOW, now + FETCH_TIMEOUT)
        limit = max(1, min(PAGE, lane.room // 2))
        due, evpid = lane.horizon
        self._out.append(SchedFetch(lane.asked.reqid, lane.agent, due, evpid, lane.asked.until, limit))
