"""What an alias, a virtual user or a .forward file leads to: the members of a list, as aliases(5) writes them.

A list is read member by member, and a member that is none does not spoil the others.  Commands and files are taken as
they are written: who runs them quotes what is put into them.
"""

import enum
import re
from collections.abc import Iterator
from typing import NamedTuple

from pysmtpd.base import idn
from pysmtpd.base.envelope import COMMAND_MAX
from pysmtpd.base.mailaddr import MailAddr
from pysmtpd.base.text import is_clean, vis

SHOWN_MAX = 80                     # characters of a bad member in an error


class Kind(enum.Enum):
    """What a member is, and what a node of an expansion stands for."""

    ADDRESS = "address"
    USERNAME = "user"
    COMMAND = "command"
    FILE = "file"
    INCLUDE = "include"
    ERROR = "error"
    BAD = "bad member"


class Member(NamedTuple):
    """One of them.

    text: the user in lower case, the address, the command without its bar, the path, or the whole reply of an error.
    direct: a user with a backslash before it, whose aliases and .forward are not looked at.
    """

    kind: Kind
    text: str
    address: MailAddr | None = None
    direct: bool = False


class BadMember(NamedTuple):
    """What could not be read, and why."""

    text: str
    why: str

    def __str__(self) -> str:
        shown = self.text if len(self.text) <= SHOWN_MAX else self.text[:SHOWN_MAX] + "..."
        return f'"{shown}" {self.why}'


class Members(NamedTuple):
    """What a list holds."""

    good: list[Member]
    bad: list[BadMember]


_ERROR = re.compile(r":?error:([45][0-9]{2} [a-zA-Z0-9].*)", re.IGNORECASE | re.DOTALL)
_INCLUDE = re.compile(r":?include:(/.*)", re.IGNORECASE | re.DOTALL)
_USER = re.compile(r"[a-zA-Z0-9_.+-]+")
# Letters and digits of any script: who has such users may name them.
_LOCAL = re.compile(r"(?:[\w!#$%*/?|^{}`~&'+=.-])+")
_DOMAIN = re.compile(r"[\w.-]+|\[[0-9a-zA-Z:.]+\]")
_PLAIN = re.compile(r"[a-zA-Z0-9_.+@-]+")


def parse(line: str) -> Members:
    """All members of a comma-separated list."""
    if _PLAIN.fullmatch(line):
        # Nearly always it is one user or one address.
        read = _read(line, escaped=False)
        return Members([read], []) if isinstance(read, Member) else Members([], [read])
    found = Members([], [])
    for text, escaped, whole in _split(line):
        if not whole:
            found.bad.append(BadMember(text, "has an open quote, or ends in a backslash"))
            continue
        member = _read(text, escaped=escaped)
        if isinstance(member, Member):
            found.good.append(member)
        else:
            found.bad.append(member)
    return found


def _split(line: str) -> Iterator[tuple[str, bool, bool]]:
    """The items of a list: text, whether it began with a backslash, whether quotes and backslashes were closed.

    Commas in quotes do not part, a backslash takes away the meaning of what follows it, and a ``#`` behind a blank
    begins a comment, except in a command, a file or an error, which may hold any character."""
    item: list[str] = []
    quote, backslash, escaped = "", False, False
    for char in line:
        if backslash:
            backslash = False
        elif char == "\\":
            backslash = True
            escaped = escaped or not "".join(item).strip()
            continue
        elif char == "," and not quote:
            if text := "".join(item).strip():
                yield text, escaped, True
            item, escaped = [], False
            continue
        elif char == "#" and not quote and (not item or item[-1] in " \t") and _ends_at_comment("".join(item)):
            break
        elif char in "\"'" and quote in ("", char):
            quote = "" if quote else char
        item.append(char)
    if text := "".join(item).strip():
        yield text, escaped, not (quote or backslash)
    elif backslash:
        yield "\\", False, False


def _ends_at_comment(text: str) -> bool:
    return text.lstrip()[:1] not in ("|", '"', "/") and ":" not in text


def _read(text: str, *, escaped: bool) -> Member | BadMember:
    """One item.  The kinds are tried in the order of OpenSMTPD."""
    text = text.replace("\t", " ")
    if not is_clean(text):
        return BadMember(vis(text.encode("utf-8", "replace")), "has a control character")
    for kind, pattern in ((Kind.ERROR, _ERROR), (Kind.INCLUDE, _INCLUDE)):
        match = pattern.fullmatch(text)
        if match is not None:
            return Member(kind, match[1])
    if text.startswith("|") or (text.startswith('"|') and text.endswith('"') and len(text) > 2):
        return _command(text)
    if text.startswith("/"):
        if len(text.encode()) > COMMAND_MAX:
            return BadMember(text, f"is longer than {COMMAND_MAX} octets")
        return Member(Kind.FILE, text)
    if "@" in text[1:-1]:
        return _address(text)
    if _USER.fullmatch(text) is None:
        return BadMember(text, _meant(text))
    return Member(Kind.USERNAME, text.lower(), None, escaped)


def _meant(text: str) -> str:
    """Why a text is no member, by what it seems to be."""
    if re.match(":?error:", text, re.IGNORECASE):
        return "is no error: that has a code from 400 to 599, a blank and a text"
    if re.match(":?include:", text, re.IGNORECASE):
        return "is no include: that has an absolute path"
    if text.startswith('"/'):
        return "is no file: that has no quotes around it"
    return "is no user, address, command, file, include or error"


def _command(text: str) -> Member | BadMember:
    command = (text[2:-1] if text.startswith('"') else text[1:]).strip()
    if not command:
        return BadMember(text, "is an empty command")
    if len(command.encode()) >= COMMAND_MAX:
        return BadMember(text, f"is longer than {COMMAND_MAX} octets")
    return Member(Kind.COMMAND, command)


def _address(text: str) -> Member | BadMember:
    user, _, domain = text.rpartition("@")
    if _LOCAL.fullmatch(user) is None or _DOMAIN.fullmatch(domain) is None:
        return BadMember(text, "is no address")
    try:
        address = MailAddr(user, domain if domain.isascii() else idn.to_ascii(domain))
    except ValueError as error:
        return BadMember(text, str(error))
    return Member(Kind.ADDRESS, text, address)
