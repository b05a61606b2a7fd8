"""The shell around the inbound session: real sockets, and queue and lka played by the test."""

import asyncio
import os
import re
import socket
from collections.abc import Callable, Iterator

import pytest

from pysmtpd.base.paths import under
from pysmtpd.base.procs import Proc
from pysmtpd.base.struct import replace
from pysmtpd.conf.config import ClientLimits, Config, Limits, Listener, Rate
from pysmtpd.imsg import Message
from pysmtpd.inbound.crowd import TLS_SHARE
from pysmtpd.messages import (
    BODY_WINDOW,
    BodyCredit,
    CtlDone,
    CtlPause,
    CtlSubmit,
    CtlSubmitReady,
    ExpandRcpt,
    Fcrdns,
    Found,
    NameLookedUp,
    RcptExpanded,
    SetupListener,
    SmtpBody,
    SmtpEnvelopes,
    SmtpLookedUp,
    SmtpLookup,
    SmtpLookupName,
    SmtpMessage,
    SmtpMessageCommit,
    SmtpMessageCommitted,
    SmtpMessageRollback,
    SmtpMsgids,
    SmtpMsgidsAsk,
)
from pysmtpd.privsep.log import Log
from pysmtpd.privsep.process import Birth
from pysmtpd.smtp import Smtp

CONFIG = Config(hostname="mx.example.org", listeners=(
    Listener(address="127.0.0.1", port=2525, hostname="mx.example.org"),
    Listener(address="socket", hostname="mx.example.org"),
), limits=Limits(smtp_max_commands=10**6))


