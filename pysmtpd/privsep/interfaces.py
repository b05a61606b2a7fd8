"""The addresses of this machine, as getifaddrs(3) knows them."""

import ctypes
import socket
import sys
from collections.abc import Iterator


class _SockAddr(ctypes.Structure):
    """The beginning of every struct sockaddr."""

    if sys.platform == "linux":
        _fields_ = [("family", ctypes.c_ushort)]
    else:
        _fields_ = [("length", ctypes.c_ubyte), ("family", ctypes.c_ubyte)]


class _IfAddrs(ctypes.Structure):
    """struct ifaddrs of getifaddrs(3), as far as it is looked at."""


_IfAddrs._fields_ = [
    ("next", ctypes.POINTER(_IfAddrs)),
    ("name", ctypes.c_char_p),
    ("flags", ctypes.c_uint),
    ("address", ctypes.POINTER(_SockAddr)),
    ("netmask", ctypes.c_void_p),
    ("destination", ctypes.c_void_p),
    ("data", ctypes.c_void_p),
]


def getifaddrs() -> list[tuple[str, str]]:
    """Interface and address, for each address of this machine.  Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    first = ctypes.POINTER(_IfAddrs)()
    if libc.getifaddrs(ctypes.byref(first)) != 0:
        raise OSError(ctypes.get_errno(), "getifaddrs")
    try:
        return list(_walk(first))
    finally:
        libc.freeifaddrs(first)


def _walk(entry: "ctypes._Pointer[_IfAddrs]") -> Iterator[tuple[str, str]]:
    while entry:
        name = entry.contents.name.decode("ascii", "replace")
        address = entry.contents.address
        if address:
            text = _text(address, name)
            if text:
                yield name, text
        entry = entry.contents.next


def _text(address: "ctypes._Pointer[_SockAddr]", interface: str) -> str:
    """An address of the Internet as text: in struct sockaddr_in after the port, in sockaddr_in6 after port and flow."""
    family = address.contents.family
    if family == socket.AF_INET:
        return socket.inet_ntop(socket.AF_INET, ctypes.string_at(ctypes.addressof(address.contents) + 4, 4))
    if family == socket.AF_INET6:
        raw = ctypes.string_at(ctypes.addressof(address.contents) + 8, 16)
        scope = f"%{interface}" if raw[0] == 0xFE and raw[1] & 0xC0 == 0x80 else ""
        return socket.inet_ntop(socket.AF_INET6, raw) + scope
    return ""
