"""Command lines: CRLF, and a limit that does not depend on the pieces."""

import pytest

from pysmtpd.base.reply import R500_BARE_NEWLINE, R500_COMMAND_TOO_LONG
from pysmtpd.session.lines import LINE_MAX, LineError, Lines


def feed(*pieces: bytes) -> Lines:
    lines = Lines()
    for piece in pieces:
        lines.feed(piece)
    return lines


def test_lines_and_rest() -> None:
    lines = feed(b"NOOP\r", b"\nRS", b"ET\r\nmail data")
    assert lines.next() == b"NOOP"
    assert lines.next() == b"RSET"
    assert lines.next() is None
    assert len(lines) == 9
    assert lines.rest() == b"mail data"
    assert len(lines) == 0
    assert lines.next() is None


@pytest.mark.parametrize("octets", [1, LINE_MAX])
def test_the_longest_line(octets: int) -> None:
    line = b"x" * (LINE_MAX - 2)
    data = line + b"\r\n"
    assert feed(*(data[i : i + octets] for i in range(0, len(data), octets))).next() == line
    for tail in (b"x", b"x\r\n", b"x" * 100_000):
        lines = feed(line, b"x")
        assert lines.next() is None
        lines.feed(tail)
        with pytest.raises(LineError) as caught:
            lines.next()
        assert caught.value.reply == R500_COMMAND_TOO_LONG


@pytest.mark.parametrize("data", [b"\n", b"NOOP\n", b"\nNOOP\r\n", b"NOOP\r\n\n"])
def test_bare_newline(data: bytes) -> None:
    lines = feed(data)
    if data.startswith(b"NOOP\r\n"):
        assert lines.next() == b"NOOP"
    with pytest.raises(LineError) as caught:
        lines.next()
    assert caught.value.reply == R500_BARE_NEWLINE


def test_many_short_lines_are_not_copied_each_time() -> None:
    lines = feed(b"NOOP\r\n" * 10_000)
    data = lines._data
    for _ in range(9_999):
        assert lines.next() == b"NOOP"
    assert lines._data is data
