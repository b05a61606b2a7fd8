"""saslauthd of Cyrus SASL: one connection for each question, four counted strings, and one for the answer."""

import asyncio
from collections.abc import Callable

from pysmtpd.lookup.auth import Dialogue, LocalBackend
from pysmtpd.lookup.service import TableError

SERVICE = "smtp"
STRING_MAX = 65535                 # octets; each has its length in two before it
ANSWER_MAX = 1024


def question(user: str, password: str) -> bytes:
    """User, password, service and realm."""
    parts = [part.encode() for part in (user, password, SERVICE, "")]
    if any(len(part) > STRING_MAX for part in parts):
        raise ValueError("too long")
    return b"".join(len(part).to_bytes(2, "big") + part for part in parts)


def passed(answer: bytes) -> bool:
    """Whether it says yes.  Raises ValueError for what is no answer."""
    if answer[:2] == b"OK":
        return True
    if answer[:2] == b"NO":
        return False
    raise ValueError("neither OK nor NO")


class SaslauthdBackend(LocalBackend):
    """PAM, LDAP, Kerberos and more, behind a socket."""

    def __init__(self, path: str, random: Callable[[int], bytes]) -> None:
        super().__init__(random)
        self._path = path

    async def check(self, user: str, password: str, dialogue: Dialogue) -> bool:
        try:
            reader, writer = await asyncio.open_unix_connection(self._path, limit=2 * ANSWER_MAX)
            try:
                writer.write(question(user, password))
                size = int.from_bytes(await reader.readexactly(2), "big")
                return passed(await reader.readexactly(min(size, ANSWER_MAX)))
            finally:
                writer.close()
        except OSError as error:
            raise TableError(f"{self._path}: {error.strerror}") from None
        except (ValueError, asyncio.IncompleteReadError):
            raise TableError(f"{self._path}: not an answer of saslauthd") from None
