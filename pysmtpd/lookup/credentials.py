"""Passwords against what a table keeps of them: crypt(3), Argon2, SCRAM verifiers, and Dovecot's ``{SCHEME}``.

A stored value may be hostile, or simply too expensive: each kind has a bound, above which it is refused, so that one
entry costs seconds at the very most.  All comparisons take the same time whatever differs.  This is slow by design:
callers run it in a thread.
"""

import binascii
import hashlib
import hmac
import re
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

from pysmtpd.base.saslprep import saslprep
from pysmtpd.lookup import libcrypt
from pysmtpd.lookup.libcrypt import BadSetting

STORED_MAX = 1024                  # characters
ITERATIONS_MAX = 2_000_000         # of PBKDF2 and SCRAM: about a second; the usual number is 4096 to 600,000
ARGON_MEMORY_MAX = 1 << 20         # KiB
ARGON_WORK_MAX = 1 << 22           # KiB times passes
ARGON_LANES_MAX = 16

_SCHEME = re.compile(r"\{([A-Za-z0-9-]{1,32})(?:\.(hex|b64|base64))?\}", re.IGNORECASE)
_ARGON = re.compile(r"\$argon2(id|i|d)\$v=19\$m=([0-9]{1,8}),t=([0-9]{1,6}),p=([0-9]{1,3})\$[A-Za-z0-9+/]{1,128}"
                    r"\$[A-Za-z0-9+/]{1,256}")
_PBKDF2 = re.compile(r"\$1\$([^$]{1,128})\$([0-9]{1,8})\$([0-9a-fA-F]{40})")
_B64 = r"[A-Za-z0-9+/]{1,172}={0,2}"
_SCRAM = re.compile(rf"([0-9]{{1,8}}),({_B64}),({_B64}),({_B64})")
_SCRAM_LDAP = re.compile(rf"SCRAM-SHA-256\$([0-9]{{1,8}}):({_B64})\$({_B64}):({_B64})")   # RFC 5803, and PostgreSQL
# Of crypt(3) and Argon2: what comes before the salt, and says how expensive it is.
_COST = re.compile(r"\$2[abxy]\$[0-9]{2}\$|\$[156]\$(?:rounds=[0-9]+\$)?|\$g?y\$[^$]*\$|\$7\$.{11}|\$sha1\$[0-9]+\$"
                   r"|\$argon2[a-z]*\$v=[0-9]+\$[^$]*\$")
_USER = re.compile(r"(?!\{[A-Za-z0-9.-]+\}|SCRAM-SHA-256\$)([^:]*):(.*)", re.DOTALL)


class _Argon(Protocol):
    """What the three classes of cryptography have in common."""

    def verify_phc_encoded(self, key_material: bytes, phc_encoded: str) -> None: ...


class BadHash(ValueError):
    """A stored value that no password can be compared with; its text shows nothing of it."""


class Verifier(NamedTuple):
    """What a SCRAM server keeps of a password (RFC 5802 3)."""

    salt: bytes
    iterations: int
    stored_key: bytes
    server_key: bytes


def password_of(value: str) -> str:
    """What follows the user in ``user:hash``; all of a value without a user."""
    found = _USER.fullmatch(value)
    return found[2] if found is not None else value


def verify(password: str, stored: str) -> bool:
    """Whether the password is the one.  Raises BadHash."""
    check = _checker(stored)
    if "\0" in password:
        return False               # it would end there for some algorithms, and be padding for others
    try:
        matches = [check(spelling) for spelling in _spellings(password)]
    except BadSetting as error:
        raise BadHash(str(error)) from None
    return True in matches


def is_hash(stored: str) -> bool:
    """Whether a password can be compared with it."""
    try:
        _checker(stored)
    except BadHash:
        return False
    return True


def kind_of(stored: str) -> str:
    """Equal for those that a password costs the same time to compare with, and whose challenges look the same."""
    scheme = _SCHEME.match(stored)
    head, rest = (scheme[0].upper(), stored[scheme.end() :]) if scheme is not None else ("", stored)
    if found := _PBKDF2.fullmatch(rest) if head == "{PBKDF2}" else None:
        return f"{head}{int(found[2])}"
    if found := _SCRAM.fullmatch(rest) or _SCRAM_LDAP.fullmatch(rest):
        return f"{head}scram,{int(found[1])},{len(found[2])}"
    cost = _COST.match(rest)
    return head + (cost[0] if cost is not None else "")


