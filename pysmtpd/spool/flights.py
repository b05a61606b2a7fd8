"""Which envelopes are being worked on, and by whom.  None of it is on disk: after a start nothing is in flight."""

from collections.abc import Hashable

from pysmtpd.spool.backend import Stored

Agent = Hashable


class Flight:
    """One envelope between SchedDispatch and its end, or SchedRetry."""

    __slots__ = ("agent", "carried", "esc", "remote", "stored", "text")

    def __init__(self, stored: Stored, agent: Agent, carried: int) -> None:
        self.stored = stored
        self.carried = carried     # octets of body that came along
        self.agent: Agent | None = agent  # None: it came back with a temporary failure
        self.esc = ""
        self.text = ""
        self.remote = ""


class Flights:
    """All of them."""

    def __init__(self) -> None:
        self._flights: dict[int, Flight] = {}
        self._messages: dict[tuple[Agent, int], int] = {}
        self._carried: dict[Agent, int] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def __contains__(self, evpid: int) -> bool:
        return evpid in self._flights

    def get(self, evpid: int) -> Flight | None:
        return self._flights.get(evpid)

    def carried(self, agent: Agent) -> int:
        """Octets of bodies that an agent was given with their envelopes, and may still hold."""
        return self._carried.get(agent, 0)

    def begin(self, stored: Stored, agent: Agent, carried: int = 0) -> None:
        """carried: octets of body that come along."""
        evpid = stored.envelope.evpid
        self._flights[evpid] = Flight(stored, agent, carried)
        if carried:
            self._carried[agent] = self._carried.get(agent, 0) + carried
        key = agent, evpid >> 32
        self._messages[key] = self._messages.get(key, 0) + 1

    def land(self, evpid: int, agent: Agent) -> Flight | None:
        """An agent reports; None when it was not given this envelope, or was given the news of its end before."""
        flight = self._flights.get(evpid)
        if flight is None or flight.agent is not agent:
            return None
        self._forget(flight, agent)
        flight.agent = None
        return flight

    def end(self, evpid: int) -> Flight | None:
        """Nothing is being done with it any more."""
        flight = self._flights.pop(evpid, None)
        if flight is not None and flight.agent is not None:
            self._forget(flight, flight.agent)
        return flight

    def may_read(self, agent: Agent, msgid: int) -> bool:
        """Whether an agent has an envelope of this message: the bodies of others are none of its business."""
        return (agent, msgid) in self._messages

    def _forget(self, flight: Flight, agent: Agent) -> None:
        if flight.carried:
            self._carried[agent] -= flight.carried
        key = agent, flight.stored.envelope.evpid >> 32
        count = self._messages[key] - 1
        if count:
            self._messages[key] = count
        else:
            del self._messages[key]
