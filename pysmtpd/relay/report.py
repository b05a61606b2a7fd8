"""What mta knows, as smtpctl shows it: hosts, routes, relays and the last results of domains, in OpenSMTPD's lines.

What is not counted here has the number that means the same: the references of a host are its routes, those of a relay
its tasks, sessions and questions."""

from collections import Counter
from collections.abc import Callable, Iterator
from math import ceil
from typing import NamedTuple

from pysmtpd.base.logline import duration
from pysmtpd.base.text import vis
from pysmtpd.relay.hoststat import HostStats
from pysmtpd.relay.relay import Relay
from pysmtpd.relay.route import Network, Route, Usage

PAGE = 12 * 1024                   # octets of lines in one answer
_WAITS = {"hosts": "MX", "credentials": "secret", "source": "source"}


class Known(NamedTuple):
    """What is shown.  clock: that of the connections."""

    relays: list[Relay]
    network: Network
    hosts: HostStats
    clock: float


def page(known: Known, what: str, after: int) -> tuple[bytes, bool]:
    """Whole lines behind this many, and whether these are the last.  Raises KeyError for what cannot be shown."""
    made: list[bytes] = []
    size = 0
    for number, line in enumerate(SHOWN[what](known)):
        if number >= after:
            text = f"{line}\n".encode()
            if made and size + len(text) > PAGE:
                return b"".join(made), False
            made.append(text)
            size += len(text)
    return b"".join(made), True


def _hosts(known: Known) -> Iterator[str]:
    routes = Counter(route.host.address for route in known.network.routes.values())
    for address, host in sorted(known.network.hosts.items()):
        yield (f"{address} {host.ptr or '(null)'} refcount={routes[address]} "
               f"nconn={host.nconn} lastconn={_since(host, known.clock)}")


def _routes(known: Known) -> Iterator[str]:
    for route in sorted(known.network.routes.values(), key=lambda route: route.id):
        left = route.disabled_until - known.clock
        yield (f"{route.id}. {route} {_flags(route, left)} nconn={route.nconn} nerror=0 penalty={route.penalty} "
               f"timeout={duration(ceil(left)) if left > 0 else '-'}")


def _flags(route: Route, left: float) -> str:
    """New, disabled, with a timeout, kept alive; the last never: what is idle belongs to its relay."""
    return f"{'-' if route.proven or route.lastconn is None else 'N'}{'D' if left > 0 else '-'}" \
           f"{'Q' if left > 0 else '-'}-"


def _relays(known: Known) -> Iterator[str]:
    for relay in known.relays:
        waits = [_WAITS.get(one, one) for one in sorted(relay.asking)]
        count = len(relay.tasks) + len(relay.sessions) + len(relay.asking)
        yield (f"{relay} refcount={count} ntask={len(relay.tasks)} nconn={len(relay.sessions)} "
               f"lastconn={_since(relay.usage, known.clock)} timeout=- "
               f"wait={','.join(waits)}{'ONHOLD' if relay.holding else ''}")
        for source, usage in relay.connectors.items():
            yield (f"  connector {source or '[]'} refcount={usage.nconn} nconn={usage.nconn} "
                   f"lastconn={_since(usage, known.clock)} timeout=- flags=")


def _hoststats(known: Known) -> Iterator[str]:
    for domain, stat in known.hosts.items():
        yield f"{domain}|{stat.at}|{vis(stat.text.encode())}"


def _since(usage: Usage, clock: float) -> str:
    return "-" if usage.lastconn is None else duration(int(clock - usage.lastconn))


SHOWN: dict[str, Callable[[Known], Iterator[str]]] = {
    "hosts": _hosts, "hoststats": _hoststats, "relays": _relays, "routes": _routes,
}
