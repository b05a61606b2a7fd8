"""Certificates, keys and authorities of the configuration: whether those on disk are other ones now, and what a
process that speaks TLS was given.

The parent opens them, and looks for new ones; it never reads them.  A process reads what it is handed, at the start
and whenever they were replaced, and forgets the octets once its contexts are made.
"""

import os
from collections.abc import Iterable

from pysmtpd.messages import SetupFile
from pysmtpd.privsep.mproc import Peer

FILE_MAX = 1024 * 1024             # octets
LOOK = 2.0                         # seconds between two looks at the files

Identity = tuple[int, int, int, int] | None


class Watch:
    """Files that were handed over, for the parent."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._seen = {path: _identity(path) for path in paths}
        self._moving: dict[str, Identity] | None = None

    def __bool__(self) -> bool:
        return bool(self._seen)

    def changed(self) -> bool:
        """Whether there are others now: told once, when they stood still between two looks.

        Who replaces a pair writes one file after the other."""
        now = {path: _identity(path) for path in self._seen}
        if now == self._seen:
            self._moving = None
        elif now != self._moving:
            self._moving = now
        else:
            self._seen, self._moving = now, None
            return True
        return False


def _identity(path: str) -> Identity:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


class KeyFiles:
    """What one process was handed and has not yet used."""

    def __init__(self) -> None:
        self._files: dict[tuple[str, str], bytes] = {}

    def take(self, peer: Peer, message: SetupFile) -> None:
        """Read one.  Its length is bounded; what is longer fails as a certificate."""
        with open(peer.claim_fd(), "rb") as file:
            self._files[message.kind, message.name] = file.read(FILE_MAX)

    def pair(self, name: str) -> tuple[bytes, bytes]:
        """The certificate and key of a pki, in PEM.  Raises KeyError."""
        return self._files["cert", name], self._files["key", name]

    def ca(self, name: str) -> bytes:
        """The certificates of a ca, in PEM.  Raises KeyError."""
        return self._files["ca", name]

    def forget(self) -> None:
        """Nothing more is made of them."""
        self._files.clear()
