"""The whole vocabulary in which a session speaks to the shell around it.

A session's ``receive``, ``answer``, ``timeout`` and the like return a list of these, to be carried out
in order.
"""

from pysmtpd.base.logline import Level
from pysmtpd.base.struct import Wire
from pysmtpd.imsg import Message


class Send(Wire):
    """Bytes for the other end."""

    data: bytes


class Ask(Wire):
    """A message for the process its route names.  Its answer, if it has one, comes back through answer()."""

    message: Message


class Body(Wire):
    """A piece of mail data for the queue; the shell obeys the window and stops reading when it is shut."""

    chunk: bytes


class StartTls(Wire):
    """Begin the handshake once everything sent so far has left.  Bytes read before it are discarded."""


class Close(Wire):
    """Say no more, and close once everything sent has left."""


class Wait(Wire):
    """Call wake() after so many seconds; nothing is read until then."""

    seconds: float


class Log(Wire):
    """A line for the log."""

    line: str
    level: Level = Level.INFO


class Admit(Wire):
    """The client is at another address now: whether it may have a connection.  A SmtpLookedUp comes back through
    answer(): YES, or else the limit that forbids it as its value."""

    address: str


class AuthFailed(Wire):
    """Somebody was not who they said: for those who count that by address and by user."""

    user: str


class Count(Wire):
    """Add to a statistics key."""

    key: str
    amount: int = 1


Effect = Send | Ask | Body | StartTls | Close | Wait | Log | Count | AuthFailed | Admit
