"""How a key is compared with the entries of a table: pure functions and indexes.

An index is made once of all entries of a table, and answers which entry a key matches, or None.  None of
them grows slower with the number of entries, except for patterns with a ``*`` in their middle and for regular
expressions.  Keys are given in lower case, entries may be in any.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from pysmtpd.base import idn
from pysmtpd.base.mailaddr import split_tag
from pysmtpd.base.netaddr import parse_address as parse_address
from pysmtpd.base.netaddr import parse_network as parse_network


class ExactIndex:
    """Entries equal to the key, ignoring case."""

    def __init__(self, entries: Iterable[str]) -> None:
        self._entries: dict[str, str] = {}
        for entry in entries:
            self._entries[entry.lower()] = entry
            if not entry.isascii():
                self._entries.setdefault(idn.fold(entry.lower()), entry)

    def find(self, key: str) -> str | None:
        return self._entries.get(key)


class HostIndex:
    """Host names, in which ``*`` stands for one or more characters, dots included."""

    def __init__(self, entries: Iterable[str]) -> None:
        self._exact: dict[str, str] = {}
        self._under: dict[str, str] = {}       # "*.example.org" by "example.org"
        self._patterns: list[tuple[re.Pattern[str], str]] = []
        self._any: str | None = None
        for entry in entries:
            self._add(idn.fold(entry.lower()), entry)

    def _add(self, pattern: str, entry: str) -> None:
        if "*" not in pattern:
            self._exact[pattern] = entry
        elif pattern == "*":
            self._any = entry
        elif pattern.startswith("*.") and "*" not in pattern[2:]:
            self._under[pattern[2:]] = entry
        else:
            self._patterns.append((re.compile(glob(pattern)), entry))

    def find(self, key: str) -> str | None:
        found = self._exact.get(key)
        if found is not None:
            return found
        if self._under:
            at = key.find(".", 1)
            while at != -1:
                found = self._under.get(key[at + 1 :])
                if found is not None:
                    return found
                at = key.find(".", at + 1)
        for pattern, entry in self._patterns:
            if pattern.fullmatch(key):
                return entry
        return self._any if key else None


def glob(pattern: str) -> str:
    """A pattern with ``*`` as a regular expression that never tries a text twice.

    Each ``*`` takes as little as it can and, being atomic, never gives it back: the earliest place where the
    next piece fits leaves the most for the pieces after it, so nothing is missed.
    """
    first, *pieces = pattern.split("*")
    out, least = [re.escape(first)], 0
    for number, piece in enumerate(pieces, 1):
        least += 1
        if number == len(pieces):
            out.append(f".{{{least},}}{re.escape(piece)}")
        elif piece:
            out.append(f"(?>.{{{least},}}?{re.escape(piece)})")
            least = 0
    return "".join(out)


class NetIndex:
    """Addresses, networks, and words such as ``local``."""

    def __init__(self, entries: Iterable[str]) -> None:
        self._words: dict[str, str] = {}
        self._networks: dict[tuple[int, int], dict[int, str]] = {}
        for entry in entries:
            self._words[entry.lower()] = entry
            network = parse_network(entry)
            if network is not None:
                version, length, prefix = network
                same = self._networks.setdefault((version, length), {})
                if prefix not in same or "/" not in entry:   # an address comes before the network that is only it
                    same[prefix] = entry
        self._widths = sorted(self._networks, key=lambda width: -width[1])

    def find(self, key: str) -> str | None:
        found = self._words.get(key)
        if found is not None or not self._widths:
            return found
        address = _address(key)      # which a thousand rules may ask about
        if address is None:
            return None
        version, number = address
        bits = 32 if version == 4 else 128
        for width in self._widths:
            if width[0] == version:
                found = self._networks[width].get(number >> (bits - width[1]))
                if found is not None:
                    return found
        return None


_address = lru_cache(256)(parse_address)


def tagged(user: str, delimiter: str) -> tuple[str, ...]:
    """A user's names: with the sub-address, if there is one, and without."""
    bare, at, tag = split_tag(user, delimiter)
    return tuple(name for name in ((user, bare) if at and tag else (bare,)) if name)


