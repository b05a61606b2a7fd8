"""Mail goes out: to exchangers and smarthosts, over connections that are used again."""

from typing import Any

import pytest

from pysmtpd.base.envelope import Notify
from pysmtpd.base.mailaddr import MailAddr, parse
from pysmtpd.conf.config import Action, Method, MtaLimits
from pysmtpd.messages import (
    BodyOpen,
    Found,
    Host,
    HostList,
    MtaLookedUp,
    MtaLookup,
    MtaResolve,
    MtaResolved,
    Outcome,
    QueueBody,
)
from tests.relay.world import BODY, NULL, World

OK, TEMPFAIL, PERMFAIL = Outcome.OK, Outcome.TEMPFAIL, Outcome.PERMFAIL


def smarthost(url: str, **more: Any) -> World:
    world = World(Action(name="out", method=Method.RELAY, host="<hosts>", **more))
    world.tables["relayhost", "<hosts>", ""] = [url]
    return world


def test_one_message_by_smarthost() -> None:
    world = smarthost("smtp://192.0.2.5:2525")
    world.tables["ptr", "", "192.0.2.5"] = ["hub.example"]
    world.serve("192.0.2.5")
    world.deliver("b@b.example")
    world.run()
    assert world.dialled == [("192.0.2.5", 2525, "")]
    assert world.messages == [("a@a.example", ["b@b.example"], BODY)]
    assert [(result.outcome, result.esc, result.text) for result in world.results] == [(OK, "2.0.0", "250 2.0.0 kept")]
    session = world.lines[0][:16]
    assert world.lines == [
        f"{session} mta connecting address=smtp://192.0.2.5:2525 host=hub.example",
        f"{session} mta connected",
        f'{session} mta delivery evpid=0000000100000001 from=<a@a.example> to=<b@b.example> rcpt=<-> '
        'source="192.0.2.1" relay="192.0.2.5 (hub.example)" delay=0s result="Ok" stat="250 2.0.0 kept"',
    ]
    world.advance(20)
    assert world.lines[3:] == [f"{session} mta disconnected reason=quit messages=1"]
    assert not world.agent.relays and not world.links


def test_a_body_that_came_along_is_not_asked_for() -> None:
    world = smarthost("smtp://192.0.2.5")
    world.serve("192.0.2.5")
    for number in (1, 2, 3):
        world.deliver("b@b.example", msgid=number, body=b"Subject: %d\r\n\r\n.\r\n" % number)
    world.run()
    assert [body for _, _, body in world.messages] == [b"Subject: %d\r\n\r\n.\r\n" % n for n in (1, 2, 3)]
    assert not world.opened and not world.closed_bodies and world.outcomes == [OK] * 3


def test_forwarded_mail_gets_a_sender_that_leads_back() -> None:
    world = smarthost("smtp://192.0.2.5", srs=True)
    world.serve("192.0.2.5")
    world.tables["srs", "ours.example", "a@a.example"] = ["SRS0=x=y=a.example=a@ours.example"]
    world.deliver("b@b.example", rcpt=parse("ann@ours.example"))
    world.run()
    assert [(sender, rcpts) for sender, rcpts, _ in world.messages] == [
        ("SRS0=x=y=a.example=a@ours.example", ["b@b.example"])]
    # What was sent there at once keeps its sender, and nobody is asked.
    world.deliver("b@b.example", msgid=2)
    world.run()
    assert world.messages[1][0] == "a@a.example"
    assert [message.service for message in world.asked if isinstance(message, MtaLookup)].count("srs") == 1


def test_a_sender_that_cannot_be_rewritten_now_is_a_temporary_failure() -> None:
    world = smarthost("smtp://192.0.2.5", srs=True)
    world.lka_slow.add("srs")
    world.deliver("b@b.example", rcpt=parse("ann@ours.example"))
    world.run()
    [ask] = [message for message in world.asked if isinstance(message, MtaLookup) and message.service == "srs"]
    world.agent.questions.looked_up(MtaLookedUp(ask.reqid, Found.TEMPFAIL, ""))
    world.run()
    assert [(result.outcome, result.text) for result in world.results] == [(TEMPFAIL, "Cannot rewrite the sender")]


def test_one_message_by_mx() -> None:
    world = World()
    world.exchangers("b.example", "192.0.2.5", "192.0.2.6")
    world.serve("192.0.2.5")
    world.deliver("b@B.example")
    world.run()
    assert world.dialled == [("192.0.2.5", 25, "")]
    assert world.outcomes == [OK]
    assert next(message for message in world.asked if isinstance(message, MtaResolve)).name == "b.example"


