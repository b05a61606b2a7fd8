"""Where the next connection of a relay goes: a pure function of what is known.

Within one attempt each address is tried once, whatever its penalty, before any is tried again: the last exchanger of a
domain has its turn even when the first ones take long to fail.
"""

from collections.abc import Iterator
from itertools import groupby
from math import inf
from typing import NamedTuple

from pysmtpd.conf.config import MtaLimits
from pysmtpd.messages import Host as HostAnswer
from pysmtpd.relay import limits
from pysmtpd.relay.limits import wait
from pysmtpd.relay.relay import Candidate, Failure, Relay
from pysmtpd.relay.route import Network, Route

PATIENCE = 30.0                    # seconds waited for a disabled route rather than failing
TIMEOUT_MAX = 30.0                 # seconds for one connection to be made
TIMEOUT_MIN = 5.0
BUDGET = 300.0                     # seconds to try all hosts of a relay


class Connect(NamedTuple):
    """To this host, now."""

    candidate: Candidate
    route: Route


class Blocked(NamedTuple):
    """Not now: at this time, or (infinity) when some connection has ended."""

    until: float


class Exhausted(NamedTuple):
    """There is nothing left to try."""

    reason: str
    esc: str


def candidates(answer: list[HostAnswer], key_backup: str | None, family: str) -> list[Candidate]:
    """The hosts of a look-up that may be used at all, by ascending preference.

    A backup uses only those that are preferred to itself."""
    hosts = [Candidate(host.preference, host.name, host.address) for host in answer]
    if key_backup is not None:
        own = [host.preference for host in hosts if host.name.lower().rstrip(".") == key_backup]
        hosts = [host for host in hosts if not own or host.preference < min(own)]
    if family:
        hosts = [host for host in hosts if (":" in host.address) is (family == "inet6")]
    return sorted(hosts, key=lambda host: host.preference)


def choose(relay: Relay, network: Network, clock: float) -> Connect | Blocked | Exhausted:
    """``relay.hosts`` and ``relay.source`` are known."""
    assert relay.hosts is not None and relay.source is not None
    until = _gate(relay, network, clock)
    if until:
        return Blocked(until)
    disabled = inf
    for level in _levels(relay.hosts, relay.source):
        best, waiting = None, inf
        busy = False
        for candidate in level:
            if candidate.address in relay.failed:
                continue
            route = network.route(relay.source, candidate.address, relay.key.port)
            if route.disabled_until > clock:
                disabled = min(disabled, route.disabled_until)
                continue
            until = _wait_route(route, relay.limits, clock)
            if until:
                busy, waiting = True, min(waiting, until)
            elif best is None or route.nconn < best.route.nconn:
                best = Connect(candidate, route)
        if best is not None:
            return best
        if busy:
            return Blocked(waiting)
    if disabled - clock <= PATIENCE:
        return Blocked(disabled)
    if relay.sessions:
        return Blocked(inf)
    return _exhausted(relay, disabled < inf)


def reaches(relay: Relay) -> bool:
    """Whether the source has any host of its own family."""
    return any(_levels(relay.hosts or [], relay.source or ""))


def connect_timeout(relay: Relay) -> float:
    """Seconds for the next host to accept: all that are left share the budget."""
    left = len([host for host in relay.hosts or () if host.address not in relay.failed])
    return max(TIMEOUT_MIN, min(TIMEOUT_MAX, BUDGET / max(left, 1)))


def _gate(relay: Relay, network: Network, clock: float) -> float:
    """What stands before any connection of this relay."""
    assert relay.source is not None
    limit = relay.limits
    # A relay that walks from one failing host to the next hammers none of them.
    proven = relay.proven or bool(relay.failed)
    return max(
        wait(relay.domain, limit.max_conn_per_domain, limit.conn_delay_domain, clock),
        wait(network.source(relay.source), limit.max_conn_per_source, limit.conn_delay_source, clock),
        wait(relay.connector(relay.source), limit.max_conn_per_connector, limit.conn_delay_connector, clock),
        wait(relay.usage, limit.max_conn_per_relay, limits.delay_relay(limit, proven), clock),
    )


def _wait_route(route: Route, limit: MtaLimits, clock: float) -> float:
    if not route.proven and route.nconn:
        # Nobody knows yet whether it answers: one connection finds out.
        return inf
    until = max(
        wait(route.host, limit.max_conn_per_host, limit.conn_delay_host, clock),
        wait(route, limit.max_conn_per_route, limits.delay_route(limit, route.proven), clock),
    )
    if route.lastdisc is not None:
        again = route.lastdisc + limits.delay_reconnect(limit, route.proven)
        until = max(until, again if again > clock else 0.0)
    return until


def _levels(hosts: list[Candidate], source: str) -> Iterator[list[Candidate]]:
    """Hosts that the source can reach, in groups of equal preference."""
    usable = [host for host in hosts if not source or (":" in host.address) is (":" in source)]
    for _, level in groupby(usable, key=lambda host: host.preference):
        yield list(level)


def _exhausted(relay: Relay, disabled: bool) -> Exhausted:
    failures = list(relay.failed.values())
    rejected = [failure for failure in failures if not failure.network]
    if rejected:
        return _of(rejected[-1], "Destination seem to reject all mails", "4.3.0")
    if failures:
        return _of(failures[-1], "Network error on destination MXs", "4.4.1")
    if not relay.hosts:
        return Exhausted("No MX found for destination", "4.4.4")
    if disabled:
        return Exhausted("No valid route to destination", "4.4.1")
    return Exhausted("Address family mismatch on destination MXs", "4.4.4")


def _of(failure: Failure, text: str, esc: str) -> Exhausted:
    return Exhausted(f"{text}: {failure.reason}", f"4{failure.esc[1:]}" if failure.esc else esc)
