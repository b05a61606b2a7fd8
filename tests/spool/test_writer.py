"""Group commit: who is told what, and when."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pysmtpd.messages import (
    Outcome,
    QueueDone,
    SmtpMessageCommitted,
)
from pysmtpd.spool import writer
from pysmtpd.spool.backend import ROOM_MIN, Change, Message, SpoolError, Stored
from pysmtpd.spool.bodies import Disk
from pysmtpd.spool.ram import RamSpool
from pysmtpd.spool.writer import Writer
from tests.spool.house import NOW, House, envelope


class SlowSpool(RamSpool):
    """A disk whose syncs take a while; remembers its groups."""

    delay = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.groups: list[int] = []
        self.threads: set[str] = set()
        self.checkpoints: list[bool] = []

    def apply(self, changes: object) -> None:
        group = list(changes)  # type: ignore[call-overload]
        self.groups.append(len(group))
        self.threads.add(threading.current_thread().name)
        time.sleep(self.delay)
        super().apply(group)

    def checkpoint(self, *, restart: bool = False) -> int:
        self.checkpoints.append(restart)
        return 0


class Bench:
    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.spool = SlowSpool()
        self.warnings: list[str] = []
        self.writer = Writer(self.spool, self.loop, self.warnings.append)
        self.told: dict[int, bool] = {}

    def submit(self, msgid: int, body: bytes = b"") -> None:
        change = Change(Message(msgid, len(body), 0, NOW, False), body, [Stored(envelope(msgid << 32 | 1), NOW, False)])
        self.writer.submit(change, lambda ok: self.told.__setitem__(msgid, ok))

    def later(self, evpid: int) -> None:
        self.writer.later(Change(delete=[evpid]), lambda ok: self.told.__setitem__(evpid, ok))

    def until(self, count: int) -> None:
        self.wait(lambda: len(self.told) >= count)

    def wait(self, done: Callable[[], bool]) -> None:
        end = self.loop.time() + 5
        while not done():
            assert self.loop.time() < end
            self.loop.run_until_complete(asyncio.sleep(0.0005))

    def run(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.writer.close(clean=False)
    made.loop.close()


def test_one_turn_is_one_group(bench: Bench) -> None:
    for msgid in range(1, 11):
        bench.submit(msgid)
    bench.until(10)
    assert bench.spool.groups == [10]
    assert all(bench.told.values())


def test_fast_disk_commits_in_the_loop(bench: Bench) -> None:
    bench.writer._clock = lambda: 0.0  # however busy this machine is
    for msgid in range(1, 6):
        bench.submit(msgid)
        bench.until(msgid)
    assert bench.spool.threads == {threading.current_thread().name}


def test_slow_disk_leaves_the_loop_alone(bench: Bench) -> None:
    bench.spool.delay = 0.03
    bench.submit(1)
    bench.until(1)
    bench.spool.threads.clear()
    bench.submit(2)
    began, turns = time.monotonic(), 0
    while 2 not in bench.told:
        bench.run(0.001)
        turns += 1
    assert time.monotonic() - began >= 0.03
    assert turns > 5
    assert threading.current_thread().name not in bench.spool.threads


def test_group_is_what_arrived_during_the_last_commit(bench: Bench) -> None:
    bench.spool.delay = 0.1       # long beside what the loop does meanwhile, however busy this machine is
    bench.submit(1)
    bench.until(1)
    bench.submit(2)
    bench.run(0.005)
    for msgid in range(3, 13):
        bench.submit(msgid)
        bench.run(0.0005)
    bench.until(12)
    assert len(bench.spool.groups) <= 4
    assert max(bench.spool.groups) >= 9


def test_half_groups_wait_for_each_other(bench: Bench) -> None:
    # Twenty sessions on a disk of 10 ms: without waiting they fall into two groups of ten for ever.
    bench.spool.delay = 0.01
    count = [0]

    def again(_ok: bool) -> None:
        count[0] += 1
        if count[0] < 300:
            msgid = count[0] + 1000
            change = Change(Message(msgid, 0, 0, NOW, False), b"", [Stored(envelope(msgid << 32 | 1), NOW, False)])
            bench.loop.call_later(0.001, bench.writer.submit, change, again)

    for n in range(20):
        bench.loop.call_later(0.006 * (n % 2), again, True)
    while count[0] < 300:
        bench.run(0.005)
    tail = bench.spool.groups[len(bench.spool.groups) // 2 : -1]
    assert sum(tail) / len(tail) > 14


def caught(bench: Bench, monkeypatch: pytest.MonkeyPatch, name: str) -> list[Callable[[], object]]:
    """The timers that the writer sets for one of its methods; the test decides when they are due."""
    timers: list[Callable[[], object]] = []
    real, wanted = bench.loop.call_later, getattr(bench.writer, name)

    def call_later(delay: float, callback: Callable[..., object], *args: Any, **context: Any) -> asyncio.TimerHandle:
        if callback == wanted:
            timers.append(callback)
            delay = 60.0
        return real(delay, callback, *args, **context)

    monkeypatch.setattr(bench.loop, "call_later", call_later)
    return timers


def test_lone_session_never_waits(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = caught(bench, monkeypatch, "_stop_waiting")
    bench.spool.delay = 0.006
    for msgid in range(1, 11):
        bench.submit(msgid)
        bench.until(msgid)
    assert bench.spool.groups == [1] * 10
    assert waits == []


def test_lazy_changes_join_an_urgent_one(bench: Bench) -> None:
    bench.later(7)
    bench.submit(1)
    bench.until(2)
    assert bench.spool.groups == [2]


def test_lazy_changes_go_alone_after_a_while(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "LAZY", 0.3)           # longer than a busy machine looks away
    bench.later(7)
    bench.run(0.005)
    assert bench.spool.groups == []
    bench.later(8)
    bench.until(2)
    assert bench.spool.groups == [2]


def test_many_lazy_changes_do_not_wait(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "LAZY", 30.0)
    for msgid in range(1, writer.LAZY_GROUP + 1):
        assert bench.spool.groups == []
        bench.later(msgid)
    bench.until(writer.LAZY_GROUP)
    assert bench.spool.groups == [writer.LAZY_GROUP]


def test_lazy_changes_that_came_during_a_commit_do_not_wait_when_they_are_many(
        bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "LAZY", 30.0)
    bench.spool.delay = 0.05                           # from the second on, in a thread
    bench.submit(1)
    bench.until(1)
    bench.submit(2)
    bench.wait(lambda: len(bench.spool.groups) == 2)
    for msgid in range(10, 10 + writer.LAZY_GROUP):
        bench.later(msgid)
    bench.until(2 + writer.LAZY_GROUP)
    assert bench.spool.groups == [1, 1, writer.LAZY_GROUP]


def test_a_disk_that_fails_is_not_asked_again_at_once_however_much_waits(
        bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "RETRY", 0.2)
    bench.spool.failing = True
    for msgid in range(1, writer.LAZY_GROUP + 1):
        bench.later(msgid)
    bench.run(0.1)
    assert len(bench.warnings) == 1


def test_failed_commit_refuses_its_group_and_keeps_what_is_lazy(bench: Bench) -> None:
    bench.spool.failing = True
    bench.submit(1)
    bench.submit(2)
    bench.later(7)
    bench.until(2)
    assert bench.told == {1: False, 2: False}
    assert bench.spool.message(1) is None
    assert bench.warnings == ["warn: queue: commit failed: disk I/O error"]
    bench.spool.failing = False
    bench.submit(3)
    bench.until(4)
    assert bench.told[3] and bench.told[7]


def test_failed_lazy_changes_are_tried_again_by_themselves(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "RETRY", 0.2)
    bench.spool.failing = True
    bench.later(7)
    bench.run(0.1)
    assert bench.told == {} and len(bench.warnings) == 1
    bench.spool.failing = False
    bench.until(1)
    assert bench.told == {7: True}


def test_one_conflict_does_not_harm_the_others(bench: Bench) -> None:
    bench.submit(1)
    bench.until(1)
    bench.told.clear()
    for msgid in (2, 1, 3):
        bench.submit(msgid)
    bench.until(3)
    assert bench.told == {2: True, 1: False, 3: True}


def test_large_groups_are_cut(bench: Bench) -> None:
    for msgid in range(1, 6):
        bench.submit(msgid, b"x" * 6_000_000)
    bench.until(5)
    assert bench.spool.groups == [2, 2, 1]


def test_checkpoint_when_idle_and_when_the_log_is_long(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    timers = caught(bench, monkeypatch, "_idle_due")
    bench.submit(1, b"x" * 5_000_000)
    bench.until(1)
    bench.wait(lambda: bench.spool.checkpoints == [False])
    bench.submit(2)
    bench.until(2)
    bench.wait(lambda: bool(timers))
    assert bench.spool.checkpoints == [False]
    timers.pop()()
    bench.wait(lambda: bench.spool.checkpoints == [False, False])


def test_log_that_cannot_be_emptied_is_started_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def checkpoint(*, restart: bool = False) -> int:
        asked.append(restart)
        return 0 if restart else 70_000_000

    monkeypatch.setattr(bench.spool, "checkpoint", checkpoint)
    for msgid in (1, 2, 3):
        bench.submit(msgid, b"x" * 5_000_000)
        bench.until(msgid)
        bench.run(0.02)
    assert asked == [False, True, False]


def test_failed_checkpoint_is_told_and_survived(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def checkpoint(*, restart: bool = False) -> int:
        raise SpoolError("disk I/O error")

    monkeypatch.setattr(bench.spool, "checkpoint", checkpoint)
    bench.submit(1, b"x" * 5_000_000)
    bench.until(1)
    bench.run(0.05)
    assert bench.warnings == ["warn: queue: checkpoint failed: disk I/O error"]
    bench.submit(2)
    bench.until(2)
    assert bench.told[2]


def test_drain_commits_all(bench: Bench) -> None:
    bench.spool.delay = 0.005
    over: list[bool] = []
    bench.submit(1)
    bench.later(7)
    bench.writer.drain(lambda: over.append(True))
    while not over:
        bench.run(0.001)
    assert bench.told == {1: True, 7: True}


class BadDisk(Disk):
    """A disk that can be told to be slow, or to fail."""

    delay = 0.0
    failing = False
    left = 1 << 40                 # octets

    def room(self, path: str) -> int:
        return self.left

    def commit(self, connection: sqlite3.Connection) -> None:
        time.sleep(self.delay)
        if self.failing:
            raise sqlite3.OperationalError("disk I/O error")
        super().commit(connection)

    def fsync(self, fd: int) -> None:
        if self.failing:
            raise OSError(5, "Input/output error")
        super().fsync(fd)


def test_nothing_of_a_refused_message_remains(tmp_path: Path) -> None:
    disk = BadDisk()
    house = House(tmp_path, disk)
    house.msgid()
    for body in (b"small", b"x" * 200_000):
        disk.failing = True
        house.begin(body)
        assert not house.expect(house.smtp, SmtpMessageCommitted).ok
        disk.failing = False
        assert house.queue.backend.walk(0, 0, 10) == []
        house.run(0.01)
        assert list((tmp_path / "queue" / "bodies").iterdir()) == []
    assert len(house.submit()) == 1
    house.close()


def test_disk_that_never_syncs_refuses_mail_but_starts(tmp_path: Path) -> None:
    disk = BadDisk()
    disk.failing = True
    house = House(tmp_path, disk)
    assert any("cannot be synced" in line for line in house.logged.lines)
    house.begin()
    refused = house.expect(house.smtp, SmtpMessageCommitted)
    assert not refused.ok and not refused.full
    disk.failing = False
    house.submit()
    house.close()


def test_nearly_full_disk_refuses_new_mail_and_lets_old_mail_go(tmp_path: Path) -> None:
    disk = BadDisk()
    house = House(tmp_path, disk)
    [evpid] = house.submit()
    disk.left = 0
    for body in (b"small", b"x" * 200_000):
        house.begin(body)
        refused = house.expect(house.smtp, SmtpMessageCommitted)
        assert not refused.ok and refused.full
    house.run(0.01)
    assert list((tmp_path / "queue" / "bodies").iterdir()) == []
    assert sum("nearly full" in line for line in house.logged.lines) == 2
    house.dispatch(evpid)
    house.report(evpid, Outcome.OK)
    assert house.expect(house.scheduler, QueueDone).evpids == [evpid]
    disk.left = ROOM_MIN + 65536
    house.submit()
    house.close()


def test_lone_commit_takes_as_long_as_the_disk(tmp_path: Path) -> None:
    disk = BadDisk()
    house = House(tmp_path, disk)
    disk.delay = 0.01
    for _ in range(3):
        began = time.monotonic()
        house.submit()
        assert time.monotonic() - began >= 0.01
    house.close()


def test_many_sessions_share_syncs(tmp_path: Path) -> None:
    disk = BadDisk()
    house = House(tmp_path, disk)
    disk.delay = 0.001
    house.msgid()
    before, sent, answered = house.queue.writer.commits, 0, 0
    while answered < 200:
        while sent < 200 and sent - answered < 20:
            house.begin()
            sent += 1
        house.run(0.0005)
        answered += len(house.smtp.take(SmtpMessageCommitted))
    assert house.queue.writer.commits - before < 100
    house.close()


def test_deletes_share_syncs_with_new_messages(tmp_path: Path) -> None:
    house = House(tmp_path)
    evpids = [evpid for _ in range(5) for evpid in house.submit()]
    before = house.queue.writer.commits
    for evpid in evpids:
        house.dispatch(evpid)
        house.report(evpid, Outcome.OK)
    house.submit()
    assert house.expect(house.scheduler, QueueDone) == QueueDone(evpids, Outcome.OK)
    assert house.queue.writer.commits - before <= 2
    house.close()
