"""What the DNS said, in our words: no more than relaying needs, and nothing of a stranger's unchecked."""

import enum
import re
from typing import NamedTuple, Protocol

from pysmtpd.lookup.match import parse_address

HOSTNAME_MAX = 253                 # octets

_HOSTNAME = re.compile(r"(?!.{254})[a-z0-9_](?:[a-z0-9_-]{0,62})(?:\.[a-z0-9_][a-z0-9_-]{0,62})*", re.IGNORECASE)


class Status(enum.Enum):
    """How a query ended."""

    FOUND = "found"
    NODATA = "no data"             # the name exists, but not with this type
    NXDOMAIN = "does not exist"
    TEMPFAIL = "temporary failure"
    INVALID = "invalid name"       # cannot even be asked


class Records(NamedTuple):
    """The answer to one query.

    values: addresses for A and AAAA; names for PTR; ``(preference, name)`` for MX, where "" is the root.
    text: for TEMPFAIL, why.
    """

    status: Status
    values: tuple[str, ...] = ()
    exchanges: tuple[tuple[int, str], ...] = ()
    text: str = ""


class Dns(Protocol):
    """Whoever answers queries."""

    async def query(self, name: str, kind: str) -> Records:
        """Records of a kind (A, AAAA, MX, PTR) for an absolute name.  Does not raise for any answer."""

    async def addresses(self, name: str) -> Records:
        """IPv4 and IPv6 addresses of a host, /etc/hosts first; FOUND if there is any."""


def is_hostname(name: str) -> bool:
    """Whether a name from the DNS may be used and shown as the name of a host."""
    return _HOSTNAME.fullmatch(name) is not None


def address_of(name: str) -> str | None:
    """The address a name is, when it is one: as such, or as a literal (``[192.0.2.1]``, ``[IPv6:2001:db8::1]``)."""
    if parse_address(name) is None:
        return None
    if name.startswith("["):
        name = name[1:-1]
    return name[5:] if name[:5].lower() == "ipv6:" else name
