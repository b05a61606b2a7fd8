"""maps.cdb: our own map files."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pysmtpd.maps import BadMap
from pysmtpd.maps.cdb import HEADER, Cdb, begins, build, hash_of


def made(entries: dict[bytes, bytes]) -> bytes:
    pieces = list(build(entries.items()))
    assert pieces[0] == bytes(len(pieces[-1]))
    return b"".join((pieces[-1], *pieces[1:-1]))


def opened(data: bytes) -> Cdb:
    return Cdb(lambda at, size: data[at : at + size], len(data))


@given(st.dictionaries(st.binary(max_size=12), st.binary(max_size=40), max_size=60), st.binary(max_size=12))
def test_what_was_written_is_found(entries: dict[bytes, bytes], other: bytes) -> None:
    cdb = opened(made(entries))
    assert dict(cdb.entries()) == entries and cdb.count == len(entries)
    assert {key: cdb.get(key) for key in entries} == entries
    assert cdb.get(other) == entries.get(other)


def test_the_hash_is_that_of_cdb() -> None:
    # 5381 * 33 xor octet, as in the definition of the format
    assert hash_of(b"") == 5381 and hash_of(b"a") == 177604 and hash_of(b"one") == 193420161


def test_large_entries_and_many() -> None:
    entries = {b"key%d" % number: b"v" * number for number in range(2000)} | {b"big": b"x" * 300_000}
    cdb = opened(made(entries))
    assert cdb.get(b"big") == entries[b"big"] and cdb.get(b"key1999") == entries[b"key1999"]
    assert dict(cdb.entries()) == entries


def test_a_look_up_takes_few_reads() -> None:
    data, reads = made({b"user%d" % number: b"value" for number in range(1000)}), list[int]()

    def read(at: int, size: int) -> bytes:
        reads.append(size)
        return data[at : at + size]

    cdb = Cdb(read, len(data))
    reads.clear()
    for number in range(1000):
        assert cdb.get(b"user%d" % number) == b"value"
    assert len(reads) < 4000 and max(reads) < 1024


GOOD = made({b"user%d" % number: b"value" for number in range(20)})


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=8),
       st.integers(0, len(GOOD)) | st.just(len(GOOD)))
def test_a_damaged_file_answers_something_or_is_a_bad_map(changes: list[tuple[int, int]], cut: int) -> None:
    octets = bytearray(GOOD)
    for at, octet in changes:
        octets[at] = octet
    try:
        cdb = opened(bytes(octets[:cut]))
        cdb.get(b"user1")
        assert len(list(cdb.entries())) < len(GOOD)
    except BadMap:
        pass


@given(st.dictionaries(st.binary(max_size=8), st.binary(max_size=8), max_size=40))
def test_the_beginning_tells_what_it_is(entries: dict[bytes, bytes]) -> None:
    data = made(entries)
    assert begins(data[:HEADER]) and not begins(data[: HEADER - 1])
    assert not begins(b"\xff" * 8 + data[8:HEADER]) and not begins(b"root: bob\n" * 205)


@pytest.mark.parametrize("data", [b"", b"x" * 10, b"\0" * 4096, GOOD[:-16], GOOD[:100]])
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(BadMap):
        opened(data)
