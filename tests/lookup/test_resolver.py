"""lookup.resolver: against a name server on loopback."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import dns.asyncresolver
import dns.nameserver
import pytest

from pysmtpd.lookup import resolver as resolver_module
from pysmtpd.lookup.hosts import CHECKED, HostsFile
from pysmtpd.lookup.records import Records, Status
from pysmtpd.lookup.resolver import CACHE_MAX, FAILURE_TTL, NameServers, Resolver, nameservers_of, question_of
from tests.lookup.made import Clock, run
from tests.support.dns import GARBAGE, TIMEOUT, TRUNCATED, FakeDns


@pytest.fixture
def server() -> Iterator[FakeDns]:
    with FakeDns() as running:
        yield running


@pytest.fixture
def clock() -> Clock:
    return Clock()


def resolver(server: FakeDns, clock: Clock, hosts: str = "/nonexistent") -> Resolver:
    return Resolver(NameServers([server.where], clock), HostsFile(clock, hosts), clock)


def ask(server: FakeDns, clock: Clock, name: str, kind: str) -> Records:
    async def work() -> Records:
        return await resolver(server, clock).query(name, kind)

    return run(work())  # type: ignore[no-any-return]


def test_each_kind_of_record(server: FakeDns, clock: Clock) -> None:
    server.add("example.org", "MX", "20 B.example.org.", "10 a.example.org.", "30 .")
    server.add("a.example.org", "A", "192.0.2.1", "192.0.2.2")
    server.add("a.example.org", "AAAA", "2001:db8::1")
    server.add("1.2.0.192.in-addr.arpa", "PTR", "a.example.org.")
    assert sorted(ask(server, clock, "Example.org", "MX").exchanges) == [
        (10, "a.example.org"), (20, "B.example.org"), (30, "")]
    assert sorted(ask(server, clock, "a.example.org.", "A").values) == ["192.0.2.1", "192.0.2.2"]
    assert ask(server, clock, "a.example.org", "AAAA").values == ("2001:db8::1",)
    assert ask(server, clock, "1.2.0.192.in-addr.arpa", "PTR").values == ("a.example.org",)


def test_what_is_not_there(server: FakeDns, clock: Clock) -> None:
    server.add("a.example.org", "A", "192.0.2.1")
    assert ask(server, clock, "a.example.org", "MX").status is Status.NODATA
    assert ask(server, clock, "example.org", "A").status is Status.NODATA
    assert ask(server, clock, "b.example.org", "A").status is Status.NXDOMAIN


def test_aliases_are_followed_and_may_lead_nowhere(server: FakeDns, clock: Clock) -> None:
    server.add("www.example.org", "CNAME", "a.example.org.")
    server.add("a.example.org", "A", "192.0.2.1")
    server.add("lost.example.org", "CNAME", "nowhere.example.")
    assert ask(server, clock, "www.example.org", "A").values == ("192.0.2.1",)
    assert ask(server, clock, "lost.example.org", "A").status is Status.NXDOMAIN


@pytest.mark.parametrize("failure", ["SERVFAIL", "REFUSED", "NOTIMP", "FORMERR"])
def test_a_server_that_cannot_say_is_a_failure_for_now(server: FakeDns, clock: Clock, failure: str) -> None:
    server.fail("example.org", "MX", failure)
    records = ask(server, clock, "example.org", "MX")
    assert records.status is Status.TEMPFAIL
    assert records.text == f"MX example.org: {failure}"


@pytest.mark.parametrize("failure", [TIMEOUT, GARBAGE])
def test_silence_and_nonsense_are_failures_for_now(server: FakeDns, clock: Clock, failure: str,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver_module, "QUERY_TIMEOUT", 0.1)
    monkeypatch.setattr(resolver_module, "TOTAL_TIMEOUT", 1.2)     # several turns, however busy this machine is
    server.fail("example.org", "MX", failure)
    assert ask(server, clock, "example.org", "MX").status is Status.TEMPFAIL
    assert server.count("example.org", "MX") >= 2


def test_the_next_server_is_asked_when_one_fails(server: FakeDns, clock: Clock) -> None:
    with FakeDns() as other:
        server.fail("example.org", "A", "SERVFAIL")
        other.add("example.org", "A", "192.0.2.1")

        async def work() -> Records:
            servers = NameServers([server.where, other.where], clock)
            return await Resolver(servers, HostsFile(clock, "/nonexistent"), clock).query("example.org", "A")

        assert run(work()).values == ("192.0.2.1",)


def test_a_long_answer_comes_over_tcp(server: FakeDns, clock: Clock) -> None:
    server.add("many.example", "MX", *[f"{n} a-rather-long-host-name-{n}.many.example." for n in range(50)])
    server.add("short.example", "A", "192.0.2.1")
    server.fail("short.example", "A", TRUNCATED)
    assert len(ask(server, clock, "many.example", "MX").exchanges) == 50
    assert ask(server, clock, "short.example", "A").values == ("192.0.2.1",)
    assert [how for how, _, _ in server.asked] == ["udp", "tcp", "udp", "tcp"]


def test_answers_are_kept_for_their_time(server: FakeDns, clock: Clock) -> None:
    server.add("a.example", "A", "192.0.2.1", ttl=60)

    async def work() -> None:
        asking = resolver(server, clock)
        for name in ("a.example", "A.example", "a.example."):
            assert (await asking.query(name, "A")).values == ("192.0.2.1",)
        assert server.count("a.example", "A") == 1
        clock.now += 61
        await asking.query("a.example", "A")
        assert server.count("a.example", "A") == 2
        for _ in range(2):
            assert (await asking.query("none.example", "A")).status is Status.NXDOMAIN
        assert server.count("none.example", "A") == 1
        clock.now += 61            # the SOA's minimum is 60
        await asking.query("none.example", "A")
        assert server.count("none.example", "A") == 2

    run(work())


def test_failures_are_kept_for_seconds_only(server: FakeDns, clock: Clock) -> None:
    server.fail("a.example", "A", "SERVFAIL")
    server.add("a.example", "A", "192.0.2.1")

    async def work() -> None:
        asking = resolver(server, clock)
        await asking.query("a.example", "A")
        server.heal("a.example", "A")
        assert (await asking.query("a.example", "A")).status is Status.TEMPFAIL
        clock.now += FAILURE_TTL
        assert (await asking.query("a.example", "A")).values == ("192.0.2.1",)

    run(work())


def test_an_answer_without_a_lifetime_is_not_kept(server: FakeDns, clock: Clock) -> None:
    server.add("a.example", "A", "192.0.2.1", ttl=0)

    async def work() -> None:
        asking = resolver(server, clock)
        await asking.query("a.example", "A")
        await asking.query("a.example", "A")

    run(work())
    assert server.count("a.example", "A") == 2


def test_equal_questions_at_the_same_time_are_one(server: FakeDns, clock: Clock) -> None:
    server.add("a.example", "A", "192.0.2.1", ttl=0)

    async def work() -> None:
        asking = resolver(server, clock)
        answers = await asyncio.gather(*(asking.query("a.example", "A") for _ in range(50)))
        assert {answer.values for answer in answers} == {("192.0.2.1",)}

    run(work())
    assert server.count("a.example", "A") == 1


def test_one_who_gives_up_does_not_end_the_question_of_another(server: FakeDns, clock: Clock) -> None:
    server.add("a.example", "A", "192.0.2.1")

    async def work() -> None:
        asking = resolver(server, clock)
        first = asyncio.create_task(asking.query("a.example", "A"))
        second = asyncio.create_task(asking.query("a.example", "A"))
        await asyncio.sleep(0)
        first.cancel()
        assert (await second).values == ("192.0.2.1",)

    run(work())


def test_what_is_kept_is_bounded(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        asking = Resolver(NameServers(["127.0.0.1:1"], clock), HostsFile(clock, "/nonexistent"), clock)

        async def answer(name: str, kind: str) -> tuple[Records, float]:
            return Records(Status.FOUND, (name,)), 60.0

        monkeypatch.setattr(asking, "_ask", answer)
        monkeypatch.setattr(resolver_module, "CACHE_MAX", 10)
        for number in range(20):
            await asking.query(f"n{number}", "A")
        assert list(asking._cache) == [(f"n{number}", "A") for number in range(10, 20)]
        assert not asking._asking

    run(work())
    assert CACHE_MAX == 10_000


def test_the_hosts_file_comes_first(server: FakeDns, clock: Clock, tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("192.0.2.5 a.example\n")
    server.add("a.example", "A", "192.0.2.1")

    async def work() -> None:
        asking = resolver(server, clock, str(path))
        assert (await asking.addresses("A.example")).values == ("192.0.2.5",)
        assert (await asking.reverse("192.0.2.5")).values == ("a.example",)
        assert server.asked == []
        path.unlink()
        clock.now += CHECKED
        assert (await asking.addresses("a.example")).values == ("192.0.2.1",)

    run(work())


def test_localhost_is_never_asked_for(server: FakeDns, clock: Clock) -> None:
    async def work() -> None:
        asking = resolver(server, clock)
        assert (await asking.addresses("localhost")).values == ("127.0.0.1", "::1")
        assert (await asking.addresses("x.LOCALHOST")).values == ("127.0.0.1", "::1")

    run(work())
    assert server.asked == []


def test_addresses_are_of_both_families_and_one_may_fail(server: FakeDns, clock: Clock) -> None:
    server.add("both.example", "A", "192.0.2.1")
    server.add("both.example", "AAAA", "2001:db8::1")
    server.add("half.example", "A", "192.0.2.2")
    server.fail("half.example", "AAAA", "SERVFAIL")
    server.add("none.example", "MX", "0 .")
    server.add("broken.example", "MX", "0 .")
    server.fail("broken.example", "A", "SERVFAIL")

    async def work() -> None:
        asking = resolver(server, clock)
        assert (await asking.addresses("both.example")).values == ("2001:db8::1", "192.0.2.1")
        assert (await asking.addresses("half.example")).values == ("192.0.2.2",)
        assert (await asking.addresses("none.example")).status is Status.NODATA
        assert (await asking.addresses("broken.example")).status is Status.TEMPFAIL
        assert (await asking.addresses("gone.example")).status is Status.NXDOMAIN

    run(work())


def test_reverse_names_of_both_families(server: FakeDns, clock: Clock) -> None:
    server.add("1.2.0.192.in-addr.arpa", "PTR", "a.example.")
    server.add("1" + ".0" * 23 + ".8.b.d.0.1.0.0.2.ip6.arpa", "PTR", "b.example.")

    async def work() -> None:
        asking = resolver(server, clock)
        assert (await asking.reverse("192.0.2.1")).values == ("a.example",)
        assert (await asking.reverse("2001:db8::1")).values == ("b.example",)

    run(work())


def test_names_that_no_host_can_have_are_left_out(server: FakeDns, clock: Clock) -> None:
    server.add("odd.example", "MX", "10 good.example.", "5 bad\\010name.example.", "6 sp\\032ace.example.",
               "7 \\228.example.")
    server.add("9.2.0.192.in-addr.arpa", "PTR", "evil\\013\\010.example.")
    assert ask(server, clock, "odd.example", "MX").exchanges == ((10, "good.example"),)
    assert ask(server, clock, "9.2.0.192.in-addr.arpa", "PTR").values == ()


@pytest.mark.parametrize("name", ["", ".", "a..b", "x" * 64 + ".example", ".".join(["x" * 60] * 5), "\ud800.example",
                                  "-\u00fc\u0000.example"])
def test_what_cannot_be_asked_is_invalid(server: FakeDns, clock: Clock, name: str) -> None:
    assert ask(server, clock, name, "A").status is Status.INVALID
    assert server.asked == []


def test_names_beyond_ascii_are_asked_for_in_idna(server: FakeDns, clock: Clock) -> None:
    server.add("xn--bcher-kva.example", "A", "192.0.2.1")
    assert ask(server, clock, "B\u00fccher.example", "A").values == ("192.0.2.1",)
    question = question_of("a\\.b@c.example")
    assert question is not None and question.labels[0] == b"a\\"


def test_resolv_conf_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path, clock = tmp_path / "resolv.conf", Clock()
    path.write_text("# x\nsearch example.org\nnameserver 192.0.2.53\nnameserver junk\nnameserver 2001:db8::53\n")
    servers = NameServers([], clock, str(path))
    assert asked(servers.resolver()) == [("192.0.2.53", 53), ("2001:db8::53", 53)]
    first = servers.resolver()
    path.write_text("nameserver 192.0.2.54\n")
    assert servers.resolver() is first
    clock.now += CHECKED
    assert asked(servers.resolver()) == [("192.0.2.54", 53)]
    path.unlink()
    clock.now += CHECKED
    assert asked(servers.resolver()) == [("127.0.0.1", 53)]
    assert nameservers_of("options edns0\n") == ["127.0.0.1"]


@pytest.mark.parametrize("text, where", [
    ("192.0.2.53", ("192.0.2.53", 53)),
    ("192.0.2.53:5353", ("192.0.2.53", 5353)),
    ("2001:db8::53", ("2001:db8::53", 53)),
    ("[2001:db8::53]", ("2001:db8::53", 53)),
    ("[2001:db8::53]:5353", ("2001:db8::53", 5353)),
])
def test_configured_servers(text: str, where: tuple[str, int]) -> None:
    assert asked(NameServers([text], Clock()).resolver()) == [where]


def asked(resolver: dns.asyncresolver.Resolver) -> list[tuple[str, int]]:
    return [(server.address, server.port) for server in resolver.nameservers
            if isinstance(server, dns.nameserver.Do53Nameserver)]
