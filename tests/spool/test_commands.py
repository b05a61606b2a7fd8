"""What smtpctl asks and commands."""

import os
from typing import Any

import pytest

from pysmtpd.base.envelope import Agent, BounceKind, Envelope, Flag, Notify, Ret
from pysmtpd.base.mailaddr import NULL
from pysmtpd.messages import (
    CtlCounted,
    CtlDone,
    CtlEnvelopes,
    CtlShowEnvelope,
    CtlShowMessage,
    CtlShowQueue,
    CtlText,
    DeliverySchedule,
    EnvelopeCommand,
    Outcome,
    QueueCancel,
    QueueDone,
    QueueEnvelopes,
    QueueListed,
    QueueTempfail,
    SchedFetch,
    SchedFetched,
    SchedRetry,
)
from pysmtpd.spool import commands
from pysmtpd.spool.backend import SpoolError
from pysmtpd.spool.envelope_text import dump
from tests.spool.house import BODY, NOW, House, envelope

SCHEDULE, REMOVE = EnvelopeCommand.SCHEDULE, EnvelopeCommand.REMOVE
PAUSE, RESUME = EnvelopeCommand.PAUSE, EnvelopeCommand.RESUME


def command(house: House, what: EnvelopeCommand, evpid: int = 0, msgid: int = 0) -> int:
    house.say(house.control, CtlEnvelopes(4, what, evpid, msgid, 0))
    return house.expect(house.control, CtlCounted).count


def due(house: House, agent: Agent = Agent.MTA) -> list[int]:
    house.say(house.scheduler, SchedFetch(1, agent, 0, 0, NOW + 99999, 256))
    return [schedule.evpid for schedule in house.expect(house.scheduler, SchedFetched).schedules]


def test_remove_one(house: House) -> None:
    first, second = house.submit(envelopes=[envelope(), envelope(agent=Agent.MDA, user="bob")])
    assert command(house, REMOVE, second) == 1
    assert house.expect(house.scheduler, QueueDone) == QueueDone([second], 0)
    assert house.logged.lines[-1] == (
        f"delivery: Remove for {second:016x}: from=<alice@example.org>, to=<bob@example.net>, "
        "rcpt=<bob@example.net>, delay=0s, stat=Removed by administrator"
    )
    assert due(house) == [first]
    assert command(house, REMOVE, second) == 0


def test_commands_reach_the_envelopes_of_one_message(house: House) -> None:
    one = house.submit(envelopes=[envelope(), envelope()])
    other = house.submit()
    assert command(house, REMOVE, msgid=one[0] >> 32) == 2
    assert due(house) == other
    assert house.queue.backend.message(one[0] >> 32) is None


