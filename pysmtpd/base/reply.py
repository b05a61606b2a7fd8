"""Replies of the SMTP server (RFC 5321 4.2): those that have names, and how the others are made.

A Reply is one line without its CRLF, in printable ASCII, of at most 510 octets.  The texts are
OpenSMTPD's; names begin with the code.
"""

import re
from typing import NewType

from pysmtpd.base import esc

Reply = NewType("Reply", str)

REPLY_MAX = 510                    # RFC 5321 4.5.3.1.5: 512 with CRLF
SOFTWARE = "pysmtpd"               # how banner, HELP and Received name us

_UNPRINTABLE = re.compile("[^ -~]")
_REFUSAL = re.compile(r"[45][0-5][0-9] [ -~]*")


def line(text: str) -> Reply:
    """A reply that quotes a stranger: what may not stand in a reply becomes ``?``, too much is cut."""
    return Reply(_UNPRINTABLE.sub("?", text)[:REPLY_MAX])


def described(code: int, detail: str, text: str) -> Reply:
    """A reply with enhanced code and its description, such as ``503 5.5.1 Invalid command: text``."""
    return line(f"{code} {esc.full(code, detail)} {esc.DESCRIPTIONS[detail]}: {text}")


def refusal(text: str, recipient: str, *, whole: bool = False) -> Reply | None:
    """What another process refused a recipient with, made whole; None when it is no 4yz or 5yz reply."""
    if not _REFUSAL.fullmatch(text):
        return None
    return line(text if whole else f"{text}: <{recipient}>")


def multiline(code: int, first: Reply, rest: tuple[str, ...]) -> bytes:
    """``250-first`` ... ``250 last``, ready to be sent; ``first`` begins with its code, the rest is our own text."""
    lines = [f"{code}-{first[4:]}", *(f"{code}-{text}" for text in rest)]
    lines[-1] = f"{code} {lines[-1][4:]}"
    return "\r\n".join((*lines, "")).encode("ascii")


