r"""The end of data: CRLF.CRLF and nothing else, dots, faults, sizes."""

import itertools
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pysmtpd.base.reply import R550_BARE_NEWLINE, R550_NUL, R554_TOO_BIG, Reply
from pysmtpd.session.smtp_data import MailData

NEWLINES = (b"\r\n", b"\n", b"\r")


def read(pieces: list[bytes], limit: int = 1 << 20) -> tuple[bytes, bytes | None, Reply | None, int]:
    """Message, what follows its end, fault, and size."""
    data = MailData(limit)
    body, rest = b"", None
    for piece in pieces:
        if rest is not None:
            rest += piece
            continue
        some, rest = data.feed(piece)
        body += some
    return body, rest, data.fault, data.size


def cut(data: bytes, random: Random) -> list[bytes]:
    pieces = []
    while data:
        size = random.choice((1, 1, 2, 3, 5))
        pieces.append(data[:size])
        data = data[size:]
    return pieces


def model(data: bytes) -> tuple[bytes, bytes] | None:
    """The same by the letter of RFC 5321, line by line: message and rest, or None without an end."""
    message, at = b"", 0
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            return None
        line = data[at:end]
        at = end + 2
        if line == b".":
            return message, data[at:]
        message += (line[1:] if line.startswith(b".") else line) + b"\r\n"


@pytest.mark.parametrize("before, after", list(itertools.product(NEWLINES, NEWLINES)))
@pytest.mark.parametrize("whole", [True, False])
def test_matrix(before: bytes, after: bytes, whole: bool) -> None:
    """Of nine endings one ends; the others are inside of a message that is refused after its true end."""
    data = b"text" + before + b"." + after + b"RSET\r\n" + b".\r\nNOOP\r\n"
    body, rest, fault, _ = read([data] if whole else [data[i : i + 1] for i in range(len(data))])
    if before == after == b"\r\n":
        assert (body, rest, fault) == (b"text\r\n", b"RSET\r\n.\r\nNOOP\r\n", None)
    else:
        assert rest == b"NOOP\r\n"
        assert fault == R550_BARE_NEWLINE


@pytest.mark.parametrize("end", [
    b"\r\n.\r\r\n", b"\r\r\n.\r\n", b"\r\n.\n\r\n", b"\n\r\n.\r\n", b"\r\n.\0\r\n", b"\0\r\n.\r\n", b"\r\n.\r\0\n",
    b"\r\n\0.\r\n",
])
def test_odd_endings_never_pass(end: bytes) -> None:
    data = b"text" + end + b"\r\n.\r\n"
    for pieces in ([data], [data[i : i + 1] for i in range(len(data))]):
        _, rest, fault, _ = read(pieces)
        assert fault is not None
        assert rest is not None


@pytest.mark.parametrize("data, message", [
    (b".\r\n", b""),
    (b"\r\n.\r\n", b"\r\n"),
    (b"..\r\n.\r\n", b".\r\n"),
    (b".a\r\n.\r\n", b"a\r\n"),
    (b"a\r\n..b\r\n...\r\n.\r\n", b"a\r\n.b\r\n..\r\n"),
    (b"a.\r\n.b.\r\n.\r\n", b"a.\r\nb.\r\n"),
])
def test_dots(data: bytes, message: bytes) -> None:
    for pieces in ([data], [data[i : i + 1] for i in range(len(data))]):
        body, rest, fault, size = read(pieces)
        assert (body, rest, fault, size) == (message, b"", None, len(message))


def test_nul_and_size() -> None:
    assert read([b"a\0b\r\n.\r\n"])[2] == R550_NUL
    assert read([b"12345\r\n.\r\n"], 7)[2] is None
    assert read([b"123456\r\n.\r\n"], 7)[2] == R554_TOO_BIG
    # of several faults the gravest is told, in whatever order and pieces they come
    assert read([b"123456\0789\r\n", b"\n\r\n.\r\n"], 7)[2] == R550_BARE_NEWLINE


def test_nothing_is_kept_of_a_message_that_is_too_big() -> None:
    data = MailData(1000)
    assert data.feed(b"x" * 1001) == (b"", None)
    for _ in range(100):
        assert data.feed(b"x" * 65536) == (b"", None)
    assert data.feed(b"\r\n.\r\nQUIT\r\n") == (b"", b"QUIT\r\n")


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b".", b"a", b"\0", b"\r\n.\r\n"]), max_size=25), st.integers())
def test_pieces_do_not_matter_and_the_model_agrees(parts: list[bytes], seed: int) -> None:
    data = b"".join(parts)
    body, rest, fault, size = read([data])
    again = read(cut(data, Random(seed)))
    assert again[1:] == (rest, fault, size)
    bad = b"\0" in data or data.replace(b"\r\n", b"").strip(b".a") != b""
    wanted = model(data)
    assert rest == (wanted[1] if wanted else None)
    if not bad and wanted:
        assert (body, fault) == (wanted[0], None)
        assert again[0] == body
