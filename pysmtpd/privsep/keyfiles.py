"""Certificates, keys and authorities of the configuration: whether those on disk are other ones now, and what a
process that speaks TLS was given.

The parent opens them, and looks for new ones; it never reads them.  A process reads what it is handed, at the start
and whenever they were replaced, and forgets the octets once its contexts are made.
"""

import os
from collections.abc import Callable, Iterable
from typing import NamedTuple

from pysmtpd.base import logline
from pysmtpd.base.logline import Level
from pysmtpd.base.procs import Proc
from pysmtpd.conf.config import Config
from pysmtpd.messages import RenewFiles, SetupFile
from pysmtpd.privsep.listen import open_checked
from pysmtpd.privsep.mproc import Peer
from pysmtpd.privsep.startup import StartError

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


class KeyFile(NamedTuple):
    """A file of a pki or ca."""

    kind: str                      # cert, key or ca
    name: str                      # of the pki or ca
    path: str


Files = list[KeyFile]              # of one pki or ca: handed over all together, or not at all


class HandOver:
    """The parent's part: opens what smtp and mta need, and gives it to them, again when it was replaced."""

    def __init__(self, config: Config, peers: Callable[[Proc], list[Peer]], say: Callable[[str, Level], None]) -> None:
        listening = {name for one in config.listeners for name in one.pki}
        authorities = {one.ca for one in config.listeners} - {""}
        relays = [one for one in config.actions.values() if one.is_relay]
        self._needed = {
            Proc.SMTP: _needed(config, listening, authorities),
            Proc.MTA: _needed(config, {one.pki for one in relays} - {""}, {one.ca for one in relays} - {""}),
        }
        self._watch = Watch({one.path for sets in self._needed.values() for files in sets for one in files})
        self._peers = peers
        self._say = say

    def __bool__(self) -> bool:
        return bool(self._watch)

    def start(self) -> None:
        """Everything, to everybody.  Raises StartError."""
        for proc, sets in self._needed.items():
            for peer in self._peers(proc):
                for files in sets:
                    _hand(peer, files)

    def look(self) -> None:
        """Hand over what was replaced since."""
        if self._watch.changed():
            for proc, sets in self._needed.items():
                for peer in self._peers(proc) if sets else ():
                    self._renew(peer, sets)

    def _renew(self, peer: Peer, sets: list[Files]) -> None:
        for files in sets:
            try:
                _hand(peer, files)
            except StartError as error:
                if peer.index == 0:
                    self._say(logline.FILE_KEPT.format(reason=" ".join(str(error).split())), Level.ERR)
        peer.send(RenewFiles())


def _needed(config: Config, pkis: set[str], cas: set[str]) -> list[Files]:
    return [
        *([KeyFile("cert", name, config.pkis[name].cert), KeyFile("key", name, config.pkis[name].key)]
          for name in sorted(pkis)),
        *([KeyFile("ca", name, config.cas[name].cert)] for name in sorted(cas)),
    ]


def _hand(peer: Peer, files: Files) -> None:
    opened: list[int] = []
    try:
        for file in files:
            opened.append(open_checked(file.path, file.kind))
    except StartError:
        for fd in opened:
            os.close(fd)
        raise
    for file, fd in zip(files, opened, strict=True):
        peer.send(SetupFile(file.kind, file.name), fd)


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
