"""What smtpctl shows of mta: OpenSMTPD's lines, in pages of whole lines."""

from math import inf

import pytest

from pysmtpd.conf.config import MtaLimits
from pysmtpd.relay import report
from pysmtpd.relay.hoststat import HostStats
from pysmtpd.relay.report import SHOWN, Known, page
from pysmtpd.relay.route import Network
from tests.relay.test_failures import A, domain
from tests.relay.world import World


def shown(world: World, what: str) -> list[str]:
    return list(SHOWN[what](world.agent.known()))


def test_hosts_and_routes_that_rest() -> None:
    world = domain("Connection refused")
    world.tables["ptr", "", A] = ["mx.b.example"]
    world.advance(3)
    assert shown(world, "hosts") == [f"{A} mx.b.example refcount=1 nconn=0 lastconn=3s"]
    assert shown(world, "routes") == [
        f"1. [] <-> {A} (mx.b.example) NDQ- nconn=0 nerror=0 penalty=1 timeout=12s"]
    world.advance(20)
    assert shown(world, "routes") == [f"1. [] <-> {A} (mx.b.example) N--- nconn=0 nerror=0 penalty=0 timeout=-"]


def test_hosts_and_routes_in_use() -> None:
    world = domain({})
    world.run()
    world.agent.network.host("2001:db8::1")
    assert shown(world, "hosts") == [f"{A} (null) refcount=1 nconn=1 lastconn=0s",
                                     "2001:db8::1 (null) refcount=0 nconn=0 lastconn=-"]
    assert shown(world, "routes") == [f"1. [] <-> {A} ---- nconn=1 nerror=0 penalty=0 timeout=-"]


def test_relays() -> None:
    world = domain({}, limits=MtaLimits(task_hiwat=1))
    world.run()
    assert shown(world, "relays") == [
        "[relay:b.example,smtp] refcount=1 ntask=0 nconn=1 lastconn=0s timeout=- wait=",
        "  connector [] refcount=1 nconn=1 lastconn=0s timeout=- flags="]
    waiting = World(limits=MtaLimits(task_hiwat=1))
    waiting.lka_silent = True
    waiting.deliver("a@b.example", msgid=1)
    waiting.deliver("a@b.example", msgid=2)
    waiting.run()
    assert shown(waiting, "relays") == [
        "[relay:b.example,smtp] refcount=2 ntask=1 nconn=0 lastconn=- timeout=- wait=MXONHOLD"]


def test_the_last_results_of_domains() -> None:
    world = domain({"RCPT": b"550 5.1.1 no\x1b such"})
    world.exchangers("a.example", A)
    world.deliver("x@a.example", msgid=2)
    world.advance(9)
    lines = shown(world, "hoststats")
    assert [line.split("|")[:1] for line in lines] == [["a.example"], ["b.example"]]
    assert all(0 <= int(line.split("|")[1]) - 1_700_000_000 < 9 for line in lines)
    assert all("550 5.1.1" in line and line.isprintable() for line in lines)


def known(number: int) -> Known:
    hosts = HostStats(1)
    for at in range(number):
        hosts.failed(f"d{at:05}.example", 1, "no " * 9, at)
    return Known([], Network(), hosts, inf)


@pytest.mark.parametrize("number", [0, 1, 1000])
def test_pages_are_of_whole_lines(number: int) -> None:
    got, after, last = b"", 0, False
    while not last:
        text, last = page(known(number), "hoststats", after)
        assert len(text) <= report.PAGE
        assert text.endswith(b"\n") or not number
        after += text.count(b"\n")
        got += text
    assert [line.partition(b".")[0] for line in got.splitlines()] == [b"d%05d" % at for at in range(number)]


def test_a_line_that_is_longer_than_a_page_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "PAGE", 10)
    assert page(known(3), "hoststats", 1) == (b"d00001.example|1|" + b"no " * 8 + b"no \n", False)


def test_there_is_nothing_else_to_show() -> None:
    with pytest.raises(KeyError):
        page(known(1), "secrets", 0)


def test_a_route_that_rests_is_resumed() -> None:
    world = domain("Connection refused")
    world.run()
    world.serve(A)
    world.deliver("b@b.example", msgid=2)
    world.advance(7)
    assert len(world.dialled) == 1
    assert not world.agent.resume_route(7)
    world.run()
    assert len(world.dialled) == 1
    assert world.agent.resume_route(1)
    world.run()
    assert len(world.dialled) == 2
    assert world.logged(f"smtp-out: Enabling route [] <-> {A}") != []
    assert world.agent.resume_route(1), "and again, though there is nothing to do"
