"""Messages on their way in: bounds, files, credit."""

import tracemalloc
from pathlib import Path

import pytest

from pysmtpd.base.seal import KEY_SIZE, Seal
from pysmtpd.messages import (
    BODY_WINDOW,
    BodyCredit,
    QueueEnvelopes,
    SmtpBody,
    SmtpEnvelopes,
    SmtpMessage,
    SmtpMessageCommit,
    SmtpMessageCommitted,
    SmtpMessageRollback,
)
from pysmtpd.spool import incoming
from pysmtpd.spool.backend import HAS_8BIT, INLINE_MAX, Message, Stored
from tests.spool.house import BODY, NOW, SEAL, House, envelope, sealed

CHUNK = bytes(range(256)) * 256


def bodies(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "queue" / "bodies").iterdir())


@pytest.mark.parametrize(("size", "file"), [(INLINE_MAX - 1, False), (INLINE_MAX, False), (INLINE_MAX + 1, True)])
def test_large_bodies_are_files(house: House, tmp_path: Path, size: int, file: bool) -> None:
    (evpid,) = house.submit(b"x" * size)
    message = house.queue.backend.message(evpid >> 32)
    assert message is not None
    assert (message.size, message.file) == (size, file)
    assert bodies(tmp_path) == ([f"{evpid >> 32:08x}"] if file else [])
    assert house.queue.inbox.held == 0


def test_small_bodies_get_no_credit(house: House) -> None:
    house.submit(b"x" * INLINE_MAX)
    assert house.smtp.take(BodyCredit) == []


def test_credit_is_what_was_written(house: House) -> None:
    house.say(house.smtp, SmtpBody(5, CHUNK))
    house.say(house.smtp, SmtpBody(5, CHUNK))
    house.run(0.01)
    assert house.smtp.take(BodyCredit) == []
    house.say(house.smtp, SmtpBody(5, b"y"))
    assert house.expect(house.smtp, BodyCredit) == BodyCredit(5, 2 * len(CHUNK) + 1)
    house.say(house.smtp, SmtpBody(5, CHUNK))
    assert house.expect(house.smtp, BodyCredit) == BodyCredit(5, len(CHUNK))
    house.say(house.smtp, SmtpMessageRollback(5))


def test_30_megabytes_need_little_memory(house: House) -> None:
    msgid = house.msgid()
    house.say(house.smtp, SmtpEnvelopes(5, [sealed(msgid, envelope())]))
    total = 30 * 1024 * 1024
    tracemalloc.start()
    window, sent = BODY_WINDOW, 0
    while sent < total:
        while window < len(CHUNK):
            window += house.expect(house.smtp, BodyCredit).size
        house.say(house.smtp, SmtpBody(5, bytes(CHUNK)))
        window, sent = window - len(CHUNK), sent + len(CHUNK)
    house.say(house.smtp, SmtpMessageCommit(5, msgid, 1, total))
    assert house.expect(house.smtp, SmtpMessageCommitted).ok
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 1024 * 1024


@pytest.mark.parametrize("size", [10, 400_000])
def test_rollback_leaves_nothing(house: House, tmp_path: Path, size: int) -> None:
    house.say(house.smtp, SmtpEnvelopes(5, [sealed(house.msgid(), envelope())]))
    for at in range(0, size, 65536):
        house.say(house.smtp, SmtpBody(5, b"x" * min(65536, size - at)))
    house.say(house.smtp, SmtpMessageRollback(5))
    house.until(lambda: house.queue.inbox.held == 0)
    house.until(lambda: bodies(tmp_path) == [])
    assert len(house.queue.inbox) == 0


def test_rollback_of_nothing(house: House) -> None:
    house.say(house.smtp, SmtpMessageRollback(12345))


@pytest.mark.parametrize("size", [0, len(BODY) - 1, len(BODY) + 1])
def test_size_must_match(house: House, size: int) -> None:
    msgid = house.msgid()
    house.say(house.smtp, SmtpEnvelopes(5, [sealed(msgid, envelope())]))
    house.say(house.smtp, SmtpBody(5, BODY))
    house.say(house.smtp, SmtpMessageCommit(5, msgid, 1, size))
    assert not house.expect(house.smtp, SmtpMessageCommitted).ok


def test_message_without_envelopes_is_refused(house: House) -> None:
    house.begin(envelopes=[])
    assert not house.expect(house.smtp, SmtpMessageCommitted).ok


def test_same_id_twice_is_refused(house: House) -> None:
    msgid = house.msgid()
    house.begin(msgid=msgid)
    assert house.expect(house.smtp, SmtpMessageCommitted).ok
    house.begin(b"other", msgid=msgid)
    assert not house.expect(house.smtp, SmtpMessageCommitted).ok
    assert house.queue.backend.body(msgid) == BODY


