"""lookup.reach: rules that can never match, and relays that are open to anybody; never a false alarm."""

import itertools
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pysmtpd.conf.config import Config
from pysmtpd.lookup.build import build_tables
from pysmtpd.lookup.facts import UNKNOWN, Facts
from pysmtpd.lookup.reach import open_relays, unreachable, warnings
from pysmtpd.lookup.ruleset import Ruleset
from pysmtpd.readconf import Job, read
from tests.conf.machine import Machine
from tests.conf.machine import read as load
from tests.lookup.made import facts

SETUP = """
pki p cert "/etc/cert.pem" key "/etc/key.pem"
listen on lo
listen on eth0 tls pki p
listen on eth1 port 2525 tag inside
listen on eth1 port 465 smtps pki p auth tag users
table list { one.example, "*.two.example", joe@three.example }
table nets { 10.0.0.0/8 }
table file file:/etc/list
action a relay
"""


def config(rules: str, setup: str = SETUP) -> Config:
    machine = Machine()
    machine.put("/etc/list", "one.example\n")
    found = load(setup + rules, machine)
    assert [str(error) for error in found.errors] == []
    assert found.config is not None
    # Without the rule that load() puts behind every text.
    return Config(**{name: getattr(found.config, name) for name in Config.__struct_fields__ if name != "rules"},
                  rules=found.config.rules[:-1])


UNREACHABLE = [
    "match from any for any reject\nmatch for domain x reject",
    "match for domain x reject\nmatch for domain x auth reject",
    "match for domain { a, b } reject\nmatch for domain b reject",
    "match for domain { b, a } reject\nmatch for domain { a, B } reject",
    'match for domain "*.b" reject\nmatch for domain { "a.b", "*.a.b" } reject',
    'match for domain "*" reject\nmatch for domain "*.a.b" reject',
    "match from src 10.0.0.0/8 for any reject\nmatch from src { 10.1.0.0/16, 10.2.3.4 } for any reject",
    "match from src \"2001:db8::/32\" for any reject\nmatch from src \"[2001:db8:1::]/48\" for any reject",
    "match from any for any mail-from \"@x.example\" reject\nmatch from any for any mail-from joe@x.example reject",
    "match from any for any mail-from joe reject\nmatch from any for any mail-from joe@x.example reject",
    "match for local reject\nmatch from socket for local reject",
    "match from any for any reject\nmatch from rdns for local reject",
    "match from any for any auth reject\nmatch from any for any auth joe reject",
    "match from any for any !auth joe reject\nmatch from any for any !auth reject",
    "match from any for any !tag { a } reject\nmatch from any for any !tag { a, inside } reject",
    "match from any !for domain a reject\nmatch from any for domain b reject",
    "match !from src 10.0.0.0/8 for any reject\nmatch from src 192.168.0.0/16 for any reject",
    "match !from src 10.0.0.0/8 for any reject\nmatch from socket for any reject",
    "match from rdns for any reject\nmatch from rdns \"*.example\" for any reject",
    "match for domain <file> reject\nmatch for domain <file> tls reject",
    "match for domain regex \"^a\" reject\nmatch for domain regex \"^a\" reject",
    "match tag inside reject\nmatch tag inside from socket reject",
]
TOGETHER = [
    ("match for domain a reject", "match for domain b reject", "match for domain { a, b } reject"),
    ("match auth for any reject", "match !auth for any reject", "match for any tls reject"),
    ("match from local for any reject", "match !from local for any reject", "match from any for any reject"),
    ("match from any for domain a reject", "match from any !for domain a reject", "match from any for local reject"),
    ("match for domain a auth reject", "match for domain b reject", "match for domain a !auth reject",
     "match for domain { b, a } reject"),
    ('match from src 10.0.0.0/9 for any reject', "match from src 10.128.0.0/9 for any reject",
     'match from src { 10.1.0.0/16, 10.200.0.0/16 } for any reject'),
    ("match tls for any reject", "match !tls auth for any reject", "match !tls !auth for any reject",
     "match for any reject"),
    ('match for any mail-from "@x.example" reject', "match for any mail-from joe reject",
     "match for any mail-from { jim@x.example, joe } reject"),
    ("match for domain regex a reject", "match for domain regex b reject", "match for domain regex { a, b } reject"),
    ("match for domain <file> reject", "match !for domain <file> reject", "match for local reject"),
]
REACHABLE = [
    "match for domain a reject\nmatch for domain b auth reject\nmatch for domain { a, b } reject",
    "match auth for any reject\nmatch !auth for local reject\nmatch for any reject",
    "match for domain <file> reject\nmatch for domain one.example reject\nmatch for domain { one.example, z } reject",
    "match for domain regex a reject\nmatch for domain b reject\nmatch for domain { a, b } reject",
    "match from rdns a for any reject\nmatch !from rdns a for any reject\nmatch from any for any reject",
    "match from socket for any reject\nmatch !from socket for any reject\nmatch from any for any reject",
    "match for domain x reject\nmatch for domain y reject",
    "match for domain x auth reject\nmatch for domain x reject",
    "match for domain x reject\nmatch for domain regex x reject",
    "match !for domain x reject\nmatch for domain x reject",
    "match for domain { a, b } reject\nmatch for domain { b, c } reject",
    "match for domain <file> reject\nmatch for domain one.example reject",
    "match for domain \"*.b\" reject\nmatch for domain b reject",
    "match for domain \"*.a.b\" reject\nmatch for domain \"*.b\" reject",
    "match from src 10.1.0.0/16 for any reject\nmatch from src 10.0.0.0/8 for any reject",
    "match from src 10.0.0.0/8 for any reject\nmatch from src \"2001:db8::/32\" for any reject",
    "match for local reject\nmatch from src 127.0.0.1 for local reject",
    "match from rdns for any reject\nmatch from rdns \"local\" for any reject",
    "match !from socket for any reject\nmatch from any for any reject",
    "match from any !for domain \"[192.0.2.1]\" reject\nmatch from any for domain 192.0.2.1 reject",
    "match from any for any auth joe reject\nmatch from any for any auth reject",
    "match from any for any mail-from joe@x.example reject\nmatch from any for any mail-from \"@x.example\" reject",
    "match tls reject",
    "match tag INSIDE reject",
]


