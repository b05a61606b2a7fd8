"""What of a client is borne until it is slowed down, and then left: errors, refused recipients, and commands that bring
no message on.  A message that was accepted makes up for all of it.

The first fifth of each limit costs nothing; beyond it each further one costs time.
"""

from typing import NamedTuple

_FREE = 5                          # one part of so many costs nothing


class Bounds(NamedTuple):
    """Of one session, between two messages; of refused recipients 0 is no limit."""

    errors: int = 100
    refused: int = 0               # recipients
    commands: int = 1000           # other than those that say recipients and mail data
    delay: int = 1                 # seconds


class Patience:
    """What was counted of one session."""

    __slots__ = ("_bounds", "commands", "errors", "refused")

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self.renew()

    def renew(self) -> None:
        """A message was accepted, or it is another client now."""
        self.errors = self.refused = self.commands = 0

    def error(self) -> bool:
        """One more; whether it has consequences."""
        self.errors += 1
        return self.errors > self._bounds.errors // _FREE or self.errors >= self._bounds.errors

    def refusal(self) -> bool:
        """One more recipient was refused."""
        self.refused += 1
        most = self._bounds.refused
        return most > 0 and (self.refused > most // _FREE or self.refused >= most)

    def command(self) -> bool:
        """One more that brings no message on."""
        self.commands += 1
        return self.commands > self._bounds.commands // _FREE or self.commands >= self._bounds.commands

    @property
    def lost(self) -> bool:
        """Whether the session has to end."""
        bounds = self._bounds
        return (self.errors >= bounds.errors or self.commands >= bounds.commands
                or 0 < bounds.refused <= self.refused)

    @property
    def delay(self) -> float:
        """Seconds that each costs."""
        return float(self._bounds.delay)
