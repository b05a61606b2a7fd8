"""Listening sockets: inherited ones, absent addresses, and addresses of two listeners."""

import os
import socket
from collections.abc import Callable, Iterator

import pytest

from pysmtpd.base.logline import Level
from pysmtpd.conf.config import Listener, Position
from pysmtpd.privsep import doors
from pysmtpd.privsep.doors import Bound, Doors, inherited
from pysmtpd.privsep.startup import StartError
from tests.support.daemon import free_port

ABSENT = "192.0.2.77"              # RFC 5737: nobody's
Make = Callable[..., Doors]


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, line: str, _level: Level) -> None:
        self.lines.append(line)


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def opened() -> Iterator[Bound]:
    """Sockets to close."""
    bound: Bound = []
    yield bound
    for _, sock in bound:
        sock.close()


def listener(address: str, port: int, line: int = 1) -> Listener:
    return Listener(address=address, port=port, at=Position("smtpd.conf", line, 1))


def listening(port: int, address: str = "127.0.0.1") -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((address, port))
    sock.listen()
    return sock


def test_numbers_are_those_of_the_configuration(log: Log, opened: Bound) -> None:
    ports = free_port(), free_port("::1")
    opened += Doors([Listener(address="socket"), listener("127.0.0.1", ports[0]), listener("::1", ports[1])], [],
                    log).open()
    assert [(number, sock.getsockname()[1]) for number, sock in opened] == [(1, ports[0]), (2, ports[1])]
    assert all(sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 0 for _, sock in opened)
    assert log.lines == []


def test_an_absent_address_is_tried_again(log: Log, opened: Bound, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    made = Doors([listener("127.0.0.1", port), listener(ABSENT, port, 2)], [], log)
    opened += made.open()
    assert [number for number, _ in opened] == [0] and made.waiting
    assert log.lines == [
        f"warn: {ABSENT} port {port} (smtpd.conf:2:1): not an address of this machine now; it is tried again"]
    assert made.again() == [] and made.waiting
    real = doors._listen
    monkeypatch.setattr(doors, "_listen", lambda one: real(listener("127.0.0.2", one.port)))
    opened += made.again()
    assert [number for number, _ in opened] == [0, 1]
    assert list(made._absent) == []
    assert log.lines[1:] == [f"info: listening on {ABSENT} port {port}"]


def test_a_system_without_ipv6(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_listener: Listener) -> socket.socket:
        raise OSError(97, "Address family not supported by protocol")

    monkeypatch.setattr(doors, "_listen", none)
    made = Doors([listener("::1", 25)], [], log)
    assert made.open() == [] and made.waiting


def test_an_address_that_another_of_ours_serves(log: Log, opened: Bound) -> None:
    port = free_port()
    opened += Doors([listener("127.0.0.1", port), listener("127.0.0.1", port, 2)], [], log).open()
    assert [number for number, _ in opened] == [0]
    assert log.lines == [f"warn: 127.0.0.1 port {port} (smtpd.conf:2:1) is left to the listener at smtpd.conf:1:1"]


def test_all_addresses_accept_for_each(log: Log, opened: Bound) -> None:
    """Else what is for one address would shut out the others; but on another port it has a socket of its own."""
    port, other = free_port("0.0.0.0"), free_port()
    made = Doors([listener("127.0.0.1", port), listener("0.0.0.0", port, 2), listener(ABSENT, port, 3),
                  listener("127.0.0.1", other, 4), listener("127.0.0.1", port, 5)], [], log)
    opened += made.open()
    assert [(number, sock.getsockname()) for number, sock in opened] == [(1, ("0.0.0.0", port)),
                                                                         (3, ("127.0.0.1", other))]
    assert log.lines == [f"warn: 127.0.0.1 port {port} (smtpd.conf:5:1) is left to the listener at smtpd.conf:1:1"]
    assert not made.waiting


def test_beside_an_inherited_socket_there_is_none_for_all(log: Log, opened: Bound) -> None:
    mine = listening(0)
    port = mine.getsockname()[1]
    opened += Doors([listener("0.0.0.0", port), listener("127.0.0.1", port, 2)], [mine], log).open()
    assert opened == [(1, mine)]
    assert log.lines == [f"warn: 0.0.0.0 port {port} (smtpd.conf:1:1) is left to the listener at smtpd.conf:2:1"]


def test_what_was_absent_may_be_accepted_for_by_now(
        log: Log, opened: Bound, monkeypatch: pytest.MonkeyPatch) -> None:
    """IPv6 comes later: then all its addresses do, in one socket."""
    def none(_listener: Listener) -> socket.socket:
        raise OSError(97, "Address family not supported by protocol")

    real, port = doors._listen, free_port("::")
    monkeypatch.setattr(doors, "_listen", none)
    made = Doors([listener("::1", port), listener("::", port, 2)], [], log)
    assert made.open() == [] and made.waiting
    monkeypatch.setattr(doors, "_listen", real)
    opened += made.again()
    assert [number for number, _ in opened] == [1] and not made.waiting


def test_a_port_of_somebody_else_ends_the_start(log: Log) -> None:
    with listening(0) as sock, pytest.raises(StartError, match=r"smtpd.conf:1:1: cannot listen on 127.0.0.1 port \d+: "
                                                                "Address already in use"):
        Doors([listener("127.0.0.1", sock.getsockname()[1])], [], log).open()


def test_a_port_that_needs_privileges(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_listener: Listener) -> socket.socket:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doors, "_listen", refuse)
    with pytest.raises(StartError, match="need root, CAP_NET_BIND_SERVICE or a socket of the service manager"):
        Doors([listener("127.0.0.1", 25)], [], log).open()


def test_sockets_of_the_service_manager(log: Log, opened: Bound) -> None:
    mine, other = listening(0), listening(0)
    port, stray = mine.getsockname()[1], other.getsockname()[1]
    opened += Doors([listener("127.0.0.1", port)], [mine, other], log).open()
    assert opened == [(0, mine)]
    assert log.lines == [
        f"warn: the service manager listens on 127.0.0.1 port {stray}, which smtpd.conf does not name"]
    assert other.fileno() == -1


def test_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert inherited({}, 7) == []
    assert inherited({"LISTEN_PID": "8", "LISTEN_FDS": "1"}, 7) == []
    for count in ("", "0", "x", "-1", "1000000"):
        with pytest.raises(StartError, match="LISTEN_FDS"):
            inherited({"LISTEN_PID": "7", "LISTEN_FDS": count}, 7)
    with listening(0) as sock:
        monkeypatch.setattr(doors, "INHERITED_FIRST", os.dup(sock.fileno()))
        (found,) = inherited({"LISTEN_PID": "7", "LISTEN_FDS": "1"}, 7)
        with found:
            assert found.getsockname() == sock.getsockname() and not found.get_inheritable()
    left, right = socket.socketpair()
    with left, right:
        monkeypatch.setattr(doors, "INHERITED_FIRST", os.dup(left.fileno()))
        with pytest.raises(StartError, match="does not listen on TCP"):
            inherited({"LISTEN_PID": "7", "LISTEN_FDS": "1"}, 7)
