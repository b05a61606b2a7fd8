"""Hold queues: envelopes whose agent has enough of the same for now.  Oldest first out."""

from collections import OrderedDict

from pysmtpd.base.envelope import Agent
from pysmtpd.sched.lane import Entry

HOLDQ_MAX = 1000                   # envelopes in one hold queue

Name = tuple[Agent, int]


class HoldQueues:
    """All hold queues, by agent and the agent's number for it."""

    def __init__(self) -> None:
        self._queues: dict[Name, OrderedDict[int, Entry]] = {}

    def __len__(self) -> int:
        return len(self._queues)

    def add(self, entry: Entry, holdq: int) -> bool:
        """False when that hold queue is full."""
        queue = self._queues.setdefault((entry.lane.agent, holdq), OrderedDict())
        if len(queue) >= HOLDQ_MAX:
            return False
        queue[entry.schedule.evpid] = entry
        entry.holdq = holdq
        return True

    def discard(self, entry: Entry) -> None:
        """The entry waits no longer."""
        name = (entry.lane.agent, entry.holdq)
        queue = self._queues[name]
        del queue[entry.schedule.evpid]
        if not queue:
            del self._queues[name]

    def first(self, holdq: int, count: int) -> list[Entry]:
        """The ``count`` oldest entries, or all when it is not positive; they stay until discarded."""
        found: list[Entry] = []
        for agent in (Agent.MDA, Agent.MTA, Agent.BOUNCE):
            queue = self._queues.get((agent, holdq))
            if queue is not None:
                found += queue.values()
        return found[:count] if count > 0 else found
