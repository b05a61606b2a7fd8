"""Format specifiers of smtpd.conf: ``%{dest.user[0:3]:lowercase|strip}``, ``%%`` and a leading ``~/``.

The names, modifiers and ranges are OpenSMTPD's; two of its defects are mended: ``[-1]`` is the last character, and a
range may be followed by modifiers.

What is put in was mostly chosen by a stranger: the sender's address, the local part of a recipient.  It ends up in
one of two places, and each has its own danger.

*A shell command.*  The administrator may have written the specifier bare, within double quotes or within single
quotes, and we cannot know which: what quotes rightly in one place breaks out of another.  So nothing is quoted.
Instead only characters that mean nothing to a shell in *any* of the three places go in, and every other one becomes a
colon: what OpenSMTPD replaces (``! # $ % & ' * ? ` { | } ~``), what ends or escapes a quotation (``"`` and ``\\``),
what separates words and commands (blanks, ``;``, ``<``, ``>``, parentheses), patterns (brackets), and slashes, because
commands write to ``/somewhere/%{dest.user}``.  Letters beyond ASCII stay: a delivery's environment names no locale, so
that a shell takes their octets one by one.  A ``-`` that begins a word becomes a colon too, so that no address is taken
for an option.  ``raw`` gives back slashes and per cent signs only; it is no way around the rest (CVE-2020-7247 is what
that leads to).

*A path.*  OpenSMTPD's characters and slashes become colons, and so do the dots of a value that has nothing else, so
that no address leads out of the directory the administrator wrote.  ``raw`` leaves all as it is.

The user's home directory and the command within a wrapper are not a stranger's; they go in unchanged.  A home that
could end a quotation is refused in a command.
"""

import re
from typing import NamedTuple, Protocol

from pysmtpd.base.mailaddr import MailAddr, split_tag

TOKEN_MAX = 127
OFFSET_MAX = 1024
RESULT_MAX = 4096                  # octets; OpenSMTPD: 1023

_COMMAND_UNSAFE = re.compile(r"[^A-Za-z0-9@._+=,:^\u00a1-\U0010ffff-]")
_COMMAND_UNSAFE_RAW = re.compile(r"[^A-Za-z0-9@._+=,:^/%\u00a1-\U0010ffff-]")
_BEGINS_WORD = " \t\n\"'="
_ENDS_QUOTATION = re.compile(r"[\"'\\$`\n]")
_PATH_UNSAFE = re.compile(r"[!#$%&'*?`{|}~/]")
_SPECIFIER = re.compile(r"([A-Za-z.]+)(?:\[([^]]*)\])?(?::(.*))?")
_RANGE = re.compile(r"(-?[0-9]{1,4})?(:)?(-?[0-9]{1,4})?")
_MODIFIERS = frozenset({"lowercase", "uppercase", "strip", "raw"})
_ADDRESSES = frozenset({"sender", "rcpt", "dest"})


class ExpandError(ValueError):
    """A format that cannot be expanded.  ``config``: no value ever could; the administrator has to mend it."""

    def __init__(self, text: str, *, config: bool) -> None:
        super().__init__(text)
        self.config = config


class Values(NamedTuple):
    """What there is to put in.  ``directory`` None: it is not known.  ``mda``: the command within a wrapper."""

    sender: MailAddr
    rcpt: MailAddr
    dest: MailAddr
    username: str
    directory: str | None
    delimiter: str = "+"
    mda: str | None = None


class Place(Protocol):
    """Where a value is put."""

    def clean(self, text: str, *, raw: bool) -> str:
        """A stranger's value, before a range cuts it."""

    def fit(self, text: str, before: str, *, raw: bool) -> str:
        """The cut value, given what stands before it."""

    def home(self, text: str) -> str:
        """A home directory."""


class Command:
    """A shell command."""

    def clean(self, text: str, *, raw: bool) -> str:
        return (_COMMAND_UNSAFE_RAW if raw else _COMMAND_UNSAFE).sub(":", text)

    def fit(self, text: str, before: str, *, raw: bool) -> str:
        begins = not before or before[-1] in _BEGINS_WORD
        return ":" + text[1:] if begins and text.startswith("-") else text

    def home(self, text: str) -> str:
        if _ENDS_QUOTATION.search(text):
            raise ExpandError("no shell command can hold this home directory", config=True)
        return text


