"""The mechanisms of AUTH (RFC 4422, RFC 4954), without I/O: one row of MECHANISMS each.

A mechanism is a generator.  It yields what it needs: a Challenge, whose answer is the client's next response; or a
question about a password, a verifier or a user, whose answer is sent in.  It returns who the client is, and raises
Rejected or Malformed.  OAUTHBEARER is another row, and so is SCRAM-SHA-256-PLUS once smtp tells the channel's binding.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

from pysmtpd.base.saslprep import saslprep
from pysmtpd.lookup.credentials import Verifier

USER_MAX = 255                     # octets, of OpenSMTPD and of an envelope
PASSWORD_MAX = 2047                # octets
NONCE_SIZE = 18                    # octets of ours in SCRAM


class Rejected(Exception):
    """The credentials are not right; for the log, why."""


class Malformed(Exception):
    """What the client sent is not of this mechanism."""


class Challenge(NamedTuple):
    """Send this; wants the response as bytes."""

    data: bytes


class CheckPassword(NamedTuple):
    """Wants whether this is the user's password."""

    user: str
    password: str

    def __repr__(self) -> str:
        return f"CheckPassword(user={self.user!r}, password=...)"


class FetchVerifier(NamedTuple):
    """Wants the SCRAM-SHA-256 verifier of a user; one that nothing satisfies if there is none."""

    user: str


class CheckUser(NamedTuple):
    """Wants whether there is such a user."""

    user: str


class Facts(NamedTuple):
    """What is known of the client beside its words.  identities: the names in its verified certificate."""

    identities: tuple[str, ...] = ()


Need = Challenge | CheckPassword | FetchVerifier | CheckUser
Exchange = Generator[Need, Any, str]
Start = Callable[[bytes | None, Facts, Callable[[int], bytes]], Exchange]


class Mechanism(NamedTuple):
    """A row.

    ``start`` takes the initial response (None: there was none), the facts, and a source of random octets.
    ``verifier``: it needs what only some back ends keep; ``certificate``: it needs a verified client certificate."""

    start: Start
    verifier: bool = False
    certificate: bool = False


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Malformed("not UTF-8") from None


def _user(data: bytes) -> str:
    """A user name, as RFC 4013 has it."""
    if not data or len(data) > USER_MAX:
        raise Malformed(f"a user name has 1 to {USER_MAX} octets")
    try:
        user = saslprep(_text(data))
    except ValueError:
        raise Malformed("a user name with a forbidden character") from None
    if not user or len(user.encode()) > USER_MAX or "\r" in user or "\n" in user:
        raise Malformed("no user name")
    return user


def _password(data: bytes) -> str:
    if not data or len(data) > PASSWORD_MAX or b"\r" in data or b"\n" in data or b"\0" in data:
        raise Malformed("no password")
    return _text(data)


def _allowed(authzid: bytes, user: str) -> None:
    """Nobody acts as somebody else (RFC 4616 2, RFC 5801 4)."""
    if authzid and _user(authzid).lower() != user.lower():
        raise Rejected(f"{user} may not act as another")


def _plain(initial: bytes | None, _facts: Facts, _random: Callable[[int], bytes]) -> Exchange:
    """RFC 4616."""
    data: bytes = initial if initial is not None else (yield Challenge(b""))
    parts = data.split(b"\0")
    if len(parts) != 3:
        raise Malformed("not three parts")
    user, password = _user(parts[1]), _password(parts[2])
    right = yield CheckPassword(user, password)
    if not right:
        raise Rejected("wrong credentials")
    _allowed(parts[0], user)
    return user


def _login(initial: bytes | None, _facts: Facts, _random: Callable[[int], bytes]) -> Exchange:
    """draft-murchison-sasl-login."""
    name: bytes = initial if initial is not None else (yield Challenge(b"Username:"))
    user = _user(name)
    password = _password((yield Challenge(b"Password:")))
    right = yield CheckPassword(user, password)
    if not right:
        raise Rejected("wrong credentials")
    return user


