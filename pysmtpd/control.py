"""control: the control socket.  Every client of it is a stranger: its uid, as the kernel says, is all that counts.

A client asks one thing at a time.  control asks the processes that know, under ids of its own, puts their answers
together and gives them to the client.  Garbage costs the client its connection and nobody anything else.
"""

import asyncio
import os
import socket
from typing import Any, TypeVar

from pysmtpd.base import logline
from pysmtpd.base.logline import Level
from pysmtpd.base.procs import Proc
from pysmtpd.base.trace import ALL, Trace
from pysmtpd.imsg import Frame, Message, version
from pysmtpd.messages import (
    CONTROLLED,
    Certificates,
    CtlCounted,
    CtlDone,
    CtlEnvelopes,
    CtlExplain,
    CtlPause,
    CtlQueueShown,
    CtlResumeRoute,
    CtlShowEnvelope,
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
    CtlUpdateTable,
    Listing,
    QueueListed,
    RunState,
    SchedStated,
    SchedStates,
    SetupControlSocket,
)
from pysmtpd.privsep.mproc import Peer
from pysmtpd.privsep.peercred import peer_uid
from pysmtpd.privsep.process import Process, handles

CLIENTS_PER_UID = 32
ACCEPT_MAX = 16                    # connections taken in one turn
ACCEPT_PAUSE = 1.0                 # seconds, after the descriptors ran out
ANSWER_TIMEOUT = 60.0              # seconds a process has to answer
CLIENT_TIMEOUT = 900.0             # seconds a client may be silent: somebody may be reading page one
BACKLOG_MAX = 256 * 1024           # octets a client may leave unread and still ask

PAUSABLE = {"mda": Proc.SCHEDULER, "mta": Proc.SCHEDULER, "smtp": Proc.SMTP}
INCOMPATIBLE = "incompatible smtpctl and smtpd"
NEED_ROOT = "need root privileges"


class Client:
    """A connection to the control socket."""

    def __init__(self, peer: Peer, uid: int) -> None:
        self.peer = peer
        self.uid = uid
        self.question: Question | None = None
        self.timer: asyncio.TimerHandle | None = None


class Question:
    """What a client asked, until it is answered: here, one answer is passed on as it is."""

    def __init__(self, client: Client, asked: Message) -> None:
        self.client = client
        self.asked = asked
        self.reqid: int = asked.reqid  # type: ignore[attr-defined]  # every question begins with it
        self.ours = 0              # the id under which the others are asked
        self.missing: list[Proc] = []

    def hear(self, control: "Control", message: Message) -> Message | None:
        """One answer arrived.  Returns the client's answer once that is complete."""
        return _with_reqid(message, self.reqid)


class Agreement(Question):
    """Several are told something, and all have to agree."""

    ok = True
    text = ""

    def hear(self, control: "Control", message: Message) -> Message | None:
        assert isinstance(message, CtlDone)
        self.ok = self.ok and message.ok
        self.text = self.text or message.text
        if self.missing:
            return None
        if self.ok and isinstance(self.asked, CtlPause):
            control.note_pause(self.asked)
        return CtlDone(self.reqid, self.ok, self.text)


class Sum(Question):
    """Everybody's counters, added up."""

    def __init__(self, client: Client, asked: Message) -> None:
        super().__init__(client, asked)
        self.values: dict[str, int] = {}

    def add(self, values: list[tuple[str, int]]) -> None:
        for key, value in values:
            self.values[key] = self.values.get(key, 0) + value

    def hear(self, control: "Control", message: Message) -> Message | None:
        assert isinstance(message, CtlStatsTold)
        self.add(message.values)
        return None if self.missing else CtlStatsTold(self.reqid, sorted(self.values.items()))


class Page(Question):
    """A page of the queue, and what the scheduler is doing with what is on it."""

    page: QueueListed | None = None

    def hear(self, control: "Control", message: Message) -> Message | None:
        if isinstance(message, QueueListed):
            self.page = message
            if not message.envelopes:
                return CtlQueueShown(self.reqid, [], message.more)
            control.ask(self, Proc.SCHEDULER, SchedStates(self.ours, [one.evpid for one in message.envelopes]))
            return None
        assert isinstance(message, SchedStated) and self.page is not None
        rows = zip(self.page.envelopes, self.page.schedules, message.states, strict=True)
        listings = [
            Listing(envelope, *_shown(state, when, schedule.due), schedule.suspended)
            for envelope, schedule, (state, when) in rows
        ]
        return CtlQueueShown(self.reqid, listings, self.page.more)


def _shown(state: RunState, when: int, due: int) -> tuple[RunState, int]:
    """What the scheduler does not know waits in the database for its time."""
    return (RunState.PENDING, due) if state is RunState.UNKNOWN else (state, when)


