"""How one delivery ended, in a worker's words."""

import errno
from typing import NamedTuple, Protocol

from pysmtpd.messages import Outcome

TEXT_MAX = 256                     # octets of a command's last words


class Verdict(NamedTuple):
    """What goes into WorkerDelivered.  ``text`` may be a stranger's."""

    outcome: Outcome
    esc: str
    text: bytes


DELIVERED = Verdict(Outcome.OK, "2.0.0", b"Delivered")


class Failed(Exception):
    """A delivery that ends here, with this verdict."""

    def __init__(self, outcome: Outcome, esc: str, text: str | bytes) -> None:
        super().__init__(text)
        self.verdict = Verdict(outcome, esc, text.encode() if isinstance(text, str) else text)


class Gone(Exception):
    """mda is gone: nobody wants the result any more."""


def tempfail(esc: str, text: str | bytes) -> Failed:
    return Failed(Outcome.TEMPFAIL, esc, text)


def permfail(esc: str, text: str | bytes) -> Failed:
    return Failed(Outcome.PERMFAIL, esc, text)


_STATUS = {
    errno.ENOSPC: "4.3.1",         # mail system full
    errno.EDQUOT: "4.2.2",         # mailbox full
    errno.EFBIG: "4.2.2",
}


def of_error(what: str, error: OSError) -> Failed:
    """An operating system's refusal: always temporary, because somebody can mend it and no mail is lost meanwhile."""
    return tempfail(_STATUS.get(error.errno or 0, "4.2.0"), f"{what}: {error.strerror or error}")


class Sink(Protocol):
    """Where a body goes.  Any of these may raise Failed, and has undone its work then."""

    def write(self, chunk: bytes) -> None:
        """The next piece, lines ending in CRLF."""

    def finish(self) -> Verdict:
        """The body is complete: make it durable."""

    def abort(self) -> None:
        """The rest cannot be had: undo."""
