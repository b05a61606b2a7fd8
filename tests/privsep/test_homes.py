"""privsep.homes: whatever hangs in a home, the name service or /var/mail holds up nobody else."""

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any, cast

import pytest

from pysmtpd.base.logline import Level
from pysmtpd.base.procs import Proc
from pysmtpd.imsg import Frame, Message
from pysmtpd.messages import ForwardOpened, Found, HomeTold, HomeUser
from pysmtpd.privsep import homes
from pysmtpd.privsep.homes import (
    AT_ONCE,
    CHILDREN_MAX,
    FRESH,
    IDLE,
    LIMIT,
    TICK,
    TOGETHER_MAX,
    WAITING_ABOUT,
    WAITING_MAX,
    WAITING_WHERE,
    Homes,
)
from pysmtpd.privsep.mproc import Peer

TOLD = HomeTold(1, Found.YES, 1000, 1000, "/home/alice", "")


class FakePeer:
    """In place of the socket to a child."""

    def __init__(self, _owner: object, sock: socket.socket, _me: Proc, _proc: Proc) -> None:
        sock.close()
        self.closed = False
        self.sent: list[Message] = []

    def attach(self, _loop: object) -> None:
        """Nothing is read."""

    def send(self, message: Message) -> None:
        self.sent.append(message)

    def close(self) -> None:
        self.closed = True