def _with_reqid(message: Message, reqid: int) -> Message:
    kind: Any = type(message)
    again: Message = kind(reqid, *(getattr(message, name) for name in message.__struct_fields__[1:]))
    return again


Q = TypeVar("Q", bound=Question)
Answer = CtlSubmitReady | CtlDone | CtlCounted | QueueListed | SchedStated | CtlText | CtlStatsTold


class Control(Process):
    """The process."""

    ME = Proc.CONTROL

    @handles(SetupControlSocket)
    def control_socket(self, peer: Peer, _message: SetupControlSocket) -> None:
        self._listener = socket.socket(fileno=peer.claim_fd())
        self._listener.setblocking(False)

    def setup(self) -> None:
        # Without root the daemon's own user is its operator.
        self._operators = {0, os.geteuid()}

    def start(self) -> None:
        self._clients: dict[Peer, Client] = {}
        self._questions: dict[int, Question] = {}
        self._next_smtp = 0
        self._started = self.now()
        self._expiries: list[tuple[str, int]] = []
        self.loop.add_reader(self._listener.fileno(), self._accept)

    # clients come and go

    def _accept(self) -> None:
        for _ in range(ACCEPT_MAX):
            try:
                sock, _address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self.log(f"warn: control socket: {error.strerror}")
                self.loop.remove_reader(self._listener.fileno())
                self.loop.call_later(ACCEPT_PAUSE, self.loop.add_reader, self._listener.fileno(), self._accept)
                return
            self._welcome(sock)

    def _welcome(self, sock: socket.socket) -> None:
        try:
            uid = peer_uid(sock)
        except OSError as error:
            self.log(f"warn: control socket: no credentials of a client: {error.strerror}")
            sock.close()
            return
        if sum(client.uid == uid for client in self._clients.values()) >= CLIENTS_PER_UID:
            self.log(logline.CLIENT_TOO_MANY.format(uid=uid))
            sock.close()
            return
        peer = self.adopt(sock, Proc.CLIENT)
        self._clients[peer] = client = Client(peer, uid)
        self._allow(client, CLIENT_TIMEOUT)
        self.stats.add("control.session")

    def _allow(self, client: Client, seconds: float) -> None:
        if client.timer is not None:
            client.timer.cancel()
        client.timer = self.loop.call_later(seconds, self._timeout, client)

    def _timeout(self, client: Client) -> None:
        question = client.question
        if question is None:
            self._drop(client)
        else:
            names = ", ".join(sorted({proc.value for proc in question.missing}))
            self.log(f"warn: control: {type(question.asked).__name__}: no answer from {names}", Level.ERR)
            self._finish(question, CtlDone(question.reqid, False, f"no answer from {names}"))

    def lost(self, peer: Peer, reason: str) -> None:
        if reason != "socket closed":
            self.log(logline.CLIENT_INVALID)
        client = self._clients.get(peer)
        if client is not None:
            self._drop(client)

    def _drop(self, client: Client) -> None:
        del self._clients[client.peer]
        if client.timer is not None:
            client.timer.cancel()
        if client.question is not None:
            del self._questions[client.question.ours]
        client.peer.close()
        self.stats.add("control.session", -1)

    # a client asks

    def peer_frame(self, peer: Peer, frame: Frame) -> None:
        if peer.proc is not Proc.CLIENT:
            super().peer_frame(peer, frame)
            return
        client, message = self._clients[peer], frame.message
        if client.question is not None or peer.backlog > BACKLOG_MAX:
            self.log(logline.CLIENT_INVALID)
            self._drop(client)
            return
        refusal = self._refusal(client, frame)
        if refusal:
            reqid: int = message.reqid  # type: ignore[attr-defined]  # every question begins with it
            peer.send(CtlDone(reqid, False, refusal))
        elif isinstance(message, CtlStats):
            self._stats(client, message)
        elif isinstance(message, CtlTrace):
            self._trace(client, message)
        else:
            super().peer_frame(peer, frame)
        if client.question is None and peer in self._clients:
            self._allow(client, CLIENT_TIMEOUT)

    def _refusal(self, client: Client, frame: Frame) -> str:
        if frame.peerid != version():
            return INCOMPATIBLE
        if client.uid not in self._operators and not isinstance(frame.message, CtlSubmit):
            return NEED_ROOT
        return ""

    @handles(CtlSubmit)
    def submit(self, peer: Peer, message: CtlSubmit) -> None:
        client = self._clients[peer]
        workers = self.peers(Proc.SMTP)
        self._next_smtp = (self._next_smtp + 1) % len(workers)
        question = self._question(Question(client, message))
        self._tell(question, workers[self._next_smtp], CtlSubmit(question.ours, client.uid))

    @handles(CtlEnvelopes)
    def envelopes(self, peer: Peer, message: CtlEnvelopes) -> None:
        client = self._clients[peer]
        question = self._question(Question(client, message))
        self.ask(question, Proc.QUEUE,
                 CtlEnvelopes(question.ours, message.command, message.evpid, message.msgid, client.uid))

    @handles(CtlShowEnvelope, CtlShowMessage)
    def show(self, peer: Peer, message: CtlShowEnvelope | CtlShowMessage) -> None:
        question = self._question(Question(self._clients[peer], message))
        self.ask(question, Proc.QUEUE, _with_reqid(message, question.ours))

    @handles(CtlExplain)
    def explain(self, peer: Peer, message: CtlExplain) -> None:
        question = self._question(Question(self._clients[peer], message))
        self.ask(question, Proc.LKA, _with_reqid(message, question.ours))

    @handles(CtlShowMta)
    def show_mta(self, peer: Peer, message: CtlShowMta) -> None:
        question = self._question(Question(self._clients[peer], message))
        self.ask(question, Proc.MTA, _with_reqid(message, question.ours))

    @handles(CtlResumeRoute)
    def resume_route(self, peer: Peer, message: CtlResumeRoute) -> None:
        question = self._question(Question(self._clients[peer], message))
        self.ask(question, Proc.MTA, _with_reqid(message, question.ours))

    @handles(CtlShowQueue)
    def show_queue(self, peer: Peer, message: CtlShowQueue) -> None:
        question = self._question(Page(self._clients[peer], message))
        self.ask(question, Proc.QUEUE, _with_reqid(message, question.ours))

    @handles(CtlShowStatus)
    def show_status(self, peer: Peer, message: CtlShowStatus) -> None:
        peer.send(CtlStatusShown(message.reqid, sorted(self.paused & PAUSABLE.keys()), self._expiries))

    @handles(Certificates)
    def certificates(self, _peer: Peer, message: Certificates) -> None:
        self._expiries = message.expiries

    @handles(CtlPause)
    def pause(self, peer: Peer, message: CtlPause) -> None:
        proc = PAUSABLE.get(message.what)
        if proc is None:
            peer.send(CtlDone(message.reqid, False, "there is no such thing to pause"))
            return
        question = self._question(Agreement(self._clients[peer], message))
        self.ask(question, proc, CtlPause(question.ours, message.what, message.resume))

    @handles(CtlUpdateTable)
    def update_table(self, peer: Peer, message: CtlUpdateTable) -> None:
        question = self._question(Question(self._clients[peer], message))
        self.ask(question, Proc.LKA, _with_reqid(message, question.ours))

    def note_pause(self, message: CtlPause) -> None:
        """Everybody has obeyed."""
        if message.resume:
            self.paused.discard(message.what)
        else:
            self.paused.add(message.what)

    def _trace(self, client: Client, message: CtlTrace) -> None:
        known = ALL | Trace.DEBUG
        on, off = message.on & known, message.off & known
        self.set_traces((self.traces | on) & ~off)
        question = self._question(Agreement(client, message))
        for proc in CONTROLLED:
            self.ask(question, proc, CtlTrace(question.ours, on, off))

    def _stats(self, client: Client, message: CtlStats) -> None:
        question = self._question(Sum(client, message))
        question.add([*self.stats.values.items(), ("uptime", max(0, self.now() - self._started))])
        for proc in CONTROLLED:
            self.ask(question, proc, CtlStats(question.ours))

    # the others are asked

    def _question(self, question: Q) -> Q:
        question.ours = self.new_reqid()
        question.client.question = self._questions[question.ours] = question
        self._allow(question.client, ANSWER_TIMEOUT)
        return question

    def ask(self, question: Question, proc: Proc, message: Message) -> None:
        """Ask every process of a kind."""
        for peer in self.peers(proc):
            self._tell(question, peer, message)

    def _tell(self, question: Question, peer: Peer, message: Message) -> None:
        question.missing.append(peer.proc)
        peer.send(message)

    @handles(CtlSubmitReady, CtlDone, CtlCounted, QueueListed, SchedStated, CtlText, CtlStatsTold)
    def answer(self, peer: Peer, message: "Answer") -> None:
        question = self._questions.get(message.reqid)
        if question is None or peer.proc not in question.missing:
            return                 # its client has gone, or was told that it takes too long
        question.missing.remove(peer.proc)
        if isinstance(message, CtlDone) and not isinstance(question, Agreement):
            reply: Message | None = _with_reqid(message, question.reqid)
        else:
            reply = question.hear(self, message)
        if reply is not None:
            self._finish(question, reply, peer.claim_fd() if isinstance(message, CtlSubmitReady) else None)

    def _finish(self, question: Question, reply: Message, fd: int | None = None) -> None:
        client = question.client
        del self._questions[question.ours]
        client.question = None
        self._allow(client, CLIENT_TIMEOUT)
        client.peer.send(reply, fd)
