"""Which rule decides over a recipient: the first whose criteria all hold.

A ruleset is compiled once per configuration.  A table that cannot be asked now ends the evaluation: the recipient
fails temporarily, because a later rule might say what the one in doubt would have forbidden.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import NamedTuple

from pysmtpd.conf.config import Criterion, Rule
from pysmtpd.lookup.domains import ManyTables
from pysmtpd.lookup.facts import LOCAL, UNKNOWN, Facts
from pysmtpd.lookup.table import Service, TableError, Tables
from pysmtpd.lookup.table_keyed import KeyedTable
from pysmtpd.lookup.table_slow import SlowTable
from pysmtpd.lookup.table_static import StaticTable

Test = Callable[[Facts], bool]

ANY = "<anydestination>"
_ABOUT_RECIPIENTS = ("for", "rcpt-to")

MANY = 8                           # tables, from which on an index over all of them is faster than each


class Decision(NamedTuple):
    """What the rules say.

    rule: the one that matched, or None.  error: why it could not be decided, or empty.  failed: for each rule tried
    before, its criterion that did not hold.
    """

    rule: Rule | None
    error: str
    failed: list[Criterion]

    @property
    def temporary(self) -> bool:
        return bool(self.error)

    def trace(self, rules: Sequence[Rule]) -> list[str]:
        """One line for each rule tried: where it stands, and why it did not match, or that it did."""
        lines = [
            f"rule #{number} at {rule.at}: no match: {describe(criterion)}"
            for number, (rule, criterion) in enumerate(zip(rules, self.failed, strict=False), 1)
        ]
        if self.error:
            lines.append(f"temporary failure in processing of a rule: {self.error}")
        elif self.rule is None:
            lines.append("no rule matched")
        else:
            lines.append(f"rule #{len(self.failed) + 1} matched: {self.rule.at}: {outcome(self.rule)}")
        return lines


def describe(criterion: Criterion) -> str:
    """A criterion in the words of smtpd.conf."""
    words = criterion.kind.replace("from-", "from ")
    if criterion.table:
        words += f"{' regex' if criterion.regex else ''} {criterion.table}"
    return f"! {words}" if criterion.negated else words


def outcome(rule: Rule) -> str:
    """What a rule does with a recipient."""
    if rule.action:
        return f'action "{rule.action}"'
    return f'{"tempfail" if rule.reply[0] == "4" else "reject"} "{rule.reply}"' if rule.reply else "reject"


class Step(NamedTuple):
    """One criterion of a rule: which of the ruleset's tests it is, and the result it wants."""

    criterion: Criterion
    test: int
    wanted: bool


class Ruleset:
    """The rules of one configuration.  What many rules ask is tested once for a recipient."""

    def __init__(self, rules: Sequence[Rule], tables: Tables) -> None:
        self.rules = rules
        self._tables = tables
        self._tests: list[Test] = []
        self._numbers: dict[tuple[str, str, bool, bool], int] = {}
        self._steps = [(rule, [self._step(criterion, tables) for criterion in rule.criteria]) for rule in rules]
        self._indexes: list[tuple[ManyTables, Callable[[Facts], Sequence[str]]]] = []
        for kind, (service, names) in _FOUND_AT_ONCE.items():
            self._index(kind, service, names)
        self._blank = self._blank_results()

    def _blank_results(self) -> list[bool | None]:
        """Nothing is known yet, but that a domain is in no table before it was found in one."""
        results: list[bool | None] = [None] * len(self._tests)
        for index, _ in self._indexes:
            for number in index.known:
                results[number] = False
        return results

    def _index(self, kind: str, service: Service, fact: Callable[[Facts], Sequence[str]]) -> None:
        """One over all tables that this kind of criterion asks."""
        found = {
            number: table for (each, name, regex, outside), number in self._numbers.items()
            if each == kind and not regex and not outside
            and isinstance(table := self._tables.get(name), StaticTable)
        }
        if len(found) >= MANY:
            self._indexes.append((ManyTables(service, found, self._tables.delimiter), fact))

    def _results(self, facts: Facts) -> list[bool | None]:
        """The results of the tests that are known beforehand."""
        if self._tables.trace is not None:
            return [None] * len(self._tests)   # each look-up is to be told
        changed = False
        for index, _ in self._indexes:
            changed |= index.refresh()
        if changed:
            self._blank = self._blank_results()
        results = self._blank.copy()
        for index, names in self._indexes:
            for name in names(facts):
                for number in index.find(name):
                    results[number] = True
        return results

    def _step(self, criterion: Criterion, tables: Tables) -> Step:
        applies = _applies(criterion) if criterion.negated else None
        key = (criterion.kind, criterion.table, criterion.regex, applies is not None)
        number = self._numbers.get(key)
        if number is None:
            test = _KINDS[criterion.kind](criterion, tables)
            number = self._numbers[key] = len(self._tests)
            self._tests.append(test if applies is None else _outside(applies, test))
        return Step(criterion, number, applies is not None or not criterion.negated)

    def evaluate(self, facts: Facts) -> Decision:
        """The decision, with its trace.  Raises Pending when a slow table has to be asked first."""
        failed: list[Criterion] = []
        tests = self._tests
        results = self._results(facts)
        try:
            for rule, steps in self._steps:
                for criterion, number, wanted in steps:
                    result = results[number]
                    if result is None:
                        result = results[number] = tests[number](facts)
                    if result is not wanted:
                        failed.append(criterion)
                        break
                else:
                    return Decision(rule, "", failed)
        except TableError as error:
            return Decision(None, str(error) or "table error", failed)
        return Decision(None, "", failed)


    def nearest(self, facts: Facts) -> tuple[Rule, Criterion] | None:
        """For who asks why no rule matched: the one that would have accepted a recipient but for one criterion, which
        is not about the recipient.  One for some recipients goes before those for all.

        Raises Pending or TableError."""
        found: tuple[Rule, Criterion] | None = None
        for rule, steps in self._steps:
            failed = [step.criterion for step in steps if self._tests[step.test](facts) is not step.wanted]
            if not rule.action or len(failed) != 1 or failed[0].kind in _ABOUT_RECIPIENTS:
                continue
            if any(step.criterion.kind in _ABOUT_RECIPIENTS and step.criterion.table != ANY for step in steps):
                return rule, failed[0]
            found = found or (rule, failed[0])
        return found


