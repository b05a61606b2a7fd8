"""IPv4 and IPv6 addresses and networks, in the spellings that tables and sessions use."""

import ipaddress
from functools import lru_cache

Network = tuple[int, int, int]     # version, prefix length, the prefix as a number


@lru_cache(4096)
def parse_address(text: str) -> tuple[int, int] | None:
    """Version and number of an address: ``192.0.2.1``, ``2001:db8::1``, ``[2001:db8::1]``, with or without
    ``IPv6:`` before and ``%scope`` after it.  None when it is no address."""
    try:
        address = ipaddress.ip_address(_bare(text))
    except ValueError:
        return None
    return address.version, int(address)


def _bare(text: str) -> str:
    """An address without brackets, prefix and scope."""
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    if text[:5].lower() == "ipv6:":
        text = text[5:]
    return text.partition("%")[0]


def parse_network(text: str) -> Network | None:
    """A network or one address.  IPv4 may be cut short (``10``, ``192.168.1``), and then has the length of its
    class unless one is given; the mask of an IPv6 network stands inside or after its brackets."""
    base, slash, mask = text.rpartition("/") if "/" in text else (text, "", "")
    if base.startswith("[") and mask.endswith("]"):
        base, mask = base[1:], mask[:-1]
    if slash and not (mask.isascii() and mask.isdigit() and len(mask) <= 3):
        return None
    address = parse_address(base)
    if address is None:
        return _short_network(base, int(mask) if slash else None)
    version, number = address
    bits = 32 if version == 4 else 128
    length = int(mask) if slash else bits
    return (version, length, number >> (bits - length)) if length <= bits else None


def _short_network(text: str, length: int | None) -> Network | None:
    octets = text.split(".")
    if len(octets) > 4 or not all(part.isascii() and part.isdigit() and int(part) < 256 for part in octets):
        return None
    if length is None:
        first = int(octets[0])
        length = max(8 if first < 128 or first >= 224 else 16 if first < 192 else 24, 8 * len(octets))
    number = int.from_bytes(bytes(int(part) for part in octets).ljust(4, b"\0"), "big")
    return (4, length, number >> (32 - length)) if length <= 32 else None
