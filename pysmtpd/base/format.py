"""Format specifiers of smtpd.conf: ``%{dest.user[0:3]:lowercase|strip}``, ``%%`` and a leading ``~/``.

``parse`` says, when the configuration is read, what is wrong with a template and where; ``expand`` puts values in.

The names, modifiers and ranges are OpenSMTPD's; two of its defects are mended: ``[-1]`` is the last character, and a
range may be followed by modifiers.

What is put in was mostly chosen by a stranger: the sender's address, the local part of a recipient.  It ends up in
one of three places, and each has its own danger.

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

*A reply of SMTP.*  One line of printable ASCII: OpenSMTPD's characters become colons, what is not printable becomes a
question mark, and ``raw`` gives back the former only.

The user's home directory and the command within a wrapper are not a stranger's; they go in unchanged.  A home that
could end a quotation is refused in a command.
"""

import re
from functools import lru_cache
from typing import NamedTuple, Protocol

from pysmtpd.base.mailaddr import MailAddr, split_tag

TOKEN_MAX = 127
OFFSET_MAX = 1024
RESULT_MAX = 4096                  # octets; OpenSMTPD: 1023

ADDRESSES = frozenset({
    "sender", "sender.user", "sender.domain", "rcpt", "rcpt.user", "rcpt.domain", "dest", "dest.user", "dest.domain",
})
DELIVERY = ADDRESSES | {"user.username", "user.directory", "mbox.from"}   # where a local user is known
WRAPPER = DELIVERY | {"mda"}

_COMMAND_UNSAFE = re.compile(r"[^A-Za-z0-9@._+=,:^\u00a1-\U0010ffff-]")
_COMMAND_UNSAFE_RAW = re.compile(r"[^A-Za-z0-9@._+=,:^/%\u00a1-\U0010ffff-]")
_BEGINS_WORD = " \t\n\"'="
_ENDS_QUOTATION = re.compile(r"[\"'\\$`\n]")
_PATH_UNSAFE = re.compile(r"[!#$%&'*?`{|}~/]")
_REPLY_UNSAFE = re.compile(r"[!#$%&'*?`{|}~]")
_UNPRINTABLE = re.compile(r"[^ -~]")
_SPECIFIER = re.compile(r"([A-Za-z.]*)(?:\[([^]]*)\])?(?::(.*))?", re.DOTALL)
_RANGE = re.compile(r"(-?[0-9]{1,4})?(:)?(-?[0-9]{1,4})?")
_MODIFIERS = frozenset({"lowercase", "uppercase", "strip", "raw"})


class ExpandError(ValueError):
    """A format that cannot be expanded.  ``config``: no value ever could; the administrator has to mend it."""

    def __init__(self, text: str, *, config: bool) -> None:
        super().__init__(text)
        self.config = config


class FormatError(ExpandError):
    """A template that is wrong whatever the values: from character ``offset`` on, ``length`` characters."""

    def __init__(self, text: str, offset: int, length: int) -> None:
        super().__init__(text, config=True)
        self.offset = offset
        self.length = length


class Specifier(NamedTuple):
    """One ``%{...}``.  ``span``: first and last character wanted, -1 is the last of the value; None is all."""

    name: str
    span: tuple[int, int] | None = None
    modifiers: tuple[str, ...] = ()


class Format(NamedTuple):
    """A template that was understood.  ``home``: it begins with the home directory."""

    home: bool
    parts: tuple[str | Specifier, ...]


class Values(NamedTuple):
    """What there is to put in.  ``directory`` None: it is not known.  ``mda``: the command within a wrapper."""

    sender: MailAddr
    rcpt: MailAddr
    dest: MailAddr
    username: str = ""
    directory: str | None = None
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


class ReplyText:
    """A reply of SMTP."""

    def clean(self, text: str, *, raw: bool) -> str:
        return _UNPRINTABLE.sub("?", text if raw else _REPLY_UNSAFE.sub(":", text))

    def fit(self, text: str, before: str, *, raw: bool) -> str:
        return text

    def home(self, text: str) -> str:
        return _UNPRINTABLE.sub("?", text)


COMMAND: Place = Command()
PATH: Place = Path()
REPLY: Place = ReplyText()


def mbox_from(sender: MailAddr) -> str:
    """The sender as an mbox names it."""
    return "MAILER-DAEMON" if sender.is_null else str(sender)


def strip_subaddress(text: str, delimiter: str) -> str:
    """``user+tag@domain`` or ``user+tag`` without the tag."""
    user, at, domain = text.rpartition("@") if "@" in text else (text, "", "")
    return split_tag(user, delimiter)[0] + at + domain


# reading a template

