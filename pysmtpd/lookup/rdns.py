"""The name of a client: what its address is called, and whether that name leads back to it."""

from typing import NamedTuple, Protocol

from pysmtpd.lookup.facts import UNKNOWN
from pysmtpd.lookup.match import parse_address
from pysmtpd.lookup.records import Records, Status, is_hostname
from pysmtpd.messages import Fcrdns

NAMES_MAX = 4                      # of one address


class Reverse(Protocol):
    """What this needs of a resolver."""

    async def reverse(self, address: str) -> Records:
        """The names of an address."""

    async def addresses(self, name: str) -> Records:
        """The addresses of a name."""


class ClientName(NamedTuple):
    """hostname is <unknown> when there is none."""

    hostname: str
    fcrdns: Fcrdns


async def client_name(resolver: Reverse, address: str) -> ClientName:
    """The first name that is confirmed by a forward look-up, else the first name."""
    found = await resolver.reverse(address)
    names = [name for name in found.values if is_hostname(name)][:NAMES_MAX]
    if not names:
        error = found.status in (Status.TEMPFAIL, Status.INVALID)
        return ClientName(UNKNOWN, Fcrdns.ERROR if error else Fcrdns.FAIL)
    wanted = parse_address(address)
    verdict = Fcrdns.FAIL
    for name in names:
        forward = await resolver.addresses(name)
        if any(parse_address(value) == wanted for value in forward.values):
            return ClientName(name, Fcrdns.PASS)
        if forward.status is Status.TEMPFAIL:
            verdict = Fcrdns.ERROR
    return ClientName(names[0], verdict)
