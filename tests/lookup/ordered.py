"""A tree in the order of OpenSMTPD's nodes of an expansion.

It finds what it holds by going left and right, and the nodes change after they were put in (a user turns out to exist,
a sub-address is cut off): so now and then it overlooks one that is there.  Who foretells its verdicts has to overlook
the same.
"""

from typing import Any


class _Place:
    __slots__ = ("left", "parent", "red", "right", "step")

    def __init__(self, step: Any, parent: "_Place | None") -> None:
        self.step = step
        self.parent = parent
        self.left: _Place | None = None
        self.right: _Place | None = None
        self.red = True


def _key(step: Any) -> tuple[object, ...]:
    return step.order, step.same, step.uid is not None, step.octets.rstrip(b"\0")


def compare(one: Any, other: Any) -> int:
    """Below, at, or above zero."""
    mine, its = _key(one), _key(other)
    if mine != its:
        return -1 if mine < its else 1
    if one.above is other.above:
        return 0
    if one.above is None or other.above is None:
        return -1 if one.above is None else 1
    if one.above.address is not other.above.address:
        return -1 if one.above.address.born < other.above.address.born else 1
    if one.kind.name not in ("FILE", "COMMAND"):
        return 0
    left, right = _user_above(one), _user_above(other)
    return 0 if left is right else -1 if (left.born if left else 0) < (right.born if right else 0) else 1


def _user_above(step: Any) -> Any:
    above = step.above
    while above is not None and above.kind.name != "USER":
        above = above.above
    return above


class Ordered:
    """A red-black tree."""

    def __init__(self) -> None:
        self.root: _Place | None = None
        self.count = 0

    def add(self, step: Any) -> bool:
        """Whether it was not found."""
        parent, at, order = None, self.root, 0
        while at is not None:
            parent, order = at, compare(step, at.step)
            if order == 0:
                return False
            at = at.left if order < 0 else at.right
        self.count += 1
        step.born = self.count
        place = _Place(step, parent)
        if parent is None:
            self.root = place
        elif order < 0:
            parent.left = place
        else:
            parent.right = place
        self._balance(place)
        return True

    def _balance(self, place: _Place) -> None:
        while (parent := place.parent) is not None and parent.red:
            above = parent.parent
            assert above is not None
            first = parent is above.left
            uncle = above.right if first else above.left
            if uncle is not None and uncle.red:
                parent.red = uncle.red = False
                above.red = True
                place = above
                continue
            if place is (parent.right if first else parent.left):
                self._rotate(parent, left=first)
                place, parent = parent, place
            parent.red, above.red = False, True
            self._rotate(above, left=not first)
        assert self.root is not None
        self.root.red = False

    def _rotate(self, place: _Place, *, left: bool) -> None:
        up = place.right if left else place.left
        assert up is not None
        if left:
            place.right, up.left = up.left, place
            inner = place.right
        else:
            place.left, up.right = up.right, place
            inner = place.left
        if inner is not None:
            inner.parent = place
        up.parent = place.parent
        if place.parent is None:
            self.root = up
        elif place.parent.left is place:
            place.parent.left = up
        else:
            place.parent.right = up
        place.parent = up
