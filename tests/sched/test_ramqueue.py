"""sched.ramqueue: what is dispatched, and when."""

import itertools
from typing import Any

from pysmtpd.base.envelope import Agent, Schedule
from pysmtpd.base.stats import Stats
from pysmtpd.conf.config import Limits
from pysmtpd.imsg import Message
from pysmtpd.messages import Outcome, RunState, SchedDispatch, SchedExpire, SchedFetch, SchedRetry
from pysmtpd.sched.lane import FETCH_TIMEOUT, WINDOW
from pysmtpd.sched.ramqueue import HOLD_TIME, RamQueue

NOW = 1_700_000_000
DAY = 86400


def ram(inflight: int = 5000, warn: tuple[int, ...] = (4 * 3600,), **room: int) -> RamQueue:
    ids = itertools.count(1)
    rooms = {Agent.BOUNCE: room.get("bounce", 100), Agent.MDA: room.get("mda", 100), Agent.MTA: room.get("mta", 100)}
    queue = RamQueue(Limits(scheduler_max_inflight=inflight), warn, lambda: next(ids), Stats(), rooms)
    settle(queue)
    return queue


def settle(queue: RamQueue, now: int = NOW) -> list[Message]:
    """A turn; pages that are asked for are empty."""
    out = queue.turn(now)
    for ask in fetches(out):
        queue.fetched(ask.reqid, [], False, now)
    return out


def plan(evpid: int, agent: Agent = Agent.MTA, due: int = NOW, **other: Any) -> Schedule:
    fields = {"expire": NOW + 4 * DAY, "ctime": NOW, "retry": 0, "last_bounce": 0, **other}
    return Schedule(evpid, agent, due, **fields)


def dispatched(out: list[Message]) -> list[int]:
    return [evpid for message in out if isinstance(message, SchedDispatch) for evpid in message.evpids]


def expired(out: list[Message]) -> list[int]:
    return [evpid for message in out if isinstance(message, SchedExpire) for evpid in message.evpids]


def fetches(out: list[Message]) -> list[SchedFetch]:
    return [message for message in out if isinstance(message, SchedFetch)]


def retries(out: list[Message]) -> list[SchedRetry]:
    return [message for message in out if isinstance(message, SchedRetry)]


def test_a_new_envelope_is_dispatched_once_and_then_done() -> None:
    queue = ram()
    queue.envelopes([plan(1)], NOW)
    assert queue.turn(NOW) == [SchedDispatch([1])]
    assert queue.states([1]) == [(RunState.INFLIGHT, NOW)]
    assert queue.turn(NOW + 5) == []
    queue.done([1], Outcome.OK)
    assert queue.turn(NOW + 5) == []
    assert queue.states([1]) == [(RunState.UNKNOWN, 0)]


def test_all_of_a_turn_leave_in_few_frames() -> None:
    queue = ram(mta=2000)
    queue.envelopes([plan(n) for n in range(1, 601)], NOW)
    out = queue.turn(NOW)
    assert [len(m.evpids) for m in out if isinstance(m, SchedDispatch)] == [256, 256, 88]


def test_an_envelope_due_later_waits_for_its_time() -> None:
    queue = ram()
    queue.envelopes([plan(1, due=NOW + 100)], NOW)
    assert dispatched(settle(queue, NOW + 99)) == []
    assert queue.wake(NOW) == NOW + 100
    assert dispatched(settle(queue, NOW + 100)) == [1]


def test_what_is_due_beyond_the_window_is_forgotten_and_fetched_in_time() -> None:
    queue = ram()
    late = plan(1, due=NOW + WINDOW + 50)
    queue.envelopes([late], NOW)
    assert queue.states([1]) == [(RunState.UNKNOWN, 0)]
    wake = queue.wake(NOW)
    assert wake is not None and NOW < wake < late.due
    (ask,) = [ask for ask in fetches(queue.turn(wake)) if ask.agent is Agent.MTA]
    assert ask.after_due < late.due <= ask.until
    queue.fetched(ask.reqid, [late], False, wake)
    assert dispatched(queue.turn(late.due)) == [1]


