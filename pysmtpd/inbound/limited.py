"""Clients that are limited, unless a table has them as exempt."""

from collections.abc import Callable
from functools import partial

from pysmtpd.conf.config import ClientLimits
from pysmtpd.inbound.lookups import Lookups
from pysmtpd.messages import Found
from pysmtpd.session.client_limits import Clients


class Limited:
    """The limits that are configured, if any, and what counts against them."""

    def __init__(self, limits: ClientLimits, lookups: Lookups, clock: Callable[[], float]) -> None:
        """``clock`` tells seconds that never go back."""
        self._exempt = limits.exempt
        self._lookups = lookups
        self._clock = clock
        some = limits.max_conn_per_client or limits.conn_rate.count or limits.auth_fail.count
        self._clients = Clients(limits) if some else None

    @property
    def any(self) -> bool:
        """Whether there are such limits."""
        return self._clients is not None

    def admit(self, address: str, then: Callable[[str, bool], None]) -> None:
        """Ask whether one more connection is too many, now or later: ``then`` is told the limit that forbids it, or an
        empty string, and whether the connection counts; of such, closed() has to tell the end."""
        limit = self._clients.open(address, self._clock()) if self._clients is not None else ""
        if not limit:
            then("", self.any)
        elif not self._exempt or self._lookups.full:
            then(limit, False)
        else:
            self._lookups.ask(self._exempt, address, lambda found: then("" if found is Found.YES else limit, False))

    def closed(self, address: str) -> None:
        """A connection that counted is over."""
        if self._clients is not None:
            self._clients.close(address)

    def auth_failed(self, address: str) -> None:
        """Somebody at this address was not who they said."""
        if self._clients is None or not self._clients.counts_failures:
            return
        if self._exempt and not self._lookups.full:
            self._lookups.ask(self._exempt, address, partial(self._failure_counts, address))
        else:
            self._failure_counts(address, Found.NO)

    def _failure_counts(self, address: str, exempt: Found) -> None:
        if self._clients is not None and exempt is not Found.YES:
            self._clients.failed(address, self._clock())

    def may_log_in(self, address: str) -> bool:
        """Whether it may try to."""
        return self._clients is None or self._clients.may_log_in(address, self._clock())
