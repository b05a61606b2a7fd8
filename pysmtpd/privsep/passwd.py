"""The users of the system: getpwnam(3), told apart from its failures."""

import ctypes
import errno
import os
import pwd

# getpwnam_r(3) says "not found" in many ways; only these mean that nobody could be asked.
_FAILURES = frozenset({errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR,
                       errno.ETIMEDOUT, errno.ECONNREFUSED})


class Passwd:
    """Asks the C library, and through it all name services."""

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
