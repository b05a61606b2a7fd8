"""Sources, hosts and the routes between them: how many connections there are, and which of them are known to fail.

These outlive relays: two relays that meet at one address share what is known of it.
"""

SWEEP_KEEP = 600.0                 # seconds an unused object is kept
PENALTY_BASE = 15                  # seconds
PENALTY_MAX = 3600
PTR_KEEP = 3600.0


class Usage:
    """Connections that use something."""

    __slots__ = ("lastconn", "nconn")

    def __init__(self) -> None:
        self.nconn = 0
        self.lastconn: float | None = None

    def unused(self, clock: float) -> bool:
        return self.nconn == 0 and (self.lastconn is None or clock - self.lastconn > SWEEP_KEEP)


class Host(Usage):
    """An address mail is sent to."""

    __slots__ = ("address", "ptr", "ptr_at")

    def __init__(self, address: str) -> None:
        super().__init__()
        self.address = address
        self.ptr: str | None = None     # its name, empty when it has none, None when not known
        self.ptr_at: float | None = None  # when it was asked for

    def __str__(self) -> str:
        text = f"[{self.address}]" if ":" in self.address else self.address
        return f"{text} ({self.ptr})" if self.ptr else text


class Route(Usage):
    """From a source to a port of a host: that one server there is down says nothing of the others."""

    __slots__ = ("disabled_until", "host", "id", "lastdisc", "penalty", "proven", "source")

    def __init__(self, source: str, host: Host, id: int = 0) -> None:
        super().__init__()
        self.id = id               # as smtpctl shows it
        self.source = source
        self.host = host
        self.penalty = 0
        self.disabled_until = 0.0
        self.lastdisc: float | None = None
        self.proven = False        # the last session on it was good: it came to be ready

    def __str__(self) -> str:
        return f"{self.source or '[]'} <-> {self.host}"

    def disable(self, clock: float) -> int:
        """A session failed.  For how many seconds nothing else is tried; 0 when that was so already."""
        self.proven = False
        if self.disabled_until > clock:
            return 0
        self.penalty += 1
        seconds = min(PENALTY_BASE * self.penalty * self.penalty, PENALTY_MAX)
        self.disabled_until = clock + seconds
        return seconds

    def enable(self) -> None:
        """The time is over: try again, and forgive a little."""
        self.disabled_until = 0.0
        self.penalty = max(self.penalty - 1, 0)

    def prove(self) -> None:
        self.proven = True
        self.penalty = 0
        self.disabled_until = 0.0

    def unused(self, clock: float) -> bool:
        return super().unused(clock) and self.penalty == 0


class Network:
    """All of them, by name."""

    def __init__(self) -> None:
        self.sources: dict[str, Usage] = {}
        self.domains: dict[str, Usage] = {}
        self.hosts: dict[str, Host] = {}
        self.routes: dict[tuple[str, str, int], Route] = {}
        self._last = 0             # id of a route

    def source(self, address: str) -> Usage:
        return self.sources.get(address) or self.sources.setdefault(address, Usage())

    def domain(self, name: str) -> Usage:
        return self.domains.get(name) or self.domains.setdefault(name, Usage())

    def host(self, address: str) -> Host:
        return self.hosts.get(address) or self.hosts.setdefault(address, Host(address))

    def route(self, source: str, address: str, port: int = 25) -> Route:
        key = source, address, port
        found = self.routes.get(key)
        if found is None:
            self._last += 1
            found = self.routes[key] = Route(source, self.host(address), self._last)
        return found

    def sweep(self, clock: float) -> None:
        """Forget what nobody used for long."""
        self.routes = {key: route for key, route in self.routes.items() if not route.unused(clock)}
        used = {route.host.address for route in self.routes.values()}
        self.hosts = {name: host for name, host in self.hosts.items() if name in used or not host.unused(clock)}
        self.sources = {name: source for name, source in self.sources.items() if not source.unused(clock)}
        self.domains = {name: domain for name, domain in self.domains.items() if not domain.unused(clock)}
