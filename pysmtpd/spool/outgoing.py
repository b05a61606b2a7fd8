"""Bodies on their way to the agents, in pieces, never more than a window ahead of the credit given."""

from collections.abc import Callable
from typing import Any

from pysmtpd.spool.bodies import READ_SIZE, PlainFile

Key = tuple[Any, int]              # a peer and its reqid
OPEN_MAX = 4096                    # bodies being read at once

Send = Callable[[Key, bytes, bool, bool], None]


class _Reading:
    """One body: bytes at hand, or a file."""

    __slots__ = ("at", "body", "file", "size", "window")

    def __init__(self, body: bytes, file: PlainFile | None, size: int, window: int) -> None:
        self.body = body
        self.file = file
        self.size = size
        self.at = 0
        self.window = window

    def next(self) -> bytes:
        """The next piece.  Raises OSError when the file cannot be read, or is shorter than it was."""
        size = min(READ_SIZE, self.size - self.at)
        if self.file is None:
            piece = self.body if size == self.size else self.body[self.at : self.at + size]
        else:
            piece = self.file.read(self.at, size)
        self.at += size
        return piece

    def close(self) -> None:
        if self.file is not None:
            self.file.close()


class Outbox:
    """All bodies on their way out.  ``send`` gets (key, piece, last, ok)."""

    def __init__(self, send: Send, window: int) -> None:
        self._send = send
        self._window = window
        self._all: dict[Key, _Reading] = {}

    def __len__(self) -> int:
        return len(self._all)

    def open_body(self, key: Key, body: bytes) -> None:
        self._begin(key, _Reading(body, None, len(body), self._window))

    def open_file(self, key: Key, file: PlainFile, size: int) -> None:
        """Send size octets of a file; it is closed here."""
        self._begin(key, _Reading(b"", file, size, self._window))

    def refuse(self, key: Key) -> None:
        """It cannot be read."""
        self._send(key, b"", True, False)

    def credit(self, key: Key, size: int) -> None:
        reading = self._all.get(key)
        if reading is not None:
            reading.window = min(reading.window + size, self._window)
            self._go_on(key, reading)

    def close(self, key: Key) -> None:
        """No more of it.  A key that is not known is no error: the last piece may be on its way."""
        reading = self._all.pop(key, None)
        if reading is not None:
            reading.close()

    def _begin(self, key: Key, reading: _Reading) -> None:
        self.close(key)
        if len(self._all) >= OPEN_MAX:
            reading.close()
            self.refuse(key)
            return
        self._all[key] = reading
        self._go_on(key, reading)

    def _go_on(self, key: Key, reading: _Reading) -> None:
        while reading.window > 0:
            try:
                piece = reading.next()
            except OSError:
                self.close(key)
                self.refuse(key)
                return
            reading.window -= len(piece)
            last = reading.at >= reading.size
            if last:
                self.close(key)
            self._send(key, piece, last, True)
            if last:
                return