def test_recipients_of_one_message_share_a_transaction() -> None:
    world = smarthost("smtp://192.0.2.5")
    world.serve("192.0.2.5")
    world.deliver("b@b.example", "c@c.example", "d@d.example")
    world.run()
    assert world.messages == [("a@a.example", ["b@b.example", "c@c.example", "d@d.example"], BODY)]
    assert len([message for message in world.asked if isinstance(message, BodyOpen)]) == 1
    assert sorted(result.evpid & 0xFF for result in world.results) == [1, 2, 3]


def test_a_transaction_has_at_most_a_hundred_recipients() -> None:
    world = smarthost("smtp://192.0.2.5")
    world.serve("192.0.2.5")
    world.deliver(*[f"r{n}@b.example" for n in range(250)])
    world.run()
    assert sorted(len(rcpts) for _, rcpts, _ in world.messages) == [50, 100, 100]


def test_other_senders_and_other_dsn_wishes_are_other_transactions() -> None:
    world = smarthost("smtp://192.0.2.5")
    world.serve("192.0.2.5")
    world.deliver("b@b.example")
    world.deliver("c@c.example", first=2, sender=NULL)
    world.deliver("d@d.example", first=3, envid="x")
    world.run()
    assert sorted((sender, rcpts) for sender, rcpts, _ in world.messages) == [
        ("", ["c@c.example"]), ("a@a.example", ["b@b.example"]), ("a@a.example", ["d@d.example"])]


def test_a_connection_is_used_again_and_the_next_message_follows_in_one_write() -> None:
    world = smarthost("smtp://192.0.2.5")
    world.serve("192.0.2.5")
    for msgid in range(1, 6):
        world.deliver("b@b.example", msgid=msgid)
    world.run()
    assert world.outcomes == [OK] * 5
    first = world.servers[0][1]
    assert any(b"\r\n.\r\nMAIL FROM:" in write for write in first.writes)
    world.deliver("b@b.example", msgid=9)
    world.run()
    assert world.outcomes == [OK] * 6
    connections = len(world.dialled)
    assert connections <= 3
    world.advance(20)
    assert len(world.logged("disconnected reason=quit")) == connections


def test_a_worn_out_connection_is_replaced_at_once() -> None:
    """The delays between connections do not hold up mail where it just went through."""
    world = World(Action(name="out", method=Method.RELAY, host="<hosts>"), limits=MtaLimits(session_mail_max=3))
    world.tables["relayhost", "<hosts>", ""] = ["smtp://192.0.2.5"]
    world.serve("192.0.2.5")
    for msgid in range(1, 31):
        world.deliver("b@b.example", msgid=msgid)
    world.run()
    assert world.outcomes == [OK] * 30
    assert all(len(server.messages) <= 3 for _, server in world.servers)
    assert len(world.servers) >= 10


def test_a_delay_the_operator_wrote_is_obeyed() -> None:
    limits = MtaLimits(session_mail_max=1, conn_delay_route=30)
    world = World(Action(name="out", method=Method.RELAY, host="<hosts>"), limits=limits)
    world.tables["relayhost", "<hosts>", ""] = ["smtp://192.0.2.5"]
    world.serve("192.0.2.5")
    world.deliver("b@b.example", msgid=1)
    world.deliver("b@b.example", msgid=2)
    world.run()
    assert world.outcomes == [OK]
    world.advance(29)
    assert world.outcomes == [OK]
    world.advance(3)
    assert world.outcomes == [OK, OK]


def test_pause_between_transactions() -> None:
    world = World(Action(name="out", method=Method.RELAY, host="<hosts>"),
                  limits=MtaLimits(max_conn_per_relay=1, session_transaction_delay=10))
    world.tables["relayhost", "<hosts>", ""] = ["smtp://192.0.2.5"]
    world.serve("192.0.2.5")
    for msgid in (1, 2, 3):
        world.deliver("b@b.example", msgid=msgid)
    world.run()
    assert world.outcomes == [OK]
    world.advance(10)
    assert world.outcomes == [OK, OK]
    world.advance(10)
    assert world.outcomes == [OK] * 3 and len(world.servers) == 1


