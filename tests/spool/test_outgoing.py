"""Bodies on their way out: window, credit, and what cannot be read."""

import os
from pathlib import Path
from typing import Any, cast

import pytest

from pysmtpd import queue
from pysmtpd.base.envelope import Agent
from pysmtpd.messages import (
    BODY_WINDOW,
    CARRIED_MAX,
    BodyClose,
    BodyCredit,
    BodyOpen,
    DeliveryHold,
    Outcome,
    QueueBody,
    QueueDone,
)
from pysmtpd.spool.memory import Memory
from tests.spool.house import BODY, House, envelope

LARGE = os.urandom(1_000_001)


def read(house: House, reqid: int) -> tuple[bytes, bool]:
    """All pieces of a body, with credit for each."""
    got = b""
    while True:
        piece = house.expect(house.mta, QueueBody)
        assert piece.reqid == reqid
        got += piece.chunk
        if piece.last:
            return got, piece.ok
        house.say(house.mta, BodyCredit(reqid, len(piece.chunk)))


def test_large_body_comes_in_pieces(house: House) -> None:
    (evpid,) = house.submit(LARGE)
    house.dispatch(evpid)
    house.say(house.mta, BodyOpen(3, evpid >> 32))
    assert sum(len(piece.chunk) for piece in house.mta.sent if isinstance(piece, QueueBody)) <= BODY_WINDOW
    assert read(house, 3) == (LARGE, True)
    assert len(house.queue.outbox) == 0


def test_piece_without_credit_waits(house: House) -> None:
    (evpid,) = house.submit(LARGE)
    house.dispatch(evpid)
    house.say(house.mta, BodyOpen(3, evpid >> 32))
    house.mta.sent.clear()
    house.run(0.01)
    assert house.mta.sent == []
    house.say(house.mta, BodyCredit(3, 1))
    assert len(house.mta.take(QueueBody)) == 1
    house.say(house.mta, BodyClose(3))
    house.say(house.mta, BodyCredit(3, 1_000_000))
    assert house.mta.sent == []


def test_empty_body(house: House) -> None:
    (evpid,) = house.submit(b"")
    house.dispatch(evpid)
    house.say(house.mta, BodyOpen(3, evpid >> 32))
    assert house.expect(house.mta, QueueBody) == QueueBody(3, b"", True)


def test_body_from_the_database(house: House) -> None:
    (evpid,) = house.submit(LARGE[:130_000])
    house.queue.memory.__init__()  # type: ignore[misc]
    house.dispatch(evpid)
    house.say(house.mta, BodyOpen(3, evpid >> 32))
    assert read(house, 3) == (LARGE[:130_000], True)


def test_only_what_was_given_to_deliver_may_be_read(house: House) -> None:
    (evpid,) = house.submit()
    house.say(house.mta, BodyOpen(3, evpid >> 32))
    assert read(house, 3) == (b"", False)
    house.dispatch(evpid)
    house.say(house.mda, BodyOpen(4, evpid >> 32))
    assert not house.expect(house.mda, QueueBody).ok
    house.say(house.mta, BodyOpen(5, evpid >> 32))
    assert read(house, 5) == (BODY, True)
    house.report(evpid, Outcome.OK)
    house.say(house.mta, BodyOpen(6, evpid >> 32))
    assert read(house, 6) == (b"", False)


def test_lost_file_is_told(house: House, tmp_path: Path) -> None:
    (evpid,) = house.submit(LARGE)
    house.dispatch(evpid)
    path = tmp_path / "queue" / "bodies" / f"{evpid >> 32:08x}"
    os.truncate(path, 100_000)
    house.say(house.mta, BodyOpen(3, evpid >> 32))
    assert read(house, 3)[1] is False
    path.unlink()
    house.say(house.mta, BodyOpen(4, evpid >> 32))
    assert read(house, 4) == (b"", False)


def test_file_may_go_while_it_is_read(house: House, tmp_path: Path) -> None:
    (evpid,) = house.submit(LARGE)
    house.dispatch(evpid)
    house.say(house.mta, BodyOpen(3, evpid >> 32))
    house.report(evpid, Outcome.OK)
    house.until(lambda: not list((tmp_path / "queue" / "bodies").iterdir()))
    assert read(house, 3) == (LARGE, True)


def test_delivered_messages_are_forgotten(house: House) -> None:
    evpids = house.submit(envelopes=[envelope(), envelope(agent=Agent.MDA, user="bob")])
    msgid = evpids[0] >> 32
    house.dispatch(evpids[0])
    house.report(evpids[0], Outcome.OK)
    house.until(lambda: not house.queue.backend.load([evpids[0]]))
    house.run(0.005)
    assert house.queue.memory.body(msgid) == BODY
    house.dispatch(evpids[1], house.mda)
    house.report(evpids[1], Outcome.OK, peer=house.mda)
    house.until(lambda: house.queue.memory.body(msgid) is None)
    assert house.queue.reader.find_message(msgid) is None


def test_memory_is_bounded() -> None:
    memory = Memory(bodies_max=1000)
    for msgid in range(1, 101):
        memory.add_body(msgid, b"x" * 100)
    assert [msgid for msgid in range(1, 101) if memory.body(msgid)] == list(range(91, 101))
    memory.add_body(200, b"x" * 1001)
    assert memory.body(200) is None


# a small body comes along with its envelope


def test_a_small_body_comes_along_with_its_only_envelope(house: House) -> None:
    (evpid,) = house.submit()
    assert house.dispatch(evpid).body == BODY
    house.report(evpid, Outcome.OK)
    assert house.queue.flights.carried(cast(Any, house.mta)) == 0


@pytest.mark.parametrize(("body", "count"), [(b"x" * (CARRIED_MAX + 1), 1), (LARGE, 1), (BODY, 2)])
def test_other_bodies_have_to_be_opened(house: House, body: bytes, count: int) -> None:
    evpids = house.submit(body, [envelope()] * count)
    assert [house.dispatch(evpid).body for evpid in evpids] == [b""] * count


def test_the_last_of_several_envelopes_has_the_body(house: House) -> None:
    one, two = house.submit(envelopes=[envelope()] * 2)
    assert house.dispatch(one).body == b""
    house.report(one, Outcome.OK)
    house.expect(house.scheduler, QueueDone)
    assert house.dispatch(two).body == BODY


def test_what_is_not_in_memory_has_to_be_opened(house: House) -> None:
    (evpid,) = house.submit()
    house.queue.memory.__init__()  # type: ignore[misc]
    assert house.dispatch(evpid).body == b""


def test_an_agent_holds_so_many_bodies_and_no_more(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "CARRIED_WINDOW", 2 * len(BODY) + 1)
    evpids = [house.submit()[0] for _ in range(6)]
    assert [bool(house.dispatch(evpid).body) for evpid in evpids[:3]] == [True, True, False]
    house.report(evpids[2], Outcome.OK)        # had none
    assert not house.dispatch(evpids[3]).body
    house.report(evpids[0], Outcome.TEMPFAIL)
    assert house.dispatch(evpids[4]).body
    house.say(house.mta, DeliveryHold(evpids[1], 1))
    assert house.dispatch(evpids[5]).body
    for evpid in evpids:
        house.queue.flights.end(evpid)
    assert house.queue.flights.carried(cast(Any, house.mta)) == 0