class Path:
    """A path in the file system, or the destination of lmtp."""

    def clean(self, text: str, *, raw: bool) -> str:
        return text if raw else _PATH_UNSAFE.sub(":", text)

    def fit(self, text: str, before: str, *, raw: bool) -> str:
        return text if raw or text.strip(".") else ":" * len(text)

    def home(self, text: str) -> str:
        return text


COMMAND: Place = Command()
PATH: Place = Path()


def mbox_from(sender: MailAddr) -> str:
    """The sender as an mbox names it."""
    return "MAILER-DAEMON" if sender.is_null else str(sender)


def strip_subaddress(text: str, delimiter: str) -> str:
    """``user+tag@domain`` or ``user+tag`` without the tag."""
    user, at, domain = text.rpartition("@") if "@" in text else (text, "", "")
    return split_tag(user, delimiter)[0] + at + domain


def expand(template: str, values: Values, place: Place) -> str:
    """The template with every specifier replaced.  Raises ExpandError."""
    out = ""
    at = 0
    if template.startswith("~/"):
        out, at = place.home(_directory(values)), 1
    while (percent := template.find("%", at)) >= 0:
        out += template[at:percent]
        following = template[percent + 1 : percent + 2]
        if following == "{":
            end = template.find("}", percent)
            if end < 0:
                # The original takes such a format as it is, and would run it.
                raise ExpandError("%{ without }", config=True)
            out += _specifier(template[percent + 2 : end], values, place, out)
            at = end + 1
        else:
            out += "%"
            at = percent + (2 if following == "%" else 1)
    out += template[at:]
    if len(out.encode()) > RESULT_MAX:
        raise ExpandError(f"more than {RESULT_MAX} octets", config=False)
    return out


def _specifier(token: str, values: Values, place: Place, before: str) -> str:
    match = _SPECIFIER.fullmatch(token)
    if match is None or len(token) > TOKEN_MAX:
        raise ExpandError(f"%{{{token[:TOKEN_MAX]}}} is not a format specifier", config=True)
    modifiers = [word.strip().lower() for word in match[3].split("|")] if match[3] is not None else []
    for word in modifiers:
        if word not in _MODIFIERS:
            raise ExpandError(f"%{{{token}}}: there is no modifier {word or '(empty)'}", config=True)
    name, raw = match[1].lower(), "raw" in modifiers
    if name == "mda" and values.mda is not None and token.lower() == "mda":
        return values.mda
    trusted = name == "user.directory"
    text = _modify(_directory(values) if trusted else _value(name, values), modifiers, values.delimiter)
    text = _cut(place.home(text) if trusted else place.clean(text, raw=raw), match[2], token)
    return text if trusted else place.fit(text, before, raw=raw)


def _value(name: str, values: Values) -> str:
    """The value that a stranger may have chosen."""
    whole, dot, part = name.partition(".")
    if whole in _ADDRESSES and (not dot or part in ("user", "domain")):
        address: MailAddr = getattr(values, whole)
        return str(getattr(address, part)) if dot else str(address)
    if name == "user.username":
        return values.username
    if name == "mbox.from":
        return mbox_from(values.sender)
    raise ExpandError(f"there is no %{{{name}}} here", config=True)


def _directory(values: Values) -> str:
    if values.directory is None:
        raise ExpandError("the home of the recipient is not known to an action that names a user", config=True)
    return values.directory


def _modify(text: str, modifiers: list[str], delimiter: str) -> str:
    for word in modifiers:
        if word == "lowercase":
            text = text.lower()
        elif word == "uppercase":
            text = text.upper()
        elif word == "strip":
            text = strip_subaddress(text, delimiter)
    return text


def _cut(text: str, wanted: str | None, token: str) -> str:
    """Characters b to e, both included; negative ones count from the end.  An empty text stays empty."""
    if wanted is None:
        return text
    match = _RANGE.fullmatch(wanted)
    if match is None or not wanted:
        raise ExpandError(f"%{{{token}}}: [{wanted}] is not a range", config=True)
    first = int(match[1] or 0)
    last = int(match[3] or -1) if match[2] else first
    if max(abs(first), abs(last)) > OFFSET_MAX:
        raise ExpandError(f"%{{{token}}}: offsets go to {OFFSET_MAX}", config=True)
    if not text:
        return ""
    size = len(text)
    first += size if first < 0 else 0
    last += size if last < 0 else 0
    if not 0 <= first < size or last < first:
        raise ExpandError(f"%{{{token}}}: the value is too short", config=False)
    return text[first : last + 1]


SAMPLE = Values(MailAddr("a", "a"), MailAddr("a", "a"), MailAddr("a", "a"), "a", "/")  # to try a format with