class MailIndex:
    """``user@domain``, ``@domain`` and ``user``; the domain may be a pattern; ``@`` is the null reverse-path.

    An entry's user also matches an address with a sub-address, unless the entry has one itself.
    """

    def __init__(self, entries: Iterable[str], delimiter: str) -> None:
        self._delimiter = delimiter
        self._null: str | None = None
        self._anywhere: dict[str, str] = {}
        hosts: dict[str, dict[str, str]] = {}
        for entry in entries:
            user, at, domain = entry.lower().rpartition("@")
            if not at:
                self._anywhere[domain] = entry
            elif not user and not domain:
                self._null = entry
            else:
                hosts.setdefault(user, {})[domain] = entry
        self._hosts = {user: (HostIndex(domains), domains) for user, domains in hosts.items()}

    def find(self, key: str) -> str | None:
        if key == "@":
            return self._null
        user, _, domain = key.rpartition("@")
        names = tagged(user, self._delimiter)
        for name in names:
            found = self._at(name, domain)
            if found is not None:
                return found
        for name in names:
            found = self._anywhere.get(name)
            if found is not None:
                return found
        return self._at("", domain)

    def _at(self, user: str, domain: str) -> str | None:
        known = self._hosts.get(user)
        if known is None:
            return None
        index, entries = known
        pattern = index.find(domain)
        return None if pattern is None else entries[pattern]


class BadPattern(NamedTuple):
    """A regular expression that does not compile, and so matches nothing."""

    pattern: str
    reason: str


class RegexIndex:
    """POSIX extended regular expressions, unanchored; case is ignored, as keys are in lower case."""

    def __init__(self, entries: Iterable[str]) -> None:
        self.bad: list[BadPattern] = []
        self._patterns: list[tuple[re.Pattern[str], str]] = []
        for entry in entries:
            try:
                self._patterns.append((re.compile(ere(entry), re.IGNORECASE), entry))
            except (re.error, OverflowError, RecursionError) as error:
                self.bad.append(BadPattern(entry, str(error)))

    def find(self, key: str) -> str | None:
        for pattern, entry in self._patterns:
            if pattern.search(key):
                return entry
        return None


_CLASSES = {
    "alpha": "a-zA-Z", "digit": "0-9", "alnum": "a-zA-Z0-9", "upper": "A-Z", "lower": "a-z", "space": r"\s",
    "blank": r" \t", "punct": r"!-/:-@\[-`{-~", "xdigit": "0-9a-fA-F", "cntrl": r"\x00-\x1f\x7f",
    "print": r"\x20-\x7e", "graph": r"\x21-\x7e",
}
_BRACKET = re.compile(r"\[(\^?)(\]?(?:\[:[a-z]+:\]|[^\]])*)\]")
_NAMED = re.compile(r"\[:([a-z]+):\]")


def ere(pattern: str) -> str:
    """A POSIX extended regular expression in Python's words.  Raises re.error for one that is none."""
    if pattern.startswith("(?i)"):
        pattern = pattern[4:]
    out, at = [], 0
    while at < len(pattern):
        char = pattern[at]
        if char == "\\":
            out.append({"\\<": r"\b(?=\w)", "\\>": r"\b(?<=\w)"}.get(pattern[at : at + 2], pattern[at : at + 2]))
            at += 2
        elif char == "[":
            bracket = _BRACKET.match(pattern, at)
            if bracket is None:
                raise re.error("unterminated [", pattern, at)
            out.append(f"[{bracket[1]}{_bracket_items(bracket[2])}]")
            at = bracket.end()
        elif pattern.startswith("(?", at):
            raise re.error("nothing to repeat", pattern, at)
        else:
            out.append(char)
            at += 1
    return "".join(out)


def _bracket_items(items: str) -> str:
    """The inside of a bracket expression: a backslash stands for itself, classes are spelled out."""
    out, at = [], 0
    for named in _NAMED.finditer(items):
        if named[1] not in _CLASSES:
            raise re.error(f"unknown class {named[1]}")
        out += [_escape_items(items[at : named.start()]), _CLASSES[named[1]]]
        at = named.end()
    return "".join(out) + _escape_items(items[at:])


def _escape_items(items: str) -> str:
    escaped = re.sub(r"[\\\[\]&~|^]", lambda match: "\\" + match[0], items)
    return escaped.replace("--", r"-\-")   # a range that ends with a hyphen, and not yet a difference of sets
