"""Rules and expansion against a model in plain Python: random rules, tables, aliases and addresses."""

import asyncio
import ipaddress
import re
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pysmtpd.base.envelope import Agent
from pysmtpd.conf.config import Action, Criterion, Method, Rule
from pysmtpd.lookup.memo import Memo, Pending
from pysmtpd.lookup.ruleset import Ruleset
from pysmtpd.lookup.table import AnyTable, Tables
from pysmtpd.lookup.table_db import DbTable
from pysmtpd.lookup.table_file import FileTable
from pysmtpd.lookup.table_slow import Answer, Question, SlowTable
from pysmtpd.lookup.table_static import StaticTable
from pysmtpd.maps import cdb
from tests.lookup.made import BUILT_IN, FOR_LOCAL, FROM_ANY, criterion, envelope, expander, facts, rule, static

# --- the model of rules: every comparison in its most obvious form ---------------------------------------

TABLES: dict[str, list[str]] = {
    "d1": ["example.org", "*.example.org"], "d2": ["far.example", "a*.example"], "d3": ["*"], "d4": [],
    "d5": ["*.b.example.org", "example.org"],
    "n1": ["192.0.2.0/24", "::1"], "n2": ["local"], "n3": ["10", "2001:db8::/32", "192.0.2.7"],
    "m1": ["bob", "@far.example"], "m2": ["bob+x@example.org", "@"], "m3": ["alice@*.example.org", "carol"],
    "h1": ["client.*"], "s1": ["SUB", "bob"], "r1": ["^b", "example\\.org$"], "r2": ["a.*b", "(broken"],
    "<anyhost>": ["local", "0.0.0.0/0", "::/0"], "<localhost>": ["local", "127.0.0.1"],
    "<anydestination>": ["*"], "<localnames>": ["localhost", "example.org"],
}


def host_matches(pattern: str, name: str) -> bool:
    return re.fullmatch(".+".join(re.escape(piece) for piece in pattern.lower().split("*")), name) is not None


def net_matches(entry: str, text: str) -> bool:
    if entry.lower() == text:
        return True
    try:
        address = ipaddress.ip_address(text.strip("[]"))
        network = ipaddress.ip_network("10.0.0.0/8" if entry == "10" else entry)
    except ValueError:
        return False
    return address.version == network.version and address in network


def mail_matches(entry: str, address: str) -> bool:
    user, _, domain = address.rpartition("@")
    if entry == "@":
        return address == "@"
    names = {user, user.split("+")[0]} if "+" in user and user.split("+", 1)[1] else {user.split("+")[0]}
    if "@" not in entry:
        return entry in names - {""}
    wanted, _, pattern = entry.rpartition("@")
    return (not wanted or wanted in names - {""}) and host_matches(pattern, domain)


def regex_matches(entry: str, text: str) -> bool:
    try:
        return re.search(entry, text, re.IGNORECASE) is not None
    except re.error:
        return False


def some(test: Any, one: Criterion, text: str) -> bool:
    test = regex_matches if one.regex else test
    return any(test(entry, text) for entry in TABLES[one.table])


def holds(one: Criterion, client: dict[str, Any]) -> bool:
    """Without its negation."""
    dest = client["rcpt"]
    match one.kind:
        case "tag":
            return some(lambda entry, text: entry.lower() == text, one, client["tag"].lower())
        case "from":
            return some(net_matches, one, "local" if client["internal"] else client["source"].lower())
        case "from-rdns":
            return some(host_matches, one, client["hostname"].lower())
        case "for":
            return some(host_matches, one, dest.rpartition("@")[2].lower())
        case "helo":
            return some(host_matches, one, client["helo"].lower())
        case "auth":
            return bool(client["authenticated"])
        case "tls":
            return bool(client["tls"])
        case "mail-from":
            return some(mail_matches, one, client["sender"].lower() or "@")
    return some(mail_matches, one, dest.lower())


def model(rules: list[Rule], client: dict[str, Any]) -> Rule | None:
    for one in rules:
        for each in one.criteria:
            if each.kind == "from-rdns" and client["hostname"] == "<unknown>" and not client["internal"]:
                break
            if holds(each, client) is each.negated:
                break
        else:
            return one
    return None


