"""What is known of the domains that mail was sent to: how it last went, and what waits for them to be back.

An envelope for which no host could be reached waits for its next attempt, perhaps for hours.  As soon as any mail for
the same domain goes through, those that wait are due at once: at most ``mta max-deferred`` of them, so that a
domain which comes back is not run over.  All of it may be forgotten.
"""

from typing import NamedTuple

KEEP = 4 * 3600                    # seconds since the last news
DOMAINS_MAX = 10_000


class HostStat(NamedTuple):
    """One domain."""

    text: str                      # of the last result
    at: int                        # seconds since the epoch
    deferred: dict[int, None]      # evpids, in the order in which they came


class HostStats:
    """All domains, those without news for longest first."""

    def __init__(self, max_deferred: int) -> None:
        self._max_deferred = max_deferred
        self._all: dict[str, HostStat] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __getitem__(self, domain: str) -> HostStat:
        return self._all[domain.lower()]

    def items(self) -> list[tuple[str, HostStat]]:
        """By name."""
        return sorted(self._all.items())

    def failed(self, domain: str, evpid: int, text: str, now: int, *, unreachable: bool = False) -> None:
        """unreachable: there was no host to speak with."""
        deferred = self._told(domain, text, now)
        if unreachable and (len(deferred) < self._max_deferred or evpid in deferred):
            deferred[evpid] = None
        elif not unreachable:
            deferred.pop(evpid, None)

    def delivered(self, domain: str, evpid: int, text: str, now: int) -> list[int]:
        """It is there: what should be tried now."""
        known = self._all.get(domain)
        if known is not None and known.at == now and not known.deferred and known.text[:3] == text[:3]:
            return []              # nothing new within this second
        deferred = self._told(domain, text, now)
        if not deferred:
            return []
        found = [one for one in deferred if one != evpid]
        deferred.clear()
        return found

    def _told(self, domain: str, text: str, now: int) -> dict[int, None]:
        domain = domain.lower()
        before = self._all.pop(domain, None)
        deferred = before.deferred if before is not None else {}
        self._all[domain] = HostStat(text, now, deferred)
        if before is None:
            self._forget(now)
        return deferred

    def _forget(self, now: int) -> None:
        while self._all:
            oldest = next(iter(self._all))
            if len(self._all) <= DOMAINS_MAX and self._all[oldest].at + KEEP > now:
                return
            del self._all[oldest]
