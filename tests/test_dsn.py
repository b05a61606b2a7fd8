"""RFC 3461 by its sections: what each says of a server like ours, and that it is so.

The form of reports (RFC 3464, 3462, 6533) is in spool/test_bounce.py, their way in spool/test_bounces.py.
"""

from typing import Any

import pytest

from pysmtpd.base.envelope import Agent, BounceKind, Envelope, Flag, Notify, Ret
from pysmtpd.base.mailaddr import NULL, parse
from pysmtpd.conf.config import Action, Method
from pysmtpd.lookup.node import Expanded
from pysmtpd.messages import Outcome
from pysmtpd.relay.task import Task, key_of
from pysmtpd.session.client_commands import Extensions, mail, rcpt
from pysmtpd.session.parameters import Parameters, read_mail, read_rcpt
from pysmtpd.session.smtp_tx import template
from pysmtpd.spool import outcome
from pysmtpd.spool.bounce import Report, compose, cut_original
from tests.lookup import made
from tests.relay.world import World
from tests.spool.house import NOW, envelope

SUCCESS, FAILURE, DELAY, NEVER = Notify.SUCCESS, Notify.FAILURE, Notify.DELAY, Notify.NEVER
ALL = int(SUCCESS | FAILURE | DELAY)
NOTHING: frozenset[str] = frozenset()
WITH_DSN, WITHOUT = Extensions(dsn=True), Extensions()


def of_rcpt(text: str) -> Parameters | str:
    return read_rcpt(text, NOTHING)


def of_mail(text: str) -> Parameters | str:
    return read_mail(text, NOTHING, max_size=1000)


# 4: the parameters


@pytest.mark.parametrize("text", [
    "NOTIFY=NEVER", "NOTIFY=SUCCESS", "NOTIFY=FAILURE", "NOTIFY=DELAY", "NOTIFY=SUCCESS,FAILURE,DELAY",
    "notify=success,Failure", "NOTIFY=DELAY,DELAY",
])
def test_4_1_notify_is_never_or_a_list_of_the_others(text: str) -> None:
    assert isinstance(of_rcpt(text), Parameters)


@pytest.mark.parametrize("text", ["NOTIFY=NEVER,SUCCESS", "NOTIFY=DELAY,NEVER", "NOTIFY=", "NOTIFY=ALWAYS",
                                  "NOTIFY=SUCCESS FAILURE", "NOTIFY=SUCCESS NOTIFY=DELAY"])
def test_4_1_and_nothing_else(text: str) -> None:
    assert str(of_rcpt(text))[:1] == "5"


def test_4_1_without_it_failures_and_delays_are_told_and_success_is_not() -> None:
    one = envelope()
    assert outcome.wanted(one, BounceKind.FAILED) and outcome.wanted(one, BounceKind.DELAYED)
    assert not outcome.wanted(one, BounceKind.DELIVERED)


@pytest.mark.parametrize("text", ["rfc822;bob+2Bx@example.net", "RFC822;Bob@Example.NET", "x400;/c+3Dus/",
                                  "unknown-type;", "utf-8;\\x{7528}@example.net"])
def test_4_2_orcpt_of_any_type_is_kept_as_it_came(text: str) -> None:
    found = of_rcpt(f"ORCPT={text}")
    assert isinstance(found, Parameters) and found.orcpt == text


@pytest.mark.parametrize("text", ["bob@example.net", ";bob", "rfc822;a=b", "rfc822;a+2b", "rfc822;a+", "rfc822;\u7528",
                                  "rfc822;" + "x" * 494])
def test_4_2_and_must_be_a_type_and_xtext_of_500_characters(text: str) -> None:
    assert str(of_rcpt(f"ORCPT={text}"))[:3] == "553"


def test_4_3_ret_is_full_or_hdrs_once() -> None:
    for text, ret in (("RET=FULL", Ret.FULL), ("ret=hdrs", Ret.HDRS)):
        found = of_mail(text)
        assert isinstance(found, Parameters) and found.ret is ret
    for text in ("RET=", "RET=BODY", "RET=FULL RET=FULL"):
        assert str(of_mail(text))[:3] == "501"


def test_4_3_only_failures_bring_back_the_whole_message() -> None:
    head = b"Subject: x\r\n\r\nbody\r\n"
    whole = {kind: cut_original(head, len(head), kind, Ret.FULL).whole for kind in BounceKind if kind}
    assert [kind for kind, is_whole in whole.items() if is_whole] == [BounceKind.FAILED]


def test_4_4_envid_is_xtext_of_100_characters_once() -> None:
    found = of_mail("ENVID=" + "x" * 97 + "+2B")
    assert isinstance(found, Parameters) and found.envid.endswith("+2B")
    for text in ("ENVID=", "ENVID=a=b", "ENVID=a+b", "ENVID=" + "x" * 101, "ENVID=a ENVID=a"):
        assert str(of_mail(text))[:1] == "5"


@pytest.mark.parametrize("text", ["RET=FULL", "ENVID=x"])
def test_4_a_server_that_does_not_offer_it_takes_none(text: str) -> None:
    assert str(read_mail(text, frozenset({"DSN"}), max_size=1))[:3] == "503"


