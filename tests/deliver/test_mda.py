"""mda between queue, parent and workers, real ones and hostile ones."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pysmtpd import mda
from pysmtpd.base.procs import Proc
from pysmtpd.conf.config import Action, Config, Method
from pysmtpd.deliver import pools
from pysmtpd.imsg import Encoder, Message
from pysmtpd.messages import (
    BodyClose,
    BodyCredit,
    BodyOpen,
    DeliveryHold,
    DeliveryRelease,
    MdaWorkerExited,
    MdaWorkerStart,
    Outcome,
    QueueBody,
    Shutdown,
    WorkerDelivered,
    WorkerKind,
)
from tests.deliver.support import BODY, MAILDIR, House, config, envelope

Make = Callable[[Config], House]
EVPID = 0x1_0000_0001


def files(home: Path) -> list[bytes]:
    return sorted(path.read_bytes() for path in (home / "Maildir/new").iterdir())


def command(text: str, **fields: str) -> Action:
    return Action(name="local", method=Method.MDA, argument=text, **fields)  # type: ignore[arg-type]


def sent(house: House, kind: type[Message]) -> list[Message]:
    return [message for message in house.seen if type(message) is kind]


def test_a_message_goes_into_a_maildir(house: Make, home: Path) -> None:
    one = house(config(MAILDIR))
    one.deliver(envelope())
    result = one.result()
    assert (result.outcome, result.esc, result.text) == (Outcome.OK, "2.0.0", "Delivered")
    assert files(home) == [b"Return-Path: <a@example.org>\nDelivered-To: joe@example.com\nSubject: x\n\nhello\n"]
    (line,) = one.log.lines
    assert " mda delivery evpid=0000000100000001 from=<a@example.org> to=<joe@example.com> rcpt=<joe@" in line
    assert " user=joe delay=" in line
    assert line.endswith("result=Ok stat=Delivered")


def test_a_body_that_came_along_is_not_asked_for(house: Make, home: Path) -> None:
    one = house(config(MAILDIR))
    one.deliver(envelope(), carried=True)
    assert one.result().outcome is Outcome.OK
    [text] = files(home)
    assert text == b"Return-Path: <a@example.org>\nDelivered-To: joe@example.com\nSubject: x\n\nhello\n"
    one.deliver(envelope(0x2_0000_0001), text.replace(b"\n", b"\r\n"), carried=True)
    assert one.result(0x2_0000_0001).outcome is Outcome.LOOP
    assert not sent(one, BodyOpen) + sent(one, BodyClose) + sent(one, BodyCredit)


def test_the_null_sender(house: Make, home: Path) -> None:
    one = house(config(MAILDIR))
    one.deliver(envelope(sender=""))
    one.result()
    assert files(home)[0].startswith(b"Return-Path: <>\n")


def test_where_expansion_led_is_recorded(house: Make, home: Path) -> None:
    one = house(config(MAILDIR))
    one.deliver(envelope(rcpt="list@example.com", dest="joe@example.com"))
    one.result()
    assert b"\nDelivered-To: list@example.com\nDelivered-To: joe@example.com\n" in files(home)[0]


def test_a_loop_ends(house: Make, home: Path) -> None:
    """What one delivery writes is what the next one finds, whichever address the message came by."""
    one = house(config(MAILDIR))
    one.deliver(envelope(rcpt="list@example.com", dest="Joe@example.com"))
    one.result()
    again = files(home)[0].replace(b"\n", b"\r\n")
    one.deliver(envelope(0x2_0000_0001, rcpt="other@example.com", dest="joe@EXAMPLE.com"), again)
    result = one.result(0x2_0000_0001)
    assert (result.outcome, result.esc) == (Outcome.LOOP, "5.4.6")
    assert one.log.lines[-1].endswith("result=PermFail stat=Loop detected")
    one.run(lambda: not one.mda._jobs)     # the worker hears of it after the queue, and undoes what it did
    assert len(files(home)) == 1 and not list((home / "Maildir/tmp").iterdir())


def test_a_worker_is_used_again(house: Make, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "PATIENCE", 60.0)       # however busy this machine is
    one = house(config(MAILDIR))
    for number in range(1, 31):
        one.deliver(envelope(number << 32 | 1))
    one.run(lambda: len(one.results) == 30)
    assert len(files(home)) == 30
    assert len(sent(one, MdaWorkerStart)) == 1


def test_a_large_body_streams(house: Make, home: Path) -> None:
    one = house(config(MAILDIR))
    body = BODY + (b"y" * 98 + b"\r\n") * 15_000
    one.deliver(envelope(), body)
    assert one.result().outcome is Outcome.OK
    assert files(home)[0].endswith(body.replace(b"\r\n", b"\n"))
    credit = sum(message.size for message in one.seen if isinstance(message, BodyCredit))
    assert len(body) - 5 * 65536 < credit <= len(body)


def test_a_header_that_fills_a_chunk(house: Make, home: Path) -> None:
    one = house(config(MAILDIR))
    body = b"Subject: " + b"x" * (65536 - 11) + b"\r\n" + b"To: y\r\n\r\n"
    one.deliver(envelope(), body)
    assert one.result().outcome is Outcome.OK
    assert files(home)[0].endswith(b"x\nTo: y\n\n")


def test_a_body_that_cannot_be_read(house: Make, home: Path) -> None:
    one = house(config(MAILDIR))
    one.deliver(envelope(), b"")
    one.run(lambda: one.mda._jobs)
    (number,) = one.mda._jobs
    one.queue.send(QueueBody(number, b"", False, False))
    result = one.result()
    assert (result.outcome, result.text) == (Outcome.TEMPFAIL, "Error reading body")
    assert one.log.lines[-1].endswith("result=TempFail stat=Error (Error reading body)")
    one.deliver(envelope(0x2_0000_0001))
    assert one.result(0x2_0000_0001).outcome is Outcome.OK, "the worker is of use again"
    assert len(files(home)) == 1


def test_what_fails_before_the_body_is_read(house: Make, home: Path) -> None:
    (home / "Maildir").write_text("in the way")
    one = house(config(MAILDIR))
    one.deliver(envelope(), b"x" * 1_000_000 + b"\r\n")
    result = one.result()
    assert result.outcome is Outcome.TEMPFAIL and "Not a directory" in result.text
    one.run(lambda: sent(one, BodyClose))
    (home / "Maildir").unlink()
    one.deliver(envelope(0x2_0000_0001))
    assert one.result(0x2_0000_0001).outcome is Outcome.OK
    assert len(sent(one, MdaWorkerStart)) == 1


def test_a_worker_that_dies(house: Make) -> None:
    one = house(config(command("sleep 60")))
    one.deliver(envelope())
    one.run(lambda: one.workers and one.mda._jobs)
    os.kill(next(iter(one.workers)), signal.SIGKILL)
    result = one.result()
    assert (result.outcome, result.text) == (Outcome.TEMPFAIL, "terminated; signal 9")
    one.run(lambda: one.mda._pools.idle)


@pytest.mark.parametrize("temporary, outcome, esc", [(True, Outcome.TEMPFAIL, "4.1.0"),
                                                     (False, Outcome.PERMFAIL, "5.1.6")])
def test_no_worker_is_to_be_had(house: Make, temporary: bool, outcome: Outcome, esc: str) -> None:
    one = house(config(MAILDIR))
    one.refuse = (temporary, "no such user")
    one.deliver(envelope())
    one.deliver(envelope(0x1_0000_0002))
    for evpid in (EVPID, EVPID + 1):
        result = one.result(evpid)
        assert (result.outcome, result.esc, result.text) == (outcome, esc, "no such user")
    assert one.mda._pools.idle and not one.mda._slots


def test_an_action_that_went_away(house: Make) -> None:
    one = house(config())
    one.deliver(envelope())
    assert one.result().outcome is Outcome.TEMPFAIL


def test_a_format_that_cannot_be_expanded(house: Make) -> None:
    one = house(config(command("echo %{nonsense}")))
    assert "there is no %{nonsense} here" in one.log.lines[0]
    one.deliver(envelope())
    result = one.result()
    assert result.outcome is Outcome.TEMPFAIL
    assert result.text.startswith("mda command line could not be expanded")


def test_whom_to_become(house: Make) -> None:
    mbox = Action(name="mbox", method=Method.MBOX)
    wrapped = Action(name="wrapped", method=Method.MBOX, wrapper="w")
    other = command("true", user="vmail")
    one = house(config(mbox, wrapped, other, wrappers={"w": "%{mda}"}))
    one.refuse = (True, "")
    for number, (action, text) in enumerate([("mbox", ""), ("mbox", "|true"), ("wrapped", ""), ("local", "")], 1):
        one.deliver(envelope(number << 32 | 1, action=action, command=text, user=f"u{number}"))
    one.run(lambda: len(sent(one, MdaWorkerStart)) == 4)
    asked = [(message.user, message.kind) for message in one.seen if isinstance(message, MdaWorkerStart)]
    assert asked == [("u1", WorkerKind.MBOX), ("u2", WorkerKind.USER), ("u3", WorkerKind.USER),
                     ("vmail", WorkerKind.USER)]


def test_too_much_for_one_recipient_is_held(house: Make, home: Path) -> None:
    one = house(config(MAILDIR, mda_task_hiwat=5, mda_task_lowat=3, mda_task_release=2))
    for number in range(1, 9):
        one.deliver(envelope(number << 32 | 1))
    one.run(lambda: len(one.results) == 5)
    held = [message for message in one.seen if isinstance(message, DeliveryHold)]
    one.run(lambda: len(sent(one, DeliveryRelease)) == 2)
    assert [message.evpid >> 32 for message in held] == [6, 7, 8]
    holdq = held[0].holdq
    assert sent(one, DeliveryRelease) == [DeliveryRelease(holdq, 2), DeliveryRelease(holdq, 0)]
    assert one.mda.stats.values["mda.envelope"] == 0


def test_stopping_lets_a_delivery_end(house: Make, home: Path) -> None:
    one = house(config(command("cat > body; sleep 0.3")))
    one.deliver(envelope())
    one.run(lambda: one.mda._jobs)
    one.parent.send(Shutdown())
    assert one.result().outcome is Outcome.OK
    assert one.mda._leaving


def test_the_output_of_a_command_is_shown_safely(house: Make) -> None:
    one = house(config(command(r"printf 'one\ntwo\033[1m\r\n'; exit 75")))
    one.deliver(envelope())
    result = one.result()
    assert (result.outcome, result.esc) == (Outcome.TEMPFAIL, "4.3.0")
    assert result.text == 'temporary failure: "two [1m"'
    assert one.log.lines[-1].endswith(r'result=TempFail stat=Error (temporary failure: "two\033[1m")')


class Hostile:
    """A worker that its user took over."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.sock: socket.socket | None = None
        self._encoder = Encoder(Proc.WORKER, Proc.MDA, 1)
        house.fake = self._start

    def _start(self, _reqid: int) -> socket.socket:
        theirs, self.sock = socket.socketpair()
        return theirs

    def job(self) -> int:
        """Get a delivery; its id."""
        self.house.deliver(envelope())
        self.house.run(lambda: self.house.mda._jobs)
        return next(iter(self.house.mda._jobs))

    def send(self, message: Message) -> None:
        self.raw(self._encoder.encode(message))

    def raw(self, data: bytes) -> None:
        assert self.sock is not None
        self.sock.sendall(data)


