"""Line ends and From_ lines, in any pieces."""

from hypothesis import given, settings
from hypothesis import strategies as st

from pysmtpd.deliver.lines import FromQuoting, Newlines

TEXTS = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"From ", b"From", b">From ", b"x", b"", b" "]), max_size=25)


def newlines(pieces: list[bytes]) -> bytes:
    one = Newlines()
    return b"".join([one.convert(piece) for piece in pieces]) + one.end()


def quoted(pieces: list[bytes]) -> bytes:
    one = FromQuoting()
    return b"".join([one.convert(piece) for piece in pieces]) + one.end()


def test_newlines() -> None:
    assert newlines([b"a\r\nb\r", b"\n\r", b"c\n\r"]) == b"a\nb\n\rc\n\r"


@settings(max_examples=150)
@given(TEXTS)
def test_newlines_do_not_depend_on_pieces(pieces: list[bytes]) -> None:
    assert newlines(pieces) == b"".join(pieces).replace(b"\r\n", b"\n")


def test_from_quoting() -> None:
    assert quoted([b"From a\nFro", b"m b\nfrom c\n>From d\n\nFrom", b" e\nFrom"]) == (
        b">From a\n>From b\nfrom c\n>From d\n\n>From e\nFrom"
    )


@settings(max_examples=150)
@given(TEXTS)
def test_from_quoting_does_not_depend_on_pieces(pieces: list[bytes]) -> None:
    lines = b"".join(pieces).split(b"\n")
    wanted = b"\n".join([b">" + line if line.startswith(b"From ") else line for line in lines])
    assert quoted(pieces) == wanted