def test_at_most_five_connections_to_a_host() -> None:
    world = smarthost("smtp://192.0.2.5")
    world.serve("192.0.2.5", {"eom": b"250 ok"})
    world.queue_silent = True      # sessions stay busy
    for msgid in range(1, 41):
        world.deliver("b@b.example", msgid=msgid)
    world.run()
    assert len(world.links) == 5


def test_relays_that_share_a_limit_take_turns() -> None:
    world = World(limits=MtaLimits(max_conn_per_source=1, session_keepalive=0))
    for n in range(5):
        world.exchangers(f"d{n}.example", f"192.0.2.{n}")
        world.serve(f"192.0.2.{n}")
        world.deliver(f"b@d{n}.example", msgid=n + 1)
    world.run()
    assert len(world.links) == 1
    world.advance(1)
    assert world.outcomes == [OK] * 5


def test_results_are_told_once_per_turn_in_frames_that_fit() -> None:
    world = smarthost("smtp://192.0.2.5")
    world.serve("192.0.2.5", {"RCPT": b"550 5.1.1 " + b"\xc3\xa9" * 900})
    world.deliver(*[f"r{n}@b.example" for n in range(100)])
    world.run()                    # World encodes each message as it would be sent
    assert world.outcomes == [PERMFAIL] * 100


class TestResolving:
    @pytest.mark.parametrize(("status", "outcome"), [(HostList.PERMFAIL, PERMFAIL), (HostList.TEMPFAIL, TEMPFAIL)])
    def test_no_hosts(self, status: HostList, outcome: Outcome) -> None:
        world = World()
        world.mx["b.example"] = MtaResolved(0, status, [], "Domain does not accept mail", "5.1.10")
        world.deliver("b@b.example", "c@b.example")
        world.run()
        assert [(result.outcome, result.text) for result in world.results] == [
            (outcome, "Domain does not accept mail")] * 2
        assert world.results[0].esc == ("5.1.10" if outcome is PERMFAIL else "4.0.0")
        assert world.logged("smtp-out: Failed to resolve MX for [relay:b.example,smtp]: Domain does not accept mail")
        assert world.logged('0000000000000000 mta delivery')[0].count('source="-" relay="b.example"') == 1
        assert not world.agent.relays

    def test_a_smarthost_name_is_no_mail_domain(self) -> None:
        world = smarthost("smtp://hub.example")
        world.exchangers("hub.example", "192.0.2.7")
        world.serve("192.0.2.7")
        world.deliver("b@b.example")
        world.run()
        asked = [message for message in world.asked if isinstance(message, MtaResolve)]
        assert [(message.name, message.mx) for message in asked] == [("hub.example", False)]
        assert world.outcomes == [OK]

    def test_an_answer_is_asked_for_again_after_a_minute(self) -> None:
        world = World()
        world.exchangers("b.example", "192.0.2.5")
        world.serve("192.0.2.5")
        for wait in (0, 30, 40):
            world.advance(wait)
            world.deliver("b@b.example")
            world.run()
        world.advance(1)
        assert world.outcomes == [OK] * 3

    def test_when_it_cannot_be_asked_again_the_old_answer_serves(self) -> None:
        world = World()
        world.exchangers("b.example", "192.0.2.5")
        world.serve("192.0.2.5")
        world.deliver("b@b.example")
        world.run()
        world.queue_silent = True      # the next message keeps the relay alive
        world.deliver("b@b.example", msgid=2)
        world.mx["b.example"] = MtaResolved(0, HostList.TEMPFAIL, [], "Temporary failure in MX lookup", "4.4.3")
        world.advance(70)
        world.queue_silent = False
        world.deliver("b@b.example", msgid=3)
        world.run()
        assert world.outcomes == [OK, OK]

    def test_a_backup_uses_only_those_preferred_to_itself(self) -> None:
        world = World(Action(name="out", method=Method.RELAY, backup=True))
        world.exchangers("b.example", "192.0.2.5", "192.0.2.6", "192.0.2.7")
        world.mx["b.example"] = [Host(10, "mx", "192.0.2.5"), Host(20, "ME.example.", "192.0.2.6"),
                                 Host(30, "mx3", "192.0.2.7")]
        for address in ("192.0.2.6", "192.0.2.7"):
            world.serve(address)
        world.deliver("b@b.example")
        world.run()
        assert [address for address, _, _ in world.dialled] == ["192.0.2.5"]
        assert world.outcomes == [TEMPFAIL]

    @pytest.mark.parametrize(("family", "address"), [("inet4", "192.0.2.5"), ("inet6", "2001:db8::5")])
    def test_a_family_can_be_chosen(self, family: str, address: str) -> None:
        world = World(limits=MtaLimits(family=family))
        world.exchangers("b.example", "2001:db8::5", "192.0.2.5")
        world.serve("192.0.2.5")
        world.serve("2001:db8::5")
        world.deliver("b@b.example")
        world.run()
        assert [dialled for dialled, _, _ in world.dialled] == [address]


