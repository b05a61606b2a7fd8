"""Frames: whatever is damaged, short, long, unknown or off its route is an ImsgError, and nothing else is."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pysmtpd import imsg
from pysmtpd.base.mailaddr import MailAddr
from pysmtpd.base.procs import Proc
from pysmtpd.imsg import HEADER, HEADER_SIZE, Decoder, Encoder, ImsgError, Message
from pysmtpd.messages import (
    CtlDone,
    QueueDone,
    SetupListener,
    SmtpBody,
    SmtpMessageCommit,
    SmtpMessageCommitted,
    SmtpMsgidsAsk,
)

COMMIT = SmtpMessageCommit(7, 0x1234, 2, 4096)


def encode(message: Message, src: Proc = Proc.SMTP, dst: Proc = Proc.QUEUE) -> bytes:
    return Encoder(src, dst, 42).encode(message)


def decode(data: bytes, src: Proc = Proc.SMTP, dst: Proc = Proc.QUEUE) -> list[Message]:
    return [frame.message for frame in Decoder(src, dst).feed(data)]


def test_a_frame_tells_who_sent_it() -> None:
    data = Encoder(Proc.SMTP, Proc.QUEUE, 42).encode(COMMIT, peerid=9)
    [frame] = Decoder(Proc.SMTP, Proc.QUEUE).feed(data)
    assert (frame.message, frame.peerid, frame.pid) == (COMMIT, 9, 42)


def test_frames_in_any_pieces() -> None:
    messages: list[Message] = [COMMIT, SmtpBody(7, b"x" * 1000), SmtpMsgidsAsk()]
    data = b"".join(map(encode, messages))
    for size in (1, 2, 15, 16, 17, 1000, len(data)):
        decoder = Decoder(Proc.SMTP, Proc.QUEUE)
        got = [frame.message for at in range(0, len(data), size) for frame in decoder.feed(data[at : at + size])]
        assert got == messages
        assert decoder.pending == 0


def test_an_unfinished_frame_waits() -> None:
    decoder = Decoder(Proc.SMTP, Proc.QUEUE)
    assert list(decoder.feed(encode(COMMIT)[:-1])) == []
    assert decoder.pending == len(encode(COMMIT)) - 1


def test_a_message_off_its_route_is_not_sent() -> None:
    with pytest.raises(ImsgError, match="not from mta to queue"):
        encode(COMMIT, Proc.MTA)


def test_a_message_off_its_route_is_refused_on_the_wire() -> None:
    with pytest.raises(ImsgError, match="SmtpMessageCommit: not from mta to queue"):
        decode(encode(COMMIT), Proc.MTA)


def test_an_unknown_number_is_refused_before_its_body_is_there() -> None:
    with pytest.raises(ImsgError, match="unknown type 0xfffe"):
        decode(HEADER.pack(0xFFFE, 0, 1 << 30, 0, 0))


@pytest.mark.parametrize("length", [0, 1, HEADER_SIZE, HEADER_SIZE + imsg.BODY_MAX + 1, 0xFFFFFFFF])
def test_an_impossible_length_is_refused(length: int) -> None:
    with pytest.raises(ImsgError, match="impossible length"):
        decode(HEADER.pack(imsg.BY_CLASS[SmtpMessageCommit].number, 0, length, 0, 0))


def test_a_descriptor_is_expected_where_it_is_declared() -> None:
    data = bytearray(encode(SetupListener(0), Proc.PARENT, Proc.SMTP))
    data[3] = 0
    with pytest.raises(ImsgError, match="impossible flags"):
        decode(bytes(data), Proc.PARENT, Proc.SMTP)


def test_too_much_for_a_frame_is_refused_where_it_is_made() -> None:
    with pytest.raises(ImsgError, match="octets are more than"):
        encode(QueueDone([(1 << 64) - 1] * 1024 * 2, 1), Proc.QUEUE, Proc.SCHEDULER)


@pytest.mark.parametrize("message", [
    CtlDone(1, True, "x" * 1025),
    CtlDone(-1, True, ""),
    CtlDone(1, "yes", ""),  # type: ignore[arg-type]
    CtlDone(1 << 64, True, ""),
    CtlDone(1, True, "\udcff"),
    CtlDone(1, True, object()),  # type: ignore[arg-type]
], ids=["long", "negative", "type", "wide", "surrogate", "object"])
def test_a_bad_value_is_refused_where_it_is_made(message: Message) -> None:
    with pytest.raises(ImsgError):
        encode(message, Proc.CONTROL, Proc.CLIENT)


def test_what_is_not_utf8_is_refused_without_showing_it() -> None:
    data = encode(CtlDone(1, True, "secret"), Proc.CONTROL, Proc.CLIENT)
    with pytest.raises(ImsgError) as caught:
        decode(data.replace(b"secret", b"secre\xff"), Proc.CONTROL, Proc.CLIENT)
    assert "secre" not in str(caught.value)


def test_a_control_character_in_an_address_is_refused() -> None:
    with pytest.raises(ValueError, match="control character"):
        MailAddr("a\nb", "example.org")


def test_more_fields_than_declared_are_refused() -> None:
    body = b"\x93\x01\xc3\x00"
    frame = HEADER.pack(imsg.BY_CLASS[SmtpMessageCommitted].number, 0, HEADER_SIZE + len(body), 0, 0) + body
    with pytest.raises(ImsgError):
        decode(frame, Proc.QUEUE, Proc.SMTP)


def test_octets_after_the_body_are_refused() -> None:
    body = b"\x92\x01\xc3\x00"
    frame = HEADER.pack(imsg.BY_CLASS[SmtpMessageCommitted].number, 0, HEADER_SIZE + len(body), 0, 0) + body
    with pytest.raises(ImsgError):
        decode(frame, Proc.QUEUE, Proc.SMTP)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_garbage_is_only_ever_refused(data: bytes) -> None:
    for src, dst in ((Proc.SMTP, Proc.QUEUE), (Proc.CLIENT, Proc.CONTROL), (Proc.WORKER, Proc.MDA)):
        try:
            decode(data, src, dst)
        except ImsgError:
            pass


def test_declaring_a_number_twice_fails() -> None:
    number = imsg.BY_CLASS[SmtpBody].number
    with pytest.raises(TypeError, match="SmtpBody already"):

        @imsg.declare(number, Proc.SMTP >> Proc.QUEUE)
        class Twice(Message):
            """Never declared."""


def test_the_version_follows_the_declarations(monkeypatch: pytest.MonkeyPatch) -> None:
    before = imsg.version()
    spec = imsg.BY_CLASS[SmtpBody]
    monkeypatch.setitem(imsg.BY_NUMBER, spec.number, spec._replace(bulk=False))
    assert imsg.version() != before


def test_the_declarations_name_bounds_and_records() -> None:
    text = "\n".join(imsg.declarations())
    assert "SmtpBody(reqid: int >=0, chunk: bytes <=65536) bulk [smtp >> queue]" in text
    assert "Envelope(evpid: int >=0, agent: Agent{1,2,3}" in text
    assert "MailAddr(user: str, domain: str)" in text
