"""What rules can never do, and what they do for anybody: warnings of ``-n -v``.

Nothing is guessed.  A rule is called unreachable only when one before it, or some together, take everything that it
would, whatever the client says and whatever is in files; an open relay is found by asking the rules as a stranger
would.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from pysmtpd.base.envelope import Agent, BounceKind, Envelope, Ret
from pysmtpd.base.mailaddr import NULL, MailAddr, parse
from pysmtpd.base.struct import replace
from pysmtpd.conf.config import Config, Criterion, Listener, Position, Rule, Table, Tls
from pysmtpd.lookup.build import build_tables
from pysmtpd.lookup.facts import LOCAL, UNKNOWN, Facts
from pysmtpd.lookup.match import HostIndex, MailIndex, NetIndex, parse_address, parse_network
from pysmtpd.lookup.memo import Pending
from pysmtpd.lookup.ruleset import Ruleset, describe

ANY = {"from": "<anyhost>", "for": "<anydestination>"}
WITH_LOCAL = ("<anyhost>", "<localhost>")
ADDRESSES = ("mail-from", "rcpt-to")
DOMAINS = ("for", "helo", "from-rdns")
STRANGERS = ("203.0.113.77", "198.51.100.77", "192.0.2.77")   # documentation addresses (RFC 5737)
TRIED_MAX = 20                     # senders and names of the configuration that a stranger might claim
LOOPBACK = ("127.", "::1")
TAKERS_MAX = 32                    # rules that together leave nothing
STEPS_MAX = 200_000                # comparisons for that, about half a second
NAMED_MAX = 4                      # rules that a warning names
# Criteria that hold exactly where the same one negated does not.
_OPPOSITES = frozenset({"tag", "from", "for", "helo", "auth", "tls", "mail-from", "rcpt-to"})


class Warned(NamedTuple):
    """A warning and its place."""

    at: Position
    message: str


def warnings(config: Config) -> list[Warned]:
    """All that there is to say."""
    made = Counter(rule.at for rule in config.rules)
    never = list(unreachable(config))
    found = Counter(one.at for one in never)
    # In the language before 6.4 a rule may be several: that some of them never match is no news.
    return list(dict.fromkeys([*(one for one in never if found[one.at] == made[one.at]), *open_relays(config)]))


# rules that never match

def unreachable(config: Config) -> Iterator[Warned]:
    """Rules that cannot match, or come after one which matches all that they match."""
    implied = Implication(config)
    steps = 0
    for number, rule in enumerate(config.rules):
        why = next((why for one in rule.criteria if (why := _never(one, config))), "")
        earlier = next((one for one in config.rules[:number] if implied.covers(one, rule)), None)
        if why:
            yield Warned(rule.at, f"this rule never matches: {why}")
        elif earlier is not None:
            yield Warned(rule.at, f"this rule never matches: the one at {earlier.at} takes all that it would")
        elif steps < STEPS_MAX:
            together, taken = _together(config, rule, config.rules[:number])
            steps += taken
            if not together:
                continue
            places = " and ".join(str(one.at) for one in together[:NAMED_MAX])
            more = f" and {len(together) - NAMED_MAX} more" if len(together) > NAMED_MAX else ""
            yield Warned(rule.at, f"this rule never matches: those at {places}{more} together take all that it would")


def _together(config: Config, rule: Rule, earlier: Sequence[Rule]) -> tuple[list[Rule], int]:
    """Rules that together take all that this one would, and no more of them than it needs; and what it cost to know."""
    whole = Remainder(config, rule)
    found = whole.taken_by(earlier)
    for one in list(found):
        fewer = [other for other in found if other is not one]
        if Remainder(config, rule).taken_by(fewer):
            found = fewer
    return [one for one in earlier if one in found], whole.steps


def _never(criterion: Criterion, config: Config) -> str:
    """Why no session there is here can fulfil a criterion, or an empty string."""
    if criterion.negated:
        return f"nothing is {describe(criterion)}" if criterion.table == ANY.get(criterion.kind) else ""
    listeners = config.listeners
    if criterion.kind == "tls" and not any(one.tls is not Tls.NO for one in listeners):
        return "no listener speaks TLS"
    if criterion.kind == "tag" and not criterion.regex:
        keys = _keys(criterion, config.tables)
        if keys is not None and not {one.tag.lower() for one in listeners} & set(keys):
            return f"no listener has the tag {' or '.join(keys)}"
    return ""


def _keys(criterion: Criterion, tables: Mapping[str, Table]) -> tuple[str, ...] | None:
    """The entries of a criterion's table, in lower case, if they stand in smtpd.conf and so never change."""
    table = tables.get(criterion.table)
    if table is None or table.backend != "static" or table.path:
        return None
    if table.name.startswith("<") and not table.name.startswith("<dynamic:"):
        return None
    return tuple(key.lower() for key in (*table.keys, *(key for key, _ in table.pairs)))


