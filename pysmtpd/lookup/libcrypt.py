"""crypt(3) of the platform, by ctypes: the ``crypt`` module left the standard library with Python 3.13.

A call releases the interpreter's lock, so that threads hash in parallel.  Settings come from tables and may be
anybody's idea: what would take much longer than usual is refused before the library sees it.
"""

import ctypes
import re
from functools import cache

PASSWORD_MAX = 511                 # octets, libxcrypt's bound; more would make some algorithms very slow, too
ROUNDS_MAX = 2_000_000             # of $5$ and $6$: about a second; the usual number is 5000
BCRYPT_MAX = 14                    # of $2b$: about a second; the usual number is 10 to 12
MEMORY_MAX = 1 << 28               # octets, of $y$, $gy$ and $7$; the usual numbers are 16 and 64 MiB
SHA1_ROUNDS_MAX = 2_000_000

_DATA_SIZE = 1 << 18               # struct crypt_data has 260 octets (musl), 32 KiB (libxcrypt) or 128 KiB (glibc)
_LIBRARIES = ("libcrypt.so.1", "libcrypt.so.2", "libcrypt.so", None)
_ITOA64 = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ROUNDS = re.compile(r"\$[56]\$rounds=([0-9]{1,10})\$")
_BCRYPT = re.compile(r"\$2[abxy]?\$([0-9]{2})\$")
_SHA1 = re.compile(r"\$sha1\$([0-9]{1,10})\$")
_SCRYPT = re.compile(r"\$7\$([./0-9A-Za-z])([./0-9A-Za-z]{5})([./0-9A-Za-z]{5})")
_YESCRYPT = re.compile(r"\$g?y\$j([./0-9A-Za-z])([./0-9A-Za-z])\$")
_PLAIN = re.compile(r"(?:\$[1356]\$[^:]*|[./0-9A-Za-z]{13})")   # those whose cost nobody chooses
_SETTING = re.compile(r"[!-9;-~]{1,511}")


class BadSetting(ValueError):
    """A hash, or the setting of one, that cannot be used; its text shows nothing of it."""


def check(setting: str) -> None:
    """Raises BadSetting for what costs too much, or is of no known family."""
    if _SETTING.fullmatch(setting) is None:
        raise BadSetting("the hash holds what no hash of crypt(3) does")
    if found := _ROUNDS.match(setting):
        _bound(int(found[1]), ROUNDS_MAX, "rounds")
    elif found := _BCRYPT.match(setting):
        _bound(int(found[1]), BCRYPT_MAX, "bcrypt cost")
    elif found := _SHA1.match(setting):
        _bound(int(found[1]), SHA1_ROUNDS_MAX, "rounds")
    elif found := _SCRYPT.match(setting):
        blocks, lanes = (sum(_ITOA64.index(char) << 6 * at for at, char in enumerate(found[group])) for group in (2, 3))
        _bound(128 * blocks * max(lanes, 1) << min(_ITOA64.index(found[1]), 63), MEMORY_MAX, "octets of memory")
    elif found := _YESCRYPT.match(setting):
        # Both numbers are one less than what they stand for, and of one digit for all but absurd ones.
        _bound(128 * (_ITOA64.index(found[2]) + 1) << (_ITOA64.index(found[1]) + 1), MEMORY_MAX, "octets of memory")
    elif _PLAIN.fullmatch(setting) is None:
        raise BadSetting("the hash is of no known kind")


def _bound(value: int, limit: int, what: str) -> None:
    if value > limit:
        raise BadSetting(f"the hash asks for {value} {what}, more than {limit}")


@cache
def _crypt_r() -> "ctypes._NamedFuncPointer | None":
    for name in _LIBRARIES:
        try:
            function = ctypes.CDLL(name).crypt_r
        except (OSError, AttributeError):
            continue
        function.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p)
        function.restype = ctypes.c_char_p
        return function
    return None


def preload() -> bool:
    """Find the library, before a jail hides it; whether there is one."""
    return _crypt_r() is not None


def crypt(password: bytes, setting: str) -> str | None:
    """The hash of a password; None when the library knows no such setting, or the password cannot have that hash.

    Raises BadSetting."""
    check(setting)
    function = _crypt_r()
    if function is None:
        raise BadSetting("this machine has no libcrypt")
    if len(password) > PASSWORD_MAX or b"\0" in password:
        return None
    data = ctypes.create_string_buffer(_DATA_SIZE)
    found: bytes | None = function(password, setting.encode(), data)
    text = found.decode("latin-1") if found is not None else None
    ctypes.memset(data, 0, _DATA_SIZE)
    # Failure is told by NULL, or by a text that begins with an asterisk and differs from the setting.
    return None if text is None or text.startswith("*") else text