class Other:
    """Stands for another process; remembers what it was sent."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.fds: list[int] = []
        self.backlog = 0
        self.fd = -1
        self.room: Callable[[], None] | None = None

    def when_room(self, backlog: int, tell: Callable[[], None]) -> None:
        assert self.room is None and self.backlog > backlog
        self.room = tell

    def send(self, message: Message, fd: int | None = None) -> None:
        self.sent.append(message)
        if fd is not None:
            self.fds.append(fd)

    def claim_fd(self) -> int:
        return self.fd

    def take(self, kind: type[Message]) -> list[Message]:
        found = [message for message in self.sent if isinstance(message, kind)]
        self.sent = [message for message in self.sent if not isinstance(message, kind)]
        return found


class House:
    """An smtp process in this one."""

    def __init__(self, config: Config = CONFIG) -> None:
        paths = under("/nonexistent")
        birth = Birth(proc="smtp", uid=0, gid=0, spool=paths.spool, socket=paths.socket, stderr=True, verbose=0)
        self.smtp = Smtp(birth, Log(stderr=True, verbose=False))
        self.smtp.loop = asyncio.new_event_loop()
        self.smtp.config = config
        self.lka, self.queue, self.control = Other(), Other(), Other()
        self.smtp._peers = {Proc.LKA: [self.lka], Proc.QUEUE: [self.queue]}  # type: ignore[list-item]
        self.smtp.preload()
        door = socket.create_server(("127.0.0.1", 0))
        self.port = door.getsockname()[1]
        parent = Other()
        parent.fd = door.detach()
        self.smtp.setup_listener(parent, SetupListener(0))  # type: ignore[arg-type]
        self.smtp.setup()
        self.smtp.start()
        assert self.queue.take(SmtpMsgidsAsk)
        self.smtp.msgids(self.queue, SmtpMsgids(0x100, 1000))  # type: ignore[arg-type]
        self.clients: list[socket.socket] = []

    def until(self, done: Callable[[], bool]) -> None:
        end = self.smtp.loop.time() + 5
        while not done():
            assert self.smtp.loop.time() < end, "never happened"
            self.smtp.loop.run_until_complete(asyncio.sleep(0.001))

    def turn(self) -> None:
        self.smtp.loop.run_until_complete(asyncio.sleep(0.02))

    def call(self) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.port))
        client.setblocking(False)
        self.clients.append(client)
        return client

    def hear(self, client: socket.socket) -> bytes:
        """The next reply, or b"" at the end."""
        heard: list[bytes] = []

        def came() -> bool:
            try:
                heard.append(client.recv(65536))
            except BlockingIOError:
                return False
            return True

        self.until(came)
        return heard[0]

    def greet(self) -> socket.socket:
        self.smtp.names.clear()
        client = self.call()
        self.until(lambda: any(isinstance(message, SmtpLookupName) for message in self.lka.sent))
        [ask] = self.lka.take(SmtpLookupName)
        assert isinstance(ask, SmtpLookupName)
        self.smtp.name_looked_up(self.lka, NameLookedUp(ask.reqid, "localhost", Fcrdns.PASS))  # type: ignore[arg-type]
        assert self.hear(client).startswith(b"220 ")
        return client

    def to_data(self) -> socket.socket:
        client = self.greet()
        client.send(b"EHLO x.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n")
        self.until(lambda: any(isinstance(message, ExpandRcpt) for message in self.lka.sent))
        [ask] = self.lka.take(ExpandRcpt)
        assert isinstance(ask, ExpandRcpt)
        answer = RcptExpanded(ask.reqid, b"sealed", 1, "", "")
        self.smtp.answered(self.lka, answer)  # type: ignore[arg-type]
        heard = b""
        while b"354 " not in heard:
            heard += self.hear(client)
        return client

    def close(self) -> None:
        for client in [*self.smtp.crowd.clients.values()]:
            client.end()
        for sock in [*self.clients, *self.smtp.sockets.values()]:
            sock.close()
        for fd in [*self.control.fds]:
            os.close(fd)
        self.smtp.loop.close()


@pytest.fixture
def house(capfd: pytest.CaptureFixture[str]) -> Iterator[House]:
    made = House()
    yield made
    made.close()


def test_a_message_is_accepted_when_the_queue_says_so(house: House) -> None:
    client = house.to_data()
    client.send(b"Subject: hello\r\n\r\nworld\r\n.\r\n")
    house.until(lambda: any(isinstance(message, SmtpMessage) for message in house.queue.sent))
    [commit] = house.queue.take(SmtpMessage)
    assert isinstance(commit, SmtpMessage)
    assert (commit.msgid, commit.sealed) == (0x100, [b"sealed"])
    assert commit.body.endswith(b"\r\n\r\nworld\r\n")
    assert not house.queue.take(SmtpBody) + house.queue.take(SmtpEnvelopes) + house.queue.take(SmtpMessageCommit)
    house.turn()
    with pytest.raises(BlockingIOError):
        client.recv(10)
    house.smtp.answered(house.queue, SmtpMessageCommitted(commit.reqid, True))  # type: ignore[arg-type]
    assert house.hear(client) == b"250 2.0.0 00000100 Message accepted for delivery\r\n"


def test_a_large_message_waits_for_credit(house: House) -> None:
    client = house.to_data()
    line = b"x" * 998 + b"\r\n"
    sent = 0

    def push() -> None:
        nonlocal sent
        try:
            while True:
                sent += client.send(line * 64)
        except BlockingIOError:
            pass

    taken = 0
    for _ in range(60):
        push()
        house.turn()
        taken += sum(len(body.chunk) for body in house.queue.take(SmtpBody) if isinstance(body, SmtpBody))
    assert BODY_WINDOW // 2 < taken <= BODY_WINDOW + 3 * 65536
    [reqid] = house.smtp.crowd.clients
    before = taken
    house.smtp.body_credit(house.queue, BodyCredit(reqid, BODY_WINDOW))  # type: ignore[arg-type]
    for _ in range(20):
        push()
        house.turn()
        taken += sum(len(body.chunk) for body in house.queue.take(SmtpBody) if isinstance(body, SmtpBody))
    assert taken > before
    client.close()
    for _ in range(50):
        house.smtp.body_credit(house.queue, BodyCredit(reqid, BODY_WINDOW))  # type: ignore[arg-type]
        house.turn()
    assert not house.smtp.crowd.clients
    assert house.queue.take(SmtpMessageRollback) == [SmtpMessageRollback(reqid)]


def test_a_queue_that_falls_behind_stops_the_reading(house: House) -> None:
    client = house.to_data()
    house.queue.backlog = 64 * 1024 * 1024
    for _ in range(20):
        try:
            client.send(b"x" * 65536)
        except BlockingIOError:
            break
        house.turn()
    taken = sum(len(body.chunk) for body in house.queue.take(SmtpBody) if isinstance(body, SmtpBody))
    assert taken <= 3 * 65536


def test_a_queue_that_catches_up_starts_the_reading_again(house: House) -> None:
    """Although it owes this client neither credit nor an answer."""
    sending = house.to_data()
    house.queue.backlog = 64 * 1024 * 1024
    sending.send(b"x" * 1000)
    house.turn()
    waiting = house.call()             # its name is known
    assert house.hear(waiting).startswith(b"220 ")
    waiting.send(b"NOOP\r\n")
    house.turn()
    sending.send(b"y" * 1000 + b"\r\n.\r\n")
    house.turn()
    assert not house.queue.take(SmtpMessage)
    house.queue.backlog = 0
    assert house.queue.room is not None
    house.queue.room()
    house.until(lambda: any(isinstance(message, SmtpMessage) for message in house.queue.sent))
    assert house.hear(waiting).startswith(b"250 ")


def test_a_client_that_comes_again_is_not_looked_up_again(house: House) -> None:
    house.greet()
    client = house.call()
    assert house.hear(client).startswith(b"220 ")
    assert house.lka.take(SmtpLookupName) == []


def test_too_many_connections_are_shed_politely(house: House) -> None:
    house.smtp.arrivals.most = 1
    house.greet()
    client = house.call()
    assert house.hear(client) == b"421 4.3.2 Too many connections\r\n"
    assert len(house.smtp.crowd.clients) == 1


def test_who_holds_most_goes_when_all_hold_too_much(house: House, monkeypatch: pytest.MonkeyPatch,
                                                    capfd: pytest.CaptureFixture[str]) -> None:
    """A header without end is kept until it ends: one megabyte for each who sends one."""
    monkeypatch.setattr("pysmtpd.inbound.crowd.HELD_MAX", 500_000)
    monkeypatch.setattr("pysmtpd.inbound.crowd.HELD_LOW", 400_000)
    sizes = (100_000, 300_000, 50_000)
    clients = [house.to_data() for _ in sizes]

    def send(client: socket.socket, size: int) -> None:
        data = b"Subject: " + b"x" * size
        before = house.smtp.crowd.held
        while data:
            try:
                data = data[client.send(data) :]
            except BlockingIOError:
                house.turn()
        house.until(lambda: house.smtp.crowd.held >= before + size)

    for client, size in zip(clients, sizes, strict=True):
        send(client, size)
    assert len(house.smtp.crowd.clients) == 3
    late = house.to_data()
    late.send(b"Subject: " + b"y" * 40_000)
    house.turn()
    late.send(b"z" * 30_000)
    house.until(lambda: len(house.smtp.crowd.clients) == 3)
    assert house.hear(clients[1]) == b"421 4.3.2 System busy, try again later\r\n"
    assert house.hear(clients[1]) == b""
    assert 210_000 < house.smtp.crowd.held < 230_000
    house.smtp._log.flush()
    assert "those who hold most hear 421, 1 sessions end" in capfd.readouterr().err
    for client in (*clients, late):
        client.close()
    house.until(lambda: not house.smtp.crowd.clients)
    assert house.smtp.crowd.held == 0


def test_who_does_not_take_its_replies_is_dropped_when_all_hold_too_much(
        house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pysmtpd.inbound.crowd.HELD_MAX", 1000)
    monkeypatch.setattr("pysmtpd.inbound.crowd.HELD_LOW", 500)
    client = house.greet()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

    def push() -> bool:
        try:
            client.send(b"EHLO x\r\n" * 1000)
        except (BlockingIOError, ConnectionError):
            pass
        return not house.smtp.crowd.clients

    house.until(push)
    assert house.smtp.crowd.held == 0


@pytest.fixture
def houses() -> Iterator[Callable[..., House]]:
    made: list[House] = []

    def make(**changes: object) -> House:
        made.append(House(replace(CONFIG, **changes)))
        return made[-1]

    yield make
    for house in made:
        house.close()


def test_a_client_with_too_many_connections_is_turned_away(houses: Callable[..., House],
                                                           capfd: pytest.CaptureFixture[str]) -> None:
    house = houses(client_limits=ClientLimits(max_conn_per_client=1))
    first = house.greet()
    second = house.call()
    assert house.hear(second) == b"421 4.7.0 Too many connections from your address or network\r\n"
    assert house.hear(second) == b""
    first.send(b"QUIT\r\n")
    house.until(lambda: not house.smtp.crowd.clients)
    house.greet()
    house.smtp._log.flush()
    assert re.search("^[0-9a-f]{16} smtp limited address=127.0.0.1 limit=max-conn-per-client$",
                     capfd.readouterr().err, re.M)
    assert house.smtp.stats.values["smtp.limit.max-conn-per-client"] == 1


@pytest.mark.parametrize("found", Found)
def test_who_is_exempt_is_not(houses: Callable[..., House], found: Found) -> None:
    house = houses(client_limits=ClientLimits(conn_rate=Rate(count=1), exempt="friends"))
    house.greet()
    client = house.call()
    house.until(lambda: any(isinstance(message, SmtpLookup) for message in house.lka.sent))
    [ask] = house.lka.take(SmtpLookup)
    assert isinstance(ask, SmtpLookup)
    assert (ask.service, ask.table, ask.key) == ("netaddr", "friends", "127.0.0.1")
    house.smtp.looked_up(house.lka, SmtpLookedUp(ask.reqid, found, ""))  # type: ignore[arg-type]
    heard = house.hear(client)
    assert heard.startswith(b"220 " if found is Found.YES else b"421 4.7.0 Your address or network connects too often")


def test_failed_logins_bar_an_address(houses: Callable[..., House]) -> None:
    house = houses(client_limits=ClientLimits(auth_fail=Rate(count=2, seconds=3600)))
    assert house.smtp.limited.may_log_in("192.0.2.1")
    for _ in range(2):
        house.smtp.limited.auth_failed("192.0.2.1")
    assert not house.smtp.limited.may_log_in("192.0.2.1")
    assert house.smtp.limited.may_log_in("192.0.2.2")


def test_failed_logins_of_those_who_are_exempt_do_not_count(houses: Callable[..., House]) -> None:
    house = houses(client_limits=ClientLimits(auth_fail=Rate(count=1, seconds=3600), exempt="friends"))
    for found in (Found.YES, Found.NO):
        house.smtp.limited.auth_failed("192.0.2.1")
        assert house.smtp.limited.may_log_in("192.0.2.1")
        [ask] = house.lka.take(SmtpLookup)
        assert isinstance(ask, SmtpLookup)
        house.smtp.looked_up(house.lka, SmtpLookedUp(ask.reqid, found, ""))  # type: ignore[arg-type]
    assert not house.smtp.limited.may_log_in("192.0.2.1")


def proxied(houses: Callable[..., House], **fields: object) -> House:
    listener = Listener(address="127.0.0.1", port=2525, hostname="mx.example.org", **fields)  # type: ignore[arg-type]
    return houses(listeners=(listener, CONFIG.listeners[1]))


def test_a_proxy_says_who_the_client_is(houses: Callable[..., House]) -> None:
    house = proxied(houses, proxy_from="proxies")
    client = house.call()
    client.send(b"PROXY TCP4 192.0.2.7 127.0.0.1 1234 25\r\n")
    house.until(lambda: any(isinstance(message, SmtpLookup) for message in house.lka.sent))
    [ask] = house.lka.take(SmtpLookup)
    assert isinstance(ask, SmtpLookup)
    assert (ask.service, ask.table, ask.key) == ("netaddr", "proxies", "127.0.0.1")
    assert not house.smtp.crowd.clients
    house.smtp.looked_up(house.lka, SmtpLookedUp(ask.reqid, Found.YES, ""))  # type: ignore[arg-type]
    house.until(lambda: any(isinstance(message, SmtpLookupName) for message in house.lka.sent))
    [name] = house.lka.take(SmtpLookupName)
    assert isinstance(name, SmtpLookupName)
    assert name.address == "192.0.2.7"


@pytest.mark.parametrize("data", [b"EHLO x\r\n", b"PROXY UNKNOWN\r\n", b""])
def test_who_does_not_speak_as_a_proxy_is_hung_up_on(houses: Callable[..., House], data: bytes) -> None:
    house = proxied(houses, proxy_v2=True)
    client = house.call()
    client.send(data)
    if not data:
        house.until(lambda: bool(house.smtp.arrivals.preambles))
        [preamble] = house.smtp.arrivals.preambles.values()
        preamble.end("timeout")
    assert house.hear(client) == b""
    assert not house.smtp.crowd.clients and not house.smtp.arrivals.preambles


def test_limits_follow_the_client_that_a_proxy_names(houses: Callable[..., House]) -> None:
    house = houses(client_limits=ClientLimits(max_conn_per_client=1, auth_fail=Rate(count=1, seconds=3600)),
                   xclient_from="proxies")

    def proxy(address: str) -> bytes:
        client = house.call()
        house.until(lambda: any(isinstance(message, SmtpLookup) for message in house.lka.sent))
        [trust] = house.lka.take(SmtpLookup)
        assert isinstance(trust, SmtpLookup) and trust.table == "proxies"
        house.smtp.looked_up(house.lka, SmtpLookedUp(trust.reqid, Found.YES, ""))  # type: ignore[arg-type]
        for ask in house.lka.take(SmtpLookupName):
            assert isinstance(ask, SmtpLookupName)
            name = NameLookedUp(ask.reqid, "localhost", Fcrdns.PASS)
            house.smtp.name_looked_up(house.lka, name)  # type: ignore[arg-type]
        assert house.hear(client).startswith(b"220 ")
        client.send(f"XCLIENT ADDR={address} NAME=x.example\r\n".encode())
        return house.hear(client)

    assert proxy("192.0.2.1").startswith(b"220 ")
    assert proxy("192.0.2.2").startswith(b"220 "), "the proxy's own address is free again"
    assert proxy("192.0.2.1").startswith(b"421 4.7.0 Too many connections")
    assert sorted(client.address for client in house.smtp.crowd.clients.values()) == ["192.0.2.1", "192.0.2.2"]
    [first, _] = house.smtp.crowd.clients.values()
    house.smtp.auth_failed(first, "joe")
    assert house.smtp.limited.may_log_in("127.0.0.1") and not house.smtp.limited.may_log_in("192.0.2.1")
    first.end()
    assert proxy("192.0.2.1").startswith(b"220 ")


def test_a_submission_gets_its_end_of_a_session(house: House) -> None:
    house.smtp.submit(house.control, CtlSubmit(7, 1000))  # type: ignore[arg-type]
    assert house.control.sent == [CtlSubmitReady(7)]
    client = socket.socket(fileno=house.control.fds.pop())
    client.setblocking(False)
    house.clients.append(client)
    assert house.hear(client).startswith(b"220 mx.example.org ESMTP")
    assert house.smtp.stats.values["smtp.session.local"] == 1


def test_a_client_that_pipelines_much_is_read_no_faster_than_it_is_answered(house: House) -> None:
    client = house.greet()
    rest = b"EHLO x.example\r\nMAIL FROM:<a@b.example>\r\n"
    rest += (b"RCPT TO:<c@d.example>\r\n" + b"NOOP\r\n" * 3000) * 60
    heard = b""
    for _ in range(3000):
        try:
            rest = rest[client.send(rest) :] if rest else rest
        except BlockingIOError:
            pass
        house.smtp.loop.run_until_complete(asyncio.sleep(0))
        for ask in house.lka.take(ExpandRcpt):
            assert isinstance(ask, ExpandRcpt)
            answer = RcptExpanded(ask.reqid, b"sealed", 1, "", "")
            house.smtp.answered(house.lka, answer)  # type: ignore[arg-type]
        try:
            heard += client.recv(1 << 20)
        except BlockingIOError:
            pass
        if heard.count(b"\r\n250 2.1.5 ") == 60 and heard.count(b"250 2.0.0 Ok\r\n") == 60 * 3000 + 1:
            break
    assert b"421 " not in heard
    assert heard.count(b"250 2.1.5 ") == 60
    assert heard.count(b"250 2.0.0 Ok\r\n") == 60 * 3000 + 1


def test_paused(house: House) -> None:
    house.smtp.pause(house.control, CtlPause(1, "smtp", False))  # type: ignore[arg-type]
    house.smtp.pause(house.control, CtlPause(2, "smtp", False))  # type: ignore[arg-type]
    house.smtp.submit(house.control, CtlSubmit(3, 1000))  # type: ignore[arg-type]
    before = house.call()
    assert house.hear(before) == b"421 4.3.2 Service not available, try again later\r\n"
    assert house.hear(before) == b""
    assert house.smtp.crowd.clients == {}
    house.smtp.pause(house.control, CtlPause(4, "smtp", True))  # type: ignore[arg-type]
    client = house.call()
    house.until(lambda: bool(house.smtp.crowd.clients))
    answers = [(one.reqid, one.ok) for one in house.control.sent if isinstance(one, CtlDone)]
    assert answers == [(1, True), (2, False), (3, False), (4, True)]
    client.close()


def test_no_message_ids_are_no_messages(house: House) -> None:
    client = house.greet()
    house.smtp._msgids.clear()
    client.send(b"EHLO x.example\r\nMAIL FROM:<a@b.example>\r\n")
    heard = b""
    while heard.count(b"\r\n") < 8:
        heard += house.hear(client)
    assert heard.splitlines()[-1].startswith(b"451 ")
    assert house.queue.take(SmtpMsgidsAsk) == [SmtpMsgidsAsk()]


def test_a_session_that_ends_leaves_nothing(house: House) -> None:
    client = house.greet()
    client.send(b"QUIT\r\n")
    assert house.hear(client) == b"221 2.0.0 Bye\r\n"
    assert house.hear(client) == b""
    assert house.smtp.crowd.clients == {}
    assert house.smtp.stats.values["smtp.session"] == 0


def test_clients_with_tls_count_for_more(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a flood of them is turned away before memory is gone."""
    monkeypatch.setattr("pysmtpd.inbound.arrivals.CLIENTS_MAX", TLS_SHARE + 1)
    house.smtp.arrivals.most = 4
    first, second = house.greet(), house.greet()
    one = next(iter(house.smtp.crowd.clients.values()))
    house.smtp.secure(one)
    house.smtp.secure(one)
    assert house.smtp.crowd.worth == TLS_SHARE + 1
    assert house.hear(house.call()).startswith(b"421 4.3.2 ")
    limits = house.smtp.config.client_limits
    house.smtp.config = replace(house.smtp.config, client_limits=replace(limits, max_conn=4))
    house.greet()
    house.smtp.config = replace(house.smtp.config, client_limits=limits)
    assert house.smtp.crowd.worth == TLS_SHARE + 2
    one.end()
    assert house.smtp.crowd.worth == 2
    house.greet()
    assert first.fileno() != second.fileno()


@pytest.mark.parametrize(("limit", "told"), [(200, True), (4000, False)])
def test_where_few_files_may_be_open_the_log_says_so(
        monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], limit: int, told: bool) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _what: (limit, limit))
    house = House()
    assert 16 <= house.smtp.arrivals.most < limit
    house.smtp._log.flush()
    house.close()
    assert ("connections at once: the limit of open files" in capfd.readouterr().err) is told


def test_a_socket_of_all_addresses_leads_to_the_listener_of_one() -> None:
    house = House(Config(hostname="mx.example.org", listeners=(
        Listener(address="0.0.0.0", port=25, hostname="all.example.org"), Listener(address="socket"),
        Listener(address="127.0.0.1", port=25, hostname="lo.example.org"),
        Listener(address="127.0.0.2", port=26, hostname="other.example.org"))))
    try:
        house.call()
        house.until(lambda: bool(house.lka.take(SmtpLookupName)))
        [client] = house.smtp.crowd.clients.values()
        assert client.door.listener.hostname == "lo.example.org"
        assert house.smtp.doors[0].within.keys() == {"127.0.0.1"}
    finally:
        house.close()