@pytest.mark.parametrize("rules", UNREACHABLE)
def test_a_rule_that_comes_too_late(rules: str) -> None:
    first = SETUP.count("\n") + 1
    assert [(str(at), message) for at, message in unreachable(config(rules))] == [(
        f"smtpd.conf:{first + 1}:1",
        f"this rule never matches: the one at smtpd.conf:{first}:1 takes all that it would")]


@pytest.mark.parametrize("rules", TOGETHER)
def test_a_rule_that_comes_too_late_after_several(rules: tuple[str, ...]) -> None:
    first = SETUP.count("\n") + 1
    places = " and ".join(f"smtpd.conf:{first + number}:1" for number in range(len(rules) - 1))
    assert [(str(at), message) for at, message in unreachable(config("\n".join(rules)))] == [(
        f"smtpd.conf:{first + len(rules) - 1}:1",
        f"this rule never matches: those at {places} together take all that it would")]


def test_only_those_are_named_that_are_needed() -> None:
    rules = ["tls for any", "for domain a", "auth for domain c", "for domain b", "for domain { a, b }"]
    found = list(unreachable(config("\n".join(f"match {one} reject" for one in rules))))
    first = SETUP.count("\n") + 1
    assert [message for _, message in found] == [
        f"this rule never matches: those at smtpd.conf:{first + 1}:1 and smtpd.conf:{first + 3}:1 together take all "
        "that it would"]


def test_of_very_many_only_some_are_named() -> None:
    rules = [f"match for domain d{n} reject" for n in range(9)]
    listed = ", ".join(f"d{n}" for n in range(9))
    (found,) = unreachable(config("\n".join([*rules, f"match for domain {{ {listed} }} reject"])))
    assert found.message.count("smtpd.conf:") == 4
    assert "and 5 more together" in found.message


@pytest.mark.parametrize("rules", REACHABLE)
def test_a_rule_that_is_needed(rules: str) -> None:
    assert list(unreachable(config(rules))) == []


