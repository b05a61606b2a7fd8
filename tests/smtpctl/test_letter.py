"""smtpctl.letter: what becomes of a message on its way from standard input to DATA."""

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpctl import letter
from smtpctl.letter import Letter


def data(text: bytes) -> bytes:
    one = Letter(io.BytesIO(text))
    try:
        return b"".join(one.mail_data())
    finally:
        one.close()


def test_lines_end_in_crlf_and_dots_are_doubled() -> None:
    assert data(b"Subject: x\n\nhello\n.\n..\nend\n") == b"Subject: x\r\n\r\nhello\r\n..\r\n...\r\nend\r\n.\r\n"


@pytest.mark.parametrize("text, sent", [
    (b"A: b\n\nno newline", b"A: b\r\n\r\nno newline\r\n.\r\n"),
    (b"A: b\r\n\r\ncrlf\r\n", b"A: b\r\n\r\ncrlf\r\n.\r\n"),
    (b"A: b\n\nlone\rcr\r", b"A: b\r\n\r\nlone\r\ncr\r\n.\r\n"),
    (b"A: b\n\nnul\0nul\n", b"A: b\r\n\r\nnulnul\r\n.\r\n"),
    (b"A: b\n\nx\n.\n.y\n", b"A: b\r\n\r\nx\r\n..\r\n..y\r\n.\r\n"),
    (b"A: b\n\n\0.\n", b"A: b\r\n\r\n..\r\n.\r\n"),
    (b"A: b\n folded\n\nx\n", b"A: b\r\n folded\r\n\r\nx\r\n.\r\n"),
    (b"A: b\n", b"A: b\r\n\r\n.\r\n"),
    (b"just a body\nof two lines\n", b"\r\njust a body\r\nof two lines\r\n.\r\n"),
    (b"\nbody: not a field\n", b"\r\nbody: not a field\r\n.\r\n"),
    (b"A: b\nnot a field\nx: y\n", b"A: b\r\n\r\nnot a field\r\nx: y\r\n.\r\n"),
    (b"From alice Thu Jan  1 00:00:00 1970\nA: b\n\nx\n", b"A: b\r\n\r\nx\r\n.\r\n"),
    (b"X-Unknown: only\n\nbody\n", b"X-Unknown: only\r\n\r\nbody\r\n.\r\n"),
    (b"\xff\xfe: x\n\n\xe9\n", b"\r\n\xff\xfe: x\r\n\r\n\xe9\r\n.\r\n"),
    (b"", b"\r\n.\r\n"),
])
def test_what_is_sent(text: bytes, sent: bytes) -> None:
    assert data(text) == sent


def test_fields_are_found_removed_and_added_whole() -> None:
    one = Letter(io.BytesIO(b"To: a,\n b\nBcc: c,\n\td\nbcc : e\nCC:f\n\nx\n"))
    assert one.has("bcc") and one.values("bcc") == [" c,\n\td\n", " e\n"]
    assert one.values("to") == [" a,\n b\n"]
    one.remove("bcc")
    one.add("From", "Jörg <j@b>")
    assert not one.has("bcc")
    assert b"".join(one.pieces()) == "To: a,\n b\nCC:f\nFrom: Jörg <j@b>\n\nx\n".encode()
    assert one.has_8bit
    one.close()


def test_eight_bits_in_the_body_are_seen_and_kept() -> None:
    one = Letter(io.BytesIO(b"A: b\n\n" + b"x" * 100 + b"\xe9\n"))
    assert one.has_8bit
    assert b"\xe9" in b"".join(one.mail_data())
    one.close()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([b".", b"\r", b"\n", b"a", b"\0", b"\r\n", b"\n.\n"]), max_size=12), st.integers(1, 5))
def test_the_pieces_it_is_read_in_make_no_difference(parts: list[bytes], size: int) -> None:
    text = b"A: b\n\n" + b"".join(parts)
    whole = data(text)
    before = letter.CHUNK
    letter.CHUNK = size
    try:
        assert data(text) == whole
    finally:
        letter.CHUNK = before
    # Nothing in it ends the message early, and no line ends otherwise than in CRLF.
    assert whole.endswith(b"\r\n.\r\n") and b"\r\n.\r\n" not in whole[:-1]
    assert whole.count(b"\r") == whole.count(b"\n") == whole.count(b"\r\n")
