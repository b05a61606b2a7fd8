"""lookup.mx: where mail for a domain goes."""

import random
from typing import Any

import pytest

from pysmtpd.lookup.mx import EXCHANGES_MAX, HOSTS_MAX, Resolved, resolve_domain, resolve_host
from pysmtpd.lookup.records import Records, Status
from pysmtpd.messages import Host, HostList
from tests.lookup.made import run

TEMPFAIL = Records(Status.TEMPFAIL, text="down")
NODATA = Records(Status.NODATA)
NXDOMAIN = Records(Status.NXDOMAIN)


def mx(*exchanges: tuple[int, str]) -> Records:
    return Records(Status.FOUND, exchanges=exchanges)


def found(*addresses: str) -> Records:
    return Records(Status.FOUND, addresses)


class Zone:
    """A Dns of dictionaries."""

    def __init__(self, domains: dict[str, Records], hosts: dict[str, Records]) -> None:
        self.domains = domains
        self.hosts = hosts
        self.asked: list[str] = []

    async def query(self, name: str, kind: str) -> Records:
        assert kind == "MX"
        return self.domains.get(name, NXDOMAIN)

    async def addresses(self, name: str) -> Records:
        self.asked.append(name)
        return self.hosts.get(name, NXDOMAIN)


def leave(_list: list[Any]) -> None:
    """No shuffling."""


def domain(answer: Records, hosts: dict[str, Records] | None = None, name: str = "example.org") -> Resolved:
    return run(resolve_domain(Zone({name: answer}, hosts or {}), name, leave))  # type: ignore[no-any-return]


def host(name: str, answer: Records) -> Resolved:
    return run(resolve_host(Zone({}, {name: answer}), name, leave))  # type: ignore[no-any-return]


def test_exchangers_come_by_preference_with_all_their_addresses() -> None:
    resolved = domain(mx((20, "b"), (10, "a")), {"a": found("2001:db8::1", "192.0.2.1"), "b": found("192.0.2.2")})
    assert resolved == Resolved(HostList.OK, [
        Host(10, "a", "2001:db8::1"), Host(10, "a", "192.0.2.1"), Host(20, "b", "192.0.2.2")])


def test_equal_preferences_and_the_addresses_of_one_host_are_shuffled() -> None:
    zone = Zone({"example.org": mx((10, "a"), (10, "b"), (5, "c"))},
                {"a": found("192.0.2.1", "192.0.2.2"), "b": found("192.0.2.3"), "c": found("192.0.2.4")})
    orders = set()
    for seed in range(40):
        resolved = run(resolve_domain(zone, "example.org", random.Random(seed).shuffle))
        orders.add(tuple(each.address[-1] for each in resolved.hosts))
    assert orders == {("4", *rest) for rest in (("1", "2", "3"), ("2", "1", "3"), ("3", "1", "2"), ("3", "2", "1"))}


def test_an_exchanger_without_address_is_left_out() -> None:
    resolved = domain(mx((10, "gone"), (20, "down"), (30, "there")),
                      {"gone": NXDOMAIN, "down": TEMPFAIL, "there": found("192.0.2.3")})
    assert resolved.hosts == [Host(30, "there", "192.0.2.3")]


def test_an_address_of_two_exchangers_is_tried_once() -> None:
    resolved = domain(mx((10, "a"), (20, "b")), {"a": found("192.0.2.1"), "b": found("192.0.2.1")})
    assert resolved.hosts == [Host(10, "a", "192.0.2.1")]


@pytest.mark.parametrize("exchanges", [[(0, "")], [(10, "localhost")], [(0, ""), (10, "LocalHost")]])
def test_a_domain_may_say_that_it_takes_no_mail(exchanges: list[tuple[int, str]]) -> None:
    assert domain(mx(*exchanges)) == Resolved(HostList.PERMFAIL, [], "Domain does not accept mail", "5.1.10")


def test_that_word_is_ignored_beside_a_real_exchanger() -> None:
    resolved = domain(mx((0, ""), (5, "localhost"), (10, "a")), {"a": found("192.0.2.1")})
    assert resolved.hosts == [Host(10, "a", "192.0.2.1")]


def test_a_domain_without_mx_is_its_own_exchanger() -> None:
    assert domain(NODATA, {"example.org": found("192.0.2.1")}).hosts == [Host(0, "example.org", "192.0.2.1")]
    assert domain(NODATA, {"example.org": NODATA}).status is HostList.TEMPFAIL
    assert domain(NODATA, {"example.org": TEMPFAIL}).text == "Temporary failure in MX lookup"


@pytest.mark.parametrize("answer, status, text, esc", [
    (NXDOMAIN, HostList.PERMFAIL, "Domain does not exist", "5.1.2"),
    (Records(Status.INVALID), HostList.PERMFAIL, "Invalid domain name", "5.1.2"),
    (TEMPFAIL, HostList.TEMPFAIL, "Temporary failure in MX lookup", "4.4.3"),
    (mx((10, "gone")), HostList.TEMPFAIL, "No MX found for domain", "4.4.4"),
    (mx(), HostList.TEMPFAIL, "No MX found for domain", "4.4.4"),
])
def test_why_there_are_no_hosts(answer: Records, status: HostList, text: str, esc: str) -> None:
    assert domain(answer) == Resolved(status, [], text, esc)


def test_exchangers_whose_names_cannot_be_looked_up_now_fail_for_now() -> None:
    assert domain(mx((10, "a"), (20, "b")), {"a": TEMPFAIL}).text == "Temporary failure in MX lookup"


@pytest.mark.parametrize("literal, address", [
    ("[192.0.2.1]", "192.0.2.1"), ("[IPv6:2001:db8::1]", "2001:db8::1"), ("[ipv6:::1]", "::1"),
])
def test_an_address_literal_is_its_own_host(literal: str, address: str) -> None:
    assert domain(NXDOMAIN, name=literal).hosts == [Host(0, literal, address)]
    assert host(literal, NXDOMAIN).hosts == [Host(0, literal, address)]


def test_an_exchanger_that_looks_like_an_address_is_a_name() -> None:
    assert domain(mx((10, "192.0.2.1"))).text == "No MX found for domain"


def test_a_host_by_its_name() -> None:
    assert host("smart.example", found("192.0.2.1")).hosts == [Host(0, "smart.example", "192.0.2.1")]
    assert host("192.0.2.1", NXDOMAIN).hosts == [Host(0, "192.0.2.1", "192.0.2.1")]
    for answer in (NXDOMAIN, NODATA):
        assert host("smart.example", answer) == Resolved(HostList.TEMPFAIL, [], "Host not found", "4.4.4")
    assert host("smart.example", TEMPFAIL).text == "Temporary failure in host lookup"


def test_a_domain_with_very_many_hosts_is_cut_short() -> None:
    many = {f"h{n}": found(*(f"10.{n}.0.{m}" for m in range(20))) for n in range(100)}
    zone = Zone({"example.org": mx(*((n, f"h{n}") for n in range(100)))}, many)
    resolved = run(resolve_domain(zone, "example.org", leave))
    assert len(resolved.hosts) == HOSTS_MAX
    assert len(zone.asked) == EXCHANGES_MAX
    assert resolved.hosts[-1].preference < 10
