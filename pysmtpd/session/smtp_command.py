"""The command line (RFC 5321 4.1.1): verb and argument, and the row every command has in the table."""

import enum
import re
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from pysmtpd.base.reply import Reply
from pysmtpd.base.text import vis

S = TypeVar("S")

# The two verbs that end in a colon; the argument may follow after blanks.
_COLON = re.compile(r"(MAIL FROM|RCPT TO):[ \t]*", re.IGNORECASE | re.ASCII)
_AUTH_SHOWN = re.compile(rb"AUTH [A-Z0-9_-]{1,20} \((?:\.\.\.|username|password)\)")   # it has no secret in it
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class FilterPhase(enum.StrEnum):
    """Where filters are asked about a command."""

    NONE = ""
    HELO = "helo"
    EHLO = "ehlo"
    STARTTLS = "starttls"
    AUTH = "auth"
    MAIL_FROM = "mail-from"
    RCPT_TO = "rcpt-to"
    DATA = "data"
    RSET = "rset"
    QUIT = "quit"
    NOOP = "noop"
    HELP = "help"


class Command(NamedTuple, Generic[S]):
    """A row of the table.

    ``check`` says whether the command may be given now, with this argument: a reply that refuses it, or
    None.  Then filters are asked.  ``proceed`` does it."""

    verb: str
    check: Callable[[S, str], Reply | None]
    phase: FilterPhase
    proceed: Callable[[S, str], None]


def split(line: bytes) -> tuple[str, str] | None:
    """Verb in upper case, and argument without the blanks around it; octets that are no UTF-8 become surrogates.

    None when the line holds what no command may: a control character other than TAB."""
    text = line.decode("utf-8", "surrogateescape")
    if not text.isprintable() and _CONTROL.search(line) is not None:
        return None
    text = text.rstrip(" \t")
    if ":" in text:
        match = _COLON.match(text)
        if match:
            return match[1].upper() + ":", text[match.end() :]
    verb, _, argument = text.partition(" ")
    return verb.upper() if verb.isascii() else verb, argument.lstrip(" \t")


def loggable(line: bytes) -> str:
    """A command as it may stand in the log: never with what AUTH was given."""
    if line.lstrip(b" \t")[:4].upper() == b"AUTH":
        return vis(line) if _AUTH_SHOWN.fullmatch(line) else "AUTH (...)"
    return vis(line)
