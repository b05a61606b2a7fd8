"""The hosts of a domain: its mail exchangers (RFC 5321 5.1, RFC 7505), or itself.

Whether mail is refused for good depends on this, so only two answers are final: the domain does not exist, and the
domain says that it takes no mail.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from pysmtpd.lookup.records import Dns, Records, Status, address_of
from pysmtpd.messages import Host, HostList

EXCHANGES_MAX = 32                 # names of one domain whose addresses are looked up
HOSTS_MAX = 128

Shuffle = Callable[[list[Any]], None]


class Resolved(NamedTuple):
    """Hosts by ascending preference, or why there are none."""

    status: HostList
    hosts: list[Host]
    text: str = ""
    esc: str = ""


NO_SUCH_DOMAIN = Resolved(HostList.PERMFAIL, [], "Domain does not exist", "5.1.2")
NO_MAIL = Resolved(HostList.PERMFAIL, [], "Domain does not accept mail", "5.1.10")
INVALID_NAME = Resolved(HostList.PERMFAIL, [], "Invalid domain name", "5.1.2")
MX_FAILED = Resolved(HostList.TEMPFAIL, [], "Temporary failure in MX lookup", "4.4.3")
HOST_FAILED = Resolved(HostList.TEMPFAIL, [], "Temporary failure in host lookup", "4.4.3")
NO_MX = Resolved(HostList.TEMPFAIL, [], "No MX found for domain", "4.4.4")
NO_HOST = Resolved(HostList.TEMPFAIL, [], "Host not found", "4.4.4")


async def resolve_domain(dns: Dns, domain: str, shuffle: Shuffle) -> Resolved:
    """Where mail for a domain goes; shuffle puts a list into random order."""
    literal = address_of(domain) if domain.startswith("[") else None
    if literal is not None:
        return Resolved(HostList.OK, [Host(0, domain, literal)])
    answer = await dns.query(domain, "MX")
    if answer.status is Status.NXDOMAIN:
        return NO_SUCH_DOMAIN
    if answer.status is Status.INVALID:
        return INVALID_NAME
    if answer.status is Status.TEMPFAIL:
        return MX_FAILED
    if answer.status is Status.NODATA:
        return await _implicit(dns, domain, shuffle)
    exchanges = [exchange for exchange in answer.exchanges if exchange[1].lower() not in ("", "localhost")]
    if answer.exchanges and not exchanges:
        return NO_MAIL
    return await _all(dns, exchanges, shuffle)


async def resolve_host(dns: Dns, name: str, shuffle: Shuffle) -> Resolved:
    """The addresses of a host that was named itself, such as a smarthost."""
    literal = address_of(name)
    if literal is not None:
        return Resolved(HostList.OK, [Host(0, name, literal)])
    answer = await dns.addresses(name)
    if answer.status is Status.TEMPFAIL:
        return HOST_FAILED
    if answer.status is Status.INVALID:
        return INVALID_NAME
    if not answer.values:
        return NO_HOST
    return Resolved(HostList.OK, _hosts([(0, name)], [answer], shuffle))


async def _implicit(dns: Dns, domain: str, shuffle: Shuffle) -> Resolved:
    """A domain without MX is its own exchanger."""
    answer = await dns.addresses(domain)
    if answer.status is Status.TEMPFAIL:
        return MX_FAILED
    return Resolved(HostList.OK, _hosts([(0, domain)], [answer], shuffle)) if answer.values else NO_MX


async def _all(dns: Dns, exchanges: list[tuple[int, str]], shuffle: Shuffle) -> Resolved:
    """The addresses of all exchangers; those without any are left out."""
    shuffle(exchanges)
    exchanges.sort(key=lambda exchange: exchange[0])
    exchanges = exchanges[:EXCHANGES_MAX]
    answers = await asyncio.gather(*(dns.addresses(name) for _, name in exchanges))
    hosts = _hosts(exchanges, answers, shuffle)
    if hosts:
        return Resolved(HostList.OK, hosts)
    return MX_FAILED if any(answer.status is Status.TEMPFAIL for answer in answers) else NO_MX


def _hosts(exchanges: Iterable[tuple[int, str]], answers: Iterable[Records], shuffle: Shuffle) -> list[Host]:
    """In the order of the exchangers; the addresses of each in random order, none twice."""
    hosts: list[Host] = []
    seen: set[str] = set()
    for (preference, name), answer in zip(exchanges, answers, strict=True):
        addresses = list(answer.values)
        shuffle(addresses)
        for address in addresses:
            if address not in seen:
                seen.add(address)
                hosts.append(Host(preference, name, address))
    return hosts[:HOSTS_MAX]
