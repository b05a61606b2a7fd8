"""Bodies that are compressed or encrypted on the disk: read back whole, whatever the settings are, or not at all."""

import random
import sqlite3
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pysmtpd.conf.config import Secret
from pysmtpd.messages import BodyOpen, SmtpMessageCommitted
from pysmtpd.spool import schema
from pysmtpd.spool.backend import IS_CODED, IS_ENCRYPTED, Change, Message, SpoolError, Stored
from pysmtpd.spool.bodies import Bodies, Disk
from pysmtpd.spool.coding import PLAIN, RECORD, Coding, Decoder
from pysmtpd.spool.sqlite import SqliteSpool
from tests.spool.house import NOW, House, envelope
from tests.spool.test_outgoing import read

KEY = b"0123456789abcdef0123456789abcdef"
WAYS = {"small": Coding(compress=True), "secret": Coding(key=KEY), "both": Coding(compress=True, key=KEY)}
NOISE = random.Random(2).randbytes(3 * RECORD)
SIZES = [0, 1, 100, RECORD - 1, RECORD, RECORD + 1, 2 * RECORD, 2 * RECORD + 7]
TEXT = b"Subject: a secret that nobody shall find\r\n\r\n"
LARGE = TEXT + b"line after line after line\r\n" * 20_000
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {}, "small": {"queue_compression": True}, "secret": {"queue_key": Secret(KEY.decode())},
    "both": {"queue_compression": True, "queue_key": Secret(KEY.decode())},
}


def file_of(directory: Path, coding: Coding, body: bytes, pieces: list[int]) -> Message:
    """A body as a file, written in pieces of these sizes and the rest."""
    bodies = Bodies(str(directory), Disk(), coding)
    file = bodies.create()
    at = 0
    for size in [*pieces, len(body)]:
        file.write(body[at : at + size])
        at += size
    file.finish(7)
    return Message(7, len(body), coding.flags, NOW, True)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", SIZES)
def test_all_of_it_comes_back(way: str, size: int) -> None:
    coding = WAYS[way]
    for body in (NOISE[:size], bytes(size)):
        assert coding.decode(coding.encode(body)) == body


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(WAYS)), st.integers(0, 3 * RECORD),
       st.lists(st.integers(0, 100_000), max_size=4),
       st.lists(st.tuples(st.integers(0, 3 * RECORD), st.integers(1, 70_000)), max_size=6))
def test_any_part_of_a_file_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, way: str, size: int, pieces: list[int], parts: list[tuple[int, int]],
) -> None:
    directory, coding, body = tmp_path_factory.mktemp("bodies"), WAYS[way], NOISE[:size]
    message = file_of(directory, coding, body, pieces)
    file = Bodies(str(directory), Disk(), coding).open(message)
    for at, wanted in [*parts, (0, size)]:
        if at + wanted <= size or not wanted:
            assert file.read(at, wanted) == body[at : at + wanted]
        else:
            with pytest.raises(OSError, match=r"too short|cut off"):
                file.read(at, wanted)
    file.close()


def test_what_is_read_piece_by_piece_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = file_of(tmp_path, WAYS["both"], NOISE, [])
    asked: list[int] = []
    record = Decoder.record

    def counted(self: Decoder, number: int, kind: int, data: bytes) -> bytes:
        asked.append(number)
        return record(self, number, kind, data)

    monkeypatch.setattr(Decoder, "record", counted)
    file = Bodies(str(tmp_path), Disk(), WAYS["both"]).open(message)
    assert b"".join(file.read(at, 8192) for at in range(0, len(NOISE), 8192)) == NOISE
    assert asked == [0, 1, 2]
    file.close()


def test_nobody_finds_the_text(tmp_path: Path) -> None:
    file_of(tmp_path, WAYS["secret"], LARGE, [])
    stored = (tmp_path / "00000007").read_bytes()
    assert b"secret" not in stored
    assert len(stored) >= len(LARGE)
    file_of(tmp_path, WAYS["both"], LARGE, [])
    assert len((tmp_path / "00000007").read_bytes()) < len(LARGE) // 10
    assert WAYS["secret"].encode(TEXT) != WAYS["secret"].encode(TEXT)


def test_what_does_not_shrink_does_not_grow_much() -> None:
    assert len(WAYS["small"].encode(NOISE)) < len(NOISE) + 64


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_it_is_not_read(data: st.DataObject) -> None:
    coding = WAYS[data.draw(st.sampled_from(["secret", "both"]))]
    body = NOISE[: data.draw(st.integers(0, 2 * RECORD + 9))] if data.draw(st.booleans()) else TEXT
    coded = bytearray(coding.encode(body))
    at = data.draw(st.integers(0, len(coded) - 1))
    how = data.draw(st.sampled_from(["flip", "cut", "add", "double"]))
    if how == "flip":
        coded[at] ^= data.draw(st.integers(1, 255))
    elif how == "cut":
        del coded[at:]
    elif how == "add":
        coded += b"x"
    else:
        coded[at:at] = coded[at : at + 1 + data.draw(st.integers(0, 300))]
    with pytest.raises(SpoolError):
        coding.decode(bytes(coded))


def records(coded: bytes) -> list[bytes]:
    found, at = [], Decoder.HEAD
    while at < len(coded):
        _, length = Decoder.head(coded[at : at + Decoder.RECORD_HEAD])
        found.append(coded[at : at + Decoder.RECORD_HEAD + length])
        at += len(found[-1])
    return found


