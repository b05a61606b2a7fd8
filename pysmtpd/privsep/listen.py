"""The control socket, which only the parent binds, and the keys that only it opens."""

import contextlib
import os
import socket
import stat
import sys

from pysmtpd.privsep.mproc import refuse_descriptors
from pysmtpd.privsep.startup import StartError

BACKLOG = 511
SOCKET_PATH_MAX = 107 if sys.platform == "linux" else 103   # octets (unix(7))


def control_socket(path: str) -> socket.socket:
    """The control socket.  A file left behind is removed only after nobody answered on it."""
    if len(os.fsencode(path)) > SOCKET_PATH_MAX:
        raise StartError(f"{path}: longer than the {SOCKET_PATH_MAX} octets that the path of a socket may have")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.connect(path)
        raise StartError(f"control socket already listening: another daemon answers on {path}")
    except (FileNotFoundError, ConnectionRefusedError):
        pass
    except OSError as error:
        raise StartError(f"{path}: {error.strerror}") from None
    finally:
        probe.close()
    refuse_descriptors(sock)
    old = os.umask(0o111)
    try:
        if _is_socket(path):
            os.unlink(path)
        sock.bind(path)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise StartError(f"{path}: {error.strerror}") from None
    finally:
        os.umask(old)
    return sock


def _is_socket(path: str) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    return False


def open_checked(path: str, kind: str) -> int:
    """A certificate, key or CA file: opened, judged on the descriptor, never read here.  Raises StartError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise StartError(f"{path}: {error.strerror}") from None
    found = os.fstat(fd)
    allowed = 0o740 if kind == "key" else 0o755
    trouble = ""
    if not stat.S_ISREG(found.st_mode):
        trouble = "is not a file"
    elif found.st_uid not in (0, os.geteuid()):
        trouble = f"is not owned by uid {os.geteuid()}; mend it with:\n    chown {os.geteuid()} {path}"
    elif stat.S_IMODE(found.st_mode) & ~allowed:
        trouble = f"has insecure permissions; mend it with:\n    chmod {0o600 if kind == 'key' else 0o644:04o} {path}"
    if trouble:
        os.close(fd)
        raise StartError(f"{path} {trouble}")
    return fd
