"""Chunks: whatever the pieces, a message is what was announced, and has the faults that DATA would find."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pysmtpd.base.reply import R550_BARE_NEWLINE, R550_NUL, R554_TOO_BIG
from pysmtpd.session.chunks import Chunk, ChunkData, parse_chunk

PARTS = st.lists(st.sampled_from([b"\r\n", b"a", b".\r\n", b"\r", b"\n", b"\0", b"\xff", b""]), max_size=12)


@pytest.mark.parametrize("text, wanted", [
    ("0", Chunk(0, False)), ("12 LAST", Chunk(12, True)), ("12 \t last", Chunk(12, True)), ("007", Chunk(7, False)),
    ("", None), ("LAST", None), ("-1", None), ("1 LAST x", None), ("1LAST", None), ("1 FIRST", None), ("0x1", None),
    ("1" * 20, None), ("\u0661", None),
])
def test_the_argument(text: str, wanted: Chunk | None) -> None:
    assert parse_chunk(text) == wanted


def take(chunks: list[bytes], *, binary: bool = False, limit: int = 1000, cut: int = 100) -> tuple[ChunkData, bytes]:
    data, out = ChunkData(limit, may_be_binary=binary), b""
    for number, chunk in enumerate(chunks, 1):
        data.begin(Chunk(len(chunk), number == len(chunks)))
        for at in range(0, max(len(chunk), 1), cut):
            out += data.feed(chunk[at : at + cut])
        assert data.left == 0
        if data.fault:
            break
    return data, out


@given(PARTS, st.integers(1, 4))
def test_text_may_be_cut_anywhere_and_nothing_else_is_taken(chunks: list[bytes], cut: int) -> None:
    chunks = chunks or [b""]
    whole = b"".join(chunks)
    data, out = take(chunks, cut=cut)
    clean = whole.replace(b"\r\n", b"")
    expected = R550_BARE_NEWLINE if b"\r" in clean or b"\n" in clean else R550_NUL if b"\0" in clean else None
    assert (data.fault is None) is (expected is None)
    if expected is None:
        assert out == whole and not data.binary


@given(PARTS, st.integers(1, 4))
def test_binary_passes_whole_and_is_told_from_text(chunks: list[bytes], cut: int) -> None:
    chunks = chunks or [b""]
    whole = b"".join(chunks)
    data, out = take(chunks, binary=True, cut=cut)
    clean = whole.replace(b"\r\n", b"")
    assert (data.fault, out) == (None, whole)
    assert data.binary is any(bad in clean for bad in (b"\r", b"\n", b"\0"))


def test_too_much_is_known_before_it_comes() -> None:
    data, out = take([b"x" * 10], binary=True, limit=10)
    assert (data.fault, out) == (None, b"x" * 10)
    data = ChunkData(10, may_be_binary=True)
    data.begin(Chunk(10**18, False))
    assert data.fault == R554_TOO_BIG
    assert data.feed(b"x" * 100) == b""
