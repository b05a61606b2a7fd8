"""Which keys stand for what is looked up, in which order: the same for every back end.

Tables in memory find their entry by an index (lookup.match); a back end that only knows exact keys is asked for these
one after the other, with the same result.  Keys are in lower case.
"""

import ipaddress
from collections.abc import Iterator

from pysmtpd.base import idn
from pysmtpd.lookup.match import parse_address, tagged
from pysmtpd.lookup.service import Service


def keys_for(service: Service, key: str, delimiter: str) -> list[str]:
    """The keys of all entries that would match, the most specific first."""
    if service is Service.DOMAIN:
        return list(_hosts(key))
    if service is Service.MAILADDR:
        return list(_addresses(key, delimiter))
    if service is Service.NETADDR:
        return list(_networks(key))
    return [key]


def forms(domain: str) -> tuple[str, ...]:
    """A domain or pattern in A-form, and in U-form if it has another: a back end may know it by either."""
    if "xn--" not in domain:
        return (domain,)
    other = idn.to_unicode(domain)
    return (domain,) if other == domain else (domain, other)


def _hosts(name: str) -> Iterator[str]:
    for pattern in _patterns(name):
        yield from forms(pattern)


def _patterns(name: str) -> Iterator[str]:
    if not name:
        return
    yield name
    at = name.find(".", 1)
    while at != -1:
        if at + 1 < len(name):
            yield "*" + name[at:]
        at = name.find(".", at + 1)
    yield "*"


def _addresses(address: str, delimiter: str) -> Iterator[str]:
    """``user+tag@dom``, ``user@dom``, ``user+tag``, ``user``, ``@dom``; the null reverse-path is ``@``."""
    user, _, domain = address.rpartition("@")
    if address == "@":
        yield "@"
        return
    names = tagged(user, delimiter)
    for name in names:
        for host in _hosts(domain):
            yield f"{name}@{host}"
    yield from names
    for host in _hosts(domain):
        yield f"@{host}"


def _networks(key: str) -> Iterator[str]:
    yield key
    known = parse_address(key)
    if known is None:
        return
    version, number = known
    plain = str(ipaddress.IPv4Address(number) if version == 4 else ipaddress.IPv6Address(number))
    if plain != key:
        yield plain
    bits = 32 if version == 4 else 128
    for length in range(bits, -1, -1):
        prefix = number >> (bits - length) << (bits - length)
        base = ipaddress.IPv4Address(prefix) if version == 4 else ipaddress.IPv6Address(prefix)
        yield f"{base}/{length}"
