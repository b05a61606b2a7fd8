"""How much one client may do: connections at once, connections in a time, failed logins in a time.

Counted by IPv4 address and by /24, which gets four times as much, and by IPv6 /64, which is one customer.  A rate of
``30/m`` is a bucket of 30 that fills up within a minute; of each client only one time is kept: when its bucket will be
full again (the generic cell rate algorithm).  Time is an argument, in seconds.
"""

from collections.abc import Iterator

from pysmtpd.base import reply
from pysmtpd.base.netaddr import parse_address
from pysmtpd.conf.config import ClientLimits, Rate

NETWORK_SHARE = 4                  # clients' worth, for the /24 of an IPv4 address
KEYS_MAX = 65536                   # clients and networks remembered of each kind

MAX_CONN_PER_CLIENT = "max-conn-per-client"
CONN_RATE = "conn-rate"
AUTH_FAIL = "auth-fail"
REFUSALS = {MAX_CONN_PER_CLIENT: reply.R421_CLIENT_CONNECTIONS, CONN_RATE: reply.R421_CLIENT_RATE}

_NETWORK_4 = 1 << 40               # marks that keep the keys of the kinds apart
_NETWORK_6 = 1 << 80


def keys(address: str) -> Iterator[tuple[int, int]]:
    """What an address counts for, and how many clients' worth each of it is.  None for what is no address."""
    found = parse_address(address)
    if found is None:
        return
    version, number = found
    if version == 4:
        yield number, 1
        yield _NETWORK_4 | number >> 8, NETWORK_SHARE
    else:
        yield _NETWORK_6 | number >> 64, 1


class Buckets:
    """One bucket for each key.  An absent one is full."""

    def __init__(self, rate: Rate) -> None:
        self._each = rate.seconds / rate.count
        self._whole = float(rate.seconds)
        self._full_at: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self._full_at)

    def has(self, key: int, share: int, now: float) -> bool:
        """Whether there is something in it, where ``share`` clients draw from it."""
        return max(self._full_at.get(key, now), now) + self._each / share <= now + self._whole

    def take(self, key: int, share: int, now: float) -> None:
        """Take one, which may be more than there is; then it takes no longer until there is one again."""
        full_at = max(self._full_at.pop(key, now), now) + self._each / share
        if len(self._full_at) >= KEYS_MAX:
            self._forget(now)
        self._full_at[key] = min(full_at, now + self._whole)

    def _forget(self, now: float) -> None:
        """Those that are full again, and if all are in use the one that was used longest ago."""
        self._full_at = {key: at for key, at in self._full_at.items() if at > now}
        if len(self._full_at) >= KEYS_MAX:
            del self._full_at[next(iter(self._full_at))]


class Clients:
    """What the clients of one process did."""

    def __init__(self, limits: ClientLimits) -> None:
        self._most = limits.max_conn_per_client
        self._open: dict[int, int] = {}
        self._connections = Buckets(limits.conn_rate) if limits.conn_rate.count else None
        self._failures = Buckets(limits.auth_fail) if limits.auth_fail.count else None

    def open(self, address: str, now: float) -> str:
        """A client connected: the limit that forbids it, or an empty string; then close() must follow."""
        counted = tuple(keys(address))
        if self._most and any(self._open.get(key, 0) >= self._most * share for key, share in counted):
            return MAX_CONN_PER_CLIENT
        if self._connections is not None:
            # A refused one costs nothing: who tries all the time gets what the rate allows, not less.
            if not all(self._connections.has(key, share, now) for key, share in counted):
                return CONN_RATE
            for key, share in counted:
                self._connections.take(key, share, now)
        if self._most:
            for key, _ in counted:
                self._open[key] = self._open.get(key, 0) + 1
        return ""

    def close(self, address: str) -> None:
        """A connection that was counted is over."""
        if self._most:
            for key, _ in keys(address):
                left = self._open.get(key, 0) - 1
                if left > 0:
                    self._open[key] = left
                else:
                    self._open.pop(key, None)

    @property
    def counts_failures(self) -> bool:
        """Whether failed logins are limited."""
        return self._failures is not None

    def failed(self, address: str, now: float) -> None:
        """Somebody there was not who they said."""
        if self._failures is not None:
            for key, share in keys(address):
                self._failures.take(key, share, now)

    def may_log_in(self, address: str, now: float) -> bool:
        """Whether it may try."""
        if self._failures is None:
            return True
        return all(self._failures.has(key, share, now) for key, share in keys(address))
