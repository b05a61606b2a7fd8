"""The queue process: what it answers and whom it tells."""

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pysmtpd.base.envelope import Agent
from pysmtpd.messages import (
    BodyOpen,
    Outcome,
    QueueBody,
    QueueDeliver,
    QueueDone,
    QueueEnvelopes,
    QueueTempfail,
    SchedDispatch,
    SchedFetch,
    SchedFetched,
    SchedRetry,
    SmtpMessageCommitted,
)
from tests.spool.house import BODY, NOW, House, envelope, sealed


def test_message_goes_in_and_out(house: House) -> None:
    (evpid,) = house.submit()
    deliver = house.dispatch(evpid)
    assert deliver.envelope == envelope(evpid)
    assert (deliver.size, deliver.has_8bit) == (len(BODY), False)
    house.say(house.mta, BodyOpen(7, evpid >> 32))
    assert house.expect(house.mta, QueueBody) == QueueBody(7, BODY, True)
    house.report(evpid, Outcome.OK)
    assert house.expect(house.scheduler, QueueDone) == QueueDone([evpid], Outcome.OK)
    assert house.queue.backend.message(evpid >> 32) is None
    assert house.queue.backend.load([evpid]) == []


def test_local_mail_goes_to_mda(house: House) -> None:
    (evpid,) = house.submit(envelopes=[envelope(agent=Agent.MDA, user="bob")])
    assert house.dispatch(evpid, house.mda).envelope.user == "bob"


def test_restart_keeps_what_was_committed(tmp_path: Path) -> None:
    first = House(tmp_path)
    (evpid,) = first.submit()
    first.dispatch(evpid)
    first.kill()
    second = House(tmp_path)
    second.say(second.scheduler, SchedFetch(1, Agent.MTA, 0, 0, NOW, 100))
    fetched = second.expect(second.scheduler, SchedFetched)
    assert [schedule.evpid for schedule in fetched.schedules] == [evpid]
    assert second.dispatch(evpid).envelope == envelope(evpid)
    second.say(second.mta, BodyOpen(7, evpid >> 32))
    assert second.expect(second.mta, QueueBody).chunk == BODY
    second.close()


def test_temporary_failure_is_tried_again(house: House) -> None:
    (evpid,) = house.submit()
    house.dispatch(evpid)
    house.report(evpid, Outcome.TEMPFAIL, "4.7.1", "451 4.7.1 Greylisted")
    assert house.expect(house.scheduler, QueueTempfail).schedule.evpid == evpid
    house.say(house.scheduler, SchedRetry(evpid, 1, NOW + 400, 0))
    (schedule,) = house.expect(house.scheduler, QueueEnvelopes).schedules
    assert (schedule.evpid, schedule.due, schedule.retry) == (evpid, NOW + 400, 1)
    assert house.dispatch(evpid).envelope.errorline == "451 4.7.1 Greylisted"


def test_unknown_envelope_is_done(house: House) -> None:
    house.say(house.scheduler, SchedDispatch([0x5_00000001]))
    assert house.expect(house.scheduler, QueueDone) == QueueDone([0x5_00000001], 0)


def test_id_of_nobody_is_refused(house: House) -> None:
    house.msgid()
    house.begin(msgid=0xFFFF_0000)
    assert not house.expect(house.smtp, SmtpMessageCommitted).ok


@pytest.mark.parametrize("count", [0, 1, 3])
def test_counts_must_match(house: House, count: int) -> None:
    from pysmtpd.messages import SmtpBody, SmtpEnvelopes, SmtpMessageCommit

    msgid = house.msgid()
    house.say(house.smtp, SmtpEnvelopes(9, [sealed(msgid, envelope(), envelope())]))
    house.say(house.smtp, SmtpBody(9, BODY))
    house.say(house.smtp, SmtpMessageCommit(9, msgid, count, len(BODY)))
    assert not house.expect(house.smtp, SmtpMessageCommitted).ok
    assert len(house.queue.inbox) == 0 and house.queue.inbox.held == 0