def test_two_smtp_processes_may_use_the_same_reqid(house: House) -> None:
    from pysmtpd.base.procs import Proc
    from tests.spool.house import FakePeer

    other = FakePeer(Proc.SMTP, 1)
    house.say(house.smtp, SmtpBody(5, BODY))
    house.say(other, SmtpBody(5, b"another"))
    msgid = house.msgid()
    house.say(house.smtp, SmtpEnvelopes(5, [sealed(msgid, envelope())]))
    house.say(house.smtp, SmtpMessageCommit(5, msgid, 1, len(BODY)))
    assert house.expect(house.smtp, SmtpMessageCommitted).ok
    assert house.queue.backend.body(msgid) == BODY
    assert other.sent == []


def test_eight_bit_is_noticed(house: House) -> None:
    for body, expected in ((b"plain", False), (b"a" * 70_000 + b"\xe9", True), (b"\xc3\xa9" * 100_000, True)):
        (evpid,) = house.submit(body)
        assert house.dispatch(evpid).has_8bit is expected


def test_binary_is_remembered(house: House) -> None:
    for binary in (False, True):
        house.begin(binary=binary)
        assert house.expect(house.smtp, SmtpMessageCommitted).ok
        [schedule] = house.expect(house.scheduler, QueueEnvelopes).schedules
        assert house.dispatch(schedule.evpid).binary is binary


def test_envelopes_get_their_numbers(house: House) -> None:
    given = [envelope(0), envelope(0xDEAD), envelope(rcpt="carol@example.net")]
    evpids = house.submit(envelopes=given)
    assert [evpid & 0xFFFFFFFF for evpid in evpids] == [1, 2, 3]
    assert [house.dispatch(evpid).envelope.rcpt.user for evpid in evpids] == ["bob", "bob", "carol"]


def test_too_many_envelopes_are_refused(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "ENVELOPES_MAX", 3)
    house.begin(envelopes=[envelope()] * 4)
    assert not house.expect(house.smtp, SmtpMessageCommitted).ok
    house.begin(envelopes=[envelope()] * 3)
    assert house.expect(house.smtp, SmtpMessageCommitted).ok


def test_under_pressure_bodies_become_files_early(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "PRESSURE", 100_000)
    house.say(house.smtp, SmtpBody(1, CHUNK))
    house.say(house.smtp, SmtpBody(2, CHUNK))
    assert house.expect(house.smtp, BodyCredit) == BodyCredit(2, len(CHUNK))
    house.until(lambda: house.queue.inbox.held == len(CHUNK))


def test_memory_is_bounded(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "HELD_MAX", 100_000)
    ids = {reqid: house.msgid() for reqid in (1, 2, 3)}
    for reqid, msgid in ids.items():
        house.say(house.smtp, SmtpEnvelopes(reqid, [sealed(msgid, envelope())]))
        house.say(house.smtp, SmtpBody(reqid, CHUNK))
    house.say(house.smtp, SmtpMessageCommit(3, ids[3], 1, len(CHUNK)))
    assert not house.expect(house.smtp, SmtpMessageCommitted).ok
    house.say(house.smtp, SmtpMessageCommit(1, ids[1], 1, len(CHUNK)))
    assert house.expect(house.smtp, SmtpMessageCommitted).ok
    # The sender of what is thrown away does not wait for credit.
    assert house.smtp.take(BodyCredit) == [BodyCredit(3, len(CHUNK))]


def commit(house: House, msgid: int, count: int, *blobs: bytes) -> bool:
    """Whether queue takes what smtp hands in."""
    house.say(house.smtp, SmtpEnvelopes(5, list(blobs)))
    house.say(house.smtp, SmtpBody(5, BODY))
    house.say(house.smtp, SmtpMessageCommit(5, msgid, count, len(BODY)))
    return house.expect(house.smtp, SmtpMessageCommitted).ok


def test_smtp_cannot_make_an_envelope(house: House) -> None:
    """A smtp process that is not itself any more could name a user and a command for him."""
    msgid = house.msgid()
    evil = envelope(evpid=msgid << 32 | 1, user="alice", command="|touch /tmp/owned")
    made_up = Seal(b"x" * KEY_SIZE).close([evil])
    for blob in (made_up, made_up[16:], b""):
        assert not commit(house, msgid, 1, blob)
        assert house.logged.lines[-1].endswith("refused: envelopes not sealed by lka")
        msgid = house.msgid()


