"""Berkeley DB 1.85, which OpenBSD's makemap writes.

A btree's numbers are in the byte order of its machine; so are those of a hash, but for its header.
"""

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from pysmtpd.maps import BadMap
from pysmtpd.maps.bdb import BTREE_MAGIC, HASH_MAGIC, Entry
from pysmtpd.maps.pages import ITEM_MAX, Pages

# btree (btree.h)
_BTREE_VERSION = 3
_PAGE_HEADER = 20
_INTERNAL, _LEAF, _OVERFLOW = 0x01, 0x02, 0x04
_BIG_DATA, _BIG_KEY = 0x01, 0x02
_ROOT = 1
_DEPTH_MAX = 64

# hash (hash.h, page.h): what stands where a page has the offset of a value.
_HASH_VERSION = 2
_LINK, _PART_OF_KEY, _WHOLE_KEY, _WHOLE_PAIR, _REAL = 0, 1, 2, 3, 4
_SPLIT_SHIFT, _SPLIT_MASK = 11, 0x7FF
_SPARES_AT = 68                    # after 17 numbers


def find_reader(start: bytes) -> Callable[[bytes], Iterator[Entry]] | None:
    """What reads a file that begins like this; None when it is no such file."""
    if len(start) >= 24 and struct.unpack_from(">II", start) == (HASH_MAGIC, _HASH_VERSION):
        return _hash_entries
    if any(len(start) >= 24 and struct.unpack_from(f"{order}II", start) == (BTREE_MAGIC, _BTREE_VERSION)
           for order in "<>"):
        return _btree_entries
    return None


# btree

def _btree_entries(data: bytes) -> Iterator[Entry]:
    order = "<" if struct.unpack_from("<I", data)[0] == BTREE_MAGIC else ">"
    pages = Pages(data, struct.unpack_from(f"{order}I", data, 8)[0], order)
    number = _first_leaf(pages)
    while number:
        pages.spend(pages.size)
        page = pages.page(number)
        if not _flags(pages, page) & _LEAF:
            raise BadMap("is damaged: a page that should be a leaf is none")
        for offset in _offsets(pages, page):
            yield _pair(pages, page, offset)
        number, = struct.unpack_from(f"{order}I", page, 8)


def _flags(pages: Pages, page: bytes) -> int:
    flags: int = struct.unpack_from(f"{pages.order}I", page, 12)[0]
    return flags


def _first_leaf(pages: Pages) -> int:
    number = _ROOT if len(pages) > _ROOT else 0
    for _ in range(_DEPTH_MAX):
        page = pages.page(number)
        if not number or not _flags(pages, page) & _INTERNAL:
            return number
        offsets = _offsets(pages, page)
        if not offsets:
            break
        number, = struct.unpack_from(f"{pages.order}I", page, pages.within(offsets[0] + 7) - 3)
    raise BadMap("is damaged: no way to its first leaf")


def _offsets(pages: Pages, page: bytes) -> list[int]:
    lower, = struct.unpack_from(f"{pages.order}H", page, 16)
    if not _PAGE_HEADER <= lower <= len(page):
        raise BadMap("is damaged: a page with a wrong number of items")
    return list(struct.unpack_from(f"{pages.order}{(lower - _PAGE_HEADER) // 2}H", page, _PAGE_HEADER))


def _pair(pages: Pages, page: bytes, offset: int) -> Entry:
    """Two lengths, flags, the key, the value; what is big is a page and a length instead."""
    pages.within(offset + 8)
    key_size, size, flags = struct.unpack_from(f"{pages.order}IIB", page, offset)
    middle = offset + 9 + key_size
    if middle + size > len(page):
        raise BadMap("is damaged: an item beyond its page")
    key, value = page[offset + 9 : middle], page[middle : middle + size]
    return (_big(pages, key) if flags & _BIG_KEY else key), (_big(pages, value) if flags & _BIG_DATA else value)


def _big(pages: Pages, where: bytes) -> bytes:
    if len(where) != 8:
        raise BadMap("is damaged: an item beyond its page")
    number, length = struct.unpack(f"{pages.order}II", where)
    return pages.chain(number, length, lambda page: _overflow(pages, page))


def _overflow(pages: Pages, page: bytes) -> tuple[bytes, int]:
    if not _flags(pages, page) & _OVERFLOW:
        raise BadMap("is damaged: a page that should continue an item does not")
    return page[_PAGE_HEADER:], struct.unpack_from(f"{pages.order}I", page, 8)[0]


