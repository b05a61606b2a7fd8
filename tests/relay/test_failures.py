"""What happens when hosts fail: the next one is tried in the same attempt, nothing is lost, and nobody is hammered."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pysmtpd.conf.config import Action, Method, MtaLimits
from pysmtpd.messages import Outcome
from pysmtpd.relay.route import Host, Route
from tests.relay.world import World
from tests.support.server import DEFAULTS

OK, TEMPFAIL, PERMFAIL = Outcome.OK, Outcome.TEMPFAIL, Outcome.PERMFAIL
A, B, C = "192.0.2.5", "192.0.2.6", "192.0.2.7"


def domain(*servers: Any, **more: Any) -> World:
    """b.example has an exchanger for each of these."""
    world = World(**more)
    world.exchangers("b.example", *(A, B, C)[: len(servers)])
    for address, server in zip((A, B, C), servers, strict=False):
        world.serve(address, server)
    world.deliver("b@b.example")
    return world


def tried(world: World) -> list[str]:
    return [address for address, _, _ in world.dialled]


@pytest.mark.parametrize("failure", [
    "Connection refused", "!Network is unreachable", {"banner": b"554 5.3.2 no"}, {"banner": b"421 busy"},
    {"banner": None}, {"EHLO": None}, {"EHLO": b"421 x"}, {"MAIL": b"421 4.3.2 shutting down"}, {"MAIL": None},
    {"DATA": None}, {"banner": b"garbage"}, {"EHLO": b"550 no", "HELO": b"550 no"},
])
def test_the_last_exchanger_has_its_turn(failure: Any) -> None:
    world = domain(failure, failure, {})
    world.run()
    assert tried(world) == [A, B, C]
    assert world.outcomes == [OK]
    assert len(world.logged("mta error reason=")) == 2
    assert len(world.logged("smtp-out: Disabling route [] <-> 192.0.2.5 for 15s")) == 1


def test_exchangers_that_never_answer_take_a_bounded_time() -> None:
    """Even when each takes longer to fail than its penalty lasts."""
    world = domain(None, None, {})
    world.advance(100)
    assert tried(world) == [A, B, C] and world.outcomes == [OK]
    assert len(world.logged("mta error reason=Connection timeout")) == 2


def test_an_exchanger_that_accepts_and_is_silent() -> None:
    world = domain({"EHLO": b"250-wait for it"}, {})
    world.advance(59)
    assert tried(world) == [A] and world.outcomes == []
    world.advance(2)
    assert tried(world) == [A, B] and world.outcomes == [OK]


@pytest.mark.parametrize(("failure", "text", "esc"), [
    ("Connection refused", "Network error on destination MXs: IO Error: Connection refused", "4.4.1"),
    (None, "Network error on destination MXs: Connection timeout", "4.4.1"),
    ({"banner": b"554 5.7.1 no"}, "Destination seem to reject all mails: BANNER rejected: 554 5.7.1 no", "4.7.1"),
])
def test_when_all_fail_it_is_for_now(failure: Any, text: str, esc: str) -> None:
    world = domain(failure, failure)
    world.advance(100)
    assert tried(world) == [A, B]
    assert [(result.outcome, result.text, result.esc) for result in world.results] == [(TEMPFAIL, text, esc)]
    assert not world.links


def test_no_addresses() -> None:
    world = World()
    world.mx["b.example"] = []
    world.deliver("b@b.example")
    world.run()
    assert [(result.outcome, result.text) for result in world.results] == [(TEMPFAIL, "No MX found for destination")]


def test_a_failing_host_is_left_alone_for_a_while() -> None:
    world = domain("Connection refused")
    world.run()
    assert world.outcomes == [TEMPFAIL]
    world.advance(1)
    world.serve(A)
    world.deliver("b@b.example", msgid=2)
    world.run()
    assert tried(world) == [A]     # its penalty lasts: wait for it rather than fail
    world.advance(15)
    assert tried(world) == [A, A] and world.outcomes == [TEMPFAIL, OK]
    assert len(world.logged("smtp-out: Enabling route [] <-> 192.0.2.5")) == 1


def test_penalties_grow_and_long_ones_are_not_waited_for() -> None:
    route = Route("", Host(A))
    seconds = []
    for _ in range(20):
        route.disabled_until = 0.0
        seconds.append(route.disable(1000.0))
    assert seconds[:4] == [15, 60, 135, 240] and seconds[-1] == 3600
    assert route.disable(1000.0) == 0
    world = domain("Connection refused")
    world.agent.network.route("", A).disabled_until = world.time + 31
    world.run()
    assert [result.text for result in world.results] == ["No valid route to destination"]
    assert not world.dialled


def test_what_was_removed_is_not_tried_any_more() -> None:
    world = domain(None)               # it never answers
    world.deliver("c@b.example", "d@b.example", msgid=2)
    world.deliver("e@b.example", msgid=3)
    world.run()
    world.agent.cancel([1 << 32 | 1, 2 << 32 | 1, 3 << 32 | 1, 99])
    assert world.agent.counters()["mta.envelope"] == 1
    world.serve(A)
    world.advance(3600)
    assert {result.evpid for result in world.results} == {2 << 32 | 2}


def test_when_all_was_removed_nothing_remains() -> None:
    world = domain(None, limits=MtaLimits(task_hiwat=2, task_lowat=1))
    for msgid in (2, 3, 4):
        world.deliver("c@b.example", msgid=msgid)
    world.run()
    assert world.held == [3 << 32 | 1, 4 << 32 | 1]
    world.agent.cancel([1 << 32 | 1, 2 << 32 | 1])
    world.run()
    assert [count for _, count in world._released] == [0]
    assert world.agent.counters()["mta.task"] == 0
    world.advance(3600)
    assert world.results == []
    assert world.agent.relays == {}


def test_a_dead_port_says_nothing_of_the_others() -> None:
    """A content scanner and a mail store on one machine: when one is down, the other still gets its mail."""
    world = World(Action(name="out", method=Method.RELAY, host="<h>"))
    world.tables["relayhost", "<h>", ""] = [f"smtp://{A}:10025"]
    world.serve(A)
    world.agent.network.route("", A, 24).disabled_until = world.time + 3600
    world.deliver("b@b.example")
    world.run()
    assert world.dialled == [(A, 10025, "")] and world.outcomes == [OK]


def test_the_preferred_exchanger_is_used_again_once_it_is_back() -> None:
    world = domain("Connection refused", {})
    world.run()
    assert tried(world) == [A, B]
    world.serve(A)
    world.advance(30)
    world.deliver("b@b.example", msgid=2)
    world.run()
    assert tried(world) == [A, B, A] and world.outcomes == [OK, OK]


def test_a_stale_connection_does_not_fail_a_message() -> None:
    """The server closed just as the next message came: another connection takes it, nobody is blamed."""
    world = domain({})
    world.run()
    world.servers[0][1].replies["MAIL"] = b"421 4.4.2 idle too long"
    world.deliver("b@b.example", msgid=2)
    world.run()
    assert world.outcomes == [OK, OK] and tried(world) == [A, A]
    assert world.logged("smtp-out: Error on session") and not world.logged("Disabling route")


def test_an_idle_connection_that_closes_is_no_failure() -> None:
    world = domain({})
    world.run()
    world.links[0].handler.io_eof()
    world.run()
    assert not world.logged("Disabling route") and not world.agent.relays


def test_a_body_that_came_along_serves_the_next_connection_too() -> None:
    world = World()
    world.exchangers("b.example", A, B)
    world.serve(A, {"MAIL": b"421 4.3.2 shutting down"})
    world.serve(B)
    world.deliver("b@b.example", body=b"Subject: along\r\n\r\n")
    world.run()
    assert tried(world) == [A, B] and world.outcomes == [OK]
    assert [body for _, _, body in world.messages] == [b"Subject: along\r\n\r\n"]
    assert not world.opened


def test_after_the_end_of_data_nothing_is_sent_twice() -> None:
    world = domain({"eom": None}, {})
    world.run()
    assert tried(world) == [A]
    assert [(result.outcome, result.text) for result in world.results] == [(TEMPFAIL, "Connection closed unexpectedly")]


def test_recipients_that_were_decided_stay_decided() -> None:
    world = domain({"RCPT TO:<no@b.example>": b"550 5.1.1 no", "DATA": None}, {})
    world.deliver("no@b.example", first=2)
    world.run()
    assert [(result.evpid & 3, result.outcome) for result in world.results] == [(2, PERMFAIL), (1, OK)]
    assert world.messages[0][1] == ["b@b.example"]


def test_too_many_refusals_close_the_session() -> None:
    world = World(limits=MtaLimits(max_failures_per_session=3, max_conn_per_relay=1))
    world.exchangers("b.example", A)
    world.serve(A, {"RCPT": b"550 5.1.1 no"})
    for msgid in range(1, 8):
        world.deliver("b@b.example", msgid=msgid)
    world.advance(60)
    assert world.outcomes == [PERMFAIL] * 7 and len(world.servers) == 3


class TestTls:
    TLS = {"EHLO": b"250-mx\r\n250 STARTTLS"}

    def test_opportunistic_is_not_verified(self) -> None:
        world = domain(self.TLS)
        world.run()
        policy = world.links[0].policy
        assert policy is not None and not policy.verify and world.links[0].name == "mx1.b.example"
        assert world.outcomes == [OK]
        assert world.logged("mta tls ciphers=TLSv1.3:TLS_AES_256_GCM_SHA384:256")
        assert world.logged('mta cert-check result="unverified" fingerprint="SHA256:00"')

    def test_a_failed_handshake_is_once_more_in_the_clear(self) -> None:
        world = domain(self.TLS, {})
        world.shake = lambda link: "wrong version number"
        world.run()
        assert tried(world) == [A, A] and world.outcomes == [OK]
        assert len(world.logged("opportunistic TLS failed, downgrading to plain")) == 1
        assert world.logged("address=smtp+notls://192.0.2.5:25")
        assert "STARTTLS" not in world.servers[1][1].commands
        assert not world.logged("Disabling route")

    @pytest.mark.parametrize("tls", ["verify", "no-verify"])
    def test_demanded_tls_is_never_given_up(self, tls: str) -> None:
        world = World(Action(name="out", method=Method.RELAY, tls=tls))
        world.exchangers("b.example", A, B)
        world.serve(A, self.TLS)
        world.serve(B, {})
        world.shake = lambda link: "no"
        world.deliver("b@b.example")
        world.run()
        assert world.outcomes == [TEMPFAIL] and tried(world) == [A, B] and not world.messages
        assert world.logged("mta error reason=IO Error: TLS: no")
        assert world.logged("mta error reason=TLS required but not supported by remote host")

    @pytest.mark.parametrize(("url", "tls", "verify"), [
        (f"smtps://{A}", "", True), (f"smtp+tls://{A}", "", True), (f"smtps://{A}", "no-verify", False),
        (f"smtp://{A}", "verify", True), (f"smtp://{A}", "", False)])
    def test_what_is_verified(self, url: str, tls: str, verify: bool) -> None:
        world = World(Action(name="out", method=Method.RELAY, host="<h>", tls=tls))
        world.tables["relayhost", "<h>", ""] = [url]
        world.serve(A, self.TLS, tls=-1 if url.startswith("smtps") else 0)
        world.deliver("b@b.example")
        world.run()
        policy = world.links[0].policy
        assert policy is not None and policy.verify is verify and world.outcomes == [OK]


class TestTables:
    def hub(self, url: str, **more: Any) -> World:
        world = World(Action(name="out", method=Method.RELAY, host="<h>", **more))
        world.tables["relayhost", "<h>", ""] = [url]
        world.serve(A, {"EHLO": b"250-mx\r\n250-AUTH PLAIN\r\n250 STARTTLS"})
        world.deliver("b@b.example")
        return world

    def test_credentials(self) -> None:
        world = self.hub(f"smtp+tls://me@{A}", auth="secrets")
        world.tables["credentials", "secrets", "me"] = ["AHVzZXIAcGFzcw=="]
        world.run()
        assert world.outcomes == [OK]
        assert "AUTH PLAIN AHVzZXIAcGFzcw==" in world.servers[0][1].commands
        assert not world.logged("AHVzZXIAcGFzcw")

    def test_no_credentials(self) -> None:
        world = self.hub(f"smtp+tls://me@{A}", auth="secrets")
        world.run()
        assert [result.text for result in world.results] == ["Could not retrieve credentials"]
        assert not world.dialled

    def test_source_and_its_name(self) -> None:
        world = self.hub(f"smtp://{A}", src="sources", helo_src="names")
        world.tables["source", "sources", ""] = ["2001:db8::1", "192.0.2.1"]
        world.tables["addrname", "names", "192.0.2.1"] = ["out.example"]
        world.advance(10)
        assert world.dialled == [(A, 25, "192.0.2.1")]
        assert world.servers[0][1].commands[0] == "EHLO out.example"
        assert world.outcomes == [OK]

    def test_no_source_of_the_right_family(self) -> None:
        world = self.hub(f"smtp://{A}", src="sources")
        world.tables["source", "sources", ""] = ["2001:db8::1"]
        world.advance(10)
        assert [result.text for result in world.results] == ["Address family mismatch on destination MXs"]

    def test_no_name_for_the_source(self) -> None:
        world = self.hub(f"smtp://{A}", helo_src="names")
        world.run()
        assert "Failed to retrieve helo string" in world.results[0].text

    def test_a_name_for_helo(self) -> None:
        world = self.hub(f"smtp://{A}", helo="me.too.example")
        world.run()
        assert world.servers[0][1].commands[0] == "EHLO me.too.example"

    def test_a_slow_name_server_costs_a_second(self) -> None:
        world = self.hub(f"smtp://{A}")
        world.lka_slow = {"ptr"}
        world.run()
        assert not world.dialled
        world.advance(1.1)
        assert world.outcomes == [OK] and world.logged("host=<unknown>")


PIECES = st.sampled_from([*DEFAULTS.values(), b"421 4.3.2 off", b"550 5.1.1 no", b"451 x", b"250-", b"garbage",
                          b"354 go\r\n250 2.0.0 kept", b"250 a\r\n250 b\r\n354 c", b"\xff\x00", None])
SCRIPT = st.fixed_dictionaries({}, optional={
    key: st.one_of(PIECES, st.lists(PIECES, max_size=3)) for key in DEFAULTS})


@settings(max_examples=100, deadline=None)
@given(st.lists(SCRIPT, min_size=1, max_size=3), st.integers(1, 4), st.booleans())
def test_each_envelope_has_one_result_whatever_servers_say(scripts: list[Any], messages: int, lmtp: bool) -> None:
    """No exception, no envelope lost, none decided twice, and in the end no connection left."""
    world = World(limits=MtaLimits(session_mail_max=3))
    world.exchangers("b.example", A, B)
    world.serve(A, *scripts, lmtp=lmtp)
    world.serve(B, *reversed(scripts), lmtp=lmtp)
    for msgid in range(1, messages + 1):
        world.deliver("b@b.example", "c@b.example", msgid=msgid)
    world.advance(3000)
    evpids = [result.evpid for result in world.results]
    assert len(evpids) == len(set(evpids)) == 2 * messages
    assert not world.links and not world.agent.relays and not world.opened
    for usage in [*world.agent.network.hosts.values(), *world.agent.network.routes.values(),
                  *world.agent.network.domains.values(), *world.agent.network.sources.values()]:
        assert usage.nconn == 0
