r"""The header with which a proxy says for whom it connects: PROXY protocol, versions 1 and 2, of HAProxy.

``feed`` is shown what the socket has, without taking it from there, and says how many octets of that are the header's:
whatever follows stays where TLS or the session will read it.
"""

import ipaddress
import struct

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V1_START = b"PROXY "
V1_MAX = 107                       # octets, with CRLF
FIXED = 16                         # octets of version 2 before its addresses
HEADER_MAX = 65535 - FIXED         # of addresses and TLVs: OpenSMTPD's bound
_KEPT = FIXED + 36                 # what is looked at: as much as IPv6 needs
_LOCAL, _PROXY = 0, 1
_INET_STREAM, _INET6_STREAM = 0x11, 0x21
_SIZES = {_INET_STREAM: 12, _INET6_STREAM: 36}


class ProxyError(ValueError):
    """It is no header, or not one that is taken; says why."""


class ProxyHeader:
    """One header as it comes."""

    __slots__ = ("_kept", "_seen", "_total", "_v1", "address", "done", "port")

    def __init__(self, *, v1: bool) -> None:
        """``v1``: that version is taken, too."""
        self.done = False
        self.address = ""          # of the client; empty: the proxy speaks for itself
        self.port = 0
        self._v1 = v1
        self._kept = b""
        self._seen = 0
        self._total = 0            # octets of a version 2 header, once known

    def feed(self, data: bytes) -> int:
        """How many of these octets, which follow those of before, belong to the header.  Raises ProxyError."""
        start = (self._kept + data[:V1_MAX])[:V1_MAX]
        if SIGNATURE.startswith(start[: len(SIGNATURE)]):
            return self._feed_v2(data)
        if self._v1 and V1_START.startswith(start[: len(V1_START)]):
            return self._feed_v1(data)
        raise ProxyError("protocol error (invalid signature)")

    def _feed_v1(self, data: bytes) -> int:
        text = self._kept + data[:V1_MAX]
        end = text.find(b"\r\n", 0, V1_MAX)
        if end < 0:
            if len(text) >= V1_MAX:
                raise ProxyError("protocol error (header too long)")
            self._kept = text
            return len(data)
        self._read_v1(text[:end])
        self.done = True
        return end + 2 - len(self._kept)

    def _read_v1(self, line: bytes) -> None:
        words = line.decode("latin-1").split(" ")
        if words[1] == "UNKNOWN":
            return
        if len(words) != 6 or words[1] not in ("TCP4", "TCP6"):
            raise ProxyError("protocol error (invalid header)")
        version = 4 if words[1] == "TCP4" else 6
        addresses = [_address(word) for word in words[2:4]]
        if any(one is None or one.version != version for one in addresses) or not all(map(_is_port, words[4:])):
            raise ProxyError("protocol error (invalid address)")
        assert addresses[0] is not None
        self.address, self.port = _text(addresses[0]), int(words[4])

    def _feed_v2(self, data: bytes) -> int:
        self._kept += data[: _KEPT - len(self._kept)]
        if not self._total and len(self._kept) >= FIXED:
            self._total = self._read_fixed()
        taken = min(len(data), (self._total or FIXED) - self._seen)
        if not self._total:
            taken = len(data)      # fewer than FIXED, all of them
        self._seen += taken
        if self._total and self._seen == self._total:
            self._read_v2()
            self.done = True
        return taken

    def _read_fixed(self) -> int:
        """How long the header is."""
        version_command, family, length = struct.unpack_from("!BBH", self._kept, len(SIGNATURE))
        if version_command >> 4 != 2:
            raise ProxyError("protocol error (invalid version)")
        command = version_command & 15
        if command not in (_LOCAL, _PROXY):
            raise ProxyError("protocol error (unknown command)")
        if length > HEADER_MAX:
            raise ProxyError("protocol error (header too long)")
        if command == _PROXY:
            if family == 0:
                raise ProxyError("address translation (UNSPEC family not supported for PROXYing)")
            if family not in _SIZES:
                raise ProxyError("protocol error (unsupported address family)")
            if length < _SIZES[family]:
                raise ProxyError("protocol error (address info too short)")
        return FIXED + int(length)

    def _read_v2(self) -> None:
        if self._kept[12] & 15 == _LOCAL:
            return
        octets, at = (4, 24) if self._kept[13] == _INET_STREAM else (16, 48)
        self.address = _text(ipaddress.ip_address(self._kept[FIXED : FIXED + octets]))
        self.port = int.from_bytes(self._kept[at : at + 2], "big")


Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _address(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text) if "%" not in text else None
    except ValueError:
        return None


def _text(address: Address) -> str:
    """As a socket would tell it; a proxy maps an IPv4 address to IPv6 where it was reached by the other family."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _is_port(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) <= 5 and str(int(word)) == word and int(word) < 65536
