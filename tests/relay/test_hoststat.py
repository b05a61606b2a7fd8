"""Where no host could be reached, envelopes wait for the domain to be back, and are tried as soon as it is."""

import pytest

from pysmtpd.conf.config import Config
from pysmtpd.messages import DeliverySchedule, Outcome
from pysmtpd.relay import hoststat
from pysmtpd.relay.hoststat import KEEP, HostStats
from pysmtpd.relay.transfer import TransferAgent
from tests.relay.test_failures import A, B, domain
from tests.relay.world import World

NOW = 1_700_000_000


def scheduled(world: World) -> list[int]:
    return [evpid for one in world.asked if isinstance(one, DeliverySchedule) for evpid in one.evpids]


def test_what_waits_is_due_when_anything_goes_through() -> None:
    world = domain("Connection refused")
    world.deliver("b@b.example", "c@B.example", msgid=2)
    world.run()
    assert world.outcomes == [Outcome.TEMPFAIL] * 3
    assert scheduled(world) == []
    world.advance(20)
    world.serve(A)
    world.deliver("c@b.example", msgid=3)
    world.run()
    assert world.outcomes[3:] == [Outcome.OK]
    assert sorted(scheduled(world)) == [1 << 32 | 1, 2 << 32 | 1, 2 << 32 | 2]
    world.deliver("c@b.example", msgid=4)
    world.run()
    assert len(scheduled(world)) == 3, "once is enough"


def test_another_domain_is_another_matter() -> None:
    world = domain("Connection refused")
    world.exchangers("other.example", B)
    world.serve(B)
    world.run()
    world.deliver("c@other.example", msgid=3)
    world.run()
    assert world.outcomes == [Outcome.TEMPFAIL, Outcome.OK]
    assert scheduled(world) == []


def test_what_a_server_refused_for_now_waits_for_its_time() -> None:
    world = domain({"RCPT": b"450 4.2.0 later"})
    world.run()
    assert world.outcomes == [Outcome.TEMPFAIL]
    world.serve(A)
    world.advance(30)
    world.deliver("c@b.example", msgid=3)
    world.run()
    assert world.outcomes[1:] == [Outcome.OK]
    assert scheduled(world) == []


def test_no_more_than_the_configuration_says() -> None:
    hosts = HostStats(2)
    for evpid in (1, 2, 3, 2):
        hosts.failed("a.example", evpid, "no route", NOW, unreachable=True)
    assert hosts.delivered("A.example", 9, "ok", NOW) == [1, 2]
    assert hosts.delivered("a.example", 9, "ok", NOW) == []


def test_none_at_all() -> None:
    hosts = HostStats(0)
    hosts.failed("a.example", 1, "no route", NOW, unreachable=True)
    assert hosts.delivered("a.example", 9, "ok", NOW) == []


@pytest.mark.parametrize("limit", [0, 1, 7])
def test_the_limit_is_that_of_the_configuration(limit: int) -> None:
    world = World()
    agent = TransferAgent(Config(hostname="h", max_deferred=limit), world)
    for evpid in range(10):
        agent.hosts.failed("a.example", evpid, "no route", NOW, unreachable=True)
    assert len(agent.hosts["a.example"].deferred) == limit


def test_one_that_was_decided_or_is_sent_itself_waits_no_more() -> None:
    hosts = HostStats(100)
    for evpid in (1, 2, 3):
        hosts.failed("a.example", evpid, "no route", NOW, unreachable=True)
    hosts.failed("a.example", 2, "550 no", NOW)
    assert hosts.delivered("a.example", 3, "ok", NOW) == [1]


def test_the_last_result_is_known_for_four_hours() -> None:
    hosts = HostStats(100)
    hosts.failed("a.example", 1, "no route", NOW, unreachable=True)
    hosts.failed("b.example", 2, "no", NOW + 1)
    hosts.delivered("a.example", 1, "250 ok", NOW + KEEP - 1)
    assert (hosts["A.EXAMPLE"].text, hosts["a.example"].at) == ("250 ok", NOW + KEEP - 1)
    hosts.failed("c.example", 3, "no", NOW + KEEP + 1)
    assert len(hosts) == 2


def test_the_number_of_domains_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hoststat, "DOMAINS_MAX", 10)
    hosts = HostStats(100)
    for number in range(50):
        hosts.failed(f"d{number}.example", number, "no", NOW)
        assert len(hosts) <= 10
    assert hosts["d49.example"].text == "no"


def test_what_went_before_in_the_same_second_is_enough_to_know() -> None:
    hosts = HostStats(100)
    hosts.failed("b.example", 1, "421 busy", 1000)
    assert hosts.delivered("b.example", 2, "250 one", 1000) == []
    assert hosts["b.example"].text == "250 one", "another kind of news"
    hosts.delivered("b.example", 3, "250 two", 1000)
    assert hosts["b.example"].text == "250 one"
    hosts.delivered("b.example", 4, "250 three", 1001)
    assert hosts["b.example"] == ("250 three", 1001, {})
    hosts.failed("b.example", 5, "no host", 1001, unreachable=True)
    assert hosts.delivered("b.example", 6, "250 four", 1001) == [5]