class Implication:
    """Which criteria follow from which, under one configuration."""

    def __init__(self, config: Config, tables: Mapping[str, Table] | None = None) -> None:
        """tables: those of the configuration, and perhaps more."""
        self._tables = config.tables if tables is None else tables
        self._delimiter = config.sub_addr_delim

    def covers(self, earlier: Rule, later: Rule) -> bool:
        """Whether a rule matches whatever another one matches."""
        return all(self.holds(one, later.criteria) for one in earlier.criteria)

    def holds(self, criterion: Criterion, known: Iterable[Criterion]) -> bool:
        """Whether a criterion holds wherever all of the known ones do."""
        return _always(criterion) or any(self._follows(criterion, other) for other in known)

    def _follows(self, a: Criterion, b: Criterion) -> bool:
        """Whether a holds whenever b does."""
        if a.negated and b.negated:
            return self._within(a, b) if bool(a.table) == bool(b.table) or a.kind == "auth" else False
        if not a.negated and not b.negated:
            return self._within(b, a)
        return a.negated and self._apart(b, a)

    def _within(self, inner: Criterion, outer: Criterion) -> bool:
        """Whether outer holds whenever inner does, both taken without their negation."""
        if inner.kind == "from-socket" and outer.kind == "from" and not outer.regex:
            return outer.table in WITH_LOCAL or LOCAL in (_keys(outer, self._tables) or ())
        if inner.kind != outer.kind:
            return False
        keys, theirs = _keys(inner, self._tables), _keys(outer, self._tables)
        if not outer.table:
            return not inner.table or inner.kind == "auth" or (
                inner.kind == "from-rdns" and not inner.regex and keys is not None and not HostIndex(keys).find(LOCAL))
        if inner.regex != outer.regex:
            return False
        if inner.table == outer.table:
            return True
        if keys is None or theirs is None:
            return inner.table == WITH_LOCAL[1] and outer.table == WITH_LOCAL[0]
        return not self.beyond(inner, outer)

    def beyond(self, inner: Criterion, outer: Criterion) -> list[str]:
        """The entries of one list that another one of its kind does not match all of."""
        theirs = _keys(outer, self._tables) or ()
        return [key for key in _keys(inner, self._tables) or ()
                if key not in theirs and (inner.regex or not self._found(inner.kind, key, theirs))]

    def _found(self, kind: str, key: str, entries: tuple[str, ...]) -> bool:
        """Whether entries match all that one entry matches."""
        if kind == "from":
            return _network_found(key, entries)
        if kind in DOMAINS:
            return HostIndex(entries).find(key) is not None if "*" not in key else _pattern_found(key, entries)
        if kind in ADDRESSES and "@" in key and "*" not in key:
            return MailIndex(entries, self._delimiter).find(key) is not None
        return False

    def _apart(self, inner: Criterion, outer: Criterion) -> bool:
        """Whether nothing is in both.  Only what is certain: for address lists and regular expressions it never is."""
        theirs = None if outer.regex else _keys(outer, self._tables)
        if theirs is None:
            return False
        if inner.kind == "from-socket" and outer.kind == "from":
            return LOCAL not in theirs
        keys = None if inner.regex or inner.kind != outer.kind else _keys(inner, self._tables)
        if keys is None:
            return False
        if inner.kind == "from":
            return all(_network_apart(key, theirs) for key in keys)
        if inner.kind in DOMAINS:
            return not any("*" in key or "[" in key or parse_address(key) is not None for key in keys) and all(
                HostIndex(theirs).find(key) is None for key in keys)
        return inner.kind == "tag" and not set(keys) & set(theirs)