def _external(initial: bytes | None, facts: Facts, _random: Callable[[int], bytes]) -> Exchange:
    """RFC 4422 A: whom the certificate names, or the one of those that the client asks to be."""
    data: bytes = initial if initial is not None else (yield Challenge(b""))
    names = {name.lower(): name for name in facts.identities}
    wanted = [_user(data)] if data else list(facts.identities)
    for name in wanted:
        if name.lower() in names and (yield CheckUser(names[name.lower()])):
            return names[name.lower()]
    raise Rejected("the certificate names no user")


# SCRAM-SHA-256 (RFC 5802, RFC 7677)

_GS2 = re.compile(rb"([ny]|p=[A-Za-z0-9.-]+),(?:a=([^,]+))?,")
_FIRST = re.compile(rb"n=([^,]+),r=([!-+\--~]{1,256})(?:,[a-zA-Z]=[^,]*)*")
_FINAL = re.compile(rb"(c=([A-Za-z0-9+/]+=*),r=([!-+\--~]{1,600})(?:,[a-zA-Z]=[^,]*)*),p=([A-Za-z0-9+/]+=*)")
_ESCAPE = re.compile(rb"=(2C|3D)?")


def _saslname(data: bytes) -> bytes:
    """A name with ``=2C`` and ``=3D`` put back."""

    def put_back(match: re.Match[bytes]) -> bytes:
        if match[1] is None:
            raise Malformed("a lonely = in a name")
        return b"," if match[1] == b"2C" else b"="

    return _ESCAPE.sub(put_back, data)


def _scram(initial: bytes | None, _facts: Facts, random: Callable[[int], bytes]) -> Exchange:
    data: bytes = initial if initial is not None else (yield Challenge(b""))
    header = _GS2.match(data)
    if header is None or header[1].startswith(b"p="):
        raise Malformed("not a header of GS2 without channel binding")
    bare = data[header.end() :]
    first = _FIRST.fullmatch(bare)
    if first is None:
        raise Malformed("not a first message of SCRAM")
    user = _user(_saslname(first[1]))
    authzid = _saslname(header[2]) if header[2] is not None else b""
    keys: Verifier = yield FetchVerifier(user)
    nonce = first[2] + base64.b64encode(random(NONCE_SIZE))
    ours = b"r=%s,s=%s,i=%d" % (nonce, base64.b64encode(keys.salt), keys.iterations)
    final = _FINAL.fullmatch((yield Challenge(ours)))
    if final is None:
        raise Malformed("not a final message of SCRAM")
    if _base64(final[2]) != header[0] or final[3] != nonce:
        raise Rejected("another header or nonce than before")
    said = b"%s,%s,%s" % (bare, ours, final[1])
    _prove(keys, said, _base64(final[4]))
    _allowed(authzid, user)
    signature = hmac.digest(keys.server_key, said, "sha256")
    # RFC 4954 4 knows no data with success: they are a challenge, and the client's answer is empty.
    answer = yield Challenge(b"v=" + base64.b64encode(signature))
    if answer:
        raise Malformed("words after the last word")
    return user


def _prove(keys: Verifier, said: bytes, proof: bytes) -> None:
    """Raises Rejected unless the client knows the password."""
    signature = hmac.digest(keys.stored_key, said, "sha256")
    key = bytes(a ^ b for a, b in zip(proof, signature, strict=False))
    if len(proof) != len(signature) or not hmac.compare_digest(hashlib.sha256(key).digest(), keys.stored_key):
        raise Rejected("wrong credentials")


def _base64(data: bytes) -> bytes:
    try:
        return binascii.a2b_base64(data, strict_mode=True)
    except ValueError:
        raise Malformed("not base64") from None


MECHANISMS: dict[str, Mechanism] = {
    "PLAIN": Mechanism(_plain),
    "LOGIN": Mechanism(_login),
    "SCRAM-SHA-256": Mechanism(_scram, verifier=True),
    "EXTERNAL": Mechanism(_external, certificate=True),
}
