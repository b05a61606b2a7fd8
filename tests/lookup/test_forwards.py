"""lookup.forward: .forward files that the parent opens for lka."""

import asyncio
import os
from pathlib import Path

import pytest

from pysmtpd.lookup import forward
from pysmtpd.lookup.forward import ABSENT_KEPT, Forward, Forwards, Opening, User
from pysmtpd.lookup.memo import UNKNOWN_YET
from pysmtpd.messages import FORWARD_MAX
from tests.lookup.made import Clock, run

BOB = User("local", "bob", 1000, 1000, "/home/bob")


class Parent:
    """Answers each question as it is told to."""

    def __init__(self, answer: Path | Forward | None) -> None:
        self.answer = answer
        self.asked: list[int] = []
        self.clock = Clock()
        self.forwards = Forwards(self._ask, self.clock)

    def _ask(self, number: int, _user: User) -> None:
        self.asked.append(number)
        if isinstance(self.answer, Path):
            self.forwards.opened(number, os.open(self.answer, os.O_RDONLY))
        elif self.answer is not None:
            self.forwards.missing(number, self.answer)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_file_that_was_opened_is_read_and_closed(tmp_path: Path) -> None:
    path = tmp_path / ".forward"
    path.write_bytes(b"x" * (FORWARD_MAX + 10))
    parent = Parent(path)
    assert run(parent.forwards.answer(BOB)) == Forward(Opening.FILE, b"x" * FORWARD_MAX)
    before = descriptors()
    path.write_bytes(b"alice\n")
    assert run(parent.forwards.answer(BOB)).content == b"alice\n"
    assert descriptors() == before


def test_that_there_is_none_is_known_for_a_moment() -> None:
    parent = Parent(Forward(Opening.NONE))
    assert parent.forwards.known(BOB) is UNKNOWN_YET
    assert run(parent.forwards.answer(BOB)) == parent.forwards.known(BOB) == Forward(Opening.NONE)
    parent.clock.now += ABSENT_KEPT
    assert parent.forwards.known(BOB) is UNKNOWN_YET


def test_what_was_refused_is_asked_again() -> None:
    parent = Parent(Forward(Opening.REFUSED, b"", "insecure file"))
    assert run(parent.forwards.answer(BOB)).why == "insecure file"
    assert parent.forwards.known(BOB) is UNKNOWN_YET


def test_a_parent_that_is_silent_means_later_and_its_late_descriptor_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "TIMEOUT", 0.01)
    parent = Parent(None)
    found = run(parent.forwards.answer(BOB))
    assert found.opening is Opening.TEMPORARY and "not opened within" in found.why
    fd = os.open(tmp_path, os.O_RDONLY)
    parent.forwards.opened(parent.asked[0], fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    parent.forwards.missing(parent.asked[0], Forward(Opening.NONE))


def test_questions_do_not_wait_for_each_other() -> None:
    async def both() -> list[Forward]:
        parent = Parent(None)
        asked = [asyncio.ensure_future(parent.forwards.answer(BOB)) for _ in range(2)]
        await asyncio.sleep(0)
        parent.forwards.missing(parent.asked[1], Forward(Opening.REFUSED, b"", "second"))
        parent.forwards.missing(parent.asked[0], Forward(Opening.REFUSED, b"", "first"))
        return list(await asyncio.gather(*asked))

    assert [found.why for found in run(both())] == ["first", "second"]