class Remainder:
    """What is left of a rule when the rules before it have had theirs.

    A rule that lacks nothing but one criterion of what is left takes all of it for which that criterion holds: what
    is left then is that for which it does not.  Never more is taken away than such a rule takes."""

    def __init__(self, config: Config, rule: Rule) -> None:
        self._tables = dict(config.tables)
        self._implied = Implication(config, self._tables)
        self._left = list(rule.criteria)
        self._empty = False
        self.steps = 0             # comparisons, about

    def taken_by(self, rules: Sequence[Rule]) -> list[Rule]:
        """The rules that leave nothing; none, when something may be left."""
        takers: list[Rule] = []
        waiting, before = list(rules), -1
        while len(takers) > before and len(takers) < TAKERS_MAX:
            before = len(takers)
            for rule in list(waiting):
                lacking = self._lacking(rule)
                if not lacking or (len(lacking) == 1 and self._take_away(lacking[0])):
                    takers.append(rule)
                    waiting.remove(rule)
                if not lacking or self._empty:
                    return takers
                if self.steps > STEPS_MAX:
                    return []
        return []

    def _lacking(self, rule: Rule) -> list[Criterion]:
        """What a rule asks besides what is known of the rest; two are enough to know that it does not help."""
        self.steps += len(rule.criteria) * len(self._left)
        found: list[Criterion] = []
        for one in rule.criteria:
            if len(found) < 2 and not self._implied.holds(one, self._left):
                found.append(one)
        return found

    def _take_away(self, taken: Criterion) -> bool:
        """Whether less is left now."""
        if taken.kind not in _OPPOSITES:
            return False
        narrower = [self._without(one, taken) for one in self._left]
        listed = [one for one in (*self._left, taken) if one.kind == taken.kind and not one.negated
                  and _keys(one, self._tables) is not None]
        if len(listed) > 1 and not taken.negated and narrower == self._left:
            return False                       # they have nothing in common, or it cannot be told
        self._left = [*narrower, replace(taken, negated=not taken.negated)]
        return True

    def _without(self, one: Criterion, taken: Criterion) -> Criterion:
        """A list without the entries that were all taken."""
        same = one.kind == taken.kind and one.regex == taken.regex and not one.negated and not taken.negated
        keys, theirs = _keys(one, self._tables), _keys(taken, self._tables)
        if not same or keys is None or theirs is None:
            return one
        rest = self._implied.beyond(one, taken)
        if len(rest) == len(keys):
            return one
        self._empty = self._empty or not rest
        name = f"<dynamic:rest {len(self._tables)}>"
        self._tables[name] = Table(name=name, keys=tuple(rest))
        return replace(one, table=name)


def _always(criterion: Criterion) -> bool:
    return not criterion.negated and criterion.table == ANY.get(criterion.kind)


def _network_found(key: str, entries: tuple[str, ...]) -> bool:
    mine = parse_network(key)
    if mine is None:
        return False
    version, length, prefix = mine
    networks = [network for network in map(parse_network, entries) if network is not None]
    return any(v == version and width <= length and prefix >> length - width == theirs for v, width, theirs in networks)


def _network_apart(key: str, entries: tuple[str, ...]) -> bool:
    if key in entries or _network_found(key, entries):
        return False
    return not any(_network_found(entry, (key,)) for entry in entries)