@pytest.fixture
def hostile(house: Make, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hostile]:
    monkeypatch.setattr(mda, "LAST_WORDS", 0.05)
    one = Hostile(house(config(MAILDIR)))
    yield one
    if one.sock is not None:
        one.sock.close()


def gone(hostile: Hostile) -> None:
    """The delivery has failed for now, the worker is dropped, and mda lives."""
    result = hostile.house.result()
    assert (result.outcome, result.text) == (Outcome.TEMPFAIL, "delivery worker lost")
    (number,) = hostile.house.mda._slots
    hostile.house.parent.send(MdaWorkerExited(number, "exited okay"))
    hostile.house.run(lambda: hostile.house.mda._pools.idle)
    assert not hostile.house.mda._slots and not hostile.house.mda._by_peer and not hostile.house.mda._jobs


def test_garbage_from_a_worker(hostile: Hostile) -> None:
    hostile.job()
    hostile.raw(b"\xff" * 100)
    gone(hostile)
    assert "invalid imsg" in hostile.house.log.lines[0]


def test_a_result_for_somebody_elses_delivery(hostile: Hostile) -> None:
    number = hostile.job()
    hostile.send(WorkerDelivered(number + 1, Outcome.OK, "2.0.0", b""))
    gone(hostile)


def test_credit_for_what_was_not_sent(hostile: Hostile) -> None:
    number = hostile.job()
    hostile.send(BodyCredit(number, 0xFFFFFFFF))
    gone(hostile)
    assert not sent(hostile.house, BodyCredit)


