"""control: who may ask what, how answers are put together, and that no client can hurt anybody else."""

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pysmtpd import control as module
from pysmtpd.base.envelope import Agent, BounceKind, Envelope, Ret, Schedule
from pysmtpd.base.mailaddr import NULL
from pysmtpd.base.procs import Proc
from pysmtpd.base.trace import Trace
from pysmtpd.control import CLIENTS_PER_UID, Control
from pysmtpd.imsg import Frame, Message, version
from pysmtpd.messages import (
    CONTROLLED,
    CtlCounted,
    CtlDone,
    CtlEnvelopes,
    CtlPause,
    CtlQueueShown,
    CtlResumeRoute,
    CtlShowMessage,
    CtlShowMta,
    CtlShowQueue,
    CtlShowStatus,
    CtlStats,
    CtlStatsTold,
    CtlStatusShown,
    CtlSubmit,
    CtlSubmitReady,
    CtlText,
    CtlTrace,
    EnvelopeCommand,
    QueueListed,
    RunState,
    SchedStated,
    SchedStates,
)
from pysmtpd.privsep.log import Log
from pysmtpd.privsep.mproc import Peer, pair
from pysmtpd.privsep.process import Birth

ME = os.getuid()


def envelope(evpid: int) -> Envelope:
    return Envelope(evpid, Agent.MTA, "relay", NULL, NULL, NULL, "", "", "", "", "", "", "", "local", 0, 1000, 500, 0,
                    0, 0, 0, Ret.NONE, "", "", "", "", BounceKind.NONE, 0)


class Other:
    """One of the processes that control asks: it remembers, and answers from a script."""

    def __init__(self, sock: socket.socket, proc: Proc) -> None:
        self.asked: list[Any] = []
        self.answer: Callable[[Any], Message | None] = lambda _: None
        self.fd: int | None = None
        self.peer = Peer(self, sock, proc, Proc.CONTROL)

    def peer_frame(self, _peer: Peer, frame: Frame) -> None:
        self.asked.append(frame.message)
        answer = self.answer(frame.message)
        if answer is not None:
            fd, self.fd = self.fd, None
            self.peer.send(answer, fd)

    def peer_lost(self, _peer: Peer, _reason: str) -> None:
        raise AssertionError("control hung up on a process")


class Caller:
    """A client."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.heard: list[Any] = []
        self.fds: list[int] = []
        self.lost = ""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(world.path)
        self.peer = Peer(self, sock, Proc.CLIENT, Proc.CONTROL)
        self.peer.attach(world.loop)

    def peer_frame(self, peer: Peer, frame: Frame) -> None:
        self.heard.append(frame.message)
        if frame.spec.fd:
            self.fds.append(peer.claim_fd())

    def peer_lost(self, _peer: Peer, reason: str) -> None:
        self.lost = reason

    def send(self, message: Message, peerid: int | None = None) -> None:
        self.peer.send(message, peerid=version() if peerid is None else peerid)

    def ask(self, message: Message) -> Any:
        self.send(message)
        self.world.until(lambda: bool(self.heard or self.lost))
        return self.heard.pop() if self.heard else self.lost


class World:
    """A Control process with all its peers, in one loop."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.loop = asyncio.new_event_loop()
        self.log: list[str] = []
        birth = Birth(proc="control", uid=ME, gid=os.getgid(), spool="", socket=self.path, stderr=True, verbose=0)
        self.control = Control(birth, Log(stderr=True, verbose=False))
        self.control.log = lambda line, level=0: self.log.append(line)  # type: ignore[method-assign]
        self.control.loop = self.loop
        self.control.setup()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(self.path)
        listener.listen(100)
        listener.setblocking(False)
        self.control._listener = listener
        self.others: dict[Proc, list[Other]] = {}
        for proc in (*CONTROLLED, Proc.SMTP):
            mine, theirs = pair()
            ours = Peer(self.control, mine, Proc.CONTROL, proc)
            other = Other(theirs, proc)
            ours.attach(self.loop)
            other.peer.attach(self.loop)
            self.control._peers.setdefault(proc, []).append(ours)
            self.others.setdefault(proc, []).append(other)
        self.control.start()
        self.callers: list[Caller] = []

    def caller(self) -> Caller:
        self.callers.append(Caller(self))
        return self.callers[-1]

    def other(self, proc: Proc) -> Other:
        return self.others[proc][0]

    def until(self, done: Callable[[], bool]) -> None:
        end = self.loop.time() + 5
        while not done():
            assert self.loop.time() < end, "never happened"
            self.loop.run_until_complete(asyncio.sleep(0))

    def close(self) -> None:
        for caller in self.callers:
            caller.peer.close()
            for fd in caller.fds:
                os.close(fd)
        self.until(lambda: not self.control._clients)
        assert not self.control._questions
        for peers in self.control._peers.values():
            for peer in peers:
                peer.close()
        for others in self.others.values():
            for other in others:
                other.peer.close()
        self.loop.remove_reader(self.control._listener.fileno())
        self.control._listener.close()
        self.loop.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    one = World(tmp_path / "s")
    yield one
    one.close()