def _spellings(password: str) -> list[bytes]:
    """As it was typed, and as RFC 4013 has it where that differs: who stored it may have prepared it, or not."""
    given = password.encode("utf-8", "surrogatepass")
    try:
        prepared = saslprep(password).encode()
    except ValueError:
        return [given]
    return [given] if prepared == given else [given, prepared]


Check = Callable[[bytes], bool]


def _checker(stored: str) -> Check:
    if len(stored) > STORED_MAX:
        raise BadHash(f"the hash is longer than {STORED_MAX} characters")
    found = _SCHEME.match(stored)
    if found is None:
        return _unnamed(stored)
    scheme = _SCHEMES.get(found[1].upper())
    if scheme is None:
        raise BadHash(f"there is no password scheme {{{found[1]}}} here")
    return scheme(stored[found.end() :], (found[2] or "").lower())


def _unnamed(stored: str) -> Check:
    """A hash that says itself what it is."""
    if stored.startswith("$argon2"):
        return _argon(stored, "")
    if stored.startswith("SCRAM-SHA-256$"):
        return _scram(stored, "")
    return _crypt(stored, "")


def _crypt(stored: str, _encoding: str) -> Check:
    try:
        libcrypt.check(stored)
    except BadSetting as error:
        raise BadHash(str(error)) from None

    def check(password: bytes) -> bool:
        found = libcrypt.crypt(password, stored)
        return found is not None and hmac.compare_digest(found.encode("latin-1"), stored.encode())

    return check


def _argon(stored: str, _encoding: str) -> Check:
    from cryptography.exceptions import InvalidKey, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.kdf import argon2

    found = _ARGON.fullmatch(stored)
    if found is None:
        raise BadHash("the hash is no argon2 of version 19")
    memory, passes, lanes = int(found[2]), int(found[3]), int(found[4])
    if memory > ARGON_MEMORY_MAX or memory * passes > ARGON_WORK_MAX or lanes > ARGON_LANES_MAX:
        raise BadHash(f"the hash asks for m={memory}, t={passes}, p={lanes}, more than is allowed here")
    kinds: dict[str, _Argon] = {"id": argon2.Argon2id, "i": argon2.Argon2i, "d": argon2.Argon2d}
    compare = kinds[found[1]].verify_phc_encoded

    def check(password: bytes) -> bool:
        try:
            compare(password, stored)
        except InvalidKey:
            return False
        except (ValueError, UnsupportedAlgorithm) as error:
            raise BadHash(f"argon2: {type(error).__name__}") from None
        return True

    return check


def _plain(stored: str, encoding: str) -> Check:
    kept = _decoded(stored, encoding) if encoding else stored.encode()
    return partial(hmac.compare_digest, kept)


def _decoded(text: str, encoding: str) -> bytes:
    try:
        return bytes.fromhex(text) if encoding == "hex" else binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        raise BadHash("the hash is not what its encoding says") from None


def _digest(algorithm: str, salted: bool, usual: str, stored: str, encoding: str) -> Check:
    size = hashlib.new(algorithm, usedforsecurity=False).digest_size
    if not encoding:
        encoding = "hex" if not salted and len(stored) == 2 * size else usual
    data = _decoded(stored, encoding)
    kept, salt = data[:size], data[size:]
    if len(kept) != size or bool(salt) != salted:
        raise BadHash(f"the hash does not have the length of {algorithm}")
    return lambda password: hmac.compare_digest(
        kept, hashlib.new(algorithm, password + salt, usedforsecurity=False).digest())


def _pbkdf2(stored: str, _encoding: str) -> Check:
    found = _PBKDF2.fullmatch(stored)
    if found is None:
        raise BadHash("the hash is no PBKDF2")
    salt, iterations, kept = found[1].encode(), _iterations(found[2]), bytes.fromhex(found[3])
    return lambda password: hmac.compare_digest(kept, hashlib.pbkdf2_hmac("sha1", password, salt, iterations, 20))