def test_a_temporary_failure_is_tried_again_on_the_curve() -> None:
    queue = ram()
    queue.envelopes([plan(1), plan(2, Agent.MDA)], NOW)
    queue.turn(NOW)
    queue.tempfail(plan(1), NOW + 10)
    queue.tempfail(plan(2, Agent.MDA, retry=2), NOW + 95)
    assert retries(queue.turn(NOW + 95)) == [SchedRetry(1, 1, NOW + 400, 0), SchedRetry(2, 3, NOW + 160, 0)]
    assert queue.states([1, 2]) == [(RunState.PENDING, NOW), (RunState.PENDING, NOW)]
    queue.envelopes([plan(1, due=NOW + 400, retry=1)], NOW + 95)
    assert dispatched(queue.turn(NOW + 399)) == []
    assert dispatched(queue.turn(NOW + 400)) == [1]


def test_a_page_read_before_the_retry_cannot_revive_the_old_time() -> None:
    queue = ram()
    queue.envelopes([plan(1)], NOW)
    queue.turn(NOW)
    late = NOW + WINDOW
    (ask,) = [ask for ask in fetches(queue.turn(late)) if ask.agent is Agent.MTA]
    queue.tempfail(plan(1), late)
    assert retries(queue.turn(late))
    queue.fetched(ask.reqid, [plan(1)], False, late)
    assert dispatched(queue.turn(late)) == []


def test_it_warns_once_when_the_next_attempt_lies_beyond_an_interval() -> None:
    hour = 3600
    queue = ram(warn=(hour, 4 * hour))
    queue.tempfail(plan(1, retry=2), NOW + 1700)
    assert retries(queue.turn(NOW))[0].delay == hour
    assert retries(queue.turn(NOW)) == []
    queue.tempfail(plan(1, retry=3, last_bounce=NOW + hour), NOW + 3700)
    assert retries(queue.turn(NOW))[0].delay == 0
    # After a long silence one warning says it all.
    queue.tempfail(plan(2, retry=1), NOW + 5 * hour)
    assert retries(queue.turn(NOW))[0].delay == 4 * hour


def test_bounces_never_warn() -> None:
    queue = ram(warn=(5,))
    queue.tempfail(plan(1, Agent.BOUNCE), NOW + 3600)
    assert retries(queue.turn(NOW))[0].delay == 0


def test_what_is_too_old_expires_instead() -> None:
    queue = ram()
    queue.envelopes([plan(1, expire=NOW)], NOW)
    out = queue.turn(NOW)
    assert expired(out) == [1] and dispatched(out) == []
    queue.done([1], 0)
    assert queue.states([1]) == [(RunState.UNKNOWN, 0)]


def test_the_last_attempt_is_not_planned_behind_the_end() -> None:
    queue = ram()
    queue.tempfail(plan(1, expire=NOW + 100), NOW + 10)
    assert retries(queue.turn(NOW))[0].due == NOW + 100
    queue.envelopes([plan(1, due=NOW + 100, expire=NOW + 100, retry=1)], NOW + 10)
    assert expired(queue.turn(NOW + 100)) == [1]


def test_no_more_in_flight_than_allowed_and_no_agent_has_it_all() -> None:
    queue = ram(inflight=10, mta=1000)
    queue.envelopes([plan(n) for n in range(1, 101)], NOW)
    first = dispatched(queue.turn(NOW))
    assert first == list(range(1, 9))
    queue.envelopes([plan(n, Agent.MDA) for n in range(201, 211)], NOW)
    assert dispatched(queue.turn(NOW)) == [201, 202]
    queue.done([1, 201], Outcome.OK)
    assert dispatched(queue.turn(NOW)) == [203, 204]


