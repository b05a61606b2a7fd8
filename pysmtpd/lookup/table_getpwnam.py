"""The users of the system as a table of userinfo.

getpwnam(3) may block on slow name services.  It is asked in the loop all the same, because the usual ones answer
in microseconds, and each answer serves for a few seconds.
"""

import ctypes
import errno
import os
import pwd
from collections.abc import Callable

from pysmtpd.lookup.table import Service, TableError

KEPT = 5.0                         # seconds an answer serves
CACHE_MAX = 4096
NAME_MAX = 255                     # octets

# getpwnam_r(3) says "not found" in many ways; only these mean that nobody could be asked.
_FAILURES = frozenset({errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR,
                       errno.ETIMEDOUT, errno.ECONNREFUSED})


class Passwd:
    """getpwnam(3), told apart from its failures."""

    def __init__(self) -> None:
        self._getpwnam_r = ctypes.CDLL(None).getpwnam_r
        self._getpwnam_r.argtypes = (ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t,
                                     ctypes.c_void_p)

    def find(self, name: str) -> pwd.struct_passwd | None:
        """The user, or None.  Raises OSError when the user database cannot be asked.

        pwd.getpwnam raises KeyError for both, so that a miss is asked for once more, with its error."""
        try:
            return pwd.getpwnam(name)
        except KeyError:
            code = self._ask(name.encode())
            if code in _FAILURES:
                raise OSError(code, os.strerror(code)) from None
            return None

    def _ask(self, name: bytes) -> int:
        entry, found = ctypes.create_string_buffer(512), ctypes.c_void_p()
        buffer = ctypes.create_string_buffer(16384)
        code: int = self._getpwnam_r(name, entry, buffer, len(buffer), ctypes.byref(found))
        return code


class GetpwnamTable:
    """``<getpwnam>``: a user name gives ``uid:gid:home``."""

    backend = "getpwnam"

    def __init__(self, name: str, find: Callable[[str], pwd.struct_passwd | None],
                 clock: Callable[[], float]) -> None:
        """clock: seconds of any kind that only go up."""
        self.name = name
        self._find = find
        self._clock = clock
        self._kept: dict[str, tuple[float, str | None]] = {}

    def match(self, service: Service, key: str) -> bool:
        """Whether there is such a user."""
        return self.lookup(service, key) is not None

    def lookup(self, service: Service, key: str) -> str | None:
        """``uid:gid:home``."""
        self._check(service)
        now = self._clock()
        kept = self._kept.get(key)
        if kept is not None and kept[0] > now:
            return kept[1]
        value = self._ask(key)
        self._kept.pop(key, None)
        if len(self._kept) >= CACHE_MAX:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = (now + KEPT, value)
        return value

    def fetch(self, service: Service) -> str | None:
        """Nothing: users are not enumerated."""
        self._check(service)
        return None

    def _ask(self, name: str) -> str | None:
        if not name or len(name.encode()) > NAME_MAX:
            return None
        try:
            entry = self._find(name)
        except OSError as error:
            raise TableError(f"table {self.name}: {error.strerror}") from None
        return None if entry is None else f"{entry.pw_uid}:{entry.pw_gid}:{entry.pw_dir}"

    def _check(self, service: Service) -> None:
        if service is not Service.USERINFO:
            raise TableError(f"table {self.name} has no {service.value}")