def answer_with(text: str = "", ok: bool = True) -> Callable[[Any], Message]:
    return lambda message: CtlDone(message.reqid, ok, text)


def test_a_submission_gets_the_descriptor_of_a_session(world: World) -> None:
    for smtp in world.others[Proc.SMTP]:
        smtp.answer = lambda message: CtlSubmitReady(message.reqid)
    a, b = socket.socketpair()
    for smtp in world.others[Proc.SMTP]:
        smtp.fd = os.dup(b.fileno())
    caller = world.caller()
    assert caller.ask(CtlSubmit(7, 4711)) == CtlSubmitReady(7)
    with socket.socket(fileno=caller.fds.pop()) as session:
        session.send(b"hello")
    assert a.recv(10) == b"hello"
    asked = [message for smtp in world.others[Proc.SMTP] for message in smtp.asked]
    # What the client says of itself is not believed.
    assert [message.uid for message in asked] == [ME]
    for smtp in world.others[Proc.SMTP]:
        if smtp.fd is not None:
            os.close(smtp.fd)
    a.close()
    b.close()


def test_sessions_go_to_the_smtp_processes_in_turn(world: World) -> None:
    for smtp in world.others[Proc.SMTP]:
        smtp.answer = answer_with("server disallowed submission request", False)
    caller = world.caller()
    for reqid in (1, 2, 3, 4):
        assert caller.ask(CtlSubmit(reqid, 0)) == CtlDone(reqid, False, "server disallowed submission request")
    assert [len(smtp.asked) for smtp in world.others[Proc.SMTP]] == [2, 2]


def test_strangers_may_only_submit(world: World) -> None:
    world.control._operators = {ME + 1}
    world.other(Proc.SMTP).answer = world.others[Proc.SMTP][1].answer = answer_with("no", False)
    questions = (CtlPause(1, "mta", False), CtlEnvelopes(1, EnvelopeCommand.REMOVE, 0, 0, 0), CtlShowQueue(1, 0, 0),
                 CtlShowMessage(1, 1, 0), CtlShowMta(1, "hosts", 0), CtlResumeRoute(1, 1), CtlStats(1),
                 CtlTrace(1, 1, 0), CtlShowStatus(1))
    for question in questions:
        assert world.caller().ask(question) == CtlDone(1, False, "need root privileges")
    assert world.caller().ask(CtlSubmit(1, 0)) == CtlDone(1, False, "no")
    assert not any(other.asked for proc in CONTROLLED if proc is not Proc.SMTP for other in world.others[proc])
    assert not world.control.traces


def test_another_version_of_smtpctl_is_told(world: World) -> None:
    caller = world.caller()
    caller.send(CtlShowStatus(1), peerid=version() ^ 1)
    world.until(lambda: bool(caller.heard))
    assert caller.heard == [CtlDone(1, False, "incompatible smtpctl and smtpd")]


def test_pausing_is_remembered_when_everybody_agrees(world: World) -> None:
    caller = world.caller()
    world.other(Proc.SCHEDULER).answer = answer_with()
    assert caller.ask(CtlPause(1, "mta", False)) == CtlDone(1, True, "")
    assert caller.ask(CtlShowStatus(2)) == CtlStatusShown(2, ["mta"])
    assert caller.ask(CtlPause(3, "mta", True)) == CtlDone(3, True, "")
    world.other(Proc.SMTP).answer = answer_with()
    world.others[Proc.SMTP][1].answer = answer_with(ok=False)
    assert caller.ask(CtlPause(4, "smtp", False)) == CtlDone(4, False, "")
    assert caller.ask(CtlShowStatus(5)) == CtlStatusShown(5, [])
    assert caller.ask(CtlPause(6, "lka", False)).ok is False


