"""mda: local deliveries, by workers that have become the recipient.

Queue says what to deliver, deliver.pools who does it and when, the parent starts the worker, and the body goes from
queue to the worker piece by piece, never further ahead than the worker has consumed.  A worker belongs to its user,
so nothing it says is believed but how this user's own deliveries went; one that misbehaves or dies has failed them for
now.
"""

import asyncio
import re
import socket
from collections import deque

from pysmtpd.base import logline, text
from pysmtpd.base.envelope import Envelope
from pysmtpd.base.ids import EvpId, msgid_of
from pysmtpd.base.logline import Level
from pysmtpd.base.procs import Proc
from pysmtpd.deliver import plan, pools
from pysmtpd.deliver.headers import LoopSearch, trace_fields
from pysmtpd.deliver.plan import Plan
from pysmtpd.deliver.pools import Pools, Task
from pysmtpd.deliver.verdict import Failed, tempfail
from pysmtpd.imsg import CHUNK_MAX, ImsgError
from pysmtpd.messages import (
    BodyClose,
    BodyCredit,
    BodyOpen,
    Delivered,
    DeliveryHold,
    DeliveryRelease,
    MdaWorkerExited,
    MdaWorkerRefused,
    MdaWorkerStart,
    MdaWorkerStarted,
    MdaWorkerStop,
    Outcome,
    QueueBody,
    QueueCancel,
    QueueDeliver,
    Result,
    WorkerBody,
    WorkerDelivered,
)
from pysmtpd.privsep.mproc import Peer
from pysmtpd.privsep.process import Process, handles

TICK = 0.25                        # seconds
JOB_TIMEOUT = plan.TIMEOUT + 30.0  # seconds; the worker keeps plan.TIMEOUT itself
LAST_WORDS = 1.0                   # seconds between the end of a worker's socket and the parent's word on its process
DRAIN_TIME = 5.0                   # seconds that running deliveries get when the daemon stops
RESULTS_MAX = 32                   # in one frame
REASON_MAX = 384                   # octets
_RESULT = {Outcome.OK: "Ok", Outcome.TEMPFAIL: "TempFail", Outcome.PERMFAIL: "PermFail", Outcome.LOOP: "PermFail"}
_ESC = {
    Outcome.OK: re.compile(r"2\.\d{1,3}\.\d{1,3}"),
    Outcome.TEMPFAIL: re.compile(r"4\.\d{1,3}\.\d{1,3}"),
    Outcome.PERMFAIL: re.compile(r"5\.\d{1,3}\.\d{1,3}"),
}
_DEFAULT_ESC = {Outcome.OK: "2.0.0", Outcome.TEMPFAIL: "4.0.0", Outcome.PERMFAIL: "5.0.0"}


class Job:
    """One delivery under way."""

    __slots__ = ("complete", "header", "id", "loop", "outstanding", "owed", "reported", "session", "task", "timer")

    def __init__(self, number: int, task: Task, session: int) -> None:
        self.id = number
        self.task = task
        self.session = session
        self.timer: asyncio.TimerHandle | None = None
        self.header = trace_fields(task.envelope)
        self.owed = len(self.header)   # octets of ours that queue must get no credit for
        self.outstanding = 0           # octets the worker has not consumed
        self.loop = LoopSearch(task.envelope.dest)
        self.complete = False          # queue has sent the last piece, or was told to stop
        self.reported = False          # the result is known; only the worker has to agree


class Slot:
    """A worker, from asking for it until the parent has reaped it."""

    __slots__ = ("cause", "exited", "home", "id", "job", "peer", "user")

    def __init__(self, number: int, user: str) -> None:
        self.id = number
        self.user = user
        self.home = ""
        self.peer: Peer | None = None
        self.job: Job | None = None
        self.exited = False            # says the parent
        self.cause = "delivery worker lost"


