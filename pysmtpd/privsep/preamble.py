"""What comes before the first octet of a connection: read from the socket up to its end, and not an octet further."""

import asyncio
import socket
from collections.abc import Callable
from typing import Protocol

READ_SIZE = 4096                   # octets looked at in one go


class Reader(Protocol):
    """Understands it.  feed() is shown octets, says how many of them it takes, and raises ValueError when they are not
    what was expected."""

    done: bool

    def feed(self, data: bytes) -> int: ...


class Preamble:
    """One socket that is not a session's yet."""

    __slots__ = ("_loop", "_reader", "_sock", "_tell", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, reader: Reader, seconds: float,
                 tell: Callable[[str], None]) -> None:
        """tell() is called once: with an empty string when all of it came, or with what is wrong."""
        self._loop = loop
        self._sock = sock
        self._reader = reader
        self._tell = tell
        self._timer = loop.call_later(seconds, self.end, "timeout")
        sock.setblocking(False)
        loop.add_reader(sock.fileno(), self._readable)

    def _readable(self) -> None:
        try:
            data = self._sock.recv(READ_SIZE, socket.MSG_PEEK)
            if not data:
                self.end("disconnected")
                return
            self._sock.recv(self._reader.feed(data))
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.end(f"IO error ({error.strerror})")
            return
        except ValueError as error:
            self.end(str(error))
            return
        if self._reader.done:
            self.end("")

    def end(self, why: str) -> None:
        """It is over; the socket is the caller's."""
        self._timer.cancel()
        self._loop.remove_reader(self._sock.fileno())
        self._tell(why)
