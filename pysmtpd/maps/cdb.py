"""Our own map files: cdb (D. J. Bernstein's constant data base), with 16 octets behind it that say who made it.

A cdb is written once, read in place with two or three small reads, and replaced by renaming another over it; who has
it open goes on reading the old one.  Keys and values end in nothing.  Other readers of cdb do not mind the mark.
"""

import struct
from collections.abc import Callable, Iterable, Iterator

from pysmtpd.maps import BadMap

Read = Callable[[int, int], bytes]     # offset, size: at most so many octets
Entry = tuple[bytes, bytes]

SIZE_MAX = (1 << 32) - 1               # octets of a file
ITEM_MAX = 1024 * 1024                 # octets of a key or value
HEADER = 2048                          # octets
_MARK = struct.Struct("<12sI")         # and the number of entries
_MAGIC = b"\npysmtpd-map"
_PAIR = struct.Struct("<II")
_SCAN = 65536                          # octets read at once by entries()


def hash_of(key: bytes) -> int:
    """The hash function of cdb."""
    value = 5381
    for octet in key:
        value = ((value << 5) + value ^ octet) & 0xFFFFFFFF
    return value


def build(entries: Iterable[Entry]) -> Iterator[bytes]:
    """A file in pieces; the first has to be written again at its beginning, in place of the empty one.

    Yields the empty header, records, hash tables and mark, and at last the header.  Raises BadMap when it is too
    large."""
    yield bytes(HEADER)
    at, count = HEADER, 0
    buckets: list[list[tuple[int, int]]] = [[] for _ in range(256)]
    for key, value in entries:
        if len(key) > ITEM_MAX or len(value) > ITEM_MAX:
            raise BadMap(f"a key or value of more than {ITEM_MAX} octets")
        hashed = hash_of(key)
        buckets[hashed & 255].append((hashed, at))
        record = _PAIR.pack(len(key), len(value)) + key + value
        at, count = at + len(record), count + 1
        if at + 16 * count + _MARK.size > SIZE_MAX:
            raise BadMap("more than 4 GiB of entries")
        yield record
    header = []
    for bucket in buckets:
        header.append(_PAIR.pack(at, 2 * len(bucket)))
        table = _slots(bucket)
        at += len(table)
        yield table
    yield _MARK.pack(_MAGIC, count)
    yield b"".join(header)


def _slots(bucket: list[tuple[int, int]]) -> bytes:
    """A hash table with twice as many places as entries: hash and position of each."""
    size = 2 * len(bucket)
    slots: list[bytes | None] = [None] * size
    for hashed, at in bucket:
        place = (hashed >> 8) % size
        while slots[place] is not None:
            place = (place + 1) % size
        slots[place] = _PAIR.pack(hashed, at)
    return b"".join(slot or bytes(_PAIR.size) for slot in slots)


def is_ours(start: bytes, end: bytes) -> bool:
    """Whether a file that begins and ends like this was made by build().  end: its last 16 octets."""
    return len(start) >= _PAIR.size and end[:12] == _MAGIC and _PAIR.unpack_from(start)[0] >= HEADER


def begins(start: bytes) -> bool:
    """Whether a file that begins with these 2048 octets can be one of build(): its tables follow one another."""
    if len(start) < HEADER:
        return False
    tables = [_PAIR.unpack_from(start, 8 * index) for index in range(256)]
    ends = [at + 8 * places for at, places in tables]
    return tables[0][0] >= HEADER and all(end == after[0] for end, after in zip(ends, tables[1:], strict=False))


class Cdb:
    """A map file, looked up in place.  Every method may raise BadMap, or OSError from read."""

    def __init__(self, read: Read, size: int) -> None:
        self._read = read
        self._size = size
        header = self._exactly(0, HEADER)
        mark = self._exactly(size - _MARK.size, _MARK.size)
        if not is_ours(header, mark):
            raise BadMap("is no map of ours")
        self.count: int = _MARK.unpack(mark)[1]
        self._tables = [_PAIR.unpack_from(header, 8 * index) for index in range(256)]
        self._records_end = min(table[0] for table in self._tables)

    def get(self, key: bytes) -> bytes | None:
        """The value of a key."""
        hashed = hash_of(key)
        at, places = self._tables[hashed & 255]
        if not places:
            return None
        place = (hashed >> 8) % places
        for _ in range(places):
            found, record = _PAIR.unpack(self._exactly(at + 8 * place, 8))
            if not record:
                return None
            if found == hashed:
                stored, value = self._record(record, len(key))
                if stored == key:
                    return value
            place = place + 1 if place + 1 < places else 0
        return None

    def entries(self) -> Iterator[Entry]:
        """All entries, in the order they were written."""
        at, buffer = HEADER, b""
        while at < self._records_end:
            if len(buffer) < 8:
                buffer = self._exactly(at, min(_SCAN, self._size - at))
            sizes = _PAIR.unpack_from(buffer)
            length = 8 + self._judged(*sizes)
            if len(buffer) < length:
                buffer = self._exactly(at, min(max(_SCAN, length), self._size - at))
                if len(buffer) < length:
                    raise BadMap("is damaged")
            yield buffer[8 : 8 + sizes[0]], buffer[8 + sizes[0] : length]
            at, buffer = at + length, buffer[length:]

    def _record(self, at: int, guess: int) -> Entry:
        """A record, whose key is probably so long."""
        start = self._read(at, 8 + guess + 256)
        if len(start) < 8:
            raise BadMap("is damaged")
        key_size, value_size = _PAIR.unpack_from(start)
        length = 8 + self._judged(key_size, value_size)
        if len(start) < length:
            start = self._exactly(at, length)
        return start[8 : 8 + key_size], start[8 + key_size : length]

    def _judged(self, key_size: int, value_size: int) -> int:
        if key_size > ITEM_MAX or value_size > ITEM_MAX:
            raise BadMap("is damaged")
        return key_size + value_size

    def _exactly(self, at: int, size: int) -> bytes:
        data = self._read(at, size) if 0 <= at <= self._size - size else b""
        if len(data) != size:
            raise BadMap("is damaged, or was cut short")
        return data
