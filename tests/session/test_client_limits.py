"""How much one client may do: connections at once, and rates, by address and by network."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pysmtpd.conf.config import ClientLimits, Rate
from pysmtpd.session import client_limits
from pysmtpd.session.client_limits import CONN_RATE, MAX_CONN_PER_CLIENT, Buckets, Clients


def clients(**limits: object) -> Clients:
    return Clients(ClientLimits(**limits))  # type: ignore[arg-type]


def test_connections_at_once_are_counted_until_they_end() -> None:
    some = clients(max_conn_per_client=2)
    assert [some.open("192.0.2.1", 0) for _ in range(3)] == ["", "", MAX_CONN_PER_CLIENT]
    assert some.open("192.0.2.2", 0) == ""
    some.close("192.0.2.1")
    assert [some.open("192.0.2.1", 0) for _ in range(2)] == ["", MAX_CONN_PER_CLIENT]


def test_an_ipv4_network_has_four_times_as_many() -> None:
    some = clients(max_conn_per_client=2)
    opened = [some.open(f"192.0.2.{host}", 0) for host in range(10)]
    assert opened == [""] * 8 + [MAX_CONN_PER_CLIENT] * 2
    assert some.open("192.0.3.1", 0) == ""
    some.close("192.0.2.0")
    assert some.open("192.0.2.200", 0) == ""


def test_an_ipv6_64_is_one_client() -> None:
    some = clients(max_conn_per_client=2)
    assert [some.open(f"2001:db8::{host}", 0) for host in range(3)] == ["", "", MAX_CONN_PER_CLIENT]
    assert some.open("2001:db8:0:1::1", 0) == ""


def test_what_has_no_address_is_not_limited() -> None:
    some = clients(max_conn_per_client=1, conn_rate=Rate(count=1), auth_fail=Rate(count=1))
    assert [some.open("local", 0) for _ in range(5)] == [""] * 5
    some.close("local")
    some.failed("local", 0)
    assert some.may_log_in("local", 0)


def test_a_rate_lets_a_burst_in_and_then_one_at_a_time() -> None:
    some = clients(conn_rate=Rate(count=3, seconds=60))
    assert [some.open("192.0.2.1", 0.0) for _ in range(4)] == ["", "", "", CONN_RATE]
    assert some.open("192.0.2.1", 19.0) == CONN_RATE
    assert some.open("192.0.2.1", 20.0) == ""
    assert some.open("192.0.2.1", 20.0) == CONN_RATE
    assert [some.open("192.0.2.1", 1000.0) for _ in range(4)] == ["", "", "", CONN_RATE]


def test_what_is_refused_for_its_rate_is_not_open() -> None:
    some = clients(conn_rate=Rate(count=1, seconds=60), max_conn_per_client=1)
    assert some.open("192.0.2.1", 0.0) == ""
    some.close("192.0.2.1")
    assert some.open("192.0.2.1", 0.0) == CONN_RATE
    assert some.open("192.0.2.1", 60.0) == ""


def test_failed_logins() -> None:
    some = clients(auth_fail=Rate(count=2, seconds=3600))
    for _ in range(2):
        assert some.may_log_in("192.0.2.1", 0.0)
        some.failed("192.0.2.1", 0.0)
    assert not some.may_log_in("192.0.2.1", 0.0)
    assert some.may_log_in("192.0.2.2", 0.0)
    for _ in range(100):
        some.failed("192.0.2.1", 0.0)      # it is never locked out for longer than a whole bucket takes
    assert not some.may_log_in("192.0.2.1", 1799.0)
    assert some.may_log_in("192.0.2.1", 1800.0)
    assert [some.open("192.0.2.1", 0.0) for _ in range(100)] == [""] * 100


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_limits, "KEYS_MAX", 100)
    buckets = Buckets(Rate(count=1, seconds=60))
    for key in range(1000):
        buckets.take(key, 1, key / 100)
        assert len(buckets) <= 100
    assert not buckets.has(999, 1, 10.0)
    assert buckets.has(0, 1, 10.0)


@given(st.lists(st.tuples(st.floats(0, 20), st.sampled_from(["192.0.2.1", "192.0.2.2", "2001:db8::1"]))),
       st.integers(1, 5), st.integers(1, 60))
def test_a_rate_is_never_exceeded(steps: list[tuple[float, str]], count: int, seconds: int) -> None:
    """In no span of its time are there more than the bucket, and what comes back while it lasts."""
    some = clients(conn_rate=Rate(count=count, seconds=seconds))
    now, let_in = 0.0, []
    for wait, address in steps:
        now += wait
        if not some.open(address, now):
            let_in.append((now, address))
    for start, address in let_in:
        within = [at for at, one in let_in if one == address and start <= at < start + seconds * 0.999]
        assert len(within) <= 2 * count