def test_agents_take_turns() -> None:
    queue = ram(inflight=30, mta=1000, mda=1000)
    queue.envelopes([plan(n) for n in range(1, 101)], NOW)
    queue.envelopes([plan(n, Agent.MDA) for n in range(201, 301)], NOW)
    out = dispatched(queue.turn(NOW))
    assert len(out) == 30
    assert 10 <= sum(evpid > 200 for evpid in out) <= 20


def test_a_paused_agent_gets_nothing_and_the_others_do() -> None:
    queue = ram()
    assert queue.pause(Agent.MTA, True, NOW)
    assert not queue.pause(Agent.MTA, True, NOW)
    queue.envelopes([plan(1), plan(2, Agent.MDA)], NOW)
    assert dispatched(queue.turn(NOW)) == [2]
    assert queue.pause(Agent.MTA, False, NOW)
    assert dispatched(queue.turn(NOW)) == [1]


def test_what_is_too_old_expires_though_its_agent_is_paused() -> None:
    queue = ram()
    queue.envelopes([plan(1, expire=NOW + 60), plan(2, due=NOW + 5, expire=NOW + 60), plan(3)], NOW)
    queue.pause(Agent.MTA, True, NOW)
    queue.envelopes([plan(4, expire=NOW + 60)], NOW)
    assert dispatched(queue.turn(NOW + 59)) == []
    assert queue.wake(NOW + 59) == NOW + 60
    out = queue.turn(NOW + 60)
    assert sorted(expired(out)) == [1, 2, 4] and dispatched(out) == []
    queue.pause(Agent.MTA, False, NOW + 60)
    assert dispatched(queue.turn(NOW + 60)) == [3]


def test_a_million_for_a_paused_relay_do_not_keep_local_mail_waiting() -> None:
    queue = ram(mta=100)
    queue.pause(Agent.MTA, True, NOW)
    for n in range(0, 2000, 100):
        queue.envelopes([plan(n + k + 1) for k in range(100)], NOW)
        queue.turn(NOW)
    queue.count()
    assert 75 <= queue._stats.values["scheduler.ramqueue.envelope"] <= 100
    queue.envelopes([plan(5000, Agent.MDA)], NOW)
    assert dispatched(queue.turn(NOW)) == [5000]


def test_forgotten_envelopes_are_fetched_again_from_the_first_of_them() -> None:
    queue = ram(mta=100, inflight=10)
    everything = [plan(n) for n in range(1, 301)]
    for at in range(0, 300, 50):
        queue.envelopes(everything[at : at + 50], NOW)
        for evpid in dispatched(queue.turn(NOW)):
            queue.done([evpid], Outcome.OK)
    seen: list[int] = list(range(1, 49))
    for _ in range(200):
        out = queue.turn(NOW)
        for evpid in dispatched(out):
            seen.append(evpid)
            queue.done([evpid], Outcome.OK)
        for ask in fetches(out):
            if ask.agent is Agent.MTA:
                page = [s for s in everything if (s.due, s.evpid) > (ask.after_due, ask.after_evpid)]
                page = [s for s in page if s.evpid not in seen]
                queue.fetched(ask.reqid, page[: ask.limit], len(page) > ask.limit, NOW)
    assert sorted(set(seen)) == list(range(1, 301))


def test_held_envelopes_wait_for_their_release_oldest_first() -> None:
    queue = ram()
    queue.envelopes([plan(n) for n in range(1, 5)], NOW)
    queue.turn(NOW)
    for n in (3, 1, 2):
        queue.hold(n, 77, NOW + 1)
    assert queue.states([1, 4]) == [(RunState.HELD, NOW), (RunState.INFLIGHT, NOW)]
    assert dispatched(queue.turn(NOW + 60)) == []
    queue.release(77, 2, NOW + 60)
    assert dispatched(queue.turn(NOW + 60)) == [3, 1]
    queue.release(77, 0, NOW + 60)
    assert dispatched(queue.turn(NOW + 60)) == [2]
    queue.release(77, 0, NOW + 60)
    assert dispatched(queue.turn(NOW + 60)) == []