def test_fetch_goes_on_where_it_was(house: House) -> None:
    evpids = house.submit(envelopes=[envelope()] * 600)
    house.scheduler.sent.clear()
    seen, after, more = [], 0, True
    while more:
        house.say(house.scheduler, SchedFetch(1, Agent.MTA, NOW if after else 0, after, NOW, 10_000))
        page = house.expect(house.scheduler, SchedFetched)
        assert len(page.schedules) <= 256
        seen += [schedule.evpid for schedule in page.schedules]
        more, after = page.more, seen[-1]
    assert len(seen) == 600 and seen[:256] == evpids[:256]


def test_due_is_never_after_the_end(house: House) -> None:
    (evpid,) = house.submit(envelopes=[envelope(ttl=100)])
    house.dispatch(evpid)
    house.report(evpid, Outcome.TEMPFAIL, "", "busy")
    house.say(house.scheduler, SchedRetry(evpid, 1, NOW + 400, 0))
    assert house.expect(house.scheduler, QueueEnvelopes).schedules[0].due == NOW + 100


def test_only_its_agent_may_report_on_an_envelope(house: House) -> None:
    (evpid,) = house.submit()
    house.dispatch(evpid)
    house.report(evpid, Outcome.OK, peer=house.mda)
    house.run(0.05)
    assert len(house.queue.backend.load([evpid])) == 1
    house.report(evpid, Outcome.OK)
    house.expect(house.scheduler, QueueDone)
    house.report(evpid, Outcome.OK)


def test_dispatched_twice_is_delivered_once(house: House) -> None:
    (evpid,) = house.submit()
    house.dispatch(evpid)
    house.say(house.scheduler, SchedDispatch([evpid, evpid]))
    house.run(0.01)
    assert house.mta.sent == []


def test_hold_queues_of_agents_do_not_meet(house: House) -> None:
    from pysmtpd.messages import DeliveryHold, DeliveryRelease, QueueHold, QueueRelease

    remote, local = house.submit(envelopes=[envelope(), envelope(agent=Agent.MDA, user="bob")])
    house.dispatch(remote)
    house.dispatch(local, house.mda)
    house.say(house.mta, DeliveryHold(remote, 7))
    house.say(house.mda, DeliveryHold(local, 7))
    held = house.scheduler.take(QueueHold)
    assert [hold.evpid for hold in held] == [remote, local]
    assert held[0].holdq != held[1].holdq
    house.say(house.mta, DeliveryRelease(7, -1))
    assert house.expect(house.scheduler, QueueRelease) == QueueRelease(held[0].holdq, -1)
    assert house.dispatch(remote).envelope.evpid == remote


def test_domain_always_goes_to_the_same_mta(house: House) -> None:
    from pysmtpd.base.procs import Proc
    from tests.spool.house import FakePeer

    workers = [house.mta, FakePeer(Proc.MTA, 1)]
    house.queue._peers[Proc.MTA] = workers
    rcpts = [f"{user}@{domain}" for domain in ("a.example", "B.example", "b.EXAMPLE", "c.example", "d.example")
             for user in ("x", "y")]
    house.say(house.scheduler, SchedDispatch(house.submit(envelopes=[envelope(rcpt=rcpt) for rcpt in rcpts])))
    domains = [{m.envelope.dest.domain.lower() for m in worker.sent if isinstance(m, QueueDeliver)}
               for worker in workers]
    assert domains[0] and domains[1] and not domains[0] & domains[1]


def test_clean_stop_leaves_no_log(tmp_path: Path) -> None:
    house = House(tmp_path)
    (evpid,) = house.submit()
    house.dispatch(evpid)
    house.report(evpid, Outcome.OK)
    house.close()
    assert sorted(path.name for path in (tmp_path / "queue").iterdir()) == ["bodies", "spool.db"]
    again = House(tmp_path)
    assert again.queue.backend.walk(0, 0, 10) == []
    again.close()


