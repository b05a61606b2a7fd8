"""What a configuration is read from: the files and facts of a machine, behind one small interface.

The real one is privsep.source.SystemSource; tests fill their own.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

FILE_MAX = 4 * 1024 * 1024         # octets of a configuration file


class Stat(NamedTuple):
    """What decides whether a file may be trusted with a key."""

    uid: int
    mode: int                      # permission bits
    is_file: bool


class Certificate(NamedTuple):
    """What a certificate says; seconds since the epoch.  fits: the key is its own."""

    not_before: int
    not_after: int
    fits: bool


class Unusable(ValueError):
    """A file that is there, and does not hold what it should."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.path = path


class Source(Protocol):
    """Where smtpd.conf and what it speaks of come from.  Nothing here needs the network."""

    def read(self, path: str, limit: int = FILE_MAX) -> bytes:
        """At most the first ``limit`` octets of a file.  Raises OSError."""

    def stat(self, path: str) -> Stat:
        """Raises OSError."""

    def glob(self, pattern: str) -> list[str]:
        """The paths that match, sorted."""

    def interfaces(self) -> Mapping[str, list[str]]:
        """The addresses of each network interface, and of each group of them; IPv6 without brackets, link-local ones
        with ``%scope``."""

    def hostname(self) -> str:
        """The server's name as mailname or the system give it; may be empty."""

    def resolve(self, name: str) -> list[str] | None:
        """The addresses of a host name; None when it cannot be known here and now."""

    def service(self, name: str) -> int | None:
        """The TCP port that services(5) gives a name."""

    def certificate(self, cert: str, key: str) -> Certificate | None:
        """A certificate and its key, by path; None when they cannot be judged.  Raises OSError and Unusable."""

    def knows(self, kind: str, names: str) -> bool:
        """Whether OpenSSL knows all of a list of ``ciphers`` or ``curves``."""

    def obstacle(self, path: str, user: str) -> str:
        """Why somebody could not connect to a socket, or an empty string.  user: empty for whoever it may be.  Raises
        PermissionError when that cannot be seen."""

    def now(self) -> int:
        """Seconds since the epoch."""

    def user_id(self) -> int:
        """Who reads."""
