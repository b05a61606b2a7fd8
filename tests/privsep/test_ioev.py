"""Sockets under the loop, plain and with TLS, over a real socketpair."""

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trustme

from pysmtpd.privsep.ioev import HANDSHAKE_TIMEOUT, Io, dial
from pysmtpd.privsep.tls import TlsInfo
from pysmtpd.privsep.tls_context import client_context, server_context
from tests.support.certificates import ca_of, pair_of


class Handler:
    """Remembers what happened."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.data = b""
        self.on_data: Callable[[bytes], None] = lambda data: None

    def io_data(self, data: bytes) -> None:
        self.data += data
        self.on_data(data)

    def io_eof(self) -> None:
        self.events.append("eof")

    def io_error(self, text: str) -> None:
        self.events.append(f"error {text}")

    def io_drained(self) -> None:
        self.events.append("drained")

    def io_tls(self, info: TlsInfo) -> None:
        self.events.append(f"tls {info.text.partition(':')[0]}")

    def io_timeout(self) -> None:
        self.events.append("timeout")

    def io_connected(self) -> None:
        self.events.append("connected")


class Bench:
    """A loop that passes for a process, and two connected sockets."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.bugs: list[str] = []
        self.process = cast(Any, SimpleNamespace(loop=self.loop, bug=self.bugs.append, traces=0))
        a, b = socket.socketpair()
        self.ours, self.theirs = Handler(), Handler()
        self.a = Io(self.process, a, self.ours)
        self.b = Io(self.process, b, self.theirs)

    def until(self, done: Callable[[], bool]) -> None:
        end = self.loop.time() + 5
        while not done():
            assert self.loop.time() < end, (self.ours.events, self.theirs.events)
            self.loop.run_until_complete(asyncio.sleep(0.001))


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.a.abort()
    made.b.abort()
    made.loop.close()


def test_octets_cross(bench: Bench) -> None:
    big = bytes(range(256)) * 12000
    bench.a.write(big)
    assert bench.a.backlog > 0
    bench.until(lambda: len(bench.theirs.data) == len(big))
    assert bench.theirs.data == big
    bench.until(lambda: "drained" in bench.ours.events)
    assert bench.a.backlog == 0


def test_close_waits_for_what_was_written(bench: Bench) -> None:
    big = b"x" * 3_000_000
    bench.a.write(big)
    bench.a.close()
    bench.until(lambda: "eof" in bench.theirs.events)
    assert bench.theirs.data == big


def test_a_paused_socket_is_not_read(bench: Bench) -> None:
    bench.b.pause()
    bench.a.write(b"later")
    bench.loop.run_until_complete(asyncio.sleep(0.02))
    assert bench.theirs.data == b""
    bench.b.resume()
    bench.until(lambda: bench.theirs.data == b"later")


def test_a_peer_that_never_reads_is_dropped(bench: Bench) -> None:
    bench.b.pause()
    for _ in range(200):
        bench.a.write(b"x" * 65536)
    bench.until(lambda: bench.a.closed)
    assert bench.ours.events[-1] == "error peer does not read"


def test_a_bug_in_a_handler_costs_one_connection(bench: Bench) -> None:
    def fail(_data: bytes) -> None:
        raise ZeroDivisionError

    bench.theirs.on_data = fail
    bench.a.write(b"boom")
    bench.until(lambda: bench.b.closed)
    assert bench.bugs == ["session"]
    assert bench.theirs.events == ["error internal error"]
    bench.until(lambda: "eof" in bench.ours.events)


def test_a_handler_that_fails_again_is_told_of_twice(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_text: object) -> None:
        raise ZeroDivisionError

    bench.theirs.on_data = fail
    monkeypatch.setattr(bench.theirs, "io_error", fail)
    bench.a.write(b"boom")
    bench.until(lambda: bench.b.closed)
    assert bench.bugs == ["session", "end of a session"]


def test_idle_time_ends(bench: Bench) -> None:
    bench.a.set_timeout(0.0)
    bench.until(lambda: "timeout" in bench.ours.events)
    assert "timeout" not in bench.theirs.events