def test_records_have_their_place() -> None:
    coding = WAYS["secret"]
    coded, other = coding.encode(NOISE), coding.encode(NOISE)
    head, (first, second, last) = coded[: Decoder.HEAD], records(coded)
    assert coding.decode(head + first + second + last) == NOISE
    for wrong in ([second, first, last], [first, last], [first, second], [records(other)[0], second, last]):
        with pytest.raises(SpoolError):
            coding.decode(head + b"".join(wrong))


@pytest.mark.parametrize("kind, payload", [
    (3, zlib.compress(bytes(50_000_000))), (3, zlib.compress(b"abc")[:-1]), (1, b"x" * 70_000), (1, b"x" * 65_537),
    (8, b""), (0, b""),
], ids=["bomb", "cut", "long", "one more", "unknown", "no end"])
def test_a_record_that_is_too_much_is_refused(kind: int, payload: bytes) -> None:
    with pytest.raises(SpoolError, match=r"damaged|cut off"):
        PLAIN.decode(b"\x01" + bytes(16) + struct.pack(">BI", kind, len(payload)) + payload)


def test_only_the_key_reads_it() -> None:
    coded = WAYS["both"].encode(TEXT)
    with pytest.raises(SpoolError, match="there is no key"):
        WAYS["small"].decode(coded)
    with pytest.raises(SpoolError, match="another key"):
        Coding(key=KEY[::-1]).decode(coded)


# in the spool

def submit(house: House, body: bytes) -> int:
    msgid = house.msgid()
    house.begin(body, msgid=msgid)
    assert house.expect(house.smtp, SmtpMessageCommitted).ok
    return msgid


@pytest.mark.parametrize("now", SETTINGS)
def test_messages_are_read_whatever_is_done_to_new_ones(tmp_path: Path, now: str) -> None:
    bodies: dict[int, bytes] = {}
    for number, way in enumerate(way for way in SETTINGS if way in ("plain", "small") or now in ("secret", "both")):
        house = House(tmp_path, **SETTINGS[way])
        for body in (TEXT * (number + 1), LARGE + b"%d\r\n" % number):
            bodies[submit(house, body)] = body
        house.kill()
    assert len(bodies) == (8 if now in ("secret", "both") else 4)
    house = House(tmp_path, **SETTINGS[now])
    for reqid, (msgid, body) in enumerate(bodies.items(), 1):
        house.dispatch(msgid << 32 | 1)
        house.say(house.mta, BodyOpen(reqid, msgid))
        assert read(house, reqid) == (body, True)
        message = house.queue.backend.message(msgid)
        assert message is not None
        assert house.queue.reader.piece(message, 5, 100) == body[5:105]
        assert message.size == len(body)
    house.close()


@pytest.mark.parametrize("way", ["secret", "both"])
def test_nothing_of_a_message_is_in_the_clear(tmp_path: Path, way: str) -> None:
    house = House(tmp_path, **SETTINGS[way])
    submit(house, TEXT)
    submit(house, LARGE)
    house.kill()
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or b"nobody shall find" not in path.read_bytes(), path


@pytest.mark.parametrize("other", [Coding(), Coding(compress=True), Coding(key=KEY[::-1])])
def test_without_the_key_the_queue_does_not_start_and_loses_nothing(tmp_path: Path, other: Coding) -> None:
    house = House(tmp_path, **SETTINGS["both"])
    small, large = submit(house, TEXT), submit(house, LARGE)
    house.kill()
    with pytest.raises(SpoolError, match=r"2 messages are encrypted, .*start with the key they were stored with"):
        SqliteSpool(str(tmp_path / "queue"), 1, coding=other)
    spool = SqliteSpool(str(tmp_path / "queue"), 1, coding=WAYS["secret"])
    assert spool.body(small) == TEXT
    message = spool.message(large)
    assert message is not None
    file = spool.bodies.open(message)
    assert file.read(0, message.size) == LARGE
    file.close()
    spool.apply([Change(delete=[small << 32 | 1, large << 32 | 1])])
    spool.close()
    SqliteSpool(str(tmp_path / "queue"), 1, coding=other).close()     # now any key may come


def test_another_key_is_taken_when_nothing_is_encrypted(tmp_path: Path) -> None:
    for key in (KEY, KEY[::-1], KEY):
        spool = SqliteSpool(str(tmp_path), 1, coding=Coding(key=key))
        spool.apply([Change(Message(1, 3, IS_CODED | IS_ENCRYPTED, NOW, False), b"abc",
                            [Stored(envelope(1 << 32 | 1), NOW, False)])])
        assert spool.body(1) == b"abc"
        spool.apply([Change(delete=[1 << 32 | 1])])
        spool.close()


def test_a_spool_of_the_first_version_is_read(tmp_path: Path) -> None:
    old = sqlite3.connect(tmp_path / "spool.db", isolation_level=None)
    for statement in schema.MIGRATIONS[0]:
        old.execute(statement)
    old.execute("INSERT INTO meta (id, next_msgid, clean) VALUES (1, 9, 1)")
    old.execute("INSERT INTO message VALUES (8, 3, 0, 0, 0, 2, x'616263')")
    old.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    old.execute("PRAGMA user_version = 1")
    old.close()
    spool = SqliteSpool(str(tmp_path), 1, coding=WAYS["both"])
    assert spool.body(8) == b"abc"
    assert spool.next_msgid() == 9
    spool.close()


def test_who_does_not_ask_for_it_gets_nothing_of_it(tmp_path: Path) -> None:
    house = House(tmp_path)
    small, large = submit(house, TEXT), submit(house, LARGE)
    found = [house.queue.backend.message(msgid) for msgid in (small, large)]
    assert [one and one.flags & (IS_CODED | IS_ENCRYPTED) for one in found] == [0, 0]
    assert (tmp_path / "queue" / "bodies" / f"{large:08x}").read_bytes() == LARGE
    house.close()
