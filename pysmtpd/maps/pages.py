"""The pages of a Berkeley DB file: equal in size, numbered from 0, and read within bounds only."""

from collections.abc import Callable

from pysmtpd.maps import BadMap

ITEM_MAX = 1024 * 1024             # octets of one key or value
SIZE_MIN, SIZE_MAX = 64, 65536     # octets of a page


class Pages:
    """A whole file.

    order: of its numbers, as struct writes it.  No item may be larger than ITEM_MAX, and all together no larger than
    the file, so that pages which refer to each other in circles or again and again come to an end."""

    def __init__(self, data: bytes, size: int, order: str) -> None:
        if not SIZE_MIN <= size <= SIZE_MAX or len(data) < size:
            raise BadMap("is damaged: pages of an impossible size")
        self.order = order
        self.size = size
        self._data = data
        self._left = len(data)

    def __len__(self) -> int:
        return len(self._data) // self.size

    def page(self, number: int) -> bytes:
        """One page."""
        if not 0 <= number < len(self):
            raise BadMap("is damaged: a page beyond its end")
        return self._data[number * self.size : (number + 1) * self.size]

    def within(self, offset: int) -> int:
        """An offset into a page, if it is one."""
        if not 0 <= offset < self.size:
            raise BadMap("is damaged: an item beyond its page")
        return offset

    def spend(self, octets: int) -> None:
        """Count what is taken from pages that others refer to."""
        self._left -= octets
        if self._left < 0:
            raise BadMap("is damaged: pages in a circle")

    def chain(self, number: int, length: int, read: Callable[[bytes], tuple[bytes, int]]) -> bytes:
        """An item of so many octets on pages of its own.  read: octets of a page, and the number of the next."""
        if length > ITEM_MAX:
            raise BadMap(f"holds an item of more than {ITEM_MAX} octets")
        parts: list[bytes] = []
        while length > 0:
            self.spend(self.size)
            part, number = read(self.page(number))
            parts.append(part[:length])
            length -= len(part)
        return b"".join(parts)