class House:
    """A parent whose children do what a test says, and whose clock is the test's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.lines: list[str] = []
        self.killed: list[int] = []
        self.started = 0
        self.no_more = False
        self.loop = cast(asyncio.AbstractEventLoop, self)
        monkeypatch.setattr("pysmtpd.privsep.spawn.spawn", self._spawn)
        monkeypatch.setattr("pysmtpd.privsep.spawn.kill", lambda pid, _number: self.killed.append(pid))
        monkeypatch.setattr(homes, "Peer", FakePeer)
        self.homes = Homes(cast(Any, self))
        self.answers: dict[str, Message | None] = {}

    def _spawn(self, _module: str, _arguments: list[str], _sock: socket.socket) -> int:
        if self.no_more:
            raise OSError(11, "Resource temporarily unavailable")
        self.started += 1
        return self.started

    def log(self, line: str, _level: Level = Level.INFO) -> None:
        self.lines.append(line)

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, work: Callable[[], None]) -> None:
        self.timers.append((self.now + delay, work))

    def peer_frame(self, peer: Peer, frame: Frame) -> None:
        raise AssertionError(peer, frame)

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while self.timers and min(self.timers, key=lambda one: one[0])[0] <= end:
            due = min(self.timers, key=lambda one: one[0])
            self.timers.remove(due)
            self.now = due[0]
            due[1]()
        self.now = end

    def ask(self, about: str) -> None:
        self.homes.ask(HomeUser(1, about), about, lambda message, _fd: self.answers.update({about: message}))

    @property
    def working(self) -> dict[str, Peer]:
        """By what they are asked about."""
        return {child.job.key: peer for peer, child in self.homes._children.items() if child.job is not None}

    def answer(self, about: str) -> None:
        self.homes.answered(self.working[about], TOLD)


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> House:
    return House(monkeypatch)


def test_a_child_is_started_when_it_is_needed_and_used_again(house: House) -> None:
    assert house.started == 0
    for about in ("/home/a", "/home/b", "/home/a"):
        house.ask(about)
        house.answer(about)
        assert house.answers.pop(about) is TOLD
    assert house.started == 1


def test_several_work_at_once_and_the_others_wait(house: House) -> None:
    for number in range(AT_ONCE + 2):
        house.ask(f"/home/{number}")
    assert house.started == AT_ONCE and len(house.working) == AT_ONCE
    house.answer("/home/0")
    assert f"/home/{AT_ONCE}" in house.working


def test_one_that_hangs_takes_nobodys_place_and_is_killed_in_time(house: House) -> None:
    for number in range(AT_ONCE):
        house.ask(f"/hang{number}/x")
    house.ask("/home/a")
    assert "/home/a" not in house.working
    house.pass_time(FRESH + TICK)
    house.answer("/home/a")
    assert list(house.answers) == ["/home/a"] and house.killed == []
    house.pass_time(LIMIT)
    assert [house.answers[f"/hang{number}/x"] for number in range(AT_ONCE)] == [None] * AT_ONCE
    assert house.killed == [1, 2, 3, 4]
    assert house.lines[0] == "warn: parent: /hang0/x: nothing for 10 seconds: given up"
    house.ask("/hang0/x")
    house.answer("/hang0/x")
    assert house.answers["/hang0/x"] is TOLD


def test_one_home_that_hangs_has_one_child(house: House) -> None:
    for _ in range(CHILDREN_MAX + 5):
        house.ask("/home/a")
    house.pass_time(FRESH + TICK)
    assert house.started == 1
    house.ask("/home/b")
    house.answer("/home/b")
    assert house.answers == {"/home/b": TOLD}
    house.pass_time(LIMIT)
    assert house.answers["/home/a"] is None and house.working == {}


def test_a_server_of_homes_that_is_away_leaves_places_for_others(house: House) -> None:
    for number in range(100):
        house.ask(f"/net/{number}")
    house.pass_time(5 * FRESH)
    assert TOGETHER_MAX <= house.started < CHILDREN_MAX
    house.ask("/home/a")
    house.answer("/home/a")
    assert house.answers == {"/home/a": TOLD}


def test_those_that_the_kernel_does_not_let_go_are_bounded(house: House) -> None:
    for number in range(200):
        house.ask(f"/net{number}/x")
        house.pass_time(FRESH)
    assert house.started == CHILDREN_MAX
    assert house.answers["/net100/x"] is None
    house.pass_time(LIMIT)
    house.ask("/home/a")
    assert house.working == {}
    house.homes.gone(1)
    house.answer("/home/a")
    assert not house.homes.gone(1)


def test_questions_are_bounded(house: House) -> None:
    for number in range(WAITING_MAX + AT_ONCE):
        house.ask(f"/home{number % 3}/{number}")
    assert house.answers == {} and sum(house.homes._counts.values()) == 2 * WAITING_MAX
    house.ask("/home/x")
    assert house.answers == {"/home/x": None}
    house.pass_time(LIMIT + TICK)
    assert len(house.answers) == WAITING_MAX + AT_ONCE + 1 and not house.homes._counts


def test_those_about_one_home_or_one_server_of_homes_leave_room_for_others(house: House) -> None:
    for number in range(2 * WAITING_WHERE):
        house.ask("/net/x")
        house.ask(f"/net/{number}")
    assert len(house.homes._waiting) == WAITING_WHERE
    for _ in range(2 * WAITING_ABOUT):
        house.ask("/other/x")
    assert len(house.homes._waiting) == WAITING_WHERE + WAITING_ABOUT
    house.ask("/home/a")
    house.pass_time(3 * FRESH)
    house.answer("/home/a")
    assert house.answers["/home/a"] is TOLD


def test_what_nobody_can_be_started_for_is_answered_in_time(house: House) -> None:
    house.no_more = True
    house.ask("/home/a")
    assert house.lines == ["warn: parent: home: Resource temporarily unavailable"]
    house.pass_time(LIMIT + TICK)
    assert house.answers == {"/home/a": None}


def test_a_child_that_dies_fails_its_question_only(house: House) -> None:
    house.ask("/home/a")
    house.ask("/home/b")
    house.homes.lost(house.working["/home/a"], "invalid imsg: whatever")
    assert house.answers == {"/home/a": None} and house.killed == [1]
    house.answer("/home/b")
    assert house.answers["/home/b"] is TOLD
    assert house.lines == ["warn: parent: home: invalid imsg: whatever"]


def test_all_but_one_leave_when_there_is_nothing_to_do(house: House) -> None:
    for number in range(AT_ONCE):
        house.ask(f"/home/{number}")
    peers = list(house.working.values())
    for number in range(AT_ONCE):
        house.answer(f"/home/{number}")
    house.pass_time(IDLE + TICK)
    assert sum(peer.closed for peer in peers) == AT_ONCE - 1
    assert house.killed == [] and house.timers == []
    house.homes.stop_all()
    assert house.killed == [1, 2, 3, 4]        # those that have left, too, until they are reaped


def test_an_answer_to_nothing_keeps_no_descriptor(house: House) -> None:
    house.ask("/home/a")
    peer = house.working["/home/a"]
    house.answer("/home/a")
    reading, writing = os.pipe()
    os.close(writing)
    house.homes.answered(peer, ForwardOpened(1), reading)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reading)


