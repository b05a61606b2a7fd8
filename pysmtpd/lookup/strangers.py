"""Whom a user who does not exist is taken for: the time that AUTH takes shall not tell who exists.

Hashes of different kinds cost different times.  Each name that nobody has is taken for somebody of the table, the same
each time, and a kind is chosen as often as the table has it: then what a name costs says nothing of whether there is
one.  What a table holds is read where that can be done, and learned from what is asked for elsewhere.
"""

import hashlib
import hmac
from collections.abc import Iterable

from pysmtpd.lookup import credentials
from pysmtpd.lookup.credentials import BadHash, Verifier

KINDS_MAX = 64

# The hash of something nobody knows, before anything else is known.
DUMMY = "$6$pysmtpd.dummy.x$LFdBRTV.AjKdtwlYmtQosFQfKyPvrEvPJ0QDq4bgd3tiuYAE0hcMHh545L1jgt6dZ863.isvc6GtDVgV.phpy."


class Strangers:
    """Those of one table."""

    def __init__(self, key: bytes) -> None:
        """key: a secret."""
        self._key = key
        self._kinds: dict[str, tuple[int, str]] = {}   # how many there are, and one of them

    def count(self, stored: Iterable[str]) -> None:
        """These are all."""
        self._kinds = {}
        for one in stored:
            self._add(one)
        if self._kinds:
            # The same after a restart, too, and as secret as a hash is.
            least = min(one for _, one in self._kinds.values())
            self._key = hashlib.sha256(b"strangers" + least.encode("utf-8", "surrogatepass")).digest()

    def learn(self, stored: str) -> None:
        """There is one of this kind."""
        if credentials.kind_of(stored) not in self._kinds:
            self._add(stored)

    def _add(self, stored: str) -> None:
        kind = credentials.kind_of(stored)
        number, one = self._kinds.get(kind, (0, stored))
        if not number and (len(self._kinds) >= KINDS_MAX or not credentials.is_hash(stored)):
            return
        self._kinds[kind] = number + 1, one

    def like(self, user: str) -> str:
        """A stored value that costs what this user's would."""
        total = sum(number for number, _ in self._kinds.values())
        if not total:
            return DUMMY
        at = int.from_bytes(self._digest("kind", user, 8)) % total
        for _, (number, one) in sorted(self._kinds.items()):
            if at < number:
                return one
            at -= number
        return DUMMY

    def salt(self, user: str, size: int) -> bytes:
        """The same each time."""
        return self._digest("salt", user, size)

    def _digest(self, purpose: str, user: str, size: int) -> bytes:
        seed = hmac.digest(self._key, f"{purpose} {user.lower()}".encode("utf-8", "surrogatepass"), "sha256")
        return hashlib.shake_256(seed).digest(size)

    def verifier(self, user: str, random: bytes) -> Verifier | str:
        """A SCRAM verifier that nothing satisfies; or a password to make one of, where those in clear are.

        random: 64 octets that nobody knows."""
        stored = self.like(user)
        try:
            like = credentials.verifier_of(stored)
        except BadHash:
            like = None
        if like is None:
            return random.hex()
        return like._replace(salt=self.salt(user, len(like.salt)), stored_key=random[:32], server_key=random[32:])