_KINDS: list[tuple[str, str]] = [
    *(("for", f"d{number}") for number in range(1, 6)), ("for", "<anydestination>"), ("for", "<localnames>"),
    ("for", "r1"), *(("from", f"n{number}") for number in range(1, 4)), ("from", "<anyhost>"), ("from", "<localhost>"),
    ("from-rdns", "d1"), ("from-rdns", "d2"), ("helo", "h1"), ("helo", "r2"), ("tag", "s1"), ("auth", ""), ("tls", ""),
    *((kind, f"m{number}") for kind in ("mail-from", "rcpt-to") for number in range(1, 4)), ("mail-from", "r1"),
    ("rcpt-to", "r2"),
]
_CRITERION = st.builds(
    lambda which, negated: criterion(which[0], which[1], regex=which[1].startswith("r"), negated=negated),
    st.sampled_from(_KINDS), st.booleans())
_RULES = st.lists(st.lists(_CRITERION, min_size=1, max_size=3), min_size=1, max_size=5).map(
    lambda rules: [rule(*criteria, action=f"a{number}", line=number) for number, criteria in enumerate(rules)])
_NAME = st.sampled_from(["example.org", "a.example.org", "a.b.example.org", "far.example", "abc.example", "localhost",
                         "EXAMPLE.ORG", "client.example"])
_USER = st.sampled_from(["bob", "Bob+x", "bob+", "alice", "carol+y", "rob"])
_ADDRESS = st.tuples(_USER, _NAME).map("@".join)
_CLIENT = st.fixed_dictionaries({
    "rcpt": _ADDRESS, "sender": st.one_of(st.just(""), _ADDRESS),
    "source": st.sampled_from(["192.0.2.7", "192.0.2.200", "10.1.2.3", "[2001:db8::5]", "[::1]", "127.0.0.1"]),
    "hostname": st.one_of(st.just("<unknown>"), _NAME), "helo": _NAME, "tag": st.sampled_from(["", "sub", "other"]),
    "authenticated": st.booleans(), "tls": st.booleans(), "internal": st.just(False),
})


@settings(max_examples=150, deadline=None)
@given(_RULES, _CLIENT, st.sampled_from([1, 100]))
def test_the_rules_do_what_the_model_does(rules: list[Rule], client: dict[str, Any], many: int) -> None:
    """many: tables that are looked for in one index, or each by itself."""
    tables = Tables([static(name, *keys) for name, keys in TABLES.items()])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("pysmtpd.lookup.ruleset.MANY", many)
        decision = Ruleset(rules, tables).evaluate(facts(**client))
    assert decision.error == ""
    assert decision.rule == model(rules, client)
    # Traced, every look-up is made one by one.
    tables.trace = lambda _line: None
    assert Ruleset(rules, tables).evaluate(facts(**client)) == decision


# --- the model of expansion ------------------------------------------------------------------------------

USERS = ["bob", "carol", "dave"]


class End(NamedTuple):
    agent: Agent
    user: str
    command: str
    dest: str


def expansion(aliases: dict[str, list[str]], rcpt: str, virtual: bool) -> tuple[set[End], str]:
    """Deliveries, or the code of the reply: that of the first in the shortest way down, as written.  place: at which
    member of which list."""
    ends: set[End] = set()
    codes: list[tuple[tuple[int, ...], str]] = []
    seen: set[tuple[str, ...]] = set()
    level: list[tuple[str, str, str, tuple[int, ...]]] = [("address", rcpt, "", ())]
    while level:
        following: list[tuple[str, str, str, tuple[int, ...]]] = []
        for item, dest, above, place in level:
            known = (item, dest.lower() if item == "address" else dest, "same" if item == above else "",
                     "" if place else "root")
            if known in seen:
                continue
            seen.add(known)
            if len(place) >= 10:
                codes.append((place, "524"))
                continue
            if item == "address":
                user, _, domain = dest.rpartition("@")
                if domain.lower() == "far.example":
                    if not place:
                        codes.append((place, "550"))
                    else:
                        ends.add(End(Agent.MTA, "", "", dest))
                elif virtual:
                    found = in_table(aliases, [f"{user}@{domain}".lower(), user.lower(), f"@{domain}".lower(), "@"])
                    if found is None:
                        codes.append((place, "524"))
                    following += [(each, dest, "", (*place, at)) for at, each in enumerate(found or [])]
                else:
                    following.append((user.lower(), dest, "", (*place, 0)))
                continue
            if item.startswith(("|", "/")):
                ends.add(End(Agent.MDA, "nobody", item, dest))
                continue
            if item.startswith("error:"):
                return set(), item[6:9]
            if "@" in item:
                following.append(("address", item, "", place))
                continue
            if " " in item:
                codes.append((place, "424"))
                continue
            name, direct = item.removeprefix("\\"), item.startswith("\\")
            keys = [f"{name}@", name] if virtual else [name]
            found = None if direct or name == above else in_table(aliases, keys)
            if found is not None:
                following += [(each, dest, name, (*place, at)) for at, each in enumerate(found)]
            elif name in USERS:
                ends.add(End(Agent.MDA, name, "", dest))
            else:
                codes.append((place, "550"))
        level = following
    if ends:
        return ends, ""
    written = [code for _, code in sorted(codes, key=lambda each: (len(each[0]), *each))] or ["524"]
    return set(), next((code for code in written if code[0] == "4"), written[0])


