"""The waiting envelopes of one agent: those due, those due soon, and up to where they are known.

A lane never holds all its envelopes.  Its **horizon** is a key (due, evpid): of everything in the database
up to it, whatever is not finished is in memory; what lies behind it may be, and is fetched when its time comes
near.  Queues forget lazily: an item counts only while its entry still is what the item says.
"""

import enum
from collections import deque
from heapq import heapify, heappop, heappush
from itertools import count
from typing import NamedTuple

from pysmtpd.base.envelope import Agent, Schedule
from pysmtpd.base.ids import EVPID_MAX

Key = tuple[int, int]              # due, evpid: the order of the database

WINDOW = 600                       # seconds that are read ahead
FETCH_TIMEOUT = 60                 # seconds; the queue does not answer when it cannot read
START: Key = (0, 0)


class State(enum.Enum):
    """What is being done with an envelope that is in memory."""

    PENDING = enum.auto()          # waits for its time, in ``pending``
    READY = enum.auto()            # its time has come, in ``ready``
    INFLIGHT = enum.auto()         # the queue was told to deliver or to expire it
    HELD = enum.auto()             # its agent has enough; waits in a hold queue
    UPDATING = enum.auto()         # a new time was chosen, the queue has yet to say that it is durable
    GONE = enum.auto()             # not in memory any more


class Entry:
    """An envelope in memory."""

    __slots__ = ("holdq", "lane", "schedule", "since", "state", "until")

    def __init__(self, schedule: Schedule, lane: "Lane") -> None:
        self.schedule = schedule
        self.lane = lane
        self.state = State.GONE
        self.since = 0             # INFLIGHT: from when
        self.until = 0             # PENDING, HELD: how long at most
        self.holdq = 0

    @property
    def key(self) -> Key:
        return self.schedule.due, self.schedule.evpid


Item = tuple[int, int, Entry]      # when to look at it, a serial number, the entry


class Asked(NamedTuple):
    """A page of the database that is on its way."""

    reqid: int
    until: int
    deadline: int                  # when to give it up and ask again


class Lane:
    """The waiting envelopes of one agent."""

    def __init__(self, agent: Agent, room: int, inflight_max: int) -> None:
        self.agent = agent
        self.room = room           # entries it may have besides held ones, of which it may have half as many
        self.inflight_max = min(inflight_max, max(1, room // 2))
        self.size = 0              # entries it holds, in any state
        self.inflight = 0
        self.held = 0
        self._stuck = 0            # entries besides held ones that were left when something was forgotten last
        self.paused = False
        self.horizon = START
        self.asked: Asked | None = None
        self.ready: deque[Entry] = deque()
        self.pending: list[Item] = []
        self._serial = count()     # decides between items of the same time, oldest first

    def knows(self, key: Key) -> bool:
        """Whether an envelope with this key has to be kept when the queue tells of it."""
        if key <= self.horizon:
            return True
        # The page that is on its way may have been read before this envelope was written.
        return self.asked is not None and key[0] <= self.asked.until

    def wait_until(self, entry: Entry, when: int) -> None:
        """Look at a PENDING or HELD entry again at this time."""
        entry.until = when
        heappush(self.pending, (when, next(self._serial), entry))
        if len(self.pending) > 2 * self.size + 64:
            self.pending = [item for item in self.pending if _waits(item)]
            heapify(self.pending)

    def make_ready(self, entry: Entry) -> None:
        """The entry may go as soon as there is room."""
        entry.state = State.READY
        self.ready.append(entry)
        if len(self.ready) > 2 * self.size + 64:
            self.ready = deque(dict.fromkeys(e for e in self.ready if e.state is State.READY))

    def ripen(self, now: int) -> list[Entry]:
        """Take out the entries whose time has come."""
        ripe = []
        while self.pending and self.pending[0][0] <= now:
            item = heappop(self.pending)
            if _waits(item):
                ripe.append(item[2])
        return ripe

    def next_time(self) -> int | None:
        """When ripen() may have something."""
        while self.pending and not _waits(self.pending[0]):
            heappop(self.pending)
        return self.pending[0][0] if self.pending else None

    @property
    def full(self) -> bool:
        """Whether some of what waits has to be forgotten."""
        # What could not be forgotten last time is not looked at again for every new entry.
        return self.size - self.held > max(self.room, self._stuck + self.room // 8)

    def next_page(self) -> int | None:
        """When the next page is to be asked for: when the horizon has come near, or the last question was in vain.
        None while there is no room for one."""
        if self.asked is not None:
            return self.asked.deadline
        if 2 * (self.size - self.held) > self.room:
            return None
        return max(0, self.horizon[0] - WINDOW // 2)

    def excess(self, entries: list[Entry]) -> list[Entry]:
        """Of this lane's waiting entries, those due last, that have to be forgotten to be at three quarters of the
        room.  Puts the horizon before the first of them."""
        entries.sort(key=lambda entry: entry.key)
        keep = max(0, len(entries) - (self.size - self.held - 3 * self.room // 4))
        dropped = entries[keep:]
        self._stuck = self.size - self.held - len(dropped)
        if dropped:
            due, evpid = dropped[0].key
            self.horizon = min(self.horizon, (due, evpid - 1))
            self.asked = None      # its answer would move the horizon over what is dropped now
        return dropped

    def page_done(self, last: Schedule | None, more: bool) -> None:
        """A page came; the horizon moves behind what it covers."""
        assert self.asked is not None
        reached = (last.due, last.evpid) if more and last is not None else (self.asked.until, EVPID_MAX)
        self.horizon = max(self.horizon, reached)
        self.asked = None


def _waits(item: Item) -> bool:
    when, _, entry = item
    return (entry.state is State.PENDING or entry.state is State.HELD) and entry.until == when
