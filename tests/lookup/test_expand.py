"""lookup.expand: from a recipient to its envelopes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pysmtpd.base.envelope import Agent
from pysmtpd.base.mailaddr import MailAddr
from pysmtpd.conf.config import Action, Method
from pysmtpd.lookup.expand import Expander, explain
from pysmtpd.lookup.node import Expanded
from pysmtpd.lookup.ruleset import Ruleset
from pysmtpd.lookup.table import Tables
from tests.lookup.made import (
    FOR_ANY,
    FOR_LOCAL,
    FROM_ANY,
    LOCAL_RULE,
    RELAY_RULE,
    DownTable,
    criterion,
    envelope,
    expander,
    rule,
    static,
)


def expand(rcpt: str, expanding: Expander | None = None, *, local: bool = False, **fields: object) -> Expanded:
    return (expanding or expander()).expand(envelope(rcpt, **fields), tls=False, local=local)  # type: ignore[arg-type]


def test_a_local_recipient_is_a_delivery_to_its_user() -> None:
    expanded = expand("Bob+lists@MX.example.org")
    (made,) = expanded.envelopes
    assert expanded.reply == ""
    assert made == envelope("Bob+lists@MX.example.org", agent=Agent.MDA, action="local", user="bob", subaddress="lists",
                            ttl=4 * 86400)
    assert made.dest == made.rcpt == MailAddr("Bob+lists", "MX.example.org")


def test_a_relayed_recipient_keeps_its_address_and_has_no_user() -> None:
    (made,) = expand("Rob@far.example", local=True).envelopes
    assert made == envelope("Rob@far.example", agent=Agent.MTA, action="out", user="", ttl=4 * 86400)


def test_the_action_may_have_a_ttl_of_its_own() -> None:
    own = expander(actions=(Action(name="local", method=Method.MBOX, ttl=60), Action(name="out", method=Method.RELAY)),
                   queue_ttl=3600)
    assert expand("bob@localhost", own).envelopes[0].ttl == 60
    assert expand("bob@far.example", own, local=True).envelopes[0].ttl == 3600


@pytest.mark.parametrize("rcpt, local, why", [
    ("rob@localhost", False, "no user rob in <getpwnam>"),
    ("+tag@localhost", False, "no user without a name in <getpwnam>"),
    ("bob@far.example", False, "no rule matched"),
    ("bob", True, "no rule matched"),
])
def test_who_is_not_there_is_refused_and_the_log_says_why(rcpt: str, local: bool, why: str) -> None:
    expanded = expand(rcpt, local=local)
    assert (expanded.envelopes, expanded.reply, expanded.why) == ([], "550 Invalid recipient", why)


@pytest.mark.parametrize("reply, sent", [
    ("", "550 Invalid recipient"), ("550 go away", "550 go away"), ("450 4.2.0 Later", "450 4.2.0 Later"),
])
def test_a_rule_rejects(reply: str, sent: str) -> None:
    expanded = expand("bob@localhost", expander(rule(FROM_ANY, FOR_ANY, reply=reply, line=9)))
    assert (expanded.reply, expanded.why) == (sent, "rejected by the rule at smtpd.conf:9:1")


def test_a_table_that_is_down_fails_for_now() -> None:
    in_rules = expander(rule(FROM_ANY, criterion("for", "down"), action="local"), tables=(DownTable("down"),))
    assert expand("bob@localhost", in_rules)[1:3] == ("451 Temporary failure", "table down: down")
    users = expander(LOCAL_RULE, tables=(DownTable("<getpwnam>"),))
    assert expand("bob@localhost", users)[1:3] == ("451 Temporary failure", "table <getpwnam>: down")


def test_a_rule_without_its_action_fails_for_now() -> None:
    expanded = expand("bob@localhost", expander(rule(FROM_ANY, FOR_LOCAL, action="gone", line=2)))
    assert expanded.reply == "451 Temporary failure"


def test_an_action_may_have_a_userbase_of_its_own() -> None:
    own = expander(actions=(Action(name="local", method=Method.MAILDIR, userbase="vusers"),),
                   tables=(static("vusers", carol="5000:5000:/var/vmail"),))
    assert expand("carol@localhost", own).envelopes[0].user == "carol"
    assert expand("bob@localhost", own).why == "no user bob in vusers"


def test_the_sub_address_begins_at_the_first_delimiter() -> None:
    assert expand("bob+a+b@localhost").envelopes[0].user == "bob"
    dash = expander(sub_addr_delim="-")
    assert expand("bob-x@localhost", dash).envelopes[0].user == "bob"
    assert expand("bob+x@localhost", dash).reply == "550 Invalid recipient"
    both = expander(sub_addr_delim="+-")
    for text in ("bob+x-y@localhost", "bob-x+y@localhost", "bob@localhost"):
        assert expand(text, both).envelopes[0].user == "bob"


@pytest.mark.parametrize("text, reply", [
    ("550 5.7.1 Not from <%{sender}>", "550 5.7.1 Not from <alice@example.com>"),
    ("550 %{rcpt.user[0:2]:uppercase} %{dest:strip} %%", "550 BOB bob@far.example %"),
    ("451 4.7.1 Later", "451 4.7.1 Later"),
    ("451 4.7.1 %{sender.user[9]}", "451 Recipient refused"),
    ("550 " + "%{rcpt}" * 100, ("550 " + "bob+tag@far.example" * 100)[:510]),
])
def test_a_rule_may_refuse_in_its_own_words(text: str, reply: str) -> None:
    own = expander(rule(FROM_ANY, FOR_ANY, reply=text))
    expanded = expand("bob+tag@far.example", own)
    assert (expanded.reply, expanded.whole, expanded.envelopes) == (reply, True, [])
    assert expanded.why == "rejected by the rule at smtpd.conf:1:1"


def test_what_a_stranger_chose_is_made_harmless_in_a_reply() -> None:
    own = expander(rule(FROM_ANY, FOR_ANY, reply="550 <%{rcpt}>"))
    assert expand('"a`b$(c)"é@far.example', own).reply == '550 <"a:b:(c)"?@far.example>'


def test_without_root_only_the_one_user_is_delivered_to() -> None:
    mine = expander(user="bob")
    assert expand("bob@localhost", mine).envelopes[0].user == "bob"
    refused = expand("alice@localhost", mine)
    assert refused.reply == "550 5.7.1 Delivery not authorized"
    assert refused.why == "the daemon runs without root, as bob, and cannot deliver as alice"
    assert expand("rob@localhost", mine).reply == "550 Invalid recipient"
    assert expand("rob@far.example", mine, local=True).reply == ""


def test_without_root_an_action_may_deliver_everything_as_the_one_user() -> None:
    mine = expander(user="bob", actions=(Action(name="local", method=Method.MAILDIR, user="bob"),))
    assert expand("alice@localhost", mine).envelopes[0].user == "alice"


@pytest.mark.parametrize("method, reply", [
    (Method.FORWARD_ONLY, "424 4.2.4 Mailing list expansion problem"),
    (Method.EXPAND_ONLY, "524 5.2.4 Mailing list expansion problem"),
])
def test_an_action_that_only_forwards_delivers_nothing(method: Method, reply: str) -> None:
    only = expander(actions=(Action(name="local", method=method),))
    assert expand("bob@localhost", only).reply == reply


def test_a_bounce_goes_where_mail_of_this_machine_goes() -> None:
    assert expand("rob@far.example", local=True, sender="").envelopes[0].agent is Agent.MTA
    assert expand("rob@far.example", sender="").reply == "550 Invalid recipient"


def test_the_tree_explains_itself() -> None:
    expanding = expander()
    ruleset = Ruleset((LOCAL_RULE, RELAY_RULE), Tables([]))
    assert explain(expand("rob@localhost", expanding).root, ruleset) == [
        "address <rob@localhost>",
        '  rule #1 matched: smtpd.conf:7:1: action "local"',
        "  user rob",
        "    refused: no user rob in <getpwnam>",
    ]
    assert explain(expand("bob@far.example", expanding, local=True).root, ruleset) == [
        "address <bob@far.example>",
        "  rule #1 at smtpd.conf:7:1: no match: for <localnames>",
        '  rule #2 matched: smtpd.conf:8:1: action "out"',
        "  deliver by mta, action out",
    ]


_WORD = st.text(max_size=70)


@settings(max_examples=150)
@given(_WORD, st.sampled_from(["localhost", "far.example", "", "[127.0.0.1]", "[", "[IPv6:x]"]), _WORD, st.booleans())
def test_any_address_is_envelopes_or_a_reply(user: str, domain: str, helo: str, local: bool) -> None:
    try:
        address = MailAddr(user, domain)
        asked = envelope(helo=helo, rcpt=address, dest=address)
    except ValueError:
        return
    expanded = expander().expand(asked, tls=False, local=local)
    assert bool(expanded.envelopes) is not bool(expanded.reply)
    assert not expanded.reply or expanded.why
