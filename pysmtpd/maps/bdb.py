"""Berkeley DB files, as OpenSMTPD's makemap writes them: hash and btree, of libdb 5 and of 4.4BSD (1.85).

Every page is looked at once, and every number in it is judged before it is used: a damaged file is a BadMap, whatever
is in it.  Nothing is looked up in place, for that would need each library's hash function; the entries are few enough
to be held, and makemap turns such a file into one that is not read whole.
"""

import struct
from collections.abc import Callable, Iterator

from pysmtpd.maps import BadMap
from pysmtpd.maps.pages import Pages

Entry = tuple[bytes, bytes]
FILE_MAX = 256 * 1024 * 1024       # octets
HASH_MAGIC, BTREE_MAGIC = 0x061561, 0x053162

# libdb 5: the 26 octets of every page's header, and the types of pages and items (db_page.h).
_HEADER = 26
_OVERFLOW, _LEAF, _HASHES = 7, 5, (2, 13)
_HASH_META, _BTREE_META = 8, 9
_CHECKSUM = 0x01
_SUBDATABASES = {_HASH_META: 0x02, _BTREE_META: 0x20}
_KEYDATA, _DUPLICATE, _OFF_PAGE = 1, (2, 4), 3
_DELETED = 0x80


def entries(data: bytes) -> Iterator[Entry]:
    """All entries of a file.  Raises BadMap, at once or in the middle."""
    reader = find_reader(data[:64])
    if reader is None:
        raise BadMap("is no Berkeley DB file")
    return reader(data)


def find_reader(start: bytes) -> Callable[[bytes], Iterator[Entry]] | None:
    """What reads a file that begins like this; None when it is no such file."""
    from pysmtpd.maps import bdb185  # it needs this module's words

    for order in "<>":
        if len(start) >= 64 and struct.unpack_from(f"{order}I", start, 12)[0] in (HASH_MAGIC, BTREE_MAGIC):
            return _entries
    return bdb185.find_reader(start)


def _entries(data: bytes) -> Iterator[Entry]:
    pages = _open(data)
    for number in range(1, len(pages)):
        page = pages.page(number)
        kind = page[25]
        if kind == _LEAF:
            yield from _items(pages, page, _leaf_item)
        elif kind in _HASHES:
            yield from _items(pages, page, _hash_item)


def _open(data: bytes) -> Pages:
    order = "<" if struct.unpack_from("<I", data, 12)[0] in (HASH_MAGIC, BTREE_MAGIC) else ">"
    size, = struct.unpack_from(f"{order}I", data, 20)
    encrypted, kind, flags = data[24:27]
    more, = struct.unpack_from(f"{order}I", data, 48)
    if encrypted or flags & _CHECKSUM:
        raise BadMap("is encrypted, or has checksums")
    if kind not in _SUBDATABASES or more & _SUBDATABASES[kind]:
        raise BadMap("holds more than one database")
    return Pages(data, size, order)


Item = Callable[[Pages, bytes, list[int], int], bytes]


def _items(pages: Pages, page: bytes, item: Item) -> Iterator[Entry]:
    """Keys and values take turns."""
    count, = struct.unpack_from(f"{pages.order}H", page, 20)
    if count % 2 or _HEADER + 2 * count > len(page):
        raise BadMap("is damaged: a page with a wrong number of items")
    offsets = list(struct.unpack_from(f"{pages.order}{count}H", page, _HEADER))
    for at in range(0, count, 2):
        if item is _leaf_item and page[pages.within(offsets[at + 1] + 2)] & _DELETED:
            continue
        yield item(pages, page, offsets, at), item(pages, page, offsets, at + 1)


def _leaf_item(pages: Pages, page: bytes, offsets: list[int], at: int) -> bytes:
    """Of a btree: length, type, octets; or type, page and length of what does not fit on this page."""
    offset = pages.within(offsets[at] + 2) - 2
    kind = page[offset + 2] & ~_DELETED
    if kind == _OFF_PAGE:
        return _off_page(pages, page, offset + 4)
    length, = struct.unpack_from(f"{pages.order}H", page, offset)
    return _on_page(page, kind, offset + 3, offset + 3 + length)


def _hash_item(pages: Pages, page: bytes, offsets: list[int], at: int) -> bytes:
    """Of a hash: type and octets, which end where the item before begins."""
    offset = pages.within(offsets[at])
    if page[offset] == _OFF_PAGE:
        return _off_page(pages, page, offset + 4)
    return _on_page(page, page[offset], offset + 1, offsets[at - 1] if at else len(page))


def _on_page(page: bytes, kind: int, start: int, end: int) -> bytes:
    if kind in _DUPLICATE:
        raise BadMap("holds several values of one key")
    if kind != _KEYDATA or not start <= end <= len(page):
        raise BadMap("is damaged: an item beyond its page")
    return page[start:end]


def _off_page(pages: Pages, page: bytes, at: int) -> bytes:
    if at + 8 > len(page):
        raise BadMap("is damaged: an item beyond its page")
    number, length = struct.unpack_from(f"{pages.order}II", page, at)
    return pages.chain(number, length, lambda one: _overflow(pages, one))


def _overflow(pages: Pages, page: bytes) -> tuple[bytes, int]:
    following, = struct.unpack_from(f"{pages.order}I", page, 16)
    length, = struct.unpack_from(f"{pages.order}H", page, 22)
    if page[25] != _OVERFLOW or _HEADER + length > len(page):
        raise BadMap("is damaged: a page that should continue an item does not")
    return page[_HEADER : _HEADER + length], following