class TestSmarthosts:
    def test_one_for_each_domain(self) -> None:
        world = World(Action(name="out", method=Method.RELAY, domain="<d>"))
        world.tables["relayhost", "<d>", "b.example"] = ["lmtp://192.0.2.5:24"]
        world.tables["relayhost", "<d>", "c.example"] = ["smtp://[2001:db8::1]"]
        world.serve("192.0.2.5", lmtp=True)
        world.serve("2001:db8::1")
        world.deliver("b@B.example", "c@c.example", "d@d.example")
        world.run()
        assert sorted(world.dialled) == [("192.0.2.5", 24, ""), ("2001:db8::1", 25, "")]
        assert sorted((result.evpid & 3, result.outcome, result.text) for result in world.results) == [
            (1, OK, "250 2.0.0 kept"), (2, OK, "250 2.0.0 kept"), (3, TEMPFAIL, "Cannot retrieve smarthost")]
        assert world.logged("address=smtp://[2001:db8::1]:25")
        assert world.logged('relay="[2001:db8::1]"')

    @pytest.mark.parametrize(("url", "more", "text"), [
        ("http://x", {}, "Cannot parse smarthost"),
        ("smtp+tls://label@192.0.2.5", {}, "No auth table for relaying"),
        ("smtp+notls://192.0.2.5", {"tls": "verify"}, "TLS required for relaying"),
        ("lmtp://192.0.2.5:24", {"tls": "no-verify"}, "TLS required for relaying"),
    ])
    def test_what_cannot_be(self, url: str, more: dict[str, str], text: str) -> None:
        world = smarthost(url, **more)
        world.deliver("b@b.example")
        world.run()
        assert [(result.outcome, result.text) for result in world.results] == [(TEMPFAIL, text)]

    def test_an_answer_serves_for_some_seconds(self) -> None:
        world = smarthost("smtp://192.0.2.5")
        world.serve("192.0.2.5")
        for msgid in range(1, 10):
            world.deliver("b@b.example", msgid=msgid)
            world.run()
        asked = [ask for ask in world.asked if isinstance(ask, MtaLookup) and ask.service == "relayhost"]
        assert len(asked) == 1 and world.outcomes == [OK] * 9
        world.advance(6)
        world.deliver("b@b.example", msgid=20)
        world.run()
        assert len(world.asked) > 0 and world.outcomes == [OK] * 10

    def test_hosts_take_turns(self) -> None:
        world = smarthost("smtp://192.0.2.5")
        world.tables["relayhost", "<hosts>", ""].append("smtp://192.0.2.6")
        world.serve("192.0.2.5")
        world.serve("192.0.2.6")
        for msgid in (1, 2):
            world.deliver("b@b.example", msgid=msgid)
            world.advance(6)
        assert {address for address, _, _ in world.dialled} == {"192.0.2.5", "192.0.2.6"}


def test_an_action_that_is_gone_fails_for_now() -> None:
    world = World()
    world.deliver("b@b.example", action="gone")
    world.run()
    assert world.outcomes == [TEMPFAIL] and "no relay action gone" in world.results[0].text


@pytest.mark.parametrize("offered", [False, True])
def test_internationalized_mail_goes_only_where_it_is_taken(offered: bool) -> None:
    world = smarthost("smtp://192.0.2.5")
    world.serve("192.0.2.5", {"EHLO": b"250-mx\r\n250 SMTPUTF8"} if offered else {})
    world.deliver("j\u00fcrgen@b.example", "b@b.example", "c@xn--bcher-kva.example")
    world.deliver("b@b.example", msgid=2, sender=MailAddr("j\u00fcrgen", "a.example"))
    world.deliver("b@b.example", msgid=3, utf8_header=True)
    world.run()
    found = {(result.evpid >> 32, result.evpid & 7): (result.outcome, result.esc) for result in world.results}
    needs = (OK, "2.0.0") if offered else (PERMFAIL, "5.6.7")
    assert found == {(1, 1): needs, (1, 2): (OK, "2.0.0"), (1, 3): (OK, "2.0.0"), (2, 1): needs, (3, 1): needs}
    said = [line for _, server in world.servers for line in server.commands if line.startswith("MAIL")]
    assert sum(line.endswith(" SMTPUTF8") for line in said) == (3 if offered else 0)


