"""What was answered 250 is there after any crash; what was not is absent or complete."""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pysmtpd.conf.config import Secret
from pysmtpd.messages import Outcome, QueueDone, SmtpBody, SmtpMessageCommitted
from pysmtpd.spool.backend import Stored
from pysmtpd.spool.bodies import Disk
from pysmtpd.spool.sqlite import SqliteSpool
from tests.spool.house import House, envelope

LARGE = bytes(random.Random(1).choices(range(256), k=200_000))


class PowerDisk(Disk):
    """After each operation, keeps what a power cut would leave: of files and of their directory only what was
    synced.  SQLite's own files are kept as they are."""

    def __init__(self, state: Path) -> None:
        self.queue = state / "queue"
        self.shots = state / "shots"
        self.acknowledged: set[int] = set()
        self.begun: dict[int, bytes] = {}
        self.over: set[int] = set()          # what was handed to its recipient may be gone
        self.taken: list[tuple[Path, set[int], set[int]]] = []
        self._synced: dict[int, bytes] = {}  # inode to content
        self._names: dict[str, int] = {}     # the directory as of its last sync

    def _shoot(self) -> None:
        shot = self.shots / str(len(self.taken))
        (shot / "bodies").mkdir(parents=True)
        for name in ("spool.db", "spool.db-wal"):
            if (self.queue / name).exists():
                shutil.copy(self.queue / name, shot / name)
        for name, inode in self._names.items():
            (shot / "bodies" / name).write_bytes(self._synced.get(inode, b""))
        self.taken.append((shot, set(self.acknowledged), set(self.over)))

    def create(self, path: str) -> int:
        fd = super().create(path)
        self._shoot()
        return fd

    def write(self, fd: int, data: bytes) -> None:
        super().write(fd, data)
        self._shoot()

    def fsync(self, fd: int) -> None:
        super().fsync(fd)
        path = os.readlink(f"/proc/self/fd/{fd}")
        self._synced[os.fstat(fd).st_ino] = Path(path).read_bytes()
        self._shoot()

    def rename(self, old: str, new: str) -> None:
        super().rename(old, new)
        self._shoot()

    def unlink(self, path: str) -> None:
        super().unlink(path)
        self._shoot()

    def fsync_directory(self, path: str) -> None:
        super().fsync_directory(path)
        if path.endswith("/bodies"):
            self._names = {entry.name: entry.inode() for entry in os.scandir(path)}
        self._shoot()

    def commit(self, connection: sqlite3.Connection) -> None:
        self._shoot()
        super().commit(connection)
        self._shoot()


def read_body(spool: SqliteSpool, msgid: int) -> bytes | None:
    message = spool.message(msgid)
    if message is None:
        return None
    if not message.file:
        return spool.body(msgid)
    file = spool.bodies.open(message)
    try:
        return file.read(0, message.size)
    finally:
        file.close()


def deliver(house: House, disk: PowerDisk, msgid: int) -> None:
    house.dispatch(msgid << 32 | 1)
    disk.over.add(msgid)
    house.report(msgid << 32 | 1, Outcome.OK)
    house.expect(house.scheduler, QueueDone)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the names of descriptors in /proc")
@pytest.mark.parametrize("settings", [{}, {"queue_compression": True, "queue_key": Secret("k" * 32)}],
                         ids=["plain", "coded"])
def test_after_every_operation(tmp_path: Path, settings: dict[str, Any]) -> None:
    disk = PowerDisk(tmp_path)
    house = House(tmp_path, disk, **settings)
    coding = house.queue.bodies.coding
    for body in (b"small\r\n", LARGE, b"", LARGE[:131_073], b"last\r\n"):
        msgid = house.msgid()
        disk.begun[msgid] = body
        house.begin(body, [envelope(), envelope(rcpt="carol@example.net")][: 1 + len(body) % 2], msgid)
        assert house.expect(house.smtp, SmtpMessageCommitted).ok
        disk.acknowledged.add(msgid)
        if len(body) == len(LARGE):
            deliver(house, disk, msgid)
    house.say(house.smtp, SmtpBody(99, LARGE[:65536]))
    house.say(house.smtp, SmtpBody(99, LARGE[:65536]))
    house.say(house.smtp, SmtpBody(99, b"never committed"))
    house.until(lambda: house.queue.inbox.held == 0)      # the thread has written it
    house.kill()
    disk._shoot()
    assert len(disk.taken) > 25
    for shot, acknowledged, over in disk.taken:
        if not (shot / "spool.db").exists():
            assert not acknowledged
            continue
        spool = SqliteSpool(str(shot), 1, coding=coding)
        assert [line for line in spool.warnings if line.startswith("warn")] == [], shot
        for msgid, body in disk.begun.items():
            found = read_body(spool, msgid)
            assert found is None or found == body, (shot, msgid)
            envelopes = [item for item in spool.walk(msgid, 0, 9) if isinstance(item, Stored)]
            assert bool(envelopes) is (found is not None)
            if found is not None:
                assert len(envelopes) == 1 + len(body) % 2
            elif msgid in acknowledged:
                assert msgid in over, (shot, msgid)
        kept = {int(name, 16) for name in os.listdir(f"{shot}/bodies")}
        assert kept == {msgid for msgid in disk.begun if (m := spool.message(msgid)) and m.file}
        spool.close()


_WRITER = """
import sys
from pysmtpd.spool.backend import Change, Message, Stored
from pysmtpd.spool.sqlite import SqliteSpool
from tests.spool.house import NOW, envelope
spool = SqliteSpool(sys.argv[1], 1)
for msgid in range(1, 100000):
    body = b"%d" % msgid * 500
    insert = [Stored(envelope(msgid << 32 | 1), NOW, False)]
    spool.apply([Change(Message(msgid, len(body), 0, NOW, False), body, insert)])
    if msgid % 50 == 0:
        spool.checkpoint()
    print(msgid, flush=True)
"""


def test_killed_process(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    for round in range(2):
        directory = tmp_path / str(round)
        directory.mkdir()
        child = subprocess.Popen([sys.executable, "-c", _WRITER, str(directory)], stdout=subprocess.PIPE, cwd=root)
        assert child.stdout is not None
        told = [int(child.stdout.readline())]
        time.sleep(0.1 + 0.07 * round)
        child.send_signal(signal.SIGKILL)
        told += [int(line) for line in child.stdout.read().split(b"\n")[:-1]]
        child.stdout.close()
        child.wait()
        spool = SqliteSpool(str(directory), 1)
        assert len(told) > 5
        for msgid in told:
            assert spool.body(msgid) == b"%d" % msgid * 500
            assert len(spool.load([msgid << 32 | 1])) == 1
        assert spool._writer.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        spool.close()
