r"""Probes for SMTP smuggling: whatever stands in a message, none of it is read as a command, nor sent as an end.

Each is tried by DATA and by BDAT, where bare line ends are refused and where they are normalized, cut in two at every
octet, and octet by octet.
"""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pysmtpd.session.chunks import Chunk, ChunkData
from pysmtpd.session.client_data import DotStuffer
from pysmtpd.session.newlines import is_text, normalized
from pysmtpd.session.smtp_data import MailData
from tests.support.session import Always, player, say

BEGIN = b"EHLO c.example\r\nMAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.org>\r\n"
SMUGGLED = b"MAIL FROM:<admin@example.org>\r\nRCPT TO:<b@example.org>\r\nDATA\r\nSubject: smuggled\r\n\r\nx"
# What some server took, or takes, for the end of the mail data.
ENDS = [
    b"\n.\n", b"\n.\r\n", b"\n.\r", b"\r\n.\n", b"\r\n.\r", b"\r.\r", b"\r.\n", b"\r.\r\n", b"\n\n.\n\n",
    b"\r\r\n.\r\r\n", b"\r\n.\r\r\n", b"\r\r\n.\n", b"\n\r.\n\r", b"\r\n\0.\r\n", b"\r\n.\0\r\n", b"\r\n.\r\0\n",
    b"\r\0\n.\r\n", b"\r\n\0.\0\r\n", b"\n\0.\r\n", b"\0\r\n.\n", b"\0\n.\r\n", b"\r\n.\0\n", b"\x85.\x85\n",
    b"\xe2\x80\xa8.\n",
]


def by_data(message: bytes) -> bytes:
    return BEGIN + b"DATA\r\n" + message.replace(b"\r\n.", b"\r\n..") + b"\r\n.\r\nNOOP\r\n"


def raw_data(message: bytes) -> bytes:
    """As one sends it who knows only bare line ends: without a second dot."""
    return BEGIN + b"DATA\r\n" + message + b"\r\n.\r\nNOOP\r\n"


def by_bdat(message: bytes) -> bytes:
    message += b"\r\n"
    half = len(message) // 2
    first, last = message[:half], message[half:]
    return BEGIN + b"BDAT %d\r\n" % len(first) + first + b"BDAT %d LAST\r\n" % len(last) + last + b"NOOP\r\n"


def replies(found: Always) -> list[bytes]:
    return [line for line in found.sent.splitlines() if line[3:4] == b" "]


def check(stream: bytes, cuts: list[int], message: bytes, *, normalize: bool) -> None:
    found = player(normalize=normalize)
    for at, to in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        say(found, stream[at:to])
    said = replies(found)
    assert said[-1] == b"250 2.0.0 Ok", said
    assert len([question for question in found.asked if question.startswith("ExpandRcpt")]) == 1, "a second recipient"
    accepted = [line for line in said if b"accepted for delivery" in line]
    if not normalize:
        # a chunk after the one that was refused is no more than that: refused
        assert any(line.startswith(b"550 5.5.2 ") for line in said[-3:-1]) and not accepted and not found.commits
        return
    assert len(accepted) == len(found.commits) == 1
    kept = found.body.partition(b"Subject: x\r\n\r\n")[2]
    assert is_text(kept)
    assert kept == normalized(message + b"\r\n")


@pytest.mark.parametrize("normalize", [False, True], ids=["reject", "normalize"])
@pytest.mark.parametrize("encode", [by_data, by_bdat])
@pytest.mark.parametrize("end", ENDS, ids=repr)
def test_nothing_in_a_message_is_a_command(end: bytes, encode: Callable[[bytes], bytes], normalize: bool) -> None:
    body = b"one" + end + SMUGGLED
    stream = encode(b"Subject: x\r\n\r\n" + body)
    first = stream.index(b"one")
    check(stream, [], body, normalize=normalize)
    check(stream, list(range(1, len(stream))), body, normalize=normalize)
    for cut in range(first, first + len(end) + 8):
        check(stream, [cut], body, normalize=normalize)


@pytest.mark.parametrize("end", [b"\n.\n", b"\n.\r\n", b"\r.\r", b"\r\n.\n", b"\r\n\0.\r\n"], ids=repr)
def test_what_was_not_stuffed_is_no_end_either(end: bytes) -> None:
    found = player(normalize=True)
    say(found, raw_data(b"Subject: x\r\n\r\none" + end + SMUGGLED))
    assert found.sent.count(b"accepted for delivery") == 1 and len(found.commits) == 1
    assert is_text(found.body)
    # and on its way out it cannot become one: the dot is stuffed
    stuffer = DotStuffer()
    out = stuffer.chunk(found.body) + stuffer.end()
    assert out.index(b"\r\n.\r\n") == len(out) - 5


PARTS = st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b".", b"a", b"\0", b"\r\n.", b"\r\n.\r\n"]), max_size=25)


@settings(max_examples=150, deadline=None)
@given(PARTS, st.lists(st.integers(0, 60), max_size=8))
def test_normalized_is_the_same_in_any_pieces(parts: list[bytes], cuts: list[int]) -> None:
    data = b"".join(parts)
    whole, pieces = MailData(1 << 20, normalize=True), MailData(1 << 20, normalize=True)
    body, rest = whole.feed(data)
    ends = sorted({min(cut, len(data)) for cut in cuts} | {len(data)})
    some, after, at = b"", None, 0
    for end in ends:
        if after is None:
            more, after = pieces.feed(data[at:end])
            some += more
        else:
            after += data[at:end]
        at = end
    assert after == rest
    if rest is not None:
        assert some == body and is_text(body) and pieces.size == whole.size == len(body)
        assert whole.fault is None


@settings(max_examples=100, deadline=None)
@given(PARTS, st.integers(1, 5))
def test_chunks_are_normalized_as_a_whole(chunks: list[bytes], cut: int) -> None:
    chunks = chunks or [b""]
    data, out = ChunkData(1 << 20, may_be_binary=False, normalize=True), b""
    for number, chunk in enumerate(chunks, 1):
        data.begin(Chunk(len(chunk), number == len(chunks)))
        for at in range(0, max(len(chunk), 1), cut):
            out += data.feed(chunk[at : at + cut])
    assert out == normalized(b"".join(chunks))
    assert data.fault is None and not data.binary


def test_binary_mail_is_not_normalized() -> None:
    data = ChunkData(100, may_be_binary=True, normalize=True)
    data.begin(Chunk(5, True))
    assert data.feed(b"a\nb\0\r") == b"a\nb\0\r" and data.binary


def test_two_line_ends_stay_two() -> None:
    assert normalized(b"a\rb\nc\r\nd\n\re\r\0\nf\0") == b"a\r\nb\r\nc\r\nd\r\n\r\ne\r\n\r\nf"