# 5.2.1: relayed to who has DSN


def said(offered: Extensions, **fields: Any) -> tuple[str, str]:
    """MAIL and RCPT by which an envelope is relayed."""
    one = envelope(**fields)
    task = Task(key_of(one, ""), 0, has_8bit=False)
    task.envelopes.append(one)
    tx = task.transaction()
    return mail(tx, offered).decode().strip(), rcpt(tx.recipients[0], offered).decode().strip()


def test_5_2_1_what_was_asked_is_passed_on_unchanged() -> None:
    asked: dict[str, Any] = {"envid": "Q+2B1", "ret": Ret.HDRS, "notify": ALL, "orcpt": "rfc822;Bob+40example.net"}
    assert said(WITH_DSN, **asked) == (
        "MAIL FROM:<alice@example.org> RET=HDRS ENVID=Q+2B1",
        "RCPT TO:<bob@example.net> NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;Bob+40example.net")
    assert said(WITH_DSN, notify=int(NEVER))[1].endswith(" NOTIFY=NEVER")


def test_5_2_1_what_was_not_asked_is_not_added() -> None:
    assert said(WITH_DSN) == ("MAIL FROM:<alice@example.org>", "RCPT TO:<bob@example.net>")


def test_5_2_1_orcpt_says_whom_the_sender_wrote_to_where_an_alias_led_elsewhere() -> None:
    to = parse("joe@far.example")
    assert said(WITH_DSN, dest=to)[1] == "RCPT TO:<joe@far.example> ORCPT=rfc822;bob@example.net"
    assert said(WITH_DSN, dest=to, orcpt="rfc822;first@x")[1] == "RCPT TO:<joe@far.example> ORCPT=rfc822;first@x"
    assert said(WITH_DSN, dest=to, rcpt="\u7528@example.net")[1].endswith(" ORCPT=utf-8;\\x{7528}@example.net")
    assert said(WITH_DSN, dest=to, sender=NULL)[1] == "RCPT TO:<joe@far.example>"


# 5.2.2: relayed to who has not


def test_5_2_2_no_parameter_is_said() -> None:
    asked: dict[str, Any] = {"envid": "Q", "ret": Ret.FULL, "notify": ALL, "orcpt": "rfc822;b@c"}
    assert said(WITHOUT, **asked) == ("MAIL FROM:<alice@example.org>", "RCPT TO:<bob@example.net>")


@pytest.mark.parametrize("dsn", [False, True])
def test_5_2_2_relayed_is_told_by_who_is_the_last_to_know(dsn: bool) -> None:
    world = World(Action(name="out", method=Method.RELAY, host="<hosts>"))
    world.tables["relayhost", "<hosts>", ""] = ["smtp://192.0.2.5"]
    world.serve("192.0.2.5", {} if dsn else {"EHLO": b"250 x"})
    world.deliver("b@b.example", notify=int(SUCCESS))
    world.run()
    assert [(result.outcome, result.dsn_relayed) for result in world.results] == [(Outcome.OK, dsn)]


# 5.2.3 to 5.2.6: delivered, delayed, failed; 4.1


@pytest.mark.parametrize(("notify", "told"), [
    (NEVER, set()), (SUCCESS, {BounceKind.DELIVERED}), (FAILURE, {BounceKind.FAILED}), (DELAY, {BounceKind.DELAYED}),
    (SUCCESS | FAILURE, {BounceKind.DELIVERED, BounceKind.FAILED}),
])
def test_5_2_only_what_was_asked_for_is_told(notify: int, told: set[BounceKind]) -> None:
    one = envelope(notify=int(notify))
    kinds = (BounceKind.DELIVERED, BounceKind.FAILED, BounceKind.DELAYED)
    assert {kind for kind in kinds if outcome.wanted(one, kind)} == told


def test_5_2_nobody_is_told_of_mail_from_nobody() -> None:
    for kind in (BounceKind.DELIVERED, BounceKind.FAILED, BounceKind.DELAYED):
        assert not outcome.wanted(envelope(sender=NULL, notify=ALL), kind)
        assert not outcome.wanted(envelope(agent=Agent.BOUNCE, notify=ALL), kind)


# 5.2.7: aliases


def expand(aliases: dict[str, str], **fields: Any) -> Expanded:
    local = Action(name="local", method=Method.MAILDIR, alias="aliases")
    out = Action(name="out", method=Method.RELAY)
    expander = made.expander(
        made.LOCAL_RULE, made.RELAY_RULE, tables=(made.static("aliases", **aliases),), actions=(local, out))
    return expander.expand(made.envelope("team@localhost", **fields), tls=False, local=True)


def by_dest(found: Expanded) -> dict[str, Envelope]:
    return {one.user or str(one.dest): one for one in found.envelopes if one.agent is not Agent.BOUNCE}


def bounces(found: Expanded) -> list[Envelope]:
    return [one for one in found.envelopes if one.agent is Agent.BOUNCE]


