"""Message ids: blocks that ascend, go around after 32 bits, and skip what is in use.

The mark (the first id never handed out) becomes durable with the next group.  That is enough: a message that uses
an id is committed in that group or a later one, so no committed message meets its own id again after a crash.
"""

from collections.abc import Callable

from pysmtpd.base.ids import MSGID_MAX

BLOCK = 4096
BLOCKS_MAX = 64                    # of one owner; the ids of an older one are refused


class Ids:
    """The ids one owner was given, each good for one message."""

    def __init__(self) -> None:
        self._blocks: dict[int, bytearray] = {}

    def give(self, first: int, count: int) -> None:
        self._blocks[first] = bytearray(count)
        if len(self._blocks) > BLOCKS_MAX:
            del self._blocks[next(iter(self._blocks))]

    def take(self, msgid: int) -> bool:
        """Use an id; False when it is not the owner's, or was used."""
        for first, used in self._blocks.items():
            at = msgid - first
            if 0 <= at < len(used):
                fresh = not used[at]
                used[at] = 1
                return fresh
        return False

    def overlaps(self, first: int, last: int) -> int | None:
        """The last id of a block that shares ids with this range."""
        for start, used in self._blocks.items():
            if start <= last and first < start + len(used):
                return start + len(used) - 1
        return None


class MsgIds:
    """All of them."""

    def __init__(self, mark: int, used: Callable[[int, int], int | None]) -> None:
        self.mark = mark
        self.dirty = False         # the mark moved since it was last written
        self._used = used
        self._owners: list[Ids] = []

    def owner(self) -> Ids:
        ids = Ids()
        self._owners.append(ids)
        return ids

    def block(self, ids: Ids, count: int = BLOCK) -> tuple[int, int]:
        """The first id and the number of a new block of this owner: at most count, at least 1."""
        while True:
            first = self.mark if 1 <= self.mark <= MSGID_MAX else 1
            last = min(first + count - 1, MSGID_MAX)
            taken = self._taken(first, last)
            self.dirty = True
            if taken is None or taken[0] > first:
                last = last if taken is None else taken[0] - 1
                self.mark = last + 1
                ids.give(first, last - first + 1)
                return first, last - first + 1
            self.mark = taken[1] + 1

    def _taken(self, first: int, last: int) -> tuple[int, int] | None:
        """The first range in use from first to last: of stored messages, or of blocks handed out."""
        for ids in self._owners:
            end = ids.overlaps(first, last)
            if end is not None:
                return first, end
        msgid = self._used(first, last)
        return None if msgid is None else (msgid, msgid)