def test_everything_is_private(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.submit(b"x" * 200_000)
    files = [path for path in (tmp_path / "queue").rglob("*") if path.is_file()]
    assert len(files) == 4
    assert {path.stat().st_mode & 0o077 for path in files} == {0}
    house.close()


def test_disk_that_cannot_be_read_loses_nothing(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    from pysmtpd import queue
    from pysmtpd.messages import QueueDeliver, SchedExpire
    from pysmtpd.spool.backend import SpoolError

    again: list[Callable[[], object]] = []     # this test decides when it is time
    real = house.loop.call_later

    def call_later(delay: float, callback: Callable[..., object], *args: Any, **context: Any) -> asyncio.TimerHandle:
        if delay == queue.READ_AGAIN:
            again.append(partial(callback, *args))
        return real(delay, callback, *args, **context)

    monkeypatch.setattr(house.loop, "call_later", call_later)
    first, second, third = house.submit(envelopes=[envelope()] * 3)
    house.queue.memory.__init__()  # type: ignore[misc]

    def broken(*_args: object) -> None:
        raise SpoolError("disk I/O error")

    with monkeypatch.context() as patch:
        for name in ("load", "due", "message"):
            patch.setattr(house.queue.backend, name, broken)
        house.say(house.scheduler, SchedFetch(1, Agent.MTA, 0, 0, NOW, 10))
        house.say(house.scheduler, SchedDispatch([first]))
        house.say(house.scheduler, SchedRetry(second, 1, NOW + 400, 0))
        house.say(house.scheduler, SchedExpire([third]))
        house.run(0.01)
        # An empty page or an end would make the scheduler forget what is there.
        assert house.scheduler.sent == [] and house.mta.sent == []
        assert house.logged.lines.count("warn: queue: cannot read: disk I/O error") == 4
    assert len(again) == 3
    for ask in again:
        ask()
    assert house.expect(house.mta, QueueDeliver).envelope.evpid == first
    assert house.expect(house.scheduler, QueueEnvelopes).schedules[0].due == NOW + 400
    assert house.expect(house.scheduler, QueueDone).evpids == [third]


def test_pages_of_damaged_rows_are_not_the_end(house: House) -> None:
    evpids = house.submit(envelopes=[envelope()] * 20)
    house.queue.backend._writer.execute("UPDATE envelope SET retry = -1 WHERE number <= 12")  # type: ignore[attr-defined]
    house.say(house.scheduler, SchedFetch(1, Agent.MTA, 0, 0, NOW, 5))
    page = house.expect(house.scheduler, SchedFetched)
    assert [schedule.evpid for schedule in page.schedules] == evpids[12:17]
    assert page.more


def test_spool_of_somebody_else_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pysmtpd.queue import Queue

    house = House(tmp_path)
    house.close()
    (tmp_path / "queue" / "spool.db").write_bytes(b"something else entirely" * 100)

    def fatal(text: str) -> None:
        raise RuntimeError(text)

    monkeypatch.setattr(house.queue, "fatal", fatal)
    with pytest.raises(RuntimeError, match=r"spool\.db: file is not a database"):
        Queue.open_spool(house.queue)


def test_the_envelopes_are_counted_when_somebody_asks(house: House) -> None:
    house.submit(envelopes=[envelope(), envelope()])
    house.queue.tell_stats()
    assert house.queue.stats.values["scheduler.envelope"] == 2
    house.submit()
    house.queue._count_at = house.loop.time() + 1000   # it took long the last time
    house.queue.tell_stats()
    assert house.queue.stats.values["scheduler.envelope"] == 2
    house.queue._count_at = 0.0
    house.queue.tell_stats()
    assert house.queue.stats.values["scheduler.envelope"] == 3
    assert house.queue._count_at > house.loop.time() - 60