def _outside(applies: Test, inside: Test) -> Test:
    return lambda facts: applies(facts) and not inside(facts)


def _applies(criterion: Criterion) -> Test | None:
    """What must be so for a criterion to hold even when it is negated: a client without a name is neither in a list
    of names nor outside of it, and mail that an expansion made has no client."""
    if criterion.kind == "from-rdns" and criterion.table:
        return lambda facts: facts.hostname != UNKNOWN
    if criterion.kind in ("from-rdns", "from-socket"):
        return lambda facts: not facts.internal
    return None


def _table_test(criterion: Criterion, tables: Tables, service: Service, key: str) -> Test:
    """Look a fact, by its name, up in the table.  Facts are short and in lower case already."""
    name, fact = criterion.table, attrgetter(key)
    if criterion.regex:
        service = Service.REGEX
    table = tables.get(name)
    at_once = None if isinstance(table, SlowTable) else table
    if isinstance(table, KeyedTable):
        with contextlib.suppress(TableError):  # each look-up will tell
            table.expect(service)

    def test(facts: Facts) -> bool:
        if at_once is None or tables.trace is not None:
            return tables.match(name, service, fact(facts), facts.memo)
        return at_once.match(service, fact(facts))

    return test


def _tag(criterion: Criterion, tables: Tables) -> Test:
    return _table_test(criterion, tables, Service.STRING, "tag")


def _from(criterion: Criterion, tables: Tables) -> Test:
    return _table_test(criterion, tables, Service.NETADDR, "source")


def _from_socket(_criterion: Criterion, _tables: Tables) -> Test:
    return lambda facts: facts.source == LOCAL and not facts.internal


def _from_rdns(criterion: Criterion, tables: Tables) -> Test:
    if not criterion.table:
        return lambda facts: facts.hostname != UNKNOWN and not facts.internal
    inside = _table_test(criterion, tables, Service.DOMAIN, "hostname")
    return lambda facts: facts.hostname != UNKNOWN and inside(facts)


def _for(criterion: Criterion, tables: Tables) -> Test:
    inside = _table_test(criterion, tables, Service.DOMAIN, "domain")
    literal = _table_test(criterion, tables, Service.DOMAIN, "literal")
    return lambda facts: inside(facts) or (facts.literal != "" and literal(facts))


def _helo(criterion: Criterion, tables: Tables) -> Test:
    return _table_test(criterion, tables, Service.DOMAIN, "helo")


def _auth(criterion: Criterion, tables: Tables) -> Test:
    if not criterion.table:
        return lambda facts: facts.authenticated
    as_name = _table_test(criterion, tables, Service.STRING, "username")
    as_address = _table_test(criterion, tables, Service.MAILADDR, "username")
    return lambda facts: facts.authenticated and (as_address if "@" in facts.username else as_name)(facts)


def _tls(_criterion: Criterion, _tables: Tables) -> Test:
    return lambda facts: facts.tls


def _mail_from(criterion: Criterion, tables: Tables) -> Test:
    return _table_test(criterion, tables, Service.MAILADDR, "sender")


def _rcpt_to(criterion: Criterion, tables: Tables) -> Test:
    return _table_test(criterion, tables, Service.MAILADDR, "dest")


_KINDS: Mapping[str, Callable[[Criterion, Tables], Test]] = {
    "tag": _tag,
    "from": _from,
    "from-socket": _from_socket,
    "from-rdns": _from_rdns,
    "for": _for,
    "helo": _helo,
    "auth": _auth,
    "tls": _tls,
    "mail-from": _mail_from,
    "rcpt-to": _rcpt_to,
}

# Of which facts it is found at once in which tables they are, when there are many: the keys.
_FOUND_AT_ONCE: Mapping[str, tuple[Service, Callable[[Facts], Sequence[str]]]] = {
    "from": (Service.NETADDR, lambda facts: (facts.source,)),
    "for": (Service.DOMAIN, lambda facts: (facts.domain, facts.literal) if facts.literal else (facts.domain,)),
    "helo": (Service.DOMAIN, lambda facts: (facts.helo,)),
    "from-rdns": (Service.DOMAIN, lambda facts: (facts.hostname,) if facts.hostname != UNKNOWN else ()),
    "mail-from": (Service.MAILADDR, lambda facts: (facts.sender,)),
    "rcpt-to": (Service.MAILADDR, lambda facts: (facts.dest,)),
}