def _iterations(text: str) -> int:
    count = int(text)
    if not 0 < count <= ITERATIONS_MAX:
        raise BadHash(f"the hash asks for {count} iterations, and 1 to {ITERATIONS_MAX} are allowed")
    return count


# SCRAM (RFC 5802)

def verifier_of(stored: str) -> Verifier | None:
    """The SCRAM-SHA-256 verifier that is stored; None when something else is.  Raises BadHash."""
    found = _SCHEME.match(stored)
    if found is not None and found[1].upper() == "SCRAM-SHA-256":
        return _read_verifier(stored[found.end() :], 32)
    return _read_verifier(stored, 32) if stored.startswith("SCRAM-SHA-256$") else None


def make_verifier(password: str, salt: bytes, iterations: int) -> Verifier:
    """A SCRAM-SHA-256 verifier of a password that is known in clear.  Raises ValueError for one RFC 4013 forbids."""
    salted = hashlib.pbkdf2_hmac("sha256", saslprep(password).encode(), salt, iterations)
    return Verifier(salt, iterations, *_keys(salted, "sha256"))


def plaintext_of(stored: str) -> str | None:
    """The password itself, where it is kept so."""
    found = _SCHEME.match(stored)
    if found is not None and not found[2] and found[1].upper() in ("PLAIN", "CLEAR", "CLEARTEXT"):
        return stored[found.end() :]
    return None


def _keys(salted: bytes, algorithm: str) -> tuple[bytes, bytes]:
    """StoredKey and ServerKey."""
    client = hmac.digest(salted, b"Client Key", algorithm)
    return hashlib.new(algorithm, client).digest(), hmac.digest(salted, b"Server Key", algorithm)


def _read_verifier(text: str, size: int) -> Verifier:
    found = _SCRAM.fullmatch(text) or _SCRAM_LDAP.fullmatch(text)
    if found is None:
        raise BadHash("the hash is no SCRAM verifier")
    salt, stored_key, server_key = (_decoded(found[group], "b64") for group in (2, 3, 4))
    if len(stored_key) != size or len(server_key) != size:
        raise BadHash("the keys of the SCRAM verifier have the wrong length")
    return Verifier(salt, _iterations(found[1]), stored_key, server_key)


def _scram(stored: str, _encoding: str, algorithm: str = "sha256", size: int = 32) -> Check:
    kept = _read_verifier(stored, size)

    def check(password: bytes) -> bool:
        salted = hashlib.pbkdf2_hmac(algorithm, password, kept.salt, kept.iterations)
        return hmac.compare_digest(_keys(salted, algorithm)[0], kept.stored_key)

    return check


_SCHEMES: dict[str, Callable[[str, str], Check]] = {
    **dict.fromkeys(("PLAIN", "CLEAR", "CLEARTEXT"), _plain),
    **dict.fromkeys(("CRYPT", "MD5", "MD5-CRYPT", "SHA256-CRYPT", "SHA512-CRYPT", "BLF-CRYPT", "DES-CRYPT", "YESCRYPT"),
                    _crypt),
    **dict.fromkeys(("ARGON2I", "ARGON2ID"), _argon),
    "PBKDF2": _pbkdf2,
    "SCRAM-SHA-256": _scram,
    "SCRAM-SHA-1": partial(_scram, algorithm="sha1", size=20),
    "PLAIN-MD5": partial(_digest, "md5", False, "hex"),
    "LDAP-MD5": partial(_digest, "md5", False, "b64"),
    "SMD5": partial(_digest, "md5", True, "b64"),
    **dict.fromkeys(("SHA", "SHA1"), partial(_digest, "sha1", False, "b64")),
    "SHA256": partial(_digest, "sha256", False, "b64"),
    "SHA512": partial(_digest, "sha512", False, "b64"),
    "SSHA": partial(_digest, "sha1", True, "b64"),
    "SSHA256": partial(_digest, "sha256", True, "b64"),
    "SSHA512": partial(_digest, "sha512", True, "b64"),
}


def preload() -> None:
    """Import and find what comparing needs; it costs memory, so only where there are passwords to compare."""
    import cryptography.exceptions
    import cryptography.hazmat.primitives.kdf.argon2  # noqa: F401

    libcrypt.preload()