def test_a_loop_that_a_worker_claims(hostile: Hostile) -> None:
    number = hostile.job()
    hostile.send(WorkerDelivered(number, Outcome.LOOP, "5.4.6", b""))
    gone(hostile)


def test_a_worker_that_hangs(hostile: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mda, "JOB_TIMEOUT", 0.1)
    hostile.job()
    result = hostile.house.result()
    assert (result.outcome, result.text) == (Outcome.TEMPFAIL, "terminated; timeout")
    assert hostile.house.mda._slots, "it counts until the parent has reaped it"


def test_status_codes_must_fit_the_result(hostile: Hostile) -> None:
    number = hostile.job()
    hostile.send(WorkerDelivered(number, Outcome.PERMFAIL, "2.0.0", b"\xff\x00\r\nx"))
    result = hostile.house.result()
    assert (result.outcome, result.esc) == (Outcome.PERMFAIL, "5.0.0")
    assert hostile.house.log.lines[-1].endswith(r"stat=Error (\377\0\r\nx)")


def test_a_socket_that_outlives_its_worker(hostile: Hostile) -> None:
    """It was given to another process of the same user, which keeps it open."""
    hostile.job()
    (number,) = hostile.house.mda._slots
    hostile.house.parent.send(MdaWorkerExited(number, "exited abnormally"))
    assert hostile.house.result().text == "exited abnormally"
    hostile.house.run(lambda: hostile.house.mda._pools.idle)


def test_a_worker_that_leaves_in_the_middle_of_a_body(hostile: Hostile) -> None:
    """The rest of the body still comes, and must not be taken for anything."""
    number = hostile.job()
    assert hostile.sock is not None
    hostile.sock.close()
    hostile.house.run(lambda: not hostile.house.mda._by_peer)
    hostile.house.queue.send(QueueBody(number, BODY, False))
    hostile.house.queue.send(QueueBody(number, b"", False, False))
    hostile.house.turn()
    gone(hostile)


def test_a_worker_that_hangs_after_its_end(hostile: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process has ended, its socket not, and its time is up before that is noticed."""
    monkeypatch.setattr(mda, "LAST_WORDS", 30.0)
    monkeypatch.setattr(mda, "JOB_TIMEOUT", 0.2)
    hostile.job()
    (number,) = hostile.house.mda._slots
    hostile.house.parent.send(MdaWorkerExited(number, "exited abnormally"))
    assert hostile.house.result().outcome is Outcome.TEMPFAIL
    assert not hostile.house.mda._slots and hostile.house.mda._pools.idle