@pytest.mark.parametrize("count", [0, 1, 4, 5, 9])
def test_all_goes_page_by_page(house: House, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(commands, "PAGE", 4)
    evpids = house.submit(envelopes=[envelope()] * count) if count else []
    assert command(house, PAUSE) == count
    assert due(house) == []
    assert command(house, PAUSE) == 0
    assert command(house, RESUME) == count
    assert due(house) == evpids
    assert command(house, REMOVE) == count
    assert house.queue.backend.walk(0, 0, 10) == []


def test_pause_and_resume_are_told_to_the_scheduler(house: House) -> None:
    (evpid,) = house.submit()
    command(house, PAUSE, evpid)
    assert house.expect(house.scheduler, QueueEnvelopes).schedules[0].suspended
    command(house, RESUME, evpid)
    assert not house.expect(house.scheduler, QueueEnvelopes).schedules[0].suspended


def test_pause_survives_a_delivery_that_fails(house: House) -> None:
    (evpid,) = house.submit()
    house.dispatch(evpid)
    command(house, PAUSE, evpid)
    house.report(evpid, Outcome.TEMPFAIL, "", "busy")
    assert house.expect(house.scheduler, QueueTempfail).schedule.suspended
    house.expect(house.scheduler, QueueEnvelopes)
    house.say(house.scheduler, SchedRetry(evpid, 1, NOW + 400, 0))
    assert house.expect(house.scheduler, QueueEnvelopes).schedules[0].suspended
    assert due(house) == []


def test_schedule_makes_it_due_now(house: House) -> None:
    (evpid,) = house.submit()
    house.say(house.scheduler, SchedRetry(evpid, 1, NOW + 400, 0))
    house.expect(house.scheduler, QueueEnvelopes)
    house.queue.clock = NOW + 5
    assert command(house, SCHEDULE, evpid) == 1
    assert house.expect(house.scheduler, QueueEnvelopes).schedules[0].due == NOW + 5


def test_mta_may_say_that_something_is_due_now(house: House) -> None:
    later, inflight, paused = (house.submit()[0] for _ in range(3))
    for evpid in (later, inflight, paused):
        house.dispatch(evpid)
        if evpid != inflight:
            house.report(evpid, Outcome.TEMPFAIL, "4.4.1", "No valid route")
            house.say(house.scheduler, SchedRetry(evpid, 1, NOW + 400, 0))
            house.expect(house.scheduler, QueueEnvelopes)
    assert command(house, PAUSE, paused) == 1
    house.expect(house.scheduler, QueueEnvelopes)
    house.queue.clock = NOW + 5
    house.say(house.mta, DeliverySchedule([later, inflight, paused, 0x999900000001]))
    (schedule,) = house.expect(house.scheduler, QueueEnvelopes).schedules
    assert (schedule.evpid, schedule.due) == (later, NOW + 5)
    house.run(0.05)
    assert house.scheduler.take(QueueEnvelopes) == []


def test_what_is_in_flight_cannot_be_scheduled(house: House) -> None:
    (evpid,) = house.submit()
    house.dispatch(evpid)
    assert command(house, SCHEDULE, evpid) == 0


def test_an_agent_hears_of_what_was_removed_while_it_had_it(house: House) -> None:
    (first,), (waiting,) = house.submit(), house.submit()
    (local,) = house.submit(envelopes=[envelope(agent=Agent.MDA, user="bob")])
    house.dispatch(first)
    house.dispatch(local, house.mda)
    assert command(house, REMOVE) == 3
    assert [one.evpids for one in house.mta.take(QueueCancel)] == [[first]]
    assert [one.evpids for one in house.mda.take(QueueCancel)] == [[local]]
    assert waiting not in house.queue.flights


@pytest.mark.parametrize("outcome", [Outcome.OK, Outcome.PERMFAIL, Outcome.TEMPFAIL])
def test_removed_in_flight_stays_removed(house: House, outcome: Outcome) -> None:
    (evpid,) = house.submit()
    house.dispatch(evpid)
    assert command(house, REMOVE, evpid) == 1
    house.expect(house.scheduler, QueueDone)
    house.report(evpid, outcome, "5.0.0", "whatever")
    house.run(0.05)
    assert house.scheduler.sent == []
    assert house.queue.backend.walk(0, 0, 10) == []


def test_removed_between_failure_and_retry(house: House) -> None:
    (evpid,) = house.submit()
    house.dispatch(evpid)
    house.report(evpid, Outcome.TEMPFAIL, "", "busy")
    house.expect(house.scheduler, QueueTempfail)
    command(house, REMOVE, evpid)
    house.expect(house.scheduler, QueueDone)
    house.say(house.scheduler, SchedRetry(evpid, 1, NOW + 400, 0))
    assert house.expect(house.scheduler, QueueDone) == QueueDone([evpid], 0)


def listed(house: House, msgid: int = 0) -> list[int]:
    found: list[int] = []
    more, after = True, 0
    while more:
        house.say(house.control, CtlShowQueue(4, msgid, after))
        page = house.expect(house.control, QueueListed)
        assert [s.evpid for s in page.schedules] == [e.evpid for e in page.envelopes]
        found += [e.evpid for e in page.envelopes]
        more, after = page.more, found[-1] if found else 0
    return found


def test_show_queue_pages_over_everything(house: House) -> None:
    assert listed(house) == []
    name = "y" * 250
    long = envelope(errorline="x" * 1000, helo=name, hostname=name, username=name, tag=name)
    evpids = [evpid for _ in range(3) for evpid in house.submit(envelopes=[envelope()] * 50 + [long] * 10)]
    assert listed(house) == evpids
    assert listed(house, evpids[60] >> 32) == evpids[60:120]
    assert listed(house, 0x7777) == []


def test_damaged_rows_do_not_end_a_listing(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "LISTED_MAX", 3)
    evpids = house.submit(envelopes=[envelope()] * 8)
    house.queue.backend._writer.execute("UPDATE envelope SET agent = 99 WHERE number <= 6")  # type: ignore[attr-defined]
    assert listed(house) == evpids[6:]
    assert any(f"invalid envelope {evpids[0]:016x}" in line for line in house.logged.lines)


def test_damaged_row_stays_and_is_not_delivered(house: House) -> None:
    from pysmtpd.messages import SchedDispatch

    (evpid,) = house.submit()
    house.queue.memory.__init__()  # type: ignore[misc]
    house.queue.backend._writer.execute("UPDATE envelope SET ret = 77")  # type: ignore[attr-defined]
    house.say(house.scheduler, SchedDispatch([evpid]))
    assert house.expect(house.scheduler, QueueDone) == QueueDone([evpid], 0)
    assert house.logged.lines[-1].startswith(f"warn: queue: invalid envelope {evpid:016x}: ")
    assert house.mta.sent == []
    assert due(house) == []
    assert len(house.queue.backend.walk(0, 0, 9)) == 1


def test_show_envelope(house: House) -> None:
    (evpid,) = house.submit()
    house.say(house.control, CtlShowEnvelope(4, evpid))
    answer = house.expect(house.control, CtlText)
    assert (answer.last, answer.found) == (True, True)
    assert answer.chunk.decode() == dump(envelope(evpid))
    house.say(house.control, CtlShowEnvelope(4, evpid + 1))
    assert house.expect(house.control, CtlText) == CtlText(4, b"", True, False)


@pytest.mark.parametrize("body", [BODY, b"", os.urandom(65536), os.urandom(300_000)], ids=["small", "0", "64k", "file"])
def test_show_message(house: House, body: bytes) -> None:
    (evpid,) = house.submit(body)
    got, last = b"", False
    while not last:
        house.say(house.control, CtlShowMessage(4, evpid >> 32, len(got)))
        answer = house.expect(house.control, CtlText)
        assert answer.found
        got, last = got + answer.chunk, answer.last
    assert got == body
    house.say(house.control, CtlShowMessage(4, 0x7777, 0))
    assert not house.expect(house.control, CtlText).found


def failing(*_arguments: object) -> object:
    raise SpoolError("Input/output error")


@pytest.mark.parametrize("ask", [
    CtlShowQueue(4, 0, 0), CtlShowEnvelope(4, 0x100000001), CtlShowMessage(4, 1, 0), CtlEnvelopes(4, REMOVE, 0, 0, 0),
    CtlEnvelopes(4, REMOVE, 0x100000001, 0, 0), CtlEnvelopes(4, SCHEDULE, 0, 1, 0),
], ids=lambda ask: type(ask).__name__)
def test_a_disk_that_cannot_be_read_is_no_empty_queue(
    house: House, monkeypatch: pytest.MonkeyPatch, ask: CtlShowQueue,
) -> None:
    house.submit()
    for name in ("walk", "load", "message"):
        monkeypatch.setattr(house.queue.backend, name, failing)
    house.say(house.control, ask)
    assert house.expect(house.control, CtlDone) == CtlDone(4, False, "the spool cannot be read; see the log")
    assert house.logged.lines[-1] == "warn: queue: cannot read: Input/output error"


def test_a_body_that_cannot_be_read(house: House) -> None:
    (evpid,) = house.submit(bytes(300_000))
    os.unlink(house.queue.bodies.path(evpid >> 32))
    house.say(house.control, CtlShowMessage(4, evpid >> 32, 0))
    assert not house.expect(house.control, CtlDone).ok


def test_a_disk_that_cannot_be_written(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "PAGE", 2)
    house.submit(envelopes=[envelope()] * 5)
    apply, calls = house.queue.backend.apply, []

    def once(*arguments: Any) -> Any:
        calls.append(arguments)
        return apply(*arguments) if len(calls) == 1 else failing()

    monkeypatch.setattr(house.queue.backend, "apply", once)
    house.say(house.control, CtlEnvelopes(4, REMOVE, 0, 0, 0))
    answer = house.expect(house.control, CtlDone)
    assert answer == CtlDone(4, False, "the spool cannot be written; 2 done, see the log")


def test_text_of_an_envelope() -> None:
    e: Envelope = envelope(
        1, agent=Agent.BOUNCE, sender=NULL, source="2001:db8::1", username="alice", ret=Ret.HDRS, envid="QQ",
        notify=int(Notify.SUCCESS | Notify.DELAY), orcpt="rfc822;bob", esc="4.7.1", errorline="451 no", retry=3,
        flags=int(Flag.AUTHENTICATED | Flag.INTERNAL), bounce=BounceKind.DELAYED, bounce_delay=14400, tag="t",
    )  # fmt: skip
    assert dump(e).splitlines() == [
        "version: 3", "dispatcher: outbound", "tag: t", "type: bounce", "smtpname: mx.example.org",
        "helo: client.example.org", "hostname: <unknown>", "username: alice", "errorline: 451 no",
        "sockaddr: [2001:db8::1]", "sender: @", "rcpt: bob@example.net", "dest: bob@example.net", f"ctime: {NOW}",
        "last-try: 0", "last-bounce: 0", "ttl: 345600", "retry: 3", "flags: authenticated bounce internal",
        "dsn-notify: 5", "dsn-ret: HDRS", "dsn-envid: QQ", "dsn-orcpt: rfc822;bob", "esc-class: 4", "esc-code: 71",
        "bounce-ttl: 345600", "bounce-delay: 14400", "bounce-type: delayed",
    ]  # fmt: skip
