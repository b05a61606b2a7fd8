"""What a client's session tells its owner, and how it is asked to secure itself."""

import enum
from typing import NamedTuple

from pysmtpd.messages import Outcome
from pysmtpd.session import effects


class StartTls(enum.Enum):
    """When to say STARTTLS."""

    NEVER = "never"
    OFFERED = "offered"
    REQUIRED = "required"


class Ready(NamedTuple):
    """A transaction may be sent."""


class NeedBody(NamedTuple):
    """The server waits for mail data."""


class RcptDone(NamedTuple):
    """How it went for one recipient, by its place in the transaction."""

    rcpt: int
    outcome: Outcome
    esc: str                       # the server's enhanced status code, or empty
    text: str                      # its reply, clean


class TxDone(NamedTuple):
    """The oldest transaction is over: each of its recipients had its RcptDone."""


class TxAborted(NamedTuple):
    """The session ended in the middle of the oldest transaction; these recipients are undecided.

    ``safe``: the end of the mail data was never sent, so that trying again at once cannot make a duplicate."""

    undecided: tuple[int, ...]
    safe: bool


class Failed(NamedTuple):
    """The session is over: why, for the log and for those whose mail was not sent."""

    reason: str
    esc: str = ""


class Bye(NamedTuple):
    """The server answered QUIT."""


Effect = effects.Effect | Ready | NeedBody | RcptDone | TxDone | TxAborted | Failed | Bye
