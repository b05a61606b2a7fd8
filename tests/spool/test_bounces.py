"""From a failed delivery to the report in the sender's hands."""

import email
import os
from pathlib import Path

import pytest

from pysmtpd.base.envelope import Agent, BounceKind, Envelope, Notify
from pysmtpd.base.mailaddr import NULL
from pysmtpd.messages import (
    Delivered,
    ExpandRcpt,
    Outcome,
    QueueDone,
    QueueEnvelopes,
    QueueTempfail,
    Result,
    SchedDispatch,
    SchedExpire,
    SchedFetch,
    SchedFetched,
    SchedRetry,
)
from pysmtpd.spool import bounces
from pysmtpd.spool.backend import SpoolError
from tests.spool.house import BODY, NOW, House, envelope, expanded


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounces, "GATHER", 0.02)


def fail(house: House, evpid: int, text: str = "550 5.1.1 No such user", outcome: Outcome = Outcome.PERMFAIL) -> None:
    house.dispatch(evpid)
    house.report(evpid, outcome, "5.1.1", text)


def bounce_due(house: House) -> int:
    """An envelope has become a bounce: the scheduler heard of its end and then of the bounce."""
    done = house.expect(house.scheduler, QueueDone)
    (schedule,) = house.expect(house.scheduler, QueueEnvelopes).schedules
    assert schedule.evpid in done.evpids
    assert (schedule.agent, schedule.due, schedule.retry) == (Agent.BOUNCE, NOW, 0)
    return schedule.evpid


def answer(house: House, reply: str = "", count: int = 1) -> ExpandRcpt:
    """lka says where the sender's mail goes."""
    ask = house.expect(house.lka, ExpandRcpt)
    to = [] if reply else [
        envelope(agent=Agent.MDA, user="alice", sender=NULL, rcpt="alice@example.org") for _ in range(count)
    ]
    house.say(house.lka, expanded(ask, *to, reply=reply))
    return ask


def report_of(house: House, schedules: QueueEnvelopes) -> tuple[Envelope, str]:
    """The report as it is delivered."""
    (schedule,) = schedules.schedules
    deliver = house.dispatch(schedule.evpid, house.mda)
    body = house.queue.backend.body(schedule.evpid >> 32)
    assert body is not None and len(body) == deliver.size
    return deliver.envelope, body.decode()


def test_failure_comes_back_to_the_sender(house: House) -> None:
    (evpid,) = house.submit()
    fail(house, evpid)
    assert bounce_due(house) == evpid
    house.say(house.scheduler, SchedDispatch([evpid]))
    ask = answer(house)
    assert (ask.envelope.sender, str(ask.envelope.dest), ask.local) == (NULL, "alice@example.org", True)
    assert house.expect(house.scheduler, QueueDone) == QueueDone([evpid], Outcome.OK)
    got, text = report_of(house, house.expect(house.scheduler, QueueEnvelopes))
    assert got.sender == NULL and got.user == "alice"
    assert "550 5.1.1 No such user" in text and "Message-ID: <1@example.org>" in text
    assert house.queue.backend.message(evpid >> 32) is None
    assert any(f"msgid={got.evpid >> 32:08x}" in line for line in house.logged.lines)