def test_smtp_cannot_change_an_envelope(house: House) -> None:
    msgid = house.msgid()
    blob = sealed(msgid, envelope(user="alice"))
    assert b"alice" in blob
    assert not commit(house, msgid, 1, blob.replace(b"alice", b"bobby"))


def test_envelopes_are_good_for_their_message_only(house: House) -> None:
    first, second = house.msgid(), house.msgid()
    blob = sealed(first, envelope())
    assert not commit(house, second, 1, blob)
    assert house.logged.lines[-1].endswith("refused: envelopes of another message")
    assert commit(house, first, 1, blob)


@pytest.mark.parametrize("numbers", [(1, 1), (2, 1), (2, 3), (1, 3)])
def test_envelopes_are_good_for_one_place_in_their_message(house: House, numbers: tuple[int, ...]) -> None:
    for order, good in ((numbers, False), ((1, 2), True)):
        msgid = house.msgid()
        assert commit(house, msgid, 2, *(SEAL.close([envelope(msgid << 32 | n)]) for n in order)) is good
    assert "refused: envelopes of another message" in house.logged.lines[-1]


def test_what_lka_expanded_may_run_a_command(house: House) -> None:
    msgid = house.msgid()
    assert commit(house, msgid, 1, sealed(msgid, envelope(user="alice", command="|vacation")))
    ((stored,),) = [house.queue.backend.load([msgid << 32 | 1])]
    assert isinstance(stored, Stored) and stored.envelope.command == "|vacation"


def test_before_lka_gave_its_key_nothing_is_taken(house: House) -> None:
    house.queue.seal = None
    msgid = house.msgid()
    assert not commit(house, msgid, 1, sealed(msgid, envelope()))
    assert house.logged.lines[-1].endswith("refused: envelopes before lka gave its key")


# all in one frame


def test_a_message_in_one_frame(house: House, tmp_path: Path) -> None:
    msgid, body = house.msgid(), BODY + b"\xe9\r\n"
    house.say(house.smtp, SmtpMessage(5, msgid, [sealed(msgid, envelope(), envelope())], body))
    assert house.expect(house.smtp, SmtpMessageCommitted) == SmtpMessageCommitted(5, True)
    assert house.queue.backend.message(msgid) == Message(msgid, len(body), HAS_8BIT, NOW, False)
    assert house.queue.backend.body(msgid) == body
    assert len(house.queue.backend.load([msgid << 32 | 1, msgid << 32 | 2])) == 2
    assert (len(house.queue.inbox), house.queue.inbox.held, bodies(tmp_path)) == (0, 0, [])


def test_a_message_in_one_frame_is_refused_for_the_same_reasons(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(msgid: int, *blobs: bytes) -> str:
        house.say(house.smtp, SmtpMessage(5, msgid, list(blobs), BODY))
        assert house.expect(house.smtp, SmtpMessageCommitted) == SmtpMessageCommitted(5, False)
        assert (len(house.queue.inbox), house.queue.inbox.held) == (0, 0)
        return house.logged.lines.pop().partition(" refused: ")[2]

    assert refused(msgid := house.msgid()) == "no envelopes"
    assert refused(msgid, sealed(msgid, envelope())) == "not an id of this process"
    other, msgid = house.msgid(), house.msgid()
    assert refused(msgid, sealed(other, envelope())) == "envelopes of another message"
    msgid = house.msgid()
    assert refused(msgid, sealed(msgid, envelope())[1:]) == "envelopes not sealed by lka"
    msgid = house.msgid()
    monkeypatch.setattr(incoming, "HELD_MAX", -1)
    assert refused(msgid, sealed(msgid, envelope())) == "too much arrives at once"


def test_a_message_in_one_frame_is_not_mixed_with_pieces(house: House) -> None:
    """Whatever smtp sent before under this id is none of this message."""
    msgid = house.msgid()
    house.say(house.smtp, SmtpBody(5, b"some other text"))
    house.say(house.smtp, SmtpMessage(5, msgid, [sealed(msgid, envelope())], BODY))
    assert house.expect(house.smtp, SmtpMessageCommitted).ok
    assert house.queue.backend.body(msgid) == BODY


def test_under_pressure_a_message_in_one_frame_becomes_a_file(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "PRESSURE", 10_000)
    msgid = house.msgid()
    house.say(house.smtp, SmtpMessage(5, msgid, [sealed(msgid, envelope())], CHUNK[:60_000]))
    assert house.expect(house.smtp, SmtpMessageCommitted).ok
    message = house.queue.backend.message(msgid)
    assert message is not None and message.file and message.size == 60_000
    assert house.queue.inbox.held == 0
