"""Whether a rule holds, by the book (tests/lookup/walked.py): every comparison in its most obvious form."""

import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from pysmtpd.conf.config import Criterion, Rule

UNKNOWN = "<unknown>"
_ORDER = ("tag", "from", "from-rdns", "from-socket", "for", "helo", "auth", "tls", "mail-from", "rcpt-to")


class Session(NamedTuple):
    """Who a client is, and who wrote."""

    source: str                    # "local" for a socket
    rdns: str
    helo: str
    tag: str
    sender: str
    username: str = ""
    tls: bool = False


class Entries(dict[str, str]):
    """Of a table, by their keys in lower case."""

    written: Sequence[str] = ()    # the keys


class Unknown(Exception):
    """Nobody can tell now."""


class Tests:
    """What rules may ask about one address."""

    def __init__(self, session: Session, dest: str, internal: bool, tables: Mapping[str, Entries],
                 quirks: frozenset[str]) -> None:
        self.session, self.dest, self.internal = session, dest.lower(), internal
        self.tables, self.quirks = tables, quirks
        self.unknown = False

    def first(self, rules: Sequence[Rule]) -> Rule | None:
        """The rule that decides."""
        try:
            return next((rule for rule in rules if self.all(rule)), None)
        except Unknown:
            self.unknown = True
            return None

    def all(self, rule: Rule) -> bool:
        criteria = sorted(rule.criteria, key=lambda one: _ORDER.index(one.kind))
        return all(self.holds(one) for one in criteria)

    def holds(self, one: Criterion) -> bool:
        found = self._holds(one)
        return found is not None and found is not one.negated

    def _holds(self, one: Criterion) -> bool | None:
        """None: neither it nor its negation."""
        who = self.session
        match one.kind:
            case "tag":
                return self._some(one, who.tag.lower(), str.__eq__)
            case "from":
                return self._some(one, "local" if self.internal else who.source.lower(), self._net)
            case "from-socket":
                return None if self.internal else who.source == "local"
            case "from-rdns":
                return self._rdns(one)
            case "for":
                return self._for(one)
            case "helo":
                return self._some(one, who.helo.lower(), self._host)
            case "auth":
                return self._auth(one, who.username.lower())
            case "tls":
                if "tls" in self.quirks:
                    raise Unknown
                return who.tls
            case "mail-from":
                return self._some(one, who.sender.lower() or "@", self._mail)
        return self._some(one, self.dest, self._mail)

    def _auth(self, one: Criterion, name: str) -> bool:
        if not name and self.session.source != "local":
            return False
        return not one.table or self._some(one, name, self._mail if "@" in name else str.__eq__)

    def _rdns(self, one: Criterion) -> bool | None:
        name = "local" if self.internal else self.session.rdns.lower()
        if not one.table:
            return None if self.internal else name != UNKNOWN
        if name == UNKNOWN:
            return None
        return self._some(one, name, self._net if "rdns" in self.quirks else self._host)

    def _for(self, one: Criterion) -> bool:
        domain = self.dest.rpartition("@")[2]
        if self._some(one, domain, self._host):
            return True
        if not domain.startswith("[") or "literal" in self.quirks:
            return False
        address = ipaddress.ip_address(domain[1:-1].removeprefix("ipv6:"))
        return self._some(one, f"[{address}]" if address.version == 6 else str(address), self._host)

    def _some(self, one: Criterion, text: str, test: Callable[[str, str], bool]) -> bool:
        table = self.tables[one.table]
        if one.regex:
            return any(self._regex(entry, text) for entry in table.written)
        return any(test(entry, text) for entry in table)

    def _regex(self, entry: str, text: str) -> bool:
        if "regex" in self.quirks:
            entry, flags = entry.lower(), 0
            if entry.startswith("(?i)"):
                entry, flags = entry[4:], re.IGNORECASE
        else:
            entry, flags = entry.removeprefix("(?i)"), re.IGNORECASE
        return re.search(entry, text, flags) is not None

    def _host(self, pattern: str, name: str) -> bool:
        if "star" not in self.quirks:
            return re.fullmatch(".+".join(re.escape(piece) for piece in pattern.split("*")), name) is not None
        return _one_way(pattern, name)

    def _mail(self, entry: str, address: str) -> bool:
        user, _, domain = address.rpartition("@")
        wanted, at, pattern = entry.rpartition("@")
        if not at:
            wanted, pattern = entry, ""
        if not wanted and not pattern:
            return "everybody" in self.quirks or address == "@"
        if pattern and not self._host(pattern, domain):
            return False
        return not wanted or wanted == (user if "+" in wanted else user.partition("+")[0])

    def _net(self, entry: str, text: str) -> bool:
        return entry == text or (not ("]/" in entry and "brackets" in self.quirks) and _is_in(text, entry))


def _one_way(pattern: str, name: str) -> bool:
    """A star goes on to the first character that is what follows it, and never back."""
    at = to = 0
    while at < len(pattern) and to < len(name):
        if pattern[at] == "*":
            while at < len(pattern) and pattern[at] == "*":
                at += 1
            following = pattern[at] if at < len(pattern) else ""
            while to < len(name) and name[to] != following:
                to += 1
            continue
        if pattern[at] != name[to]:
            return False
        at, to = at + 1, to + 1
    return at == len(pattern) and to == len(name)


@lru_cache
def _is_in(text: str, entry: str) -> bool:
    network = _network(entry)
    try:
        address = ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return False
    return network is not None and address.version == network.version and address in network


def _network(entry: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """IPv4 may be cut short, and then is as long as its class and what is written."""
    if found := re.fullmatch(r"(\d+)((?:\.\d+){0,2})", entry):
        count, number = entry.count(".") + 1, int(found[1])
        width = max(8 * count, 8 if number < 128 or number > 223 else 16 if number < 192 else 24)
        entry = f"{entry}{'.0' * (4 - count)}/{width}"
    try:
        return ipaddress.ip_network(entry.replace("[", "").replace("]", ""), strict=False)
    except ValueError:
        return None