class Mda(Process):
    """The mda process."""

    ME = Proc.MDA

    def setup(self) -> None:
        """Find formats that can never be expanded before mail comes."""
        for action in self.config.actions.values():
            if not action.is_relay and (wrong := plan.check(action, self.config.wrappers)):
                self.log(f"warn: action {action.name}: {wrong}", Level.ERR)

    def start(self) -> None:
        """Make what needs the configuration."""
        self._pools = Pools(self.config.limits, self.new_reqid)
        self._slots: dict[int, Slot] = {}
        self._by_peer: dict[Peer, Slot] = {}
        self._jobs: dict[int, tuple[Slot, Job]] = {}
        self._results: list[Result] = []
        self._ticking = False
        self._draining = False

    def drain(self) -> None:
        """Running deliveries get a moment; what waits is in the spool, and comes again with the next start."""
        self._draining = True
        self.loop.call_later(DRAIN_TIME, self._end)
        self._end_if_done()

    def _end_if_done(self) -> None:
        # Without the queue nothing can be brought to its end: whatever is delivered now would be delivered again.
        if self._draining and (not self._jobs or self.peer(Proc.QUEUE).closed):
            self._end()

    def _end(self) -> None:
        self._flush()
        for peer in list(self._by_peer):
            peer.close()
        self.leave()

    def tell_stats(self) -> None:
        """Gauges that are only computed when asked for."""
        self.stats.set("mda.pending", self._pools.pending)
        self.stats.set("mda.running", self._pools.running)
        self.stats.set("mda.user", self._pools.recipients)

    # what queue says

    @handles(QueueDeliver)
    def deliver(self, _peer: Peer, message: QueueDeliver) -> None:
        if self._draining:
            return
        envelope = message.envelope
        self.stats.add("mda.envelope")
        action = self.config.actions.get(envelope.action)
        if action is None or action.is_relay:
            self._report(0, envelope, Outcome.TEMPFAIL, "4.3.5", f"there is no local action {envelope.action}".encode())
            return
        task = Task(envelope, action, plan.identity(envelope, action), message.size, message.has_8bit,
                    message.body, message.binary)
        self._do(self._pools.add(task, self.loop.time()))
        self._wind()

    @handles(QueueCancel)
    def cancel(self, _peer: Peer, message: QueueCancel) -> None:
        """These were removed from the queue.  What a worker has is delivered."""
        count, effects = self._pools.drop(frozenset(message.evpids))
        self.stats.add("mda.envelope", -count)
        self._do(effects)

    @handles(QueueBody)
    def body(self, _peer: Peer, message: QueueBody) -> None:
        slot, job = self._jobs.get(message.reqid, (None, None))
        if slot is None or job is None or job.complete or slot.peer is None:
            return  # over, or about to be
        job.complete = message.last or not message.ok
        if not message.ok:
            self._abandon(slot.peer, job, Outcome.TEMPFAIL, "4.3.0", b"Error reading body")
        else:
            self._piece(slot.peer, job, message.chunk, last=message.last)

    def _piece(self, peer: Peer, job: Job, chunk: bytes, *, last: bool) -> None:
        if job.loop.feed(chunk, last=last):
            self._abandon(peer, job, Outcome.LOOP, "5.4.6", b"Loop detected")
        else:
            self._pass_on(peer, job, chunk, last=last)

    def _pass_on(self, peer: Peer, job: Job, chunk: bytes, *, last: bool) -> None:
        if job.header and len(job.header) + len(chunk) <= CHUNK_MAX:
            chunk, job.header = job.header + chunk, b""
        elif job.header:
            peer.send(WorkerBody(job.id, job.header, False))
            job.outstanding += len(job.header)
            job.header = b""
        job.outstanding += len(chunk)
        peer.send(WorkerBody(job.id, chunk, last))

    def _abandon(self, peer: Peer, job: Job, outcome: Outcome, esc: str, reason: bytes) -> None:
        """The result is known; the worker undoes what it did, and says so."""
        self._close_body(job)
        self._settle(job, outcome, esc, reason)
        peer.send(WorkerBody(job.id, b"", True, True))

    def _close_body(self, job: Job) -> None:
        if not job.complete:
            job.complete = True
            self.peer(Proc.QUEUE).send(BodyClose(job.id))

    # what the parent says of workers

    @handles(MdaWorkerStarted)
    def worker_started(self, peer: Peer, message: MdaWorkerStarted) -> None:
        sock = socket.socket(fileno=peer.claim_fd())
        slot = self._slots.get(message.reqid)
        if slot is None or self._draining:
            sock.close()
            return
        slot.home = message.home
        slot.peer = self.adopt(sock, Proc.WORKER)
        self._by_peer[slot.peer] = slot
        self._do(self._pools.started(slot.id, self.loop.time()))

    @handles(MdaWorkerRefused)
    def worker_refused(self, _peer: Peer, message: MdaWorkerRefused) -> None:
        if self._slots.pop(message.reqid, None) is None:
            return
        tasks, effects = self._pools.refused(message.reqid)
        outcome, esc = (Outcome.TEMPFAIL, "4.1.0") if message.temporary else (Outcome.PERMFAIL, "5.1.6")
        for task in tasks:
            self._report(0, task.envelope, outcome, esc, message.text.encode())
        self._do(effects)

    @handles(MdaWorkerExited)
    def worker_exited(self, _peer: Peer, message: MdaWorkerExited) -> None:
        slot = self._slots.get(message.reqid)
        if slot is None:
            return
        slot.exited, slot.cause = True, message.cause
        if slot.peer is None:
            self._ended(slot)
        else:
            # Its last frames may still be on their way; and somebody it gave the socket to may keep it open.
            self.loop.call_later(LAST_WORDS, self._shut, slot)

    def _shut(self, slot: Slot) -> None:
        if slot.peer is not None:
            slot.peer.close()
            self.lost(slot.peer, "socket closed")

    def lost(self, peer: Peer, reason: str) -> None:
        """A worker's socket has ended."""
        slot = self._by_peer.pop(peer)
        slot.peer = None
        if not slot.exited:
            self._see_off(slot)
        if reason != "socket closed":
            self.log(f"warn: delivery worker of user {slot.user}: {reason}", Level.ERR)
        if slot.exited:
            self._ended(slot)
        elif slot.job is not None:
            self.loop.call_later(LAST_WORDS, self._fail, slot, slot.job)
        else:
            self._do(self._pools.lost(slot.id))

    def _ended(self, slot: Slot) -> None:
        """Socket and process are gone."""
        if slot.job is not None:
            self._fail(slot, slot.job)
        if self._slots.pop(slot.id, None) is not None:
            self._do(self._pools.gone(slot.id, self.loop.time()))

    def _fail(self, slot: Slot, job: Job) -> None:
        """The worker of a delivery ended before it."""
        if slot.job is not job:
            return
        self._close_body(job)
        self._settle(job, Outcome.TEMPFAIL, "4.3.0", slot.cause.encode())
        self._clear(slot, job)
        self._do(self._pools.lost(slot.id))

    def _overdue(self, slot: Slot, job: Job) -> None:
        """A worker that does not keep the time: it has failed, and is let go of."""
        if slot.job is not job:
            return
        self.log(f"warn: delivery worker of user {slot.user}: takes too long", Level.ERR)
        slot.cause = "terminated; timeout"
        self._fail(slot, job)
        self._shut(slot)

    # what a worker says

    @handles(BodyCredit)
    def credit(self, peer: Peer, message: BodyCredit) -> None:
        job = self._by_peer[peer].job
        if job is None or message.reqid != job.id:
            return
        if message.size > job.outstanding:
            raise ImsgError("BodyCredit: for more than was sent")
        job.outstanding -= message.size
        ours = min(job.owed, message.size)
        job.owed -= ours
        if message.size > ours and not job.complete:
            self.peer(Proc.QUEUE).send(BodyCredit(job.id, message.size - ours))

    @handles(WorkerDelivered)
    def delivered(self, peer: Peer, message: WorkerDelivered) -> None:
        slot = self._by_peer[peer]
        job = slot.job
        if job is None or message.jobid != job.id or message.outcome is Outcome.LOOP:
            raise ImsgError("WorkerDelivered: of no delivery")
        if not job.complete:
            # It failed before it had seen everything.
            self._close_body(job)
            peer.send(WorkerBody(job.id, b"", True, True))
        esc = message.esc if _ESC[message.outcome].fullmatch(message.esc) else _DEFAULT_ESC[message.outcome]
        self._settle(job, message.outcome, esc, message.text)
        self._clear(slot, job)
        self._do(self._pools.finished(slot.id, self.loop.time()))

    # carrying out

    def _do(self, wanted: list[pools.Effect]) -> None:
        queue = self.peer(Proc.QUEUE)
        waiting = deque(wanted)
        while waiting:
            match waiting.popleft():
                case pools.Run(worker, task, session):
                    waiting.extend(self._run(self._slots[worker], task, session))
                case pools.Start(worker, identity, action):
                    self._slots[worker] = Slot(worker, identity.user)
                    self.peer(Proc.PARENT).send(MdaWorkerStart(worker, action, identity.user, identity.kind))
                case pools.Stop(worker):
                    self._stop(self._slots[worker])
                case pools.Hold(evpid, holdq):
                    self.stats.add("mda.envelope", -1)
                    queue.send(DeliveryHold(evpid, holdq))
                case pools.Release(holdq, number):
                    queue.send(DeliveryRelease(holdq, number))

    def _run(self, slot: Slot, task: Task, session: int) -> list[pools.Effect]:
        if self._draining or slot.peer is None:
            return []
        number = self.new_reqid()
        job = slot.job = Job(number, task, session)
        job.timer = self.loop.call_later(JOB_TIMEOUT, self._overdue, slot, job)
        self._jobs[number] = (slot, job)
        made = Plan(task.envelope, task.action, self.config.wrappers, slot.home, self.config.sub_addr_delim)
        try:
            slot.peer.send(made.message(number, task.size + len(job.header), has_8bit=task.has_8bit,
                                        binary=task.binary))
        except (Failed, ImsgError) as error:
            verdict = error.verdict if isinstance(error, Failed) else tempfail("4.3.0", f"bug: {error}").verdict
            self._settle(job, verdict.outcome, verdict.esc, verdict.text)
            self._clear(slot, job)
            return self._pools.finished(slot.id, self.loop.time())
        if task.body:
            job.complete = True
            self._piece(slot.peer, job, task.body, last=True)
        else:
            self.peer(Proc.QUEUE).send(BodyOpen(number, msgid_of(EvpId(task.envelope.evpid))))
        return []

    def _stop(self, slot: Slot) -> None:
        if slot.peer is not None:
            slot.peer.close()
            self._by_peer.pop(slot.peer)
            slot.peer = None
            self._see_off(slot)

    def _see_off(self, slot: Slot) -> None:
        """A worker without its socket leaves by itself; one that does not would hold its place for ever."""
        self.loop.call_later(LAST_WORDS, self._insist, slot)

    def _insist(self, slot: Slot) -> None:
        if not slot.exited and slot.id in self._slots:
            self.peer(Proc.PARENT).send(MdaWorkerStop(slot.id))

    def _clear(self, slot: Slot, job: Job) -> None:
        if job.timer is not None:
            job.timer.cancel()
        slot.job = None
        del self._jobs[job.id]
        if self._draining:
            self.loop.call_soon(self._end_if_done)

    def _wind(self) -> None:
        if not self._ticking and not self._pools.idle:
            self._ticking = True
            self.loop.call_later(TICK, self._tick)

    def _tick(self) -> None:
        self._ticking = False
        if not self._draining:
            self._do(self._pools.tick(self.loop.time()))
            self._wind()

    # results

    def _settle(self, job: Job, outcome: Outcome, esc: str, reason: bytes) -> None:
        if not job.reported:
            job.reported = True
            self._report(job.session, job.task.envelope, outcome, esc, reason)

    def _report(self, session: int, envelope: Envelope, outcome: Outcome, esc: str, reason: bytes) -> None:
        """reason may be a stranger's."""
        self.stats.add("mda.envelope", -1)
        stat = {Outcome.OK: "Delivered", Outcome.LOOP: "Loop detected"}.get(outcome) or f"Error ({text.vis(reason)})"
        self.log(logline.MDA_DELIVERY.format(
            id=session, evpid=envelope.evpid, sender=envelope.sender, dest=envelope.dest, rcpt=envelope.rcpt,
            user=envelope.user, delay=logline.duration(self.now() - envelope.ctime), result=_RESULT[outcome], stat=stat,
        ))
        if not self._results:
            self.loop.call_soon(self._flush)
        self._results.append(Result(envelope.evpid, outcome, esc, text.line_of(reason, REASON_MAX)))

    def _flush(self) -> None:
        results, self._results = self._results, []
        for at in range(0, len(results), RESULTS_MAX):
            self.peer(Proc.QUEUE).send(Delivered(results[at : at + RESULTS_MAX]))