def in_table(aliases: dict[str, list[str]], keys: list[str]) -> list[str] | None:
    return next((aliases[key] for key in keys if key in aliases), None)


_MEMBER = st.sampled_from([*USERS, "list", "team", "rob", "\\bob", "\\rob", "list@localhost", "bob@localhost",
                           "ann@far.example", "|/bin/x", "/var/box", "b ad", "error:550 No", "error:451 Later"])
_LIST = st.lists(_MEMBER, min_size=1, max_size=4, unique=True)
_ALIASES = st.dictionaries(st.sampled_from(["list", "team", "bob", "carol"]), _LIST, max_size=4)
_VIRTUAL = st.dictionaries(st.sampled_from(["list@localhost", "list", "team", "bob", "@localhost", "@"]), _LIST,
                           max_size=5)
_TO = st.sampled_from(["list@localhost", "bob@localhost", "team@localhost", "rob@localhost", "ann@far.example",
                       "List@localhost"])


def _ends(aliases: dict[str, list[str]], rcpt: str, virtual: bool) -> tuple[set[End], str]:
    table = StaticTable("aliases")
    table.fill((key, ", ".join(members)) for key, members in aliases.items())
    users = StaticTable("users")
    users.fill((name, f"1000:1000:/home/{name}") for name in USERS)
    action = Action(name="local", method=Method.MAILDIR, userbase="users", alias="" if virtual else "aliases",
                    virtual="aliases" if virtual else "")
    expanding = expander(rule(FROM_ANY, FOR_LOCAL, action="local"),
                         rule(criterion("from", "<localhost>"), criterion("for", "<anydestination>"), action="out"),
                         actions=(action, Action(name="out", method=Method.RELAY)), tables=(table, users))
    expanded = expanding.expand(envelope(rcpt, sender=""), tls=False, local=False)
    ends = [End(each.agent, each.user, each.command, str(each.dest)) for each in expanded.envelopes]
    assert len(set(ends)) == len(ends)
    return set(ends), expanded.reply[:3]


@settings(max_examples=150, deadline=None)
@given(_ALIASES, _TO)
def test_aliases_do_what_the_model_does(aliases: dict[str, list[str]], rcpt: str) -> None:
    assert _ends(aliases, rcpt, virtual=False) == expansion(aliases, rcpt, virtual=False)


@settings(max_examples=150, deadline=None)
@given(_VIRTUAL, _TO)
def test_virtual_users_do_what_the_model_does(virtual: dict[str, list[str]], rcpt: str) -> None:
    assert _ends(virtual, rcpt, virtual=True) == expansion(virtual, rcpt, virtual=True)


# --- speed -----------------------------------------------------------------------------------------------


ALIASES = 100_000
_WORK = 230e-6                     # seconds of a machine that the bounds are for


def _slowness() -> float:
    """How many times slower than that machine this one is just now, and at least 1."""
    best = 9.0
    for _ in range(10):
        start, made = time.process_time(), {}
        for number in range(2000):
            made[f"k{number % 97}"] = (number, number + 1)
        best = min(best, time.process_time() - start)
    return max(1.0, best / _WORK)


class _Slow(SlowTable):
    """A program, of which only our own work counts."""

    async def ask(self, question: Question) -> Answer:
        return "bob"