@pytest.mark.parametrize("to", ["bob", "joe@far.example"])
def test_5_2_7_2_one_for_one_keeps_all_wishes(to: str) -> None:
    found = expand({"team": to}, notify=ALL, envid="Q", ret=Ret.FULL, orcpt="rfc822;t@x")
    (one,) = found.envelopes
    assert (one.notify, one.envid, one.ret, one.orcpt) == (ALL, "Q", Ret.FULL, "rfc822;t@x")


@pytest.mark.parametrize(("asked", "left"), [
    (ALL, FAILURE | DELAY), (SUCCESS | FAILURE, FAILURE), (SUCCESS | DELAY, DELAY), (SUCCESS, NEVER),
])
def test_5_2_7_3_one_for_several_is_expanded_and_none_of_them_tells_of_success(asked: int, left: int) -> None:
    found = expand({"team": "bob, alice, joe@far.example"}, notify=int(asked), envid="Q", orcpt="rfc822;t@x")
    assert {name: one.notify for name, one in by_dest(found).items()} == dict.fromkeys(
        ("bob", "alice", "joe@far.example"), int(left))
    assert all((one.envid, one.orcpt) == ("Q", "rfc822;t@x") for one in found.envelopes)
    (told,) = bounces(found)
    assert (told.bounce, str(told.sender), str(told.rcpt), told.user) == (
        BounceKind.EXPANDED, "alice@example.com", "team@localhost", "")


@pytest.mark.parametrize("notify", [0, NEVER, FAILURE, FAILURE | DELAY])
def test_5_2_7_3_who_did_not_ask_for_success_hears_nothing_of_it(notify: int) -> None:
    found = expand({"team": "bob, alice"}, notify=int(notify))
    assert not bounces(found) and {one.notify for one in found.envelopes} == {int(notify)}


def test_5_2_7_3_nobody_hears_of_mail_from_nobody() -> None:
    found = expand({"team": "bob, alice"}, notify=ALL, sender="")
    assert not bounces(found)


def test_5_2_7_3_a_list_that_comes_to_one_mailbox_is_one_for_one() -> None:
    (one,) = expand({"team": "bob, other", "other": "bob"}, notify=ALL).envelopes
    assert (one.user, one.notify) == ("bob", ALL)


# 6: reports


def test_6_1_the_report_asks_for_nothing() -> None:
    """MAIL FROM:<>, no RET, and NOTIFY of none that could ask for another report."""
    from pysmtpd.spool.bounces import _Key, _template

    ask = _template(_Key(1, parse("a@b.example"), BounceKind.FAILED, 0, "mx.example", Ret.FULL), NOW)
    assert (ask.sender, str(ask.rcpt), ask.ret, ask.notify, ask.envid) == (NULL, "a@b.example", Ret.NONE, NEVER, "")


def test_6_3_envid_and_orcpt_come_back_decoded() -> None:
    one = envelope(1 << 32 | 1, bounce=BounceKind.FAILED, envid="a+20b", orcpt="rfc822;Bob+2Bx@example.net")
    head = b"Subject: x\r\n"
    made_of = Report(1, 2, one.sender, [one], NOW, cut_original(head, len(head), BounceKind.FAILED, Ret.NONE), NOW)
    text = compose(made_of).decode()
    assert "Original-Envelope-Id: a b\r\n" in text and "Original-Recipient: rfc822; Bob+x@example.net\r\n" in text


# RFC 4954 5: AUTH= of MAIL


@pytest.mark.parametrize(("given", "vouches", "kept"), [
    ("", False, ""), ("", True, ""), ("e+3Dmc2@example.com", True, "e+3Dmc2@example.com"), ("<>", True, "<>"),
    ("e+3Dmc2@example.com", False, "<>"), ("<>", False, "<>"),
])
def test_auth_of_who_is_not_trusted_is_nobody(given: str, vouches: bool, kept: str) -> None:
    parameters = of_mail(f"AUTH={given}" if given else "")
    assert isinstance(parameters, Parameters)
    one = template(sender=parse("a@b.example"), parameters=parameters, tag="", smtpname="mx", helo="h", hostname="h",
                   username="", source="local", authenticated=vouches, now=NOW, vouches=vouches)
    assert one.auth == kept


@pytest.mark.parametrize(("auth", "offered", "known", "expected"), [
    ("e+3Dmc2@x", True, False, " AUTH=e+3Dmc2@x"), ("e+3Dmc2@x", True, True, " AUTH=e+3Dmc2@x"),
    ("e+3Dmc2@x", False, False, ""), ("<>", True, True, " AUTH=<>"), ("<>", True, False, ""), ("", True, True, ""),
])
def test_auth_is_passed_on_to_who_knows_it(auth: str, offered: bool, known: bool, expected: str) -> None:
    one = envelope(auth=auth, flags=int(Flag.AUTHENTICATED))
    task = Task(key_of(one, ""), 0, has_8bit=False)
    task.envelopes.append(one)
    extensions = Extensions(auth=frozenset({"PLAIN"}) if offered else frozenset())
    assert mail(task.transaction(), extensions, known=known).decode() == (
        f"MAIL FROM:<alice@example.org>{expected}\r\n")
