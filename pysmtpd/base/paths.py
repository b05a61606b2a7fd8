"""Where things are: declared once for the daemon and for smtpctl.

Without a state directory these are the system places.  With one, everything lives below it, and the
state directory is the spool.
"""

from collections.abc import Mapping
from typing import NamedTuple

SYSTEM_SPOOL = "/var/spool/smtpd"
SYSTEM_SOCKET = "/var/run/smtpd.sock"
CONFIG_FILES = ("/etc/mail/smtpd.conf", "/etc/smtpd.conf")
MAILNAME_FILES = ("/etc/mail/mailname", "/etc/mailname")
MAIL_DIRECTORY = "/var/mail"
SOCKET_NAME = "smtpd.sock"


class Paths(NamedTuple):
    """The places of one daemon."""

    spool: str                     # root of the queue process
    socket: str                    # the control socket

    @property
    def queue(self) -> str:
        """Of _smtpq, mode 0700: the database and the files of large bodies."""
        return f"{self.spool}/queue"

    @property
    def empty(self) -> str:
        """Of root, empty for ever: the root of the jailed processes."""
        return f"{self.spool}/empty"

    @property
    def lock(self) -> str:
        """Held by the parent and by queue as long as either lives."""
        return f"{self.spool}/smtpd.lock"


def system() -> Paths:
    """The places of the system's own daemon."""
    return Paths(SYSTEM_SPOOL, SYSTEM_SOCKET)


def under(state_dir: str) -> Paths:
    """Everything below one directory."""
    return Paths(state_dir, f"{state_dir}/{SOCKET_NAME}")


def state_dir_of(environ: Mapping[str, str]) -> str:
    """A user's own state directory: $PYSMTPD_STATE_DIR, else $XDG_STATE_HOME/pysmtpd, else
    ~/.local/state/pysmtpd.  Empty when there is no home either.  A relative $XDG_STATE_HOME is not valid, says its
    specification: daemon and smtpctl would take it for different places."""
    if environ.get("PYSMTPD_STATE_DIR"):
        return environ["PYSMTPD_STATE_DIR"]
    if environ.get("XDG_STATE_HOME", "").startswith("/"):
        return f"{environ['XDG_STATE_HOME']}/pysmtpd"
    return f"{environ['HOME']}/.local/state/pysmtpd" if environ.get("HOME") else ""
