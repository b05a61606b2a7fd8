"""Names of clients that come again and again: believed for a moment, so that lka need not be asked."""

from collections.abc import Callable

from pysmtpd.messages import NameLookedUp

NAMES_MAX = 1000                   # remembered
NAME_KEEP = 5.0                    # seconds; lka knows how long DNS lets it


class Names:
    """What lka said of addresses, and until when that is believed."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._known: dict[str, tuple[float, NameLookedUp]] = {}

    def get(self, address: str) -> NameLookedUp | None:
        """What was said a moment ago."""
        known = self._known.get(address)
        return known[1] if known is not None and known[0] > self._clock() else None

    def remember(self, address: str, said: NameLookedUp) -> None:
        """lka said it now."""
        if len(self._known) >= NAMES_MAX:
            self._known.clear()
        self._known[address] = (self._clock() + NAME_KEEP, said)

    def clear(self) -> None:
        self._known.clear()