def test_a_failed_relay_sends_its_held_envelopes_back_to_their_normal_time() -> None:
    queue = ram()
    queue.envelopes([plan(1)], NOW)
    queue.turn(NOW)
    queue.hold(1, 77, NOW)
    queue.release(77, -1, NOW + 30)
    assert retries(queue.turn(NOW + 30)) == [SchedRetry(1, 0, NOW + 400, 0)]


def test_a_full_hold_queue_makes_the_rest_try_again_soon() -> None:
    queue = ram(mta=10000)
    queue.envelopes([plan(n) for n in range(1, 1002)], NOW)
    queue.turn(NOW)
    for n in range(1, 1002):
        queue.hold(n, 77, NOW + 1)
    assert retries(queue.turn(NOW + 1)) == [SchedRetry(1001, 0, NOW + 3, 0)]


def test_holding_never_fills_the_memory_of_the_agent() -> None:
    queue = ram(mta=100)
    for n in range(1, 201):
        queue.envelopes([plan(n)], NOW)
        assert dispatched(settle(queue)) == [n]
        queue.hold(n, n, NOW)
        for retry in retries(settle(queue)):
            queue.envelopes([plan(retry.evpid, due=NOW + DAY)], NOW)
    queue.count()
    assert queue._stats.values["scheduler.ramqueue.hold"] == 50
    assert queue._stats.values["scheduler.ramqueue.envelope"] == 50


def test_nothing_is_held_for_ever() -> None:
    queue = ram()
    queue.envelopes([plan(1), plan(2, expire=NOW + 60)], NOW)
    queue.turn(NOW)
    queue.hold(1, 77, NOW)
    queue.hold(2, 77, NOW)
    assert expired(queue.turn(NOW + 60)) == [2]
    assert dispatched(queue.turn(NOW + HOLD_TIME)) == [1]


def test_schedule_now_moves_pending_and_held_but_not_what_is_in_flight() -> None:
    queue = ram()
    queue.envelopes([plan(1, due=NOW + 50), plan(2), plan(3)], NOW)
    assert dispatched(queue.turn(NOW)) == [2, 3]
    queue.hold(2, 77, NOW)
    queue.envelopes([plan(n, due=NOW + 1) for n in (1, 2, 3)], NOW + 1)
    assert dispatched(queue.turn(NOW + 1)) == [1, 2]
    queue.release(77, 0, NOW + 1)
    assert dispatched(queue.turn(NOW + 60)) == []


def test_a_suspended_envelope_is_not_tried_until_it_is_resumed() -> None:
    queue = ram()
    queue.envelopes([plan(1, due=NOW + 10), plan(2, suspended=True), plan(3)], NOW)
    assert dispatched(queue.turn(NOW)) == [3]
    queue.envelopes([plan(1, due=NOW + 10, suspended=True), plan(3, suspended=True)], NOW)
    assert dispatched(queue.turn(NOW + 10)) == []
    # In flight when it was suspended: it parks when it comes back.
    queue.tempfail(plan(3, suspended=True), NOW + 10)
    (retry,) = retries(queue.turn(NOW + 10))
    queue.envelopes([plan(3, due=retry.due, retry=1, suspended=True)], NOW + 10)
    assert dispatched(queue.turn(retry.due)) == []
    queue.envelopes([plan(1, due=NOW + 10), plan(2)], NOW + 20)
    assert dispatched(queue.turn(NOW + 20)) == [1, 2]


def test_suspended_and_resumed_again_and_again_costs_no_memory() -> None:
    queue = ram()
    for _ in range(1000):
        queue.envelopes([plan(1, due=NOW + 10, suspended=True)], NOW)
        queue.envelopes([plan(1, due=NOW + 10)], NOW)
    assert len(queue._lanes[Agent.MTA].pending) < 100
    queue.pause(Agent.MTA, True, NOW)
    for _ in range(1000):
        queue.envelopes([plan(1, suspended=True)], NOW)
        queue.envelopes([plan(1)], NOW)
    assert len(queue._lanes[Agent.MTA].ready) < 100