R214_HELP = multiline(214, Reply(f"214 2.0.0 This is {SOFTWARE}"), (
    "2.0.0 The operator of this server can be reached as postmaster",
    "2.0.0 End of HELP info",
))
R220_START_TLS = Reply("220 2.0.0 Ready to start TLS")
R221_BYE = Reply("221 2.0.0 Bye")
R250_OK = Reply("250 2.0.0 Ok")
R250_RESET = Reply("250 2.0.0 Reset state")
R250_RECIPIENT = described(250, esc.DESTINATION_VALID, "Recipient ok")
R235_AUTHENTICATED = Reply("235 2.0.0 Authentication succeeded")
R354_ENTER_MAIL = Reply('354 Enter mail, end with "." on a line by itself')
R421_BUSY = Reply("421 4.3.2 System busy, try again later")
R421_PAUSED = Reply("421 4.3.2 Service not available, try again later")
R421_CONNECTIONS = Reply("421 4.3.2 Too many connections")
R421_CLIENT_CONNECTIONS = Reply("421 4.7.0 Too many connections from your address or network")
R421_CLIENT_RATE = Reply("421 4.7.0 Your address or network connects too often, try again later")
R421_CLIENT_FAILURES = Reply("421 4.7.0 Too many failed authentications, try again later")
R421_SHUTDOWN = Reply("421 4.3.2 Service shutting down")
R421_TIMEOUT = Reply("421 4.4.2 Connection timed out")
R421_TOO_MANY_ERRORS = Reply("421 4.7.0 Too many errors")
R421_FALLEN_BEHIND = Reply("421 4.3.0 Temporary failure")
R451_TEMPORARY = Reply("451 4.3.0 Temporary failure")
R451_RECIPIENTS = described(451, esc.TOO_MANY_RECIPIENTS, "Too many recipients")
R452_MESSAGES = described(452, esc.TOO_MANY_RECIPIENTS, "Too many messages sent")
R452_STORAGE = Reply("452 4.3.1 Insufficient system storage")
R454_AUTH = Reply("454 4.7.0 Temporary authentication failure")
R500_ARGUMENTS = described(500, esc.INVALID_ARGUMENTS, "command does not accept arguments.")
R500_BARE_NEWLINE = described(500, esc.SYNTAX, "Lines must end in CRLF")
R500_COMMAND_TOO_LONG = Reply("500 5.0.0 Command line too long")
R500_CONTROL = described(500, esc.SYNTAX, "Control character in command")
R500_UNRECOGNIZED = described(500, esc.INVALID_COMMAND, "Command unrecognized")
R500_WIZ = described(500, esc.INVALID_COMMAND, "this feature is not supported yet ;-)")
R501_CHUNK = described(501, esc.INVALID_ARGUMENTS, "BDAT requires a size, and perhaps LAST")
R501_DOMAIN = described(501, esc.INVALID_ARGUMENTS, "Invalid domain name")
R501_DUPLICATE = described(501, esc.INVALID_ARGUMENTS, "Option given twice")
R501_EHLO_DOMAIN = described(501, esc.INVALID_COMMAND, "EHLO requires domain name")
R501_HELO_DOMAIN = described(501, esc.INVALID_COMMAND, "HELO requires domain name")
R501_LHLO_DOMAIN = described(501, esc.INVALID_COMMAND, "LHLO requires domain name")
R501_NO_PARAMETERS = described(501, esc.INVALID_ARGUMENTS, "No parameters allowed")
R501_NO_MECHANISM = described(501, esc.INVALID_ARGUMENTS, "No parameters given")
R501_ATTRIBUTES = described(501, esc.INVALID_ARGUMENTS, "No attributes given")
R501_RECIPIENT = Reply("501 5.1.3 Recipient address syntax error")
R501_SYNTAX = described(501, esc.SYNTAX, "Syntax error")
R503_ALREADY_SECURE = described(503, esc.INVALID_COMMAND, "Channel already secured")
R503_NO_RECIPIENT = described(503, esc.INVALID_ARGUMENTS, "No recipient specified")
R503_NOT_ALLOWED = described(503, esc.INVALID_COMMAND, "Command not allowed at this point.")
R503_NOT_SUPPORTED = described(503, esc.INVALID_COMMAND, "Command not supported")
R503_AUTHENTICATED = described(503, esc.INVALID_COMMAND, "Already authenticated")
R530_AUTH_FIRST = described(530, esc.INVALID_COMMAND, "Must issue an AUTH command first")
R530_STARTTLS_FIRST = described(530, esc.INVALID_COMMAND, "Must issue a STARTTLS command first")
R535_AUTH = Reply("535 Authentication failed")
R550_BARE_NEWLINE = described(550, esc.SYNTAX, "Bare CR or LF in message")
R550_HEADER = described(550, esc.SYNTAX, "Bare CR, bare LF or NUL in header")
R550_NOT_YOURS = described(550, esc.NOT_AUTHORIZED, "Sender rejected")
R550_NOT_TRUSTED = described(550, esc.NOT_AUTHORIZED, "Only known proxies may say this")
R550_NUL = described(550, esc.SYNTAX, "NUL octet in message")
R554_NO_PROXY = Reply("554 5.7.1 Only known proxies may connect here")
R552_DECLARED_SIZE = described(552, esc.TOO_BIG, "Declared size exceeds the limit")
R552_HEADER = described(552, esc.TOO_BIG, "Header too big")
R553_NOTIFY_NEVER = Reply("553 NOTIFY option NEVER cannot be combined with other options")
R553_ORCPT = Reply("553 ORCPT address syntax error")
R553_SMTPUTF8 = Reply("553 5.6.7 Address needs SMTPUTF8")
R553_SENDER = Reply("553 5.1.0 Sender address syntax error")
R554_LOOP = described(554, esc.LOOP, "Loop detected")
R554_TOO_BIG = described(554, esc.TOO_BIG, "Transaction failed, message too big")