def test_a_domain_that_cannot_be_is_refused_for_good() -> None:
    world = World()
    world.deliver("b@b\u202e.example")
    world.run()
    assert [(result.outcome, result.esc) for result in world.results] == [(PERMFAIL, "5.6.7")]


def test_mail_from_replaces_the_sender_but_not_the_null_one() -> None:
    world = smarthost("smtp://192.0.2.5", mail_from="@we.example")
    world.serve("192.0.2.5")
    world.deliver("b@b.example")
    world.deliver("c@c.example", msgid=2, sender=NULL)
    world.run()
    assert sorted(sender for sender, _, _ in world.messages) == ["", "a@we.example"]


def test_a_message_larger_than_the_peer_takes_fails_for_good() -> None:
    world = smarthost("smtp://192.0.2.5")
    world.serve("192.0.2.5")
    world.deliver("b@b.example", "c@c.example", size=1_000_001)
    world.deliver("d@d.example", msgid=2)
    world.run()
    assert sorted((result.evpid >> 32, result.outcome, result.esc) for result in world.results) == [
        (1, PERMFAIL, "5.3.4"), (1, PERMFAIL, "5.3.4"), (2, OK, "2.0.0")]


@pytest.mark.parametrize("offered, outcome", [
    (b"250-mx\r\n250 CHUNKING", (PERMFAIL, "5.6.1")), (b"250-mx\r\n250-CHUNKING\r\n250 BINARYMIME", (OK, "2.0.0"))])
def test_binary_mail_goes_only_where_it_is_taken(offered: bytes, outcome: tuple[Outcome, str]) -> None:
    world = smarthost("smtp://192.0.2.5")
    world.serve("192.0.2.5", {"EHLO": offered})
    world.bodies[1] = b"A: b\r\n\r\n\0\n" + b"x" * 100_000
    world.deliver("b@b.example", binary=True)
    world.run()
    assert [(result.outcome, result.esc) for result in world.results] == [outcome]
    assert [body for _, _, body in world.messages] == [world.bodies[1]] * (outcome[0] is OK)


@pytest.mark.parametrize("dsn", [True, False])
def test_the_peer_takes_over_notification_when_it_can(dsn: bool) -> None:
    world = smarthost("smtp://192.0.2.5")
    world.serve("192.0.2.5", {} if dsn else {"EHLO": b"250 x"})
    world.deliver("b@b.example", notify=int(Notify.SUCCESS))
    world.run()
    assert [result.dsn_relayed for result in world.results] == [dsn]
    assert ("RCPT TO:<b@b.example> NOTIFY=SUCCESS" in world.servers[0][1].commands) is dsn


@pytest.mark.parametrize(("name", "address", "remote"), [
    ("smtp://192.0.2.5", "192.0.2.5", "[192.0.2.5]"), ("smtp://[2001:db8::5]", "2001:db8::5", "[2001:db8::5]"),
])
def test_reports_name_the_server_that_replied(name: str, address: str, remote: str) -> None:
    world = smarthost(name)
    world.serve(address, {"RCPT": b"550 5.1.1 no"})
    world.deliver("b@b.example")
    world.run()
    assert [(result.outcome, result.remote) for result in world.results] == [(PERMFAIL, remote)]


def test_reports_name_an_exchanger() -> None:
    world = World()
    world.exchangers("b.example", "192.0.2.5")
    world.serve("192.0.2.5", {"RCPT": b"450 4.2.0 later"})
    world.deliver("b@b.example")
    world.run()
    assert [result.remote for result in world.results] == ["mx1.b.example"]


