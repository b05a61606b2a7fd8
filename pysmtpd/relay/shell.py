"""What relaying needs of the process around it: the time, connections, and a way to say things."""

from collections.abc import Callable
from typing import Protocol

from pysmtpd.imsg import Message
from pysmtpd.relay.tls_policy import TlsPolicy


class TlsInfo(Protocol):
    """What a handshake came to."""

    @property
    def text(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def verified(self) -> bool: ...


class Handler(Protocol):
    """Who hears of a link's events."""

    def io_connected(self) -> None: ...

    def io_data(self, data: bytes) -> None: ...

    def io_eof(self) -> None: ...

    def io_error(self, text: str) -> None: ...

    def io_drained(self) -> None: ...

    def io_tls(self, info: TlsInfo) -> None: ...

    def io_timeout(self) -> None: ...


class Link(Protocol):
    """A connection to a server, not blocking."""

    @property
    def backlog(self) -> int:
        """Octets that have not left yet."""

    def write(self, data: bytes) -> None: ...

    def close(self) -> None:
        """Once everything written has left."""

    def abort(self) -> None: ...

    def set_timeout(self, seconds: float) -> None: ...


class Timer(Protocol):
    """Something that will happen."""

    def cancel(self) -> None: ...


class Shell(Protocol):
    """The process."""

    def now(self) -> int:
        """Seconds since the epoch."""

    def clock(self) -> float:
        """Seconds that never go back."""

    def new_reqid(self) -> int: ...

    def soon(self, callback: Callable[[], None]) -> None:
        """At the end of this turn of the loop."""

    def later(self, seconds: float, callback: Callable[[], None]) -> Timer: ...

    def dial(self, address: str, port: int, handler: Handler, source: str, timeout: float) -> Link:
        """Begin to connect.  Raises OSError when it cannot even begin."""

    def local_address(self, link: Link) -> str:
        """Our end's address, or empty when it is not known."""

    def start_tls(self, link: Link, policy: TlsPolicy, name: str) -> None:
        """Begin a handshake once everything written has left; io_tls or io_error follows."""

    def tell_queue(self, message: Message) -> None: ...

    def tell_lka(self, message: Message) -> None: ...

    def log(self, line: str) -> None: ...