@lru_cache(maxsize=256)
def parse(template: str, names: frozenset[str] = DELIVERY, *, home: bool = True) -> Format:
    """The template, taken apart.  ``names``: the specifiers there are in this place; ``home``: whether a leading
    ``~/`` is one.  Raises FormatError."""
    parts: list[str | Specifier] = []
    begins_at_home = home and template.startswith("~/")
    at = 1 if begins_at_home else 0
    while (percent := template.find("%", at)) >= 0:
        parts.append(template[at:percent])
        following = template[percent + 1 : percent + 2]
        if following == "{":
            end = template.find("}", percent)
            if end < 0:
                # The original takes such a format as it is, and would run it.
                raise FormatError("%{ without }", percent, 2)
            try:
                parts.append(_specifier(template[percent + 2 : end], names))
            except ExpandError as error:
                raise FormatError(str(error), percent, end + 1 - percent) from None
            at = end + 1
        else:
            parts.append("%")
            at = percent + (2 if following == "%" else 1)
    parts.append(template[at:])
    return Format(begins_at_home, tuple(part for part in parts if part))


def _specifier(token: str, names: frozenset[str]) -> Specifier:
    match = _SPECIFIER.fullmatch(token)
    if match is None or len(token) > TOKEN_MAX:
        raise _wrong(f"%{{{token[:TOKEN_MAX]}}} is not a format specifier")
    name = match[1].lower()
    if name not in names:
        raise _wrong(f"there is no %{{{match[1]}}} here, but {', '.join(sorted(names))}")
    modifiers = tuple(word.lower() for word in match[3].split("|")) if match[3] is not None else ()
    for word in modifiers:
        if word not in _MODIFIERS:
            raise _wrong(f"%{{{token}}}: there is no modifier {word or '(empty)'}")
    if name == "mda" and token.lower() != "mda":
        raise _wrong("%{mda} has neither range nor modifiers")
    return Specifier(name, None if match[2] is None else _span(match[2], token), modifiers)


def _wrong(text: str) -> ExpandError:
    return ExpandError(text, config=True)


def _span(wanted: str, token: str) -> tuple[int, int]:
    match = _RANGE.fullmatch(wanted)
    if match is None or not wanted:
        raise _wrong(f"%{{{token}}}: [{wanted}] is not a range")
    first = int(match[1] or 0)
    last = int(match[3] or OFFSET_MAX) if match[2] else first
    if max(abs(first), abs(last)) > OFFSET_MAX:
        raise _wrong(f"%{{{token}}}: offsets go to {OFFSET_MAX}")
    # [:-4] leaves out the last four: as an end a negative offset counts from the last character, not from behind it.
    return first, last - 1 if match[2] and last < 0 else last


# putting values in

def expand(template: str, values: Values, place: Place) -> str:
    """The template with every specifier of a delivery replaced.  Raises ExpandError."""
    return fill(parse(template, DELIVERY if values.mda is None else WRAPPER), values, place)


def fill(format: Format, values: Values, place: Place) -> str:
    """A parsed template with every specifier replaced.  Raises ExpandError."""
    out = place.home(_directory(values)) if format.home else ""
    for part in format.parts:
        out += part if isinstance(part, str) else _fill(part, values, place, out)
    if len(out.encode()) > RESULT_MAX:
        raise ExpandError(f"more than {RESULT_MAX} octets", config=False)
    return out


def _fill(specifier: Specifier, values: Values, place: Place, before: str) -> str:
    name, span, modifiers = specifier
    if name == "mda":
        return values.mda or ""
    raw = "raw" in modifiers
    trusted = name == "user.directory"
    text = _modify(_directory(values) if trusted else _value(name, values), modifiers, values.delimiter)
    text = place.home(text) if trusted else place.clean(text, raw=raw)
    if span is not None:
        text = _cut(text, span, name)
    return text if trusted else place.fit(text, before, raw=raw)


def _value(name: str, values: Values) -> str:
    """The value that a stranger may have chosen."""
    if name == "user.username":
        return values.username
    if name == "mbox.from":
        return mbox_from(values.sender)
    whole, _, part = name.partition(".")
    address: MailAddr = getattr(values, whole)
    return str(getattr(address, part)) if part else str(address)


def _directory(values: Values) -> str:
    if values.directory is None:
        raise ExpandError("the home of the recipient is not known to an action that names a user", config=True)
    return values.directory


def _modify(text: str, modifiers: tuple[str, ...], delimiter: str) -> str:
    for word in modifiers:
        if word == "lowercase":
            text = text.lower()
        elif word == "uppercase":
            text = text.upper()
        elif word == "strip":
            text = strip_subaddress(text, delimiter)
    return text


def _cut(text: str, span: tuple[int, int], name: str) -> str:
    """The characters of a span, both ends included.  An empty text stays empty."""
    if not text:
        return ""
    size = len(text)
    first, last = (at + size if at < 0 else at for at in span)
    if not 0 <= first < size or last < first:
        raise ExpandError(f"%{{{name}[{span[0]}:{span[1]}]}}: the value is too short", config=False)
    return text[first : last + 1]


SAMPLE = Values(MailAddr("a", "a"), MailAddr("a", "a"), MailAddr("a", "a"), "a", "/")  # to try a format with