def test_trace_goes_to_all_and_is_obeyed_here(world: World) -> None:
    for others in world.others.values():
        for other in others:
            other.answer = answer_with()
    caller = world.caller()
    assert caller.ask(CtlTrace(1, int(Trace.SMTP) | 1 << 30, 0)) == CtlDone(1, True, "")
    assert world.control.traces == Trace.SMTP
    assert all(other.asked[0].on == Trace.SMTP for others in world.others.values() for other in others)
    assert caller.ask(CtlTrace(2, 0, int(Trace.SMTP))) == CtlDone(2, True, "")
    assert world.control.traces == 0


def test_counters_are_added_up(world: World) -> None:
    for proc, others in world.others.items():
        for other in others:
            values = [("smtp.session", 2)] if proc is Proc.SMTP else [("mta.host", 1)] if proc is Proc.MTA else []
            other.answer = lambda message, values=values: CtlStatsTold(message.reqid, values)  # type: ignore[misc]
    told = dict(world.caller().ask(CtlStats(1)).values)
    assert told == {"smtp.session": 4, "mta.host": 1, "control.session": 1, "uptime": told["uptime"]}


def test_show_queue_joins_what_queue_and_scheduler_know(world: World) -> None:
    page = [envelope(1), envelope(2), envelope(3)]
    plans = [Schedule(n, Agent.MTA, 1100 + n, 1500, 1000, 0, 0, n == 3) for n in (1, 2, 3)]
    world.other(Proc.QUEUE).answer = lambda message: QueueListed(message.reqid, page, plans, True)
    states = [(RunState.INFLIGHT, 1050), (RunState.HELD, 1060), (RunState.UNKNOWN, 0)]
    world.other(Proc.SCHEDULER).answer = lambda message: SchedStated(message.reqid, states)
    shown = world.caller().ask(CtlShowQueue(9, 5, 17))
    assert isinstance(shown, CtlQueueShown) and shown.reqid == 9 and shown.more
    assert [(one.envelope.evpid, one.state, one.time, one.suspended) for one in shown.listings] == [
        (1, RunState.INFLIGHT, 1050, False), (2, RunState.HELD, 1060, False), (3, RunState.PENDING, 1103, True),
    ]
    (asked,) = world.other(Proc.QUEUE).asked
    assert (asked.msgid, asked.after) == (5, 17)
    (states_asked,) = world.other(Proc.SCHEDULER).asked
    assert isinstance(states_asked, SchedStates) and states_asked.evpids == [1, 2, 3]


def test_an_empty_queue(world: World) -> None:
    world.other(Proc.QUEUE).answer = lambda message: QueueListed(message.reqid, [], [], False)
    assert world.caller().ask(CtlShowQueue(9, 0, 0)) == CtlQueueShown(9, [], False)


def test_other_questions_are_passed_on_under_an_id_of_controls_own(world: World) -> None:
    caller, queue = world.caller(), world.other(Proc.QUEUE)
    queue.answer = lambda message: CtlCounted(message.reqid, 3)
    assert caller.ask(CtlEnvelopes(1, EnvelopeCommand.REMOVE, 5, 0, 0)) == CtlCounted(1, 3)
    assert queue.asked[0].reqid != 1 and queue.asked[0].uid == ME
    queue.answer = lambda message: CtlText(message.reqid, b"text", True)
    assert caller.ask(CtlShowMessage(1, 5, 40)) == CtlText(1, b"text", True)
    assert (queue.asked[1].msgid, queue.asked[1].offset) == (5, 40)
    queue.answer = answer_with("not now", False)
    assert caller.ask(CtlShowQueue(1, 0, 0)) == CtlDone(1, False, "not now")


