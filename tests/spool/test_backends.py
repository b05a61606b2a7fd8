"""SQLite's spool and the one in memory do the same, whatever happens."""

import os
import sqlite3
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pysmtpd.base.envelope import Agent, BounceKind, Ret
from pysmtpd.base.mailaddr import MailAddr
from pysmtpd.base.struct import replace
from pysmtpd.spool import schema
from pysmtpd.spool.backend import Backend, Change, Message, SpoolConflict, SpoolError, Stored, Unreadable
from pysmtpd.spool.bodies import Disk
from pysmtpd.spool.ram import RamSpool
from pysmtpd.spool.sqlite import SqliteSpool
from tests.spool.house import NOW, envelope

clean_text = st.text(st.characters(blacklist_categories=("Cc", "Cs", "Zl", "Zp")), max_size=12)
addresses = st.builds(MailAddr, clean_text, clean_text)
numbers = st.integers(0, 2**32 - 1)


@st.composite
def envelopes(draw: st.DrawFn, evpid: int = 1 << 32 | 1) -> Stored:
    texts = {name: draw(clean_text) for name in ("action", "user", "command", "tag", "smtpname", "helo", "hostname",
                                                 "username", "source", "envid", "orcpt", "errorline")}
    ints = {name: draw(numbers) for name in ("flags", "ctime", "ttl", "last_try", "last_bounce", "retry",
                                             "bounce_delay")}
    e = envelope(
        evpid, agent=draw(st.sampled_from(Agent)), sender=draw(addresses), rcpt="x@y", notify=draw(st.integers(0, 255)),
        ret=draw(st.sampled_from(Ret)), bounce=draw(st.sampled_from(BounceKind)),
        esc=draw(st.sampled_from(["", "5.1.1"])), **texts, **ints,
    )
    return Stored(replace(e, dest=draw(addresses)), draw(st.integers(0, 2**40 - 1)), draw(st.booleans()))


@given(envelopes())
@settings(max_examples=60)
def test_envelope_survives_its_row(stored: Stored) -> None:
    assert schema.from_row(schema.to_row(stored)) == stored


