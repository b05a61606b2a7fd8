"""The names of clients, kept for a while: who connects again is not looked up again."""

import asyncio
from collections.abc import Callable

from pysmtpd.lookup.facts import UNKNOWN
from pysmtpd.lookup.hosts import HostsFile
from pysmtpd.lookup.rdns import ClientName, Reverse, client_name
from pysmtpd.messages import Fcrdns

TIMEOUT = 20.0                     # seconds for one name, all look-ups together
KEPT = 30.0                        # seconds a name serves again without asking anybody
NAMES_MAX = 10_000
NO_NAME = ClientName(UNKNOWN, Fcrdns.ERROR)


class ClientNames:
    """By address.  clock: seconds, monotonic."""

    def __init__(self, hosts: HostsFile, clock: Callable[[], float]) -> None:
        self._hosts = hosts
        self._clock = clock
        self._version = -1
        self._names: dict[str, tuple[float, ClientName]] = {}

    def __len__(self) -> int:
        return len(self._names)

    def known(self, address: str) -> ClientName | None:
        """A name that is not too old.  All are forgotten when /etc/hosts has changed."""
        self._hosts.hosts()
        if self._hosts.version != self._version:
            self._names.clear()
            self._version = self._hosts.version
        kept = self._names.get(address)
        return kept[1] if kept is not None and kept[0] > self._clock() else None

    async def ask(self, resolver: Reverse, address: str) -> ClientName:
        """Look it up, and keep what was found.  An address may have a scope."""
        try:
            async with asyncio.timeout(TIMEOUT):
                name = await client_name(resolver, address.partition("%")[0])
        except TimeoutError:
            name = NO_NAME
        if name.fcrdns is not Fcrdns.ERROR:
            if len(self._names) >= NAMES_MAX:
                del self._names[next(iter(self._names))]
            self._names[address] = (self._clock() + KEPT, name)
        return name
