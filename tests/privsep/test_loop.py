"""The loop: what a socket's callback queues leaves in the same turn, and nobody hears of a socket let go of."""

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from pysmtpd.privsep.loop import Loop, at_end


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


@pytest.fixture
def pairs() -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    made = [socket.socketpair() for _ in range(2)]
    yield made
    for pair in made:
        for sock in pair:
            sock.close()


Pairs = list[tuple[socket.socket, socket.socket]]


def turns(loop: Loop, count: int) -> None:
    for _ in range(count):
        loop.call_soon(loop.stop)
        loop.run_forever()


def test_what_a_callback_queues_is_done_in_the_same_turn(loop: Loop, pairs: Pairs) -> None:
    (a, b), _ = pairs
    seen: list[str] = []

    def readable() -> None:
        seen.append(a.recv(10).decode())
        loop.call_soon(seen.append, "flushed")

    loop.add_reader(a, readable)
    b.send(b"x")
    turns(loop, 1)
    assert seen == ["x", "flushed"]


def test_a_callback_may_take_away_another_of_the_same_turn(loop: Loop, pairs: Pairs) -> None:
    ends = [pair[0] for pair in pairs]
    seen: list[int] = []

    def readable(number: int) -> None:
        seen.append(number)
        for end in ends:
            loop.remove_reader(end)

    for number, (mine, theirs) in enumerate(pairs):
        loop.add_reader(mine, readable, number)
        theirs.send(b"x")
    turns(loop, 2)
    assert len(seen) == 1


def test_a_descriptor_used_anew_hears_nothing_of_the_old(loop: Loop, pairs: Pairs) -> None:
    (a, a_end), (b, b_end) = pairs
    seen: list[str] = []

    def swap(other: socket.socket) -> None:
        seen.append("first")
        loop.remove_reader(a)
        loop.remove_reader(b)
        loop.add_reader(other, seen.append, "anew")   # the same number, another callback: not for this event

    loop.add_reader(a, swap, b)
    loop.add_reader(b, swap, a)
    a_end.send(b"x")
    b_end.send(b"x")
    turns(loop, 1)
    assert seen == ["first"]


def test_readable_and_writable_at_once(loop: Loop, pairs: Pairs) -> None:
    (a, b), _ = pairs
    seen: list[str] = []
    loop.add_reader(a, seen.append, "read")
    loop.add_writer(a, seen.append, "write")
    b.send(b"x")
    turns(loop, 1)
    assert seen == ["read", "write"]
    assert loop.remove_writer(a) and loop.remove_reader(a) and not loop.remove_reader(a)
    turns(loop, 1)
    assert seen == ["read", "write"]


def test_a_reader_that_stops_writing_is_obeyed(loop: Loop, pairs: Pairs) -> None:
    (a, b), _ = pairs
    seen: list[str] = []
    loop.add_reader(a, lambda: loop.remove_writer(a))
    loop.add_writer(a, seen.append, "write")
    b.send(b"x")
    turns(loop, 2)
    assert seen == []


def test_an_exception_is_told_and_the_others_go_on(loop: Loop, pairs: Pairs) -> None:
    told: list[Any] = []
    seen: list[int] = []
    loop.set_exception_handler(lambda _loop, context: told.append(context["exception"]))

    def readable(number: int) -> None:
        seen.append(number)
        raise LookupError(number)

    for number, (mine, theirs) in enumerate(pairs):
        loop.add_reader(mine, readable, number)
        theirs.send(b"x")
    turns(loop, 1)
    assert sorted(seen) == [0, 1] and [type(error) for error in told] == [LookupError, LookupError]


def test_transports_and_threads_work_as_ever(loop: Loop) -> None:
    async def work() -> bytes:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write((await reader.readline()).upper())
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello\n")
        line = await reader.readline()
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        return line + await asyncio.to_thread(bytes, b"thread")

    assert loop.run_until_complete(asyncio.wait_for(work(), 5)) == b"HELLO\nthread"
    loop.run_until_complete(loop.shutdown_default_executor())


def test_what_is_for_the_end_of_a_turn_is_done_before_anything_is_waited_for(loop: Loop, pairs: Pairs) -> None:
    (a, b), _ = pairs
    seen: list[str] = []

    def last() -> None:
        seen.append("last")
        loop.call_soon(done)           # nothing else would ever wake the loop

    def done() -> None:
        seen.append("soon")
        loop.stop()

    def readable() -> None:
        seen.append(a.recv(10).decode())
        at_end(loop, last)
        loop.call_soon(seen.append, "first")

    loop.add_reader(a, readable)
    b.send(b"x")
    loop.run_forever()
    assert seen == ["x", "first", "last", "soon"]


def test_another_loop_does_it_soon() -> None:
    other = asyncio.new_event_loop()
    seen: list[str] = []
    at_end(other, lambda: seen.append("last"))
    other.call_soon(other.stop)
    other.run_forever()
    other.close()
    assert seen == ["last"]