class TestHolding:
    def test_too_many_tasks_are_held_and_released(self) -> None:
        world = World(Action(name="out", method=Method.RELAY, host="<hosts>"),
                      limits=MtaLimits(task_hiwat=5, task_lowat=3, task_release=2, max_conn_per_relay=1))
        world.tables["relayhost", "<hosts>", ""] = ["smtp://192.0.2.5"]
        world.serve("192.0.2.5")
        world.lka_silent = True
        world.agent.questions.smarthost("<hosts>", "", lambda found, value: None)
        world.lka_silent = False
        world.run()
        for msgid in range(1, 9):
            world.deliver("b@b.example", msgid=msgid)
        reqid = next(message for message in world.asked if isinstance(message, MtaLookup)).reqid
        world.agent.questions.looked_up(MtaLookedUp(reqid, Found.YES, "smtp://192.0.2.5"))
        assert [evpid >> 32 for evpid in world.held] == [6, 7, 8]
        world.run()
        holdq = next(iter(world.agent.relays.values())).holdq
        assert world._released == [(holdq, 2), (holdq, 0)]
        assert world.outcomes == [OK] * 5
        assert len(world.logged("hiwat reached on [relay:192.0.2.5,port=25,smtp,mx]: holding envelopes")) == 1
        assert len(world.logged("back to lowat on [relay:192.0.2.5,port=25,smtp,mx]: releasing")) == 1

    def test_recipients_of_a_waiting_message_always_find_room(self) -> None:
        world = World(limits=MtaLimits(task_hiwat=1))
        world.lka_silent = True
        world.deliver(*[f"r{n}@b.example" for n in range(50)])
        assert world.held == []
        world.deliver("x@b.example", msgid=2)
        assert len(world.held) == 1

    def test_a_failing_relay_gives_back_all_it_held(self) -> None:
        world = World(limits=MtaLimits(task_hiwat=1))
        world.mx["b.example"] = MtaResolved(0, HostList.TEMPFAIL, [], "Temporary failure in MX lookup", "4.4.3")
        world.deliver("b@b.example")
        world.deliver("b@b.example", msgid=2)
        world.run()
        assert [number for _, number in world._released] == [-1]


class TestBodies:
    def test_a_large_body_streams_within_its_window(self) -> None:
        world = smarthost("smtp://192.0.2.5")
        world.serve("192.0.2.5", {"EHLO": b"250 x"})
        world.bodies[1] = b"x" * 78 + b"\r\n"
        world.bodies[1] *= 40_000
        world.deliver("b@b.example")
        world.run()
        assert world.messages[0][2] == world.bodies[1]

    def test_a_slow_server_slows_the_queue(self) -> None:
        world = smarthost("smtp://192.0.2.5")
        world.serve("192.0.2.5", {"EHLO": b"250 x"})
        world.bodies[1] = b"x" * 4_000_000
        world.queue_silent = True
        world.deliver("b@b.example")
        world.run()
        link = world.links[0]
        link.stalled = True
        world.queue_silent = False
        world.tell_queue(next(message for message in world.asked if isinstance(message, BodyOpen)))
        world.run()
        assert link.backlog < 300_000
        assert len(next(iter(world.opened.values()))[0]) > 3_000_000
        while not world.results:
            link.unstall()
            link.stalled = True
            world.run()
        assert world.outcomes == [OK] and len(world.messages[0][2]) == 4_000_002

    def test_what_cannot_be_read_fails_for_now_and_blames_nobody(self) -> None:
        world = smarthost("smtp://192.0.2.5")
        world.serve("192.0.2.5")
        world.queue_silent = True
        world.deliver("b@b.example")
        world.run()
        reqid = next(message for message in world.asked if isinstance(message, BodyOpen)).reqid
        world.agent.bodies.received(QueueBody(reqid, b"", True, False))
        world.run()
        assert [(result.outcome, result.text) for result in world.results] == [(TEMPFAIL, "Could not get message fd")]
        assert not world.logged("Disabling route") and not world.messages and not world.links


def test_stopping_finishes_what_is_being_sent() -> None:
    world = smarthost("smtp://192.0.2.5")
    world.serve("192.0.2.5")
    world.queue_silent = True
    world.deliver("b@b.example")
    world.run()
    before = world.agent.quiet
    world.agent.stop()
    world.deliver("c@c.example", msgid=2)
    world.queue_silent = False
    world.tell_queue(next(message for message in world.asked if isinstance(message, BodyOpen)))
    world.run()
    assert (before, world.agent.quiet) == (False, True) and world.outcomes == [OK]
    assert not world.links         # it said QUIT


def test_counters() -> None:
    world = smarthost("smtp://192.0.2.5")
    world.serve("192.0.2.5")
    world.queue_silent = True
    world.deliver("b@b.example", "c@c.example")
    world.deliver("d@d.example", msgid=2)
    world.run()
    counters = world.agent.counters()
    assert counters["mta.envelope"] == 3 and counters["mta.relay"] == 1
    assert counters["mta.session"] == 2 == counters["mta.task.running"]
