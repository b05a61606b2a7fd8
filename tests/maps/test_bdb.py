"""maps.bdb, maps.bdb185: the files of Berkeley DB, and damaged ones."""

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pysmtpd.maps import BadMap
from pysmtpd.maps.bdb import entries, find_reader

DATA = Path(__file__).parent / "data"
FILES = ("bdb185-hash.db", "bdb185-btree.db", "libdb53-hash.db", "libdb53-btree.db")
CONTENT = {name: (DATA / name).read_bytes() for name in FILES}
ENTRIES = {
    **{b"user%d\0" % number: b"value%d@example.org\0" % number for number in range(40)},
    b"big\0": b"0123456789" * 60 + b"\0",
    b"k" * 300 + b"\0": b"long key\0",
}


@pytest.mark.parametrize("name", FILES)
def test_every_entry_is_read_once(name: str) -> None:
    found = list(entries(CONTENT[name]))
    assert {**ENTRIES, **{key: value for key, value in found if key == b"gone\0"}} == dict(found)
    assert len(found) == len(dict(found))


@pytest.mark.parametrize("start", [b"", b"\0" * 64, b"SQLite format 3\0" + b"\0" * 64, b"alias: value\n" * 9])
def test_other_files_are_none(start: bytes) -> None:
    assert find_reader(start) is None
    with pytest.raises(BadMap):
        list(entries(start))


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_entries_or_a_bad_map(name: str, data: st.DataObject) -> None:
    octets = bytearray(CONTENT[name])
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(octets) - 1) | st.integers(0, 130))
        octets[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(octets)) | st.just(len(octets)))
    try:
        for key, value in entries(bytes(octets[:cut])):
            assert isinstance(key, bytes) and isinstance(value, bytes)
    except BadMap:
        pass


@pytest.mark.parametrize("name", FILES)
def test_every_octet_may_be_any_extreme(name: str) -> None:
    good = CONTENT[name]
    for at in range(0, len(good), 17):
        for octet in (0, 255):
            try:
                list(entries(good[:at] + bytes([octet]) + good[at + 1 :]))
            except BadMap:
                pass


def test_pages_in_a_circle_come_to_an_end() -> None:
    octets = bytearray(CONTENT["bdb185-btree.db"])
    size, = struct.unpack_from("<I", octets, 8)
    for number in range(1, len(octets) // size):
        struct.pack_into("<I", octets, number * size + 8, 2)     # the next page of every page is page 2
    with pytest.raises(BadMap, match=r"circle|leaf|continue"):
        list(entries(bytes(octets)))


def test_an_encrypted_file_is_refused() -> None:
    octets = bytearray(CONTENT["libdb53-hash.db"])
    octets[24] = 1
    with pytest.raises(BadMap, match="encrypted"):
        list(entries(bytes(octets)))