def test_dial_and_refusal(bench: Bench) -> None:
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen(1)
    port = server.getsockname()[1]
    io = dial(bench.process, "127.0.0.1", port, bench.ours, timeout=5)
    bench.until(lambda: bool(bench.ours.events))
    assert bench.ours.events == ["connected"]
    io.abort()
    server.close()
    refused = Handler()
    dial(bench.process, "127.0.0.1", port, refused, timeout=5)
    bench.until(lambda: bool(refused.events))
    assert refused.events == ["error Connection refused"]


# --- TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def test_starttls_discards_nothing_and_encrypts(bench: Bench, authority: trustme.CA) -> None:
    server = server_context([pair_of(authority, "mx.example.org")])
    client = client_context(verify=True, ca=ca_of(authority))
    bench.b.write(b"220 go\r\n")
    bench.b.start_tls(server, server=True)
    bench.until(lambda: bench.ours.data == b"220 go\r\n")
    bench.a.start_tls(client, server=False, name="mx.example.org")
    bench.until(lambda: "tls TLSv1.3" in bench.ours.events and "tls TLSv1.3" in bench.theirs.events)
    bench.a.write(b"y" * 500_000)
    bench.until(lambda: len(bench.theirs.data) == 500_000)
    bench.a.close()
    bench.until(lambda: "eof" in bench.theirs.events)


def test_garbage_instead_of_a_handshake(bench: Bench, authority: trustme.CA) -> None:
    bench.b.start_tls(server_context([pair_of(authority, "mx.example.org")]), server=True)
    bench.a.write(b"MAIL FROM:<a@example.org>\r\n")
    bench.until(lambda: bench.b.closed)
    assert bench.theirs.events[-1].startswith("error TLS: ")


def secured(bench: Bench) -> None:
    authority = trustme.CA()
    bench.a.start_tls(server_context([pair_of(authority, "mx.example.org")]), server=True)
    bench.b.start_tls(client_context(verify=False), server=False)
    bench.until(lambda: len(bench.ours.events) > 0 and len(bench.theirs.events) > 0)


def test_many_small_records_arrive_without_anything_after_them(bench: Bench) -> None:
    secured(bench)
    for number in range(500):
        bench.b.write(b"%03d" % number)
    bench.until(lambda: len(bench.ours.data) == 1500)
    assert bench.ours.data == b"".join(b"%03d" % number for number in range(500))


def test_small_records_wait_while_nothing_is_wanted(bench: Bench) -> None:
    secured(bench)
    bench.ours.on_data = lambda _data: bench.a.pause()
    for number in range(500):
        bench.b.write(b"%03d" % number)
    bench.until(lambda: len(bench.ours.data) > 0)
    bench.loop.run_until_complete(asyncio.sleep(0.05))
    assert len(bench.ours.data) < 1500
    while len(bench.ours.data) < 1500:
        before = len(bench.ours.data)
        bench.a.resume()
        bench.until(lambda before=before: len(bench.ours.data) > before)   # type: ignore[misc]


def test_what_a_turn_says_under_tls_leaves_in_one_piece_and_before_the_end(bench: Bench) -> None:
    secured(bench)
    pieces: list[bytes] = []
    bench.theirs.on_data = pieces.append
    bench.a.write(b"one ")
    bench.a.write(b"two")
    bench.a.close()
    bench.until(lambda: "eof" in bench.theirs.events)
    assert pieces == [b"one ", b"two"]
    assert bench.a.closed and bench.a.backlog == 0


def test_a_client_that_never_finishes_its_handshake_has_a_minute(bench: Bench) -> None:
    """However busy it is: each octet of other clients is time."""
    bench.a.start_tls(server_context([pair_of(trustme.CA(), "mx.example.org")]), server=True)
    end = bench.a.deadline
    assert 0 < end - time.monotonic() <= HANDSHAKE_TIMEOUT
    for _ in range(3):
        bench.b.write(b"\x16")
        bench.loop.run_until_complete(asyncio.sleep(0.01))
    assert bench.a.deadline == end
    bench.a.deadline = 0.0
    bench.until(lambda: "timeout" in bench.ours.events)


def test_after_the_handshake_time_is_counted_as_before(bench: Bench) -> None:
    bench.a.set_timeout(300.0)
    secured(bench)
    assert bench.a.deadline - time.monotonic() > HANDSHAKE_TIMEOUT