def _pattern_found(key: str, entries: tuple[str, ...]) -> bool:
    """``*.a.b`` is within ``*.b`` and ``*``."""
    if "*" in entries:
        return True
    if not key.startswith("*.") or "*" in key[2:]:
        return False
    return any(
        entry.startswith("*.") and "*" not in entry[2:] and f".{key[2:]}".endswith(entry[1:]) for entry in entries
    )


# open relays

def open_relays(config: Config) -> Iterator[Warned]:
    """Rules by which a stranger's mail to strangers is relayed."""
    ruleset = Ruleset(config.rules, build_tables(config, strict=False))
    found: dict[Position, str] = {}
    for envelope, tls, claimed in _strangers(config):
        try:
            rule = ruleset.evaluate(Facts(envelope, tls=tls, local=False)).rule
        except Pending:
            continue
        action = config.actions.get(rule.action) if rule is not None else None
        if rule is not None and action is not None and action.is_relay and not action.backup:
            found.setdefault(rule.at, claimed)
    for at, claimed in found.items():
        who = f"anyone who says {claimed} may send" if claimed else "anyone may send"
        yield Warned(at, f"open relay: {who} to anywhere; add auth, or write from local or from src")


def _strangers(config: Config) -> Iterator[tuple[Envelope, bool, str]]:
    """Sessions of strangers: what they ask, whether with TLS, and what they claimed for it."""
    source = _source(config)
    if not source:
        return
    claims = [("", "mail.stranger.invalid", "joe@stranger.invalid")]
    claims += [(f"MAIL FROM:<{sender}>", claims[0][1], sender) for sender in _senders(config)]
    claims += [(f"EHLO {name}", name, claims[0][2]) for name in _entries(config, "helo")]
    for tag, tls in _doors(config):
        for claimed, helo, sender in claims:
            yield _envelope(config, source, tag, helo, parse(sender) if sender != "@" else NULL), tls, claimed


def _doors(config: Config) -> list[tuple[str, bool]]:
    """Tag, and whether TLS is on, of what strangers may come through without logging in."""
    outside = [one for one in config.listeners if not one.is_socket and not one.address.startswith(LOOPBACK)]
    if not outside:
        outside = [Listener(address="0.0.0.0")]
    doors = [(one.tag, tls) for one in outside if one.auth != "required" for tls in (False, True)
             if (one.tls is not Tls.NO if tls else one.tls in (Tls.NO, Tls.OFFERED))]
    return list(dict.fromkeys(doors))


def _source(config: Config) -> str:
    """An address that no list of the configuration names."""
    known = [entry for entry in _entries(config, "from", 1 << 20) if (parse_network(entry) or (0, 1, 0))[1] > 0]
    index = NetIndex(known)
    return next((address for address in STRANGERS if index.find(address) is None), "")


def _senders(config: Config) -> Iterator[str]:
    """A sender for each entry that some rule wants one to be in."""
    for entry in _entries(config, "mail-from"):
        user, at, domain = entry.rpartition("@")
        plain = domain.replace("*", "any")
        if not at:
            yield f"{domain}@stranger.invalid"
        elif user or domain:
            yield f"{user or 'joe'}@{plain}"
        else:
            yield "@"


def _entries(config: Config, kind: str, most: int = TRIED_MAX) -> list[str]:
    found = [key for rule in config.rules for one in rule.criteria if one.kind == kind and not one.regex
             for key in _keys(one, config.tables) or ()]
    return list(dict.fromkeys(found))[:most]


def _envelope(config: Config, source: str, tag: str, helo: str, sender: MailAddr) -> Envelope:
    rcpt = MailAddr("anyone", "elsewhere.invalid")
    return Envelope(
        0, Agent.MTA, "", sender, rcpt, rcpt, "", "", tag, config.hostname, helo[:255], UNKNOWN, "", source, 0, 0, 0, 0,
        0, 0, 0, Ret.NONE, "", "", "", "", BounceKind.NONE, 0,
    )
