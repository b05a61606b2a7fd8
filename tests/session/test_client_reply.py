"""Replies are cut out of what a server sends, whatever the pieces; what is no reply is an error."""

import pytest

from pysmtpd.session.client_reply import LINE_MAX, LINES_MAX, Reply, ReplyError, ReplyReader


def read(*pieces: bytes) -> list[Reply]:
    reader = ReplyReader()
    found = []
    for piece in pieces:
        reader.feed(piece)
        while (reply := reader.next()) is not None:
            found.append(reply)
    return found


@pytest.mark.parametrize("text", [
    b"250 2.1.5 Ok\r\n550-5.1.1 No\r\n550-5.1.1 such\r\n550 5.1.1 user\r\n250\r\n221 bye\n",
])
def test_replies_are_the_same_in_any_pieces(text: bytes) -> None:
    expected = ["250 2.1.5 Ok", "550 5.1.1 No such user", "250", "221 bye"]
    assert [reply.text for reply in read(text)] == expected
    assert [reply.text for reply in read(*[text[at : at + 1] for at in range(len(text))])] == expected
    assert [reply.code for reply in read(text)] == [250, 550, 250, 221]


@pytest.mark.parametrize(("line", "esc"), [
    (b"550 5.1.1 No such user", "5.1.1"),
    (b"550 5.1.1", "5.1.1"),
    (b"250 2.0.0 Ok", "2.0.0"),
    (b"450 4.7.123 later", "4.7.123"),
    (b"550 4.1.1 contradiction", ""),
    (b"550 5.1.1x", ""),
    (b"550 5.1.1234 x", ""),
    (b"550 1.2.3.4 is blocked", ""),
    (b"550 nothing", ""),
    (b"550", ""),
])
def test_the_enhanced_status_code_is_kept_when_it_is_one(line: bytes, esc: str) -> None:
    assert read(line + b"\r\n")[0].esc == esc


def test_text_is_one_clean_line_of_bounded_length() -> None:
    reply = read(b"550-a\x00b\x1b[2J\xff\xc2\x85" + b"x" * 1900 + b"\r\n550 \xe2\x80\xa8end\r\n")[0]
    assert reply.text.startswith("550 a b [2J\ufffd x")
    assert len(reply.text.encode()) <= 1000
    assert "\u2028" not in reply.text


@pytest.mark.parametrize(("data", "reason"), [
    (b"\r\n", "line too short"),
    (b"25\r\n", "line too short"),
    (b"150 no\r\n", "reply code out of range"),
    (b"600 no\r\n", "reply code out of range"),
    (b"250x\r\n", "not a reply"),
    (b"hello there\r\n", "not a reply"),
    (b"250 " + b"x" * LINE_MAX + b"\r\n", "line too long"),
    (b"250 " + b"x" * LINE_MAX, "line too long"),
    (b"250-x\r\n" * LINES_MAX, "too many lines"),
])
def test_what_is_no_reply_is_an_error(data: bytes, reason: str) -> None:
    with pytest.raises(ReplyError, match=reason):
        read(data)


def test_when_lines_differ_the_last_code_counts() -> None:
    assert read(b"250-a\r\n550 b\r\n")[0].code == 550