msgids = st.sampled_from([1, 2, 3, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
evpids = st.builds(lambda msgid, number: msgid << 32 | number, msgids, st.integers(1, 4))


UPDATES: list[dict[str, object]] = [
    {"due": NOW + 9}, {"suspended": 1}, {"suspended": 0}, {"retry": 3, "due": NOW},
    {"errorline": "no", "esc": "4.0.0"}, {"agent": Agent.BOUNCE},
]  # fmt: skip


@st.composite
def changes(draw: st.DrawFn) -> Change:
    kind = draw(st.sampled_from(["message", "message", "update", "delete", "notice", "mark"]))
    if kind == "message":
        msgid = draw(msgids)
        body = draw(st.binary(max_size=20))
        count = draw(st.integers(1, 3))
        insert = [
            Stored(envelope(msgid << 32 | n, agent=draw(st.sampled_from(Agent))), NOW + draw(st.integers(0, 3)), False)
            for n in range(1, count + 1)
        ]
        return Change(Message(msgid, len(body), draw(st.integers(0, 1)), NOW, False), body, insert)
    if kind == "update":
        return Change(update=[(draw(evpids), draw(st.sampled_from(UPDATES)))])
    if kind == "notice":
        return Change(notices=[Stored(envelope(draw(msgids) << 32, agent=Agent.BOUNCE), NOW, False)])
    if kind == "mark":
        return Change(next_msgid=draw(msgids))
    return Change(delete=draw(st.lists(evpids, min_size=1, max_size=4)))


def apply(backend: Backend, group: list[Change]) -> object:
    try:
        backend.apply(group)
    except SpoolConflict:
        return "conflict"
    return [(change.gone, [n.envelope.evpid for n in change.numbered]) for change in group]


def state(backend: Backend) -> object:
    due = [backend.due(agent, after, evpid, NOW + 5, limit) for agent in Agent
           for after, evpid, limit in ((0, 0, 100), (NOW, 2 << 32, 2), (NOW, 0x80000000 << 32 | 1, 100))]
    walked = [backend.walk(msgid, after, limit) for msgid in (0, 2, 0xFFFFFFFF)
              for after, limit in ((0, 100), (0x7FFFFFFF << 32 | 2, 3))]
    known = [(backend.message(m), backend.body(m)) for m in (1, 2, 3, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)]
    assert backend.count() == len(backend.walk(0, 0, 10_000))
    return due, walked, known, backend.next_msgid(), backend.used_msgid(2, 0xFFFFFFFE)


@given(st.lists(st.lists(changes(), min_size=1, max_size=4), max_size=8))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_same_changes_same_state(groups: list[list[Change]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        disk, ram = SqliteSpool(directory, 77), RamSpool(first_msgid=77)
        for group in groups:
            assert apply(disk, group) == apply(ram, group)
            assert state(disk) == state(ram)
        before = state(disk)
        disk.close()
        again = SqliteSpool(directory, 1)
        assert state(again) == before
        again.close()


@pytest.fixture(params=["sqlite", "ram"])
def spool(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    return SqliteSpool(str(tmp_path), 1) if request.param == "sqlite" else RamSpool()


def message(msgid: int, count: int = 1, due: int = NOW) -> Change:
    insert = [Stored(envelope(msgid << 32 | n), due, False) for n in range(1, count + 1)]
    return Change(Message(msgid, 4, 0, NOW, False), b"body", insert)


def test_conflict_undoes_the_whole_group(spool: Backend) -> None:
    spool.apply([message(1)])
    with pytest.raises(SpoolConflict):
        spool.apply([message(2), message(1)])
    assert spool.message(2) is None
    assert spool.load([2 << 32 | 1]) == []


def test_message_goes_with_its_last_envelope(spool: Backend) -> None:
    spool.apply([message(1, count=2)])
    spool.apply([Change(delete=[1 << 32 | 1])])
    assert spool.body(1) == b"body"
    spool.apply([Change(delete=[1 << 32 | 2])])
    assert spool.body(1) is None


def test_numbers_are_not_used_twice(spool: Backend) -> None:
    spool.apply([message(1, count=2)])
    notice = Stored(envelope(1 << 32), NOW, False)
    first, second = Change(notices=[notice]), Change(notices=[notice])
    spool.apply([first])
    spool.apply([Change(delete=[1 << 32 | 3])])
    spool.apply([second])
    assert [first.numbered[0].envelope.evpid, second.numbered[0].envelope.evpid] == [1 << 32 | 3, 1 << 32 | 4]


def test_pages_meet_without_gap_or_overlap(spool: Backend) -> None:
    spool.apply([message(msgid, count=3, due=NOW + msgid % 3) for msgid in (9, 0x80000001, 5, 7, 0xFFFFFFFF)])
    seen, after = [], (0, 0)
    while page := spool.due(Agent.MTA, *after, NOW + 10, 4):
        seen += [(schedule.due, schedule.evpid) for schedule in page]
        after = seen[-1]
    assert len(seen) == 15
    assert seen == sorted(seen)


def test_unknown_column_is_a_bug(spool: Backend) -> None:
    spool.apply([message(1)])
    with pytest.raises(KeyError):
        spool.apply([Change(update=[(1 << 32 | 1, {"evpid = 1; --": 1})])])


def test_damaged_rows_are_told_apart(tmp_path: Path) -> None:
    spool = SqliteSpool(str(tmp_path), 1)
    spool.apply([message(1, count=4)])
    execute = spool._writer.execute
    execute("UPDATE envelope SET agent = 99 WHERE number = 1")
    execute("UPDATE envelope SET helo = CAST(x'ff' AS TEXT) WHERE number = 2")
    execute("UPDATE envelope SET errorline = 'a' || char(10) || 'b' WHERE number = 3")
    found = spool.walk(0, 0, 10)
    assert [item.evpid & 7 for item in found if isinstance(item, Unreadable)] == [1, 2, 3]
    assert [schedule.evpid & 7 for schedule in spool.due(Agent.MTA, 0, 0, NOW, 10)] == [4]
    assert spool._writer.execute("SELECT count(*) FROM envelope").fetchone() == (4,)


def test_other_databases_are_refused(tmp_path: Path) -> None:
    import sqlite3

    other = sqlite3.connect(tmp_path / "spool.db")
    other.execute("CREATE TABLE t (x)")
    other.close()
    with pytest.raises(SpoolError, match="not a spool"):
        SqliteSpool(str(tmp_path), 1)
    (tmp_path / "spool.db").write_bytes(b"not a database at all" * 500)
    with pytest.raises(SpoolError, match="not a database"):
        SqliteSpool(str(tmp_path), 1)


def test_a_spool_of_the_first_version_is_brought_up_to_date(tmp_path: Path) -> None:
    import sqlite3

    spool = SqliteSpool(str(tmp_path), 1)
    tagged = envelope(1 << 32 | 2, rcpt="bob+Lists+x@example.net", agent=Agent.MDA, user="bob")
    new = message(1, count=2)
    new.insert = [new.insert[0], Stored(tagged, NOW, False)]
    spool.apply([new])
    spool.close()
    old = sqlite3.connect(tmp_path / "spool.db")
    for column in ("auth", "remote", "subaddress"):
        old.execute(f"ALTER TABLE envelope DROP COLUMN {column}")
    old.execute("ALTER TABLE meta DROP COLUMN key_check")
    old.execute("DROP INDEX message_encrypted")
    old.execute("PRAGMA user_version = 1")
    old.commit()
    old.close()
    spool = SqliteSpool(str(tmp_path), 1)
    assert spool.load([1 << 32 | 1]) == [Stored(envelope(1 << 32 | 1), NOW, False)]
    assert spool.load([1 << 32 | 2]) == [Stored(replace(tagged, subaddress="lists+x"), NOW, False)]
    spool.close()


def test_newer_version_is_refused(tmp_path: Path) -> None:
    spool = SqliteSpool(str(tmp_path), 1)
    spool._writer.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    spool.close()
    with pytest.raises(SpoolError, match="newer"):
        SqliteSpool(str(tmp_path), 1)


def test_settings_are_those_of_the_design(tmp_path: Path) -> None:
    spool = SqliteSpool(str(tmp_path), 1)
    wanted = {"journal_mode": "wal", "synchronous": 2, "wal_autocheckpoint": 0, "page_size": 4096, "temp_store": 2,
              "mmap_size": 0, "application_id": schema.APPLICATION_ID, "user_version": schema.VERSION}
    assert {name: spool._writer.execute(f"PRAGMA {name}").fetchone()[0] for name in wanted} == wanted
    with pytest.raises(Exception, match="readonly"):
        spool._reader.execute("DELETE FROM meta")
    spool.close()


def test_first_id_is_kept(tmp_path: Path) -> None:
    SqliteSpool(str(tmp_path), 4711).close()
    assert SqliteSpool(str(tmp_path), 1).next_msgid() == 4711


def test_deleting_bodies_takes_little_log(tmp_path: Path) -> None:
    """Or a disk that is full of mail stays full."""
    spool = SqliteSpool(str(tmp_path), 1)
    count, size = 40, 100_000
    for msgid in range(1, count + 1):
        stored = Stored(envelope(msgid << 32 | 1), NOW, False)
        spool.apply([Change(Message(msgid, size, 0, NOW, False), b"x" * size, [stored])])
    spool.close()                  # the log is gone
    spool = SqliteSpool(str(tmp_path), 1)
    spool.apply([Change(delete=[msgid << 32 | 1 for msgid in range(1, count + 1)])])
    assert (tmp_path / "spool.db-wal").stat().st_size < count * size // 10
    spool.close()


def test_room_counts_what_can_be_used_again(tmp_path: Path) -> None:
    """The database does not shrink: on a full disk, what was deleted makes room."""
    class FullDisk(Disk):
        def room(self, path: str) -> int:
            return 0

    spool = SqliteSpool(str(tmp_path), 1, FullDisk())
    stored = Stored(envelope(1 << 32 | 1), NOW, False)
    spool.apply([Change(Message(1, 100_000, 0, NOW, False), b"x" * 100_000, [stored])])
    before = spool.room()
    spool.apply([Change(delete=[1 << 32 | 1])])
    assert spool.room() >= before + 90_000
    spool.close()


def test_bodies_whose_database_is_gone_are_not_swept(tmp_path: Path) -> None:
    """Put back from a copy without spool.db, or by mistake in the wrong order: nothing of it may be lost by a start."""
    for number in (1, 2):
        bodies = tmp_path / "bodies"
        bodies.mkdir()
        (bodies / "0000abcd").write_bytes(b"mail")
        (bodies / "tmp.1").write_bytes(b"rest")
        spool = SqliteSpool(str(tmp_path), 1)
        spool.close()
        lost = tmp_path / f"lost.{number}"
        assert spool.warnings == [
            f"warn: queue: {tmp_path}/spool.db is new, but there were bodies: moved to {lost}"]
        assert (lost / "0000abcd").read_bytes() == b"mail"
        assert list(bodies.iterdir()) == []
        bodies.rmdir()
        for file in tmp_path.glob("spool.db*"):
            file.unlink()


def test_what_no_message_names_is_swept(tmp_path: Path) -> None:
    SqliteSpool(str(tmp_path), 1).close()
    (tmp_path / "bodies" / "0000abcd").write_bytes(b"mail")
    spool = SqliteSpool(str(tmp_path), 1)
    spool.close()
    assert spool.warnings == ["info: queue: 1 unreferenced bodies removed"]


@pytest.mark.parametrize("blocks, files", [(0, 9), (9, 0), (9, 9)])
def test_a_start_on_a_full_disk_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: int, files: int
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(sqlite3, "connect", failing)
    found = os.statvfs_result((4096, 4096, 9, blocks, blocks, 9, files, files, 0, 255))
    monkeypatch.setattr("os.statvfs", lambda _path: found)
    hint = "" if blocks and files else " (the disk is full)"
    with pytest.raises(SpoolError) as told:
        SqliteSpool(str(tmp_path), 1)
    assert str(told.value) == f"{tmp_path}/spool.db: disk I/O error{hint}"