def test_a_disk_that_fails_for_a_moment_loses_no_bounce(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    (evpid,) = house.submit()
    fail(house, evpid)
    bounce_due(house)
    house.say(house.scheduler, SchedDispatch([evpid]))

    def failing(_msgid: int) -> None:
        raise SpoolError("Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(house.queue.reader, "message", failing)
        answer(house)
    assert house.expect(house.scheduler, QueueTempfail).schedule.evpid == evpid
    house.say(house.scheduler, SchedRetry(evpid, 1, NOW, 0))
    house.expect(house.scheduler, QueueEnvelopes)
    house.say(house.scheduler, SchedDispatch([evpid]))
    answer(house)
    assert report_of(house, house.expect(house.scheduler, QueueEnvelopes))[0].user == "alice"


def test_a_body_that_is_lost_does_not_keep_the_report_back(house: House) -> None:
    (evpid,) = house.submit(bytes(300_000))
    fail(house, evpid)
    bounce_due(house)
    os.unlink(house.queue.bodies.path(evpid >> 32))
    house.say(house.scheduler, SchedDispatch([evpid]))
    answer(house)
    assert "550 5.1.1 No such user" in report_of(house, house.expect(house.scheduler, QueueEnvelopes))[1]


def test_recipients_of_one_message_share_a_report(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounces, "GATHER", 0.3)
    evpids = house.submit(envelopes=[envelope(rcpt=f"{name}@example.net") for name in ("bob", "carol", "dave")])
    for evpid in evpids:
        fail(house, evpid, f"550 no {evpid & 15}")
        house.say(house.scheduler, SchedDispatch([bounce_due(house)]))
    answer(house)
    house.until(lambda: house.queue.backend.message(evpids[0] >> 32) is None)
    _, text = report_of(house, house.expect(house.scheduler, QueueEnvelopes))
    parsed = email.message_from_string(text)
    assert [f["Final-Recipient"] for f in parsed.get_payload()[1].get_payload()[1:]] == [  # type: ignore[union-attr,index]
        "rfc822; bob@example.net", "rfc822; carol@example.net", "rfc822; dave@example.net",
    ]  # fmt: skip
    house.run(0.35)
    assert house.lka.sent == []


def test_bounce_survives_a_crash(tmp_path: Path) -> None:
    first = House(tmp_path)
    (evpid,) = first.submit()
    fail(first, evpid)
    bounce_due(first)
    first.say(first.scheduler, SchedDispatch([evpid]))
    first.expect(first.lka, ExpandRcpt)
    first.kill()
    house = House(tmp_path)
    house.say(house.scheduler, SchedFetch(1, Agent.BOUNCE, 0, 0, NOW, 10))
    (schedule,) = house.expect(house.scheduler, SchedFetched).schedules
    house.say(house.scheduler, SchedDispatch([schedule.evpid]))
    answer(house)
    assert "No such user" in report_of(house, house.expect(house.scheduler, QueueEnvelopes))[1]
    house.close()


@pytest.mark.parametrize(("outcome", "esc"), [(Outcome.PERMFAIL, "5.1.1"), (Outcome.LOOP, "5.4.6")])
def test_status_of_the_failure(house: House, outcome: Outcome, esc: str) -> None:
    (evpid,) = house.submit()
    fail(house, evpid, "Loop detected", outcome)
    bounce_due(house)
    house.say(house.scheduler, SchedDispatch([evpid]))
    answer(house)
    text = report_of(house, house.expect(house.scheduler, QueueEnvelopes))[1]
    assert f"Status: {esc}" in text and "Action: failed" in text


def test_expired(house: House) -> None:
    (evpid,) = house.submit()
    house.dispatch(evpid)
    house.report(evpid, Outcome.TEMPFAIL, "4.7.1", "451 Greylisted")
    house.say(house.scheduler, SchedRetry(evpid, 1, NOW + 400, 0))
    house.expect(house.scheduler, QueueEnvelopes)
    house.queue.clock = NOW + 345600
    house.say(house.scheduler, SchedExpire([evpid]))
    assert house.expect(house.scheduler, QueueDone) == QueueDone([evpid], 0)
    assert house.logged.lines[-1] == (
        f"relay: Expire for {evpid:016x}: from=<alice@example.org>, to=<bob@example.net>, rcpt=<bob@example.net>, "
        "delay=4d, stat=Envelope expired"
    )
    house.expect(house.scheduler, QueueEnvelopes)
    house.say(house.scheduler, SchedDispatch([evpid]))
    answer(house)
    text = report_of(house, house.expect(house.scheduler, QueueEnvelopes))[1]
    assert "Status: 5.4.7" in text
    assert "Envelope expired; last error: 451 Greylisted" in text.replace("\r\n\t", " ")


def test_delay_is_told_once_and_the_envelope_stays(house: House) -> None:
    (evpid,) = house.submit()
    house.dispatch(evpid)
    house.report(evpid, Outcome.TEMPFAIL, "4.7.1", "451 Greylisted")
    house.say(house.scheduler, SchedRetry(evpid, 6, NOW + 14400, 14400))
    schedules = house.expect(house.scheduler, QueueEnvelopes).schedules
    assert [(s.agent, s.due, s.last_bounce) for s in schedules] == [
        (Agent.MTA, NOW + 14400, NOW + 14400), (Agent.BOUNCE, NOW, 0),
    ]  # fmt: skip
    house.queue.clock = NOW + 10_000
    house.say(house.scheduler, SchedDispatch([schedules[1].evpid]))
    answer(house)
    text = report_of(house, house.expect(house.scheduler, QueueEnvelopes))[1]
    assert "Action: delayed" in text and "waiting for 2 hours" in text
    assert house.dispatch(evpid).envelope.retry == 6


def test_who_said_it_is_kept_until_it_is_told(house: House) -> None:
    """Through a temporary failure, a delay notice, and the expiry; what we say ourselves is nobody else's."""
    def say(outcome: Outcome, text: str, remote: str = "") -> None:
        house.dispatch(evpid)
        house.say(house.mta, Delivered([Result(evpid, outcome, "", text, remote=remote)]))

    (evpid,) = house.submit()
    say(Outcome.TEMPFAIL, "451 later", "mx1.example.net")
    house.say(house.scheduler, SchedRetry(evpid, 1, NOW, 14400))
    found = house.expect(house.scheduler, QueueEnvelopes).schedules
    assert [house.queue.reader.load([one.evpid])[0].envelope.remote for one in found] == ["mx1.example.net"] * 2
    say(Outcome.TEMPFAIL, "Connection timeout")
    house.say(house.scheduler, SchedRetry(evpid, 2, NOW, 0))
    house.expect(house.scheduler, QueueEnvelopes)
    assert house.queue.reader.load([evpid])[0].envelope.remote == ""
    say(Outcome.PERMFAIL, "550 no", "mx2.example.net\n")
    bounce_due(house)
    assert house.queue.reader.load([evpid])[0].envelope.remote == "mx2.example.net"


def test_that_an_alias_was_expanded_is_told_at_once(house: House) -> None:
    bounce = envelope(agent=Agent.BOUNCE, bounce=BounceKind.EXPANDED)
    evpids = house.submit(envelopes=[envelope(notify=int(Notify.NEVER)), bounce])
    house.say(house.scheduler, SchedDispatch(evpids[1:]))
    answer(house)
    text = report_of(house, house.expect(house.scheduler, QueueEnvelopes))[1]
    assert "Action: expanded\r\n" in text


@pytest.mark.parametrize(
    ("notify", "kinds"),
    [
        (0, {"failed", "delayed"}),
        (Notify.NEVER, set()),
        (Notify.FAILURE, {"failed"}),
        (Notify.DELAY, {"delayed"}),
        (Notify.SUCCESS, {"delivered"}),
        (Notify.SUCCESS | Notify.FAILURE | Notify.DELAY, {"failed", "delayed", "delivered"}),
    ],
)
def test_notify_is_honoured(house: House, notify: int, kinds: set[str]) -> None:
    failed, delayed, delivered = house.submit(envelopes=[envelope(notify=int(notify)) for _ in range(3)])
    fail(house, failed)
    house.dispatch(delayed)
    house.report(delayed, Outcome.TEMPFAIL, "4.0.0", "busy")
    house.say(house.scheduler, SchedRetry(delayed, 1, NOW + 14400, 14400))
    house.dispatch(delivered)
    house.report(delivered, Outcome.OK)
    house.run(0.06)
    names = {BounceKind.FAILED: "failed", BounceKind.DELAYED: "delayed", BounceKind.DELIVERED: "delivered"}
    rows = house.queue.reader.readable(house.queue.backend.walk(0, 0, 10))
    assert {names[row.envelope.bounce] for row in rows if row.envelope.agent is Agent.BOUNCE} == kinds


def test_success_is_the_peers_duty_when_it_took_it_over(house: House) -> None:
    (evpid,) = house.submit(envelopes=[envelope(notify=int(Notify.SUCCESS))])
    house.dispatch(evpid)
    house.report(evpid, Outcome.OK, dsn_relayed=True)
    assert house.expect(house.scheduler, QueueDone).result == Outcome.OK
    assert house.queue.backend.walk(0, 0, 10) == []


def test_nothing_is_returned_to_nobody(house: House) -> None:
    (evpid,) = house.submit(envelopes=[envelope(sender=NULL)])
    fail(house, evpid)
    assert house.expect(house.scheduler, QueueDone) == QueueDone([evpid], Outcome.PERMFAIL)
    assert house.logged.lines[-1] == "warn: queue: no return path!"
    assert house.queue.backend.walk(0, 0, 10) == []


def test_double_bounce_is_dropped(house: House) -> None:
    (evpid,) = house.submit()
    fail(house, evpid)
    bounce_due(house)
    house.say(house.scheduler, SchedExpire([evpid]))
    house.expect(house.scheduler, QueueDone)
    assert house.logged.lines[-1] == "warn: queue: double bounce!"
    assert house.queue.backend.walk(0, 0, 10) == []


def test_refused_report_is_dropped_and_logged(house: House) -> None:
    (evpid,) = house.submit()
    fail(house, evpid)
    bounce_due(house)
    house.say(house.scheduler, SchedDispatch([evpid]))
    answer(house, "550 Invalid recipient")
    assert house.expect(house.scheduler, QueueDone) == QueueDone([evpid], Outcome.PERMFAIL)
    assert house.logged.lines[-1] == (
        f"warn: PermFail injecting failure report on message {evpid >> 32:08x} to <alice@example.org> "
        "for 1 envelope: 550 Invalid recipient"
    )
    assert house.queue.backend.walk(0, 0, 10) == []


def test_report_that_cannot_be_sent_now_is_tried_again(house: House) -> None:
    (evpid,) = house.submit()
    fail(house, evpid)
    bounce_due(house)
    house.say(house.scheduler, SchedDispatch([evpid]))
    answer(house, "451 Temporary failure")
    assert house.expect(house.scheduler, QueueTempfail).schedule.agent is Agent.BOUNCE
    assert house.logged.lines[-1].startswith("warn: TempFail injecting failure report")
    house.say(house.scheduler, SchedRetry(evpid, 1, NOW + 10, 0))
    house.expect(house.scheduler, QueueEnvelopes)
    house.say(house.scheduler, SchedDispatch([evpid]))
    answer(house)
    report_of(house, house.expect(house.scheduler, QueueEnvelopes))


def test_lka_that_does_not_answer(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounces, "ANSWER_TIMEOUT", 0.02)
    (evpid,) = house.submit()
    fail(house, evpid)
    bounce_due(house)
    house.say(house.scheduler, SchedDispatch([evpid]))
    ask = house.expect(house.lka, ExpandRcpt)
    assert house.expect(house.scheduler, QueueTempfail).schedule.evpid == evpid
    house.say(house.lka, expanded(ask, envelope()))
    house.run(0.02)
    assert house.scheduler.sent == []


def test_sender_who_is_many(house: House) -> None:
    (evpid,) = house.submit()
    fail(house, evpid)
    bounce_due(house)
    house.say(house.scheduler, SchedDispatch([evpid]))
    ask = house.expect(house.lka, ExpandRcpt)
    house.say(house.lka, expanded(ask, envelope(), envelope(), more=True))
    house.say(house.lka, expanded(ask, envelope()))
    assert len(house.expect(house.scheduler, QueueEnvelopes).schedules) == 3


def test_report_that_cannot_be_stored_is_tried_again(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    from pysmtpd.spool.backend import SpoolError

    (evpid,) = house.submit()
    fail(house, evpid)
    bounce_due(house)
    house.say(house.scheduler, SchedDispatch([evpid]))

    def broken(_changes: object) -> None:
        raise SpoolError("disk I/O error")

    ask = house.expect(house.lka, ExpandRcpt)
    with monkeypatch.context() as patch:
        patch.setattr(house.queue.backend, "apply", broken)
        house.say(house.lka, expanded(ask, envelope()))
        assert house.expect(house.scheduler, QueueTempfail).schedule.evpid == evpid
    assert len(house.queue.backend.load([evpid])) == 1


def test_body_of_the_original_is_returned_on_demand(house: House) -> None:
    from pysmtpd.base.envelope import Ret

    (evpid,) = house.submit(envelopes=[envelope(ret=Ret.FULL)])
    fail(house, evpid)
    bounce_due(house)
    house.say(house.scheduler, SchedDispatch([evpid]))
    answer(house)
    assert BODY.decode() in report_of(house, house.expect(house.scheduler, QueueEnvelopes))[1]