@pytest.mark.parametrize("rule, why", [
    ("match !from any reject", "nothing is ! from <anyhost>"),
    ("match !for any reject", "nothing is ! for <anydestination>"),
    ("match tag outside reject", "no listener has the tag outside"),
    ("match tag { a, b } reject", "no listener has the tag a or b"),
])
def test_a_rule_that_nothing_fulfils(rule: str, why: str) -> None:
    assert [message for _, message in unreachable(config(rule))] == [f"this rule never matches: {why}"]


def test_without_tls_no_session_has_it() -> None:
    found = [message for _, message in unreachable(config("match tls reject", "listen on lo\n"))]
    assert found == ["this rule never matches: no listener speaks TLS"]


# What happens is the measure.

SOURCES = ["local", "10.1.2.3", "192.168.0.1", "2001:db8::1"]
NAMES = [UNKNOWN, "local", "a.b", "x.a.b"]
DOMAINS = ["a.b", "x.a.b", "b", "c", "[192.0.2.9]"]
PEOPLE = ["joe@a.b", "joe+t@a.b", "jim@c", "jim@x.a.b"]
WORLD = [
    facts(rcpt, sender=sender, source=source, hostname=name, helo=helo, tag=tag, tls=tls, authenticated=bool(user),
          username=user if user != "-" else "", local=source == "local", internal=internal)
    for number, (rcpt, sender, source, name, helo, tag, tls, user, internal) in enumerate(itertools.product(
        [*(f"joe@{domain}" for domain in DOMAINS), "jim@a.b", "joe+t@c"], [*PEOPLE, ""], SOURCES, NAMES, ["a.b", "c"],
        ["", "inside"], [False, True], ["", "-", "joe", "joe@a.b"], [False, False, False, True]))
    if number % 97 == 0
]
_HOSTS = ["a.b", "b", "c", '"*.b"', '"*.a.b"', '"*"', '"[192.0.2.9]"', '"192.0.2.9"', "local"]
_NETS = ["10.0.0.0/8", "10.1.2.3", "192.168.0.0/16", '"0.0.0.0/0"', '"2001:db8::/32"', "\"local\""]
_MAIL = ["joe", "joe@a.b", '"@a.b"', '"@*.b"', '"@*"', '"@"', "joe+t@a.b", "jim@c"]


def lists(entries: list[str]) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from([f'"{one}"' if one == "local" else one for one in entries]), min_size=1,
                    max_size=3, unique=True).map(lambda found: f"{{ {', '.join(found)} }}")