def _aliases(backend: str, where: Path) -> AnyTable:
    """So many aliases."""
    entries = {f"alias{number}": "bob" for number in range(ALIASES)}
    path = where / "aliases"
    if backend == "slow":
        return _Slow("aliases", "proc")
    if backend == "static":
        table = StaticTable("aliases")
        table.fill(entries.items())
        return table
    if backend == "file":
        path.write_text("".join(f"{key}: {value}\n" for key, value in entries.items()))
        file = FileTable("aliases", str(path))
        file.reload()
        return file
    *pieces, header = cdb.build((key.encode(), value.encode()) for key, value in entries.items())
    path.write_bytes(header + b"".join(pieces)[len(header):])
    return DbTable("aliases", str(path))


def _costs(aliases: AnyTable, count: int, bound: float, kind: str = "for", entry: str = "*.d{}.example") -> bool:
    """Whether a recipient that the last of so many rules sends to the last of many aliases costs less than bound
    seconds of processor time."""
    users = static("users", bob="1000:1000:/home/bob")
    names = [entry.format(number) for number in range(count - 1)]
    customers = [static(f"d{number}", name.replace("*.", ""), name) for number, name in enumerate(names)]
    rules = [rule(FROM_ANY, criterion(kind, table.name), action="local") for table in customers]
    action = Action(name="local", method=Method.MAILDIR, alias="aliases", userbase="users")
    expanding = expander(*rules, rule(FROM_ANY, FOR_LOCAL, action="local"), actions=(action,),
                         tables=(aliases, users, *customers))
    asked = envelope(f"alias{ALIASES - 1}@localhost")

    async def measured() -> float:
        start, memo = time.process_time(), Memo()
        expansion = expanding.expansion(asked, tls=False, local=False)
        try:
            expanded = memo.run(expansion.run)
        except Pending as pending:
            expanded = await memo.settle(expansion.run, pending)
        assert [each.user for each in expanded.envelopes] == ["bob"]
        return time.process_time() - start

    async def some_is_below() -> bool:
        # One of many: on a busy machine the others were disturbed.
        for _ in range(20):
            allowed = bound * _slowness()
            if min([await measured() for _ in range(20)]) < allowed:
                return True
        return False

    return asyncio.run(some_is_below())


@pytest.mark.parametrize("backend", ["static", "file", "db", "slow"])
def test_a_recipient_costs_little_however_large_the_tables_are(backend: str, tmp_path: Path) -> None:
    aliases = _aliases(backend, tmp_path)
    assert _costs(aliases, 10, 100e-6)
    assert _costs(aliases, 1000, 1e-3)


@pytest.mark.parametrize("kind, entry", [("mail-from", "@*.s{}.example"), ("rcpt-to", "u{}@example.org"),
                                         ("helo", "*.h{}.example"), ("from", "2001:db8:{}::/48")])
def test_nor_does_a_rule_for_each_of_many_senders_recipients_or_clients(kind: str, entry: str) -> None:
    assert _costs(_Slow("aliases", "proc"), 1000, 1e-3, kind, entry)


@pytest.mark.parametrize("name", ["<localhost>", "<localnames>"])
def test_what_is_local_may_change(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pysmtpd.lookup.ruleset.MANY", 1)
    local = static(name, "192.0.2.1")
    kind = "from" if name == "<localhost>" else "for"
    ruleset = Ruleset([rule(criterion(kind, name), action="x")], Tables([local]))
    asked = facts("bob@[192.0.2.2]", source="192.0.2.2")
    assert ruleset.evaluate(asked).rule is None
    local.fill([("192.0.2.2", "")])
    assert ruleset.evaluate(asked).rule is not None


def test_a_table_of_domains_that_changes_is_read_again(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pysmtpd.lookup.ruleset.MANY", 1)
    path = tmp_path / "domains"
    path.write_text("a.example\n")
    table = FileTable("domains", str(path))
    table.reload()
    ruleset = Ruleset([rule(FROM_ANY, criterion("for", "domains"), action="x")], Tables([*BUILT_IN, table]))
    assert ruleset.evaluate(facts("bob@a.example")).rule is not None
    path.write_text("*.b.example\n")
    table.reload()
    assert ruleset.evaluate(facts("bob@a.example")).rule is None
    assert ruleset.evaluate(facts("bob@x.y.b.example")).rule is not None
