"""Who is at the other end of a local socket, as the kernel knows it."""

import socket
import struct
import sys

_LINUX = struct.Struct("iII")      # pid, uid, gid
_OPENBSD = struct.Struct("IIi")    # uid, gid, pid
_XUCRED = struct.Struct("II")      # version, uid: FreeBSD and macOS
_LOCAL_PEERCRED = 1
_PLATFORM: str = sys.platform      # a variable, so that each branch is checked on every platform


def peer_uid(sock: socket.socket) -> int:
    """The effective uid with which the other end connected.  Raises OSError when the kernel does not say."""
    if _PLATFORM.startswith("linux"):
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _LINUX.size)
        return int(_LINUX.unpack(credentials)[1])
    if hasattr(socket, "SO_PEERCRED"):
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _OPENBSD.size)
        return int(_OPENBSD.unpack(credentials)[0])
    credentials = sock.getsockopt(0, _LOCAL_PEERCRED, 256)
    return int(_XUCRED.unpack_from(credentials)[1])