def criteria(*choices: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(st.sampled_from(["", "", "!"]), st.one_of(*choices)).map("".join)


FROM = criteria(st.sampled_from(["from any", "from local", "from socket", "from rdns"]),
                lists(_NETS).map("from src {}".format), lists(_HOSTS).map("from rdns {}".format))
FOR = criteria(st.sampled_from(["for any", "for local"]), lists(_HOSTS).map("for domain {}".format))
OTHER = st.one_of(
    st.just(""), criteria(st.sampled_from(["auth", "tls"])), criteria(lists(["joe", "joe@a.b"]).map("auth {}".format)),
    criteria(lists(_MAIL).map("mail-from {}".format)), criteria(lists(_MAIL).map("rcpt-to {}".format)),
    criteria(lists(_HOSTS).map("helo {}".format)), criteria(lists(["inside", "users"]).map("tag {}".format)),
)
# Rules that differ in one criterion, so that one is often nearly within another.
RULES = st.tuples(st.lists(FROM, min_size=1, max_size=3), st.lists(FOR, min_size=1, max_size=2),
                  st.lists(OTHER, min_size=1, max_size=2)).map(
    lambda parts: [f"match {' '.join(found)} reject" for found in itertools.product(*parts)])


@settings(max_examples=100, deadline=None)
@given(RULES)
def test_what_is_called_unreachable_never_decides(rules: list[str]) -> None:
    made = config("\n".join(rules))
    useless = {at for at, _ in unreachable(made)}
    if not useless:
        return
    ruleset = Ruleset(made.rules, build_tables(made, strict=False))
    for one in WORLD:
        rule = ruleset.evaluate(one).rule
        assert rule is None or rule.at not in useless, (rules, _shown(one))


def _shown(one: Facts) -> dict[str, object]:
    names = ("source", "hostname", "internal", "dest", "sender", "tag", "username")
    return {name: getattr(one, name) for name in names}


# Open relays.

OPEN = "open relay: anyone may send to anywhere; add auth, or write from local or from src"


@pytest.mark.parametrize("rules, message", [
    ("match from any for any action a", OPEN),
    ("match from any for any tls action a", OPEN),
    ("match !from src 10.0.0.0/8 for any action a", OPEN),
    ('match from src "0.0.0.0/0" for any action a', OPEN),
    ('match from any for domain "*" action a', OPEN),
    ("match from any for local reject\nmatch from any for any action a", OPEN),
    ("match from any for any tag inside action a", OPEN),
    ("match from any for any mail-from { x@y.example, \"@z.example\" } action a",
     OPEN.replace("anyone", "anyone who says MAIL FROM:<x@y.example>")),
    ("match from any for any mail-from \"@\" action a", OPEN.replace("anyone", "anyone who says MAIL FROM:<@>")),
    ("match from any for any helo trust.example action a",
     OPEN.replace("anyone", "anyone who says EHLO trust.example")),
    ("match from any !for domain b.example action a", OPEN),
    ("match from any auth for any action a", ""),
    ("match from any !auth for any reject\nmatch from any for any action a", ""),
    ("match !from local for any reject\nmatch from any for any action a", ""),
    ("match for any action a", ""),
    ("match from src <nets> for any action a", ""),
    ("match from src { 203.0.113.0/24, 198.51.100.0/24 } for any action a", ""),
    ("match from rdns \"*.friend.example\" for any action a", ""),
    ("match from any for domain b.example action a", ""),
    ("match from any for any tag users action a", ""),
])
def test_open_relays(rules: str, message: str) -> None:
    assert [text for _, text in open_relays(config(rules))] == ([message] if message else [])


@pytest.mark.parametrize("action, warned", [("relay", True), ("relay host h", True), ("relay backup", False),
                                            ("mbox", False)])
def test_only_what_is_relayed_is_an_open_relay(action: str, warned: bool) -> None:
    made = config(f"action a {action}\nmatch from any for any action a", "")
    assert [at.line for at, _ in open_relays(made)] == ([2] if warned else [])


def test_where_everybody_must_log_in_nobody_is_a_stranger() -> None:
    setup = 'pki p cert "/etc/cert.pem" key "/etc/key.pem"\nlisten on eth0 smtps pki p auth\naction a relay\n'
    assert list(open_relays(config("match from any for any action a", setup))) == []


def test_what_cannot_be_asked_is_no_open_relay() -> None:
    setup = "table down sqlite:/etc/list\naction a relay\n"
    assert list(open_relays(config("match from any for domain <down> action a", setup))) == []


def test_only_the_verbose_check_looks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "smtpd.conf"
    path.write_text("action a relay\nmatch from any for any action a\nmatch for local action a\n")
    assert read(Job(path=str(path))) is not None
    assert capsys.readouterr().err == ""
    assert read(Job(path=str(path), verbose=True)) is not None
    said = capsys.readouterr().err
    assert f"{path}:2:1: warning: open relay" in said
    assert f"{path}:3:1: warning: this rule never matches" in said


def test_many_rules_take_no_time() -> None:
    text = "".join(f"match from src 10.{n}.0.0/16 for domain {{ a{n}.example, b{n}.example }} reject\n"
                   for n in range(100))
    assert warnings(config(text)) == []


def test_many_rules_of_which_each_takes_a_little_take_no_time() -> None:
    kinds = ["for domain d{n}", "mail-from joe@d{n}", "helo d{n}", "!tls for domain d{n}"]
    text = "".join(f"match from any {kinds[n % 4].format(n=n)} reject\n" for n in range(200))
    began = time.process_time()
    assert warnings(config(text + "match from any for any reject\n" * 1)) == []
    assert time.process_time() - began < 10