def test_removed_in_any_state() -> None:
    queue = ram()
    queue.envelopes([plan(n) for n in (1, 2)] + [plan(3, due=NOW + 5)], NOW)
    queue.turn(NOW)
    queue.hold(2, 77, NOW)
    queue.done([1, 2, 3, 4], 0)
    queue.release(77, 0, NOW)
    assert dispatched(queue.turn(NOW + 100)) == []
    queue.count()
    assert queue._stats.values["scheduler.envelope.inflight"] == 0
    assert queue._stats.values["scheduler.ramqueue.hold"] == 0


def test_an_envelope_that_became_a_bounce_is_a_new_one() -> None:
    queue = ram()
    queue.envelopes([plan(1)], NOW)
    queue.turn(NOW)
    queue.envelopes([plan(1, Agent.BOUNCE)], NOW)
    assert dispatched(queue.turn(NOW)) == [1]
    queue.done([1], Outcome.OK)
    queue.count()
    assert queue._stats.values["scheduler.envelope.inflight"] == 0


def test_a_page_that_claims_more_but_is_empty_ends_the_reading() -> None:
    queue = ram()
    asks = fetches(queue.turn(NOW + WINDOW))
    for ask in asks:
        queue.fetched(ask.reqid, [], True, NOW + WINDOW)
    assert len(asks) == 3
    assert queue.turn(NOW + WINDOW) == []
    queue.fetched(99, [plan(1)], False, NOW)
    assert queue.states([1]) == [(RunState.UNKNOWN, 0)]


def test_what_is_told_while_a_page_is_on_its_way_is_kept() -> None:
    """The page may have been read before the envelope was written."""
    ids = itertools.count(1)
    rooms = dict.fromkeys(Agent, 100)
    queue = RamQueue(Limits(), (), lambda: next(ids), Stats(), rooms)
    queue.envelopes([plan(1)], NOW)
    assert dispatched(queue.turn(NOW)) == []
    queue.envelopes([plan(2)], NOW)
    assert dispatched(queue.turn(NOW)) == [2]


def test_a_page_asked_for_before_something_was_forgotten_does_not_count() -> None:
    queue = ram(mta=8)
    queue.pause(Agent.MTA, True, NOW)
    later = NOW + WINDOW
    (ask,) = [ask for ask in fetches(queue.turn(later)) if ask.agent is Agent.MTA]
    queue.envelopes([plan(n, due=later) for n in range(1, 11)], later)
    queue.turn(later)
    queue.fetched(ask.reqid, [], False, later)
    queue.pause(Agent.MTA, False, later)
    out: list[Message] = []
    while not (found := [ask for ask in fetches(out) if ask.agent is Agent.MTA]):
        queue.done(dispatched(out), Outcome.OK)
        out = queue.turn(later)
    (ask,) = found
    assert (ask.after_due, ask.after_evpid) == (later, 6)


def test_a_page_that_never_comes_is_asked_for_again() -> None:
    queue = ram()
    late = NOW + WINDOW
    (ask,) = [ask for ask in fetches(queue.turn(late)) if ask.agent is Agent.MTA]
    assert queue.wake(late) == late + FETCH_TIMEOUT
    assert fetches(queue.turn(late + FETCH_TIMEOUT - 1)) == []
    (again,) = [ask for ask in fetches(queue.turn(late + FETCH_TIMEOUT)) if ask.agent is Agent.MTA]
    assert again.after_due == ask.after_due and again.reqid != ask.reqid
    queue.fetched(ask.reqid, [plan(1)], False, late)
    assert queue.states([1]) == [(RunState.UNKNOWN, 0)]
    queue.fetched(again.reqid, [plan(1)], False, late)
    assert dispatched(queue.turn(late + FETCH_TIMEOUT)) == [1]
