"""Dots are doubled and lines end in CRLF, however the data are cut."""

import re
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from pysmtpd.session.client_data import DotStuffer


def stuffed(*chunks: bytes) -> bytes:
    stuffer = DotStuffer()
    return b"".join([*[stuffer.chunk(chunk) for chunk in chunks], stuffer.end()])


def test_dots_at_the_start_of_lines_are_doubled() -> None:
    assert stuffed(b".a\r\n..b\r\nc.\r\n.\r\n") == b"..a\r\n...b\r\nc.\r\n..\r\n.\r\n"


def test_a_last_line_without_its_end_gets_one() -> None:
    assert stuffed(b"a") == b"a\r\n.\r\n"
    assert stuffed(b"a\r") == b"a\r\n.\r\n"


def test_an_empty_message_is_only_the_end() -> None:
    assert stuffed() == stuffed(b"") == b".\r\n"


def test_bare_line_ends_never_leave() -> None:
    assert stuffed(b"a\n.\r\nb\r.c\r\r\n") == b"a\r\n..\r\nb\r\n..c\r\n\r\n.\r\n"


LINES = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"a", b"\xff", b"\r\n.", b"\r\n.\r\n"]), max_size=20)


@settings(max_examples=150)
@given(LINES, st.lists(st.integers(0, 40), max_size=6))
def test_pieces_make_no_difference(parts: list[bytes], cuts: list[int]) -> None:
    data = b"".join(parts)
    at = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    pieces = [data[a:b] for a, b in pairwise(at)]
    assert stuffed(*pieces) == stuffed(data)


@settings(max_examples=150)
@given(LINES)
def test_the_end_of_data_comes_once_and_the_message_comes_back(parts: list[bytes]) -> None:
    data = b"".join(parts)
    out = stuffed(data)
    assert not re.search(rb"(?<!\r)\n|\r(?!\n)", out)
    assert ("\r\n" + out.decode("latin-1")).find("\r\n.\r\n") == len(out) - 3
    lines = [line.removeprefix(b".") for line in out.split(b"\r\n")[:-2]]
    expected = re.split(rb"\r\n|\r|\n", data)
    assert lines == (expected[:-1] if expected[-1] == b"" else expected)