# hash

class _Hash(NamedTuple):
    """The header, as far as it is needed to find pages."""

    pages: Pages
    header_pages: int
    spares: tuple[int, ...]

    def bucket(self, number: int) -> int:
        """The page a bucket begins on: behind the pages that overflowed when there were half as many."""
        before = self.spares[number.bit_length() - 1] if number else 0
        return number + self.header_pages + before

    def overflow(self, address: int) -> int:
        """The page of an overflow address: a power of two, and a count from there."""
        power = address >> _SPLIT_SHIFT
        return self.bucket((1 << power) - 1) + (address & _SPLIT_MASK)


def _hash_entries(data: bytes) -> Iterator[Entry]:
    if len(data) < _SPARES_AT + 32 * 4:
        raise BadMap("is damaged: cut short")
    order_word, size = struct.unpack_from(">II", data, 8)
    last, = struct.unpack_from(">I", data, 40)
    header_pages, = struct.unpack_from(">I", data, 60)
    order = {1234: "<", 4321: ">"}.get(order_word)
    if order is None:
        raise BadMap("is damaged: its header makes no sense")
    table = _Hash(Pages(data, size, order), header_pages, struct.unpack_from(">32I", data, _SPARES_AT))
    # No bucket is on a page before its own number; those at the end that were never written are empty.
    for bucket in range(min(last + 1, len(table.pages))):
        number = table.bucket(bucket)
        if number < len(table.pages):
            yield from _bucket_entries(table, number)


def _words(table: _Hash, number: int) -> tuple[bytes, list[int]]:
    """A page, and the words at its beginning: how many follow, and two for each pair."""
    pages = table.pages
    pages.spend(pages.size)
    page = pages.page(number)
    count, = struct.unpack_from(f"{pages.order}H", page)
    if count % 2 or 2 * count + 6 > len(page):
        raise BadMap("is damaged: a page with a wrong number of items")
    return page, list(struct.unpack_from(f"{pages.order}{count + 3}H", page))


def _bucket_entries(table: _Hash, number: int) -> Iterator[Entry]:
    page, words = _words(table, number)
    at = 1
    while words[0] and at < words[0]:
        if words[at + 1] == _LINK:
            page, words = _words(table, table.overflow(words[at]))
            at = 1
        elif words[at + 1] < _REAL:
            key, value, words = _big_pair(table, page, words)
            yield key, value
            if words[0] == 2:
                return
            page, words = _following(table, words)
            at = 1
        else:
            end = words[at - 1] if at > 1 else len(page)
            yield _slice(page, words[at], end), _slice(page, words[at + 1], words[at])
            at += 2


def _slice(page: bytes, start: int, end: int) -> bytes:
    if not start <= end <= len(page):
        raise BadMap("is damaged: an item beyond its page")
    return page[start:end]


def _following(table: _Hash, words: list[int]) -> tuple[bytes, list[int]]:
    """The page that a page of a big pair names."""
    if words[0] < 2:
        raise BadMap("is damaged: a page that should continue an item does not")
    return _words(table, table.overflow(words[words[0] - 1]))


def _big_pair(table: _Hash, page: bytes, words: list[int]) -> tuple[bytes, bytes, list[int]]:
    """A pair with pages of its own: its key up to the page that says so, then its value likewise.

    Where room was left on the page on which the key ends, the value is there, whole; else it has pages of its own, and
    may begin on that page.  Returns also the words of the last page."""
    key = _Parts()
    while words[2] == _PART_OF_KEY:
        key.add(_slice(page, words[1], len(page)))
        page, words = _following(table, words)
    key.add(_slice(page, words[1], len(page)))
    value = _Parts()
    if words[2] == _WHOLE_PAIR:
        value.add(_slice(page, words[words[0]], words[1]))
        if words[words[0] + 1]:
            return key.whole(), value.whole(), words
    page, words = _following(table, words)
    while words[2] != _WHOLE_PAIR:
        value.add(_slice(page, words[1], len(page)))
        page, words = _following(table, words)
    value.add(_slice(page, words[1], len(page)))
    return key.whole(), value.whole(), words


class _Parts:
    """An item that is put together."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, part: bytes) -> None:
        self._parts.append(part)
        self._size += len(part)
        if self._size > ITEM_MAX:
            raise BadMap(f"holds an item of more than {ITEM_MAX} octets")

    def whole(self) -> bytes:
        return b"".join(self._parts)
