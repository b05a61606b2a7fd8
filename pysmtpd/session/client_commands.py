"""What a client says: the transaction as it is handed in, what the server can do, and the commands that follow
from the two (RFC 5321 4.1.1, with the parameters of RFC 1870, 6152, 3030, 3461 and 6531; LIMITS of RFC 9422)."""

import re
from typing import NamedTuple

from pysmtpd.base.envelope import Notify, Ret
from pysmtpd.base.text import check_clean

_NOTIFY = tuple((bit, bit.name or "") for bit in (Notify.SUCCESS, Notify.FAILURE, Notify.DELAY, Notify.NEVER))
_LIMIT = re.compile(rb"([A-Z]+)=([1-9][0-9]{0,5})")    # RFC 9422 4: others are as if they were not there


class Recipient(NamedTuple):
    """One forward-path, and what RFC 3461 knows of it."""

    address: str
    notify: int = 0                # base.envelope.Notify
    orcpt: str = ""                # addr-type;xtext, as given


class Transaction(NamedTuple):
    """One message to be sent."""

    sender: str                    # the reverse-path, empty for the null one
    recipients: tuple[Recipient, ...]
    size: int = 0                  # octets
    has_8bit: bool = False
    ret: Ret = Ret.NONE
    envid: str = ""                # xtext, as given
    binary: bool = False           # not all of it are lines that end in CRLF
    smtputf8: bool = False         # an address or the header is beyond ASCII
    auth: str = ""                 # AUTH= as given: xtext or <>


class Extensions(NamedTuple):
    """What the server offered in answer to EHLO or LHLO."""

    pipelining: bool = False
    starttls: bool = False
    eightbit: bool = False
    dsn: bool = False
    size: int = 0                  # the largest message it takes in octets, 0 when it did not say
    auth: frozenset[str] = frozenset()
    takes_binary: bool = False     # BINARYMIME, and CHUNKING by which alone it may come
    smtputf8: bool = False
    mail_max: int = 0              # LIMITS: MAIL in a session, RCPT in a transaction, and domains of recipients in a
    rcpt_max: int = 0              # session; 0 when it did not say
    domain_max: int = 0


def parse_extensions(lines: list[bytes]) -> Extensions:
    """The lines after the first of an EHLO reply.  Keywords are case-insensitive; what is malformed is ignored."""
    words: dict[bytes, list[bytes]] = {}
    for line in lines[1:]:
        keyword, *parameters = line.upper().split() or [b""]
        words.setdefault(keyword, []).extend(parameters)
        if keyword.startswith(b"AUTH="):
            # What servers of the last century said.
            words.setdefault(b"AUTH", []).extend([keyword[5:], *parameters])
    size = words.get(b"SIZE") or [b"0"]
    limits = {found[1]: int(found[2]) for found in map(_LIMIT.fullmatch, words.get(b"LIMITS", ())) if found}
    return Extensions(
        pipelining=b"PIPELINING" in words,
        starttls=b"STARTTLS" in words,
        eightbit=b"8BITMIME" in words,
        dsn=b"DSN" in words,
        size=int(size[0]) if size[0].isdigit() and len(size[0]) < 20 else 0,
        auth=frozenset(word.decode("ascii", "replace") for word in words.get(b"AUTH", ())),
        takes_binary=b"BINARYMIME" in words and b"CHUNKING" in words,
        smtputf8=b"SMTPUTF8" in words,
        mail_max=limits.get(b"MAILMAX", 0),
        rcpt_max=limits.get(b"RCPTMAX", 0),
        domain_max=limits.get(b"RCPTDOMAINMAX", 0),
    )


def mail(tx: Transaction, offered: Extensions, *, known: bool = False) -> bytes:
    """MAIL FROM with the parameters the server takes.  ``known``: we have logged in.

    Raises ValueError when an address would break the line."""
    line = f"MAIL FROM:<{tx.sender}>"
    if offered.size and tx.size:
        line += f" SIZE={tx.size}"
    if tx.binary:
        line += " BODY=BINARYMIME"
    elif offered.eightbit and tx.has_8bit:
        line += " BODY=8BITMIME"
    if offered.smtputf8 and tx.smtputf8:
        line += " SMTPUTF8"
    if tx.auth and offered.auth and (known or tx.auth != "<>"):
        line += f" AUTH={tx.auth}"     # RFC 4954 5
    if offered.dsn:
        if tx.ret is not Ret.NONE:
            line += f" RET={tx.ret.name}"
        if tx.envid:
            line += f" ENVID={tx.envid}"
    return f"{check_clean(line, 2048, 'command')}\r\n".encode()


def rcpt(recipient: Recipient, offered: Extensions) -> bytes:
    """RCPT TO, likewise."""
    line = f"RCPT TO:<{recipient.address}>"
    if offered.dsn:
        if recipient.notify:
            line += " NOTIFY=" + ",".join(name for bit, name in _NOTIFY if recipient.notify & bit)
        if recipient.orcpt:
            line += f" ORCPT={recipient.orcpt}"
    return f"{check_clean(line, 2048, 'command')}\r\n".encode()