def test_what_concerns_routes_is_asked_of_mta(world: World) -> None:
    caller, mta = world.caller(), world.other(Proc.MTA)
    mta.answer = lambda message: CtlText(message.reqid, b"1. [] <-> 192.0.2.1\n", True)
    assert caller.ask(CtlShowMta(1, "routes", 3)) == CtlText(1, b"1. [] <-> 192.0.2.1\n", True)
    assert (mta.asked[0].what, mta.asked[0].after) == ("routes", 3)
    mta.answer = answer_with("no such route", False)
    assert caller.ask(CtlResumeRoute(2, 9)) == CtlDone(2, False, "no such route")
    assert mta.asked[1].route == 9


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.0\r\n\r\n", b"\0" * 16, b"\xff" * 64, b"\0\xe4\0\0" + b"\xee" * 40])
def test_garbage_costs_only_its_sender_the_connection(garbage: bytes, world: World) -> None:
    good, bad = world.caller(), world.caller()
    bad.peer.socket.send(garbage)
    world.until(lambda: bool(bad.lost))
    assert world.log == ["warn: client sent invalid imsg over control socket"]
    assert good.ask(CtlShowStatus(1)) == CtlStatusShown(1, [])


def test_every_short_or_spoilt_frame_is_survived(world: World) -> None:
    from pysmtpd.imsg import Encoder

    frame = Encoder(Proc.CLIENT, Proc.CONTROL, 1).encode(CtlShowQueue(1, 2, 3), version())
    for at in range(0, len(frame), 3):
        for spoilt in (frame[:at], frame[:at] + bytes([frame[at] ^ 0xFF]) + frame[at + 1 :]):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                sock.connect(world.path)
                sock.send(spoilt)
                for _ in range(4):
                    world.loop.run_until_complete(asyncio.sleep(0))
            world.until(lambda: not world.control._clients)
    assert world.caller().ask(CtlShowStatus(1)) == CtlStatusShown(1, [])


def test_one_question_at_a_time(world: World) -> None:
    caller = world.caller()
    caller.send(CtlShowQueue(1, 0, 0))
    caller.send(CtlShowQueue(2, 0, 0))
    world.until(lambda: bool(caller.lost))
    assert not world.control._questions


def test_a_client_that_leaves_before_its_answer(world: World) -> None:
    caller, queue = world.caller(), world.other(Proc.QUEUE)
    caller.send(CtlShowMessage(1, 5, 0))
    world.until(lambda: bool(queue.asked))
    caller.peer.close()
    world.until(lambda: not world.control._clients)
    queue.peer.send(CtlText(queue.asked[0].reqid, b"late", True))
    queue.peer.send(CtlText(4711, b"never asked", True))
    assert world.caller().ask(CtlShowStatus(1)) == CtlStatusShown(1, [])


def test_a_session_nobody_waits_for_any_more_is_closed(world: World) -> None:
    caller = world.caller()
    caller.send(CtlSubmit(1, 0))
    world.until(lambda: any(smtp.asked for smtp in world.others[Proc.SMTP]))
    caller.peer.close()
    world.until(lambda: not world.control._clients)
    a, b = socket.socketpair()
    (smtp,) = [smtp for smtp in world.others[Proc.SMTP] if smtp.asked]
    smtp.peer.send(CtlSubmitReady(smtp.asked[0].reqid), b.detach())
    a.setblocking(False)
    world.until(lambda: _ended(a))
    a.close()


def _ended(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False


def test_no_answer_in_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_TIMEOUT", 0.01)
    caller = world.caller()
    assert caller.ask(CtlPause(1, "mta", False)) == CtlDone(1, False, "no answer from scheduler")
    # A late answer is nobody's.
    (asked,) = world.other(Proc.SCHEDULER).asked
    world.other(Proc.SCHEDULER).peer.send(CtlDone(asked.reqid, True, ""))
    assert caller.ask(CtlShowStatus(2)) == CtlStatusShown(2, [])
    assert "no answer from scheduler" in world.log[0]


def test_a_silent_client_is_not_kept_for_ever(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLIENT_TIMEOUT", 0.01)
    caller = world.caller()
    world.until(lambda: bool(caller.lost))


def test_a_user_may_have_so_many_connections(world: World) -> None:
    callers = [world.caller() for _ in range(CLIENTS_PER_UID)]
    world.until(lambda: len(world.control._clients) == CLIENTS_PER_UID)
    one_more = world.caller()
    world.until(lambda: bool(one_more.lost))
    assert world.log == [f"warn: too many connections to control socket from user with uid {ME}"]
    assert callers[0].ask(CtlShowStatus(1)) == CtlStatusShown(1, [])
    assert world.control.stats.values["control.session"] == CLIENTS_PER_UID


def test_the_owner_of_an_unprivileged_daemon_and_root_may_do_everything(world: World) -> None:
    assert world.control._operators == {0, os.geteuid()}
