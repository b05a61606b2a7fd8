"""scheduler: decides what is due.  Keeps nothing on disk, and only what is due soon in memory.

The queue tells what is new, changed, finished or failed for now; once per turn of the loop this process answers
with whatever is to be delivered, to expire, to be tried again later, or to be read ahead.  The thinking is in
sched.ramqueue.
"""

import asyncio

from pysmtpd.base import logline
from pysmtpd.base.envelope import Agent
from pysmtpd.base.procs import Proc
from pysmtpd.base.trace import Trace
from pysmtpd.messages import (
    CtlDone,
    CtlPause,
    QueueDone,
    QueueEnvelopes,
    QueueHold,
    QueueRelease,
    QueueTempfail,
    SchedFetched,
    SchedStated,
    SchedStates,
)
from pysmtpd.privsep.mproc import Peer
from pysmtpd.privsep.process import Process, handles
from pysmtpd.sched.ramqueue import RamQueue

SLEEP_MAX = 60                     # seconds: the clock may be set meanwhile

_AGENTS = {"mda": Agent.MDA, "mta": Agent.MTA}


class Scheduler(Process):
    """The process."""

    ME = Proc.SCHEDULER

    def start(self) -> None:
        self.ram = RamQueue(self.config.limits, self.config.warn_intervals, self.new_reqid, self.stats)
        for name in self.paused & _AGENTS.keys():
            self.ram.pause(_AGENTS[name], True, self.now())
        self._timer: asyncio.TimerHandle | None = None
        self._alarm = 0            # for when the timer is set
        self._wanted = False
        self._turn_soon()

    @handles(QueueEnvelopes)
    def envelopes(self, _peer: Peer, message: QueueEnvelopes) -> None:
        self.ram.envelopes(message.schedules, self.now())
        self._turn_soon()

    @handles(SchedFetched)
    def fetched(self, _peer: Peer, message: SchedFetched) -> None:
        self.ram.fetched(message.reqid, message.schedules, message.more, self.now())
        self._turn_soon()

    @handles(QueueDone)
    def done(self, _peer: Peer, message: QueueDone) -> None:
        self.ram.done(message.evpids, message.result)
        self._turn_soon()

    @handles(QueueTempfail)
    def tempfail(self, _peer: Peer, message: QueueTempfail) -> None:
        self.ram.tempfail(message.schedule, self.now())
        self._turn_soon()

    @handles(QueueHold)
    def hold(self, _peer: Peer, message: QueueHold) -> None:
        self.ram.hold(message.evpid, message.holdq, self.now())
        self._turn_soon()

    @handles(QueueRelease)
    def release(self, _peer: Peer, message: QueueRelease) -> None:
        self.ram.release(message.holdq, message.count, self.now())
        self._turn_soon()

    @handles(CtlPause)
    def pause(self, peer: Peer, message: CtlPause) -> None:
        agent = _AGENTS.get(message.what)
        if agent is None:
            peer.send(CtlDone(message.reqid, False, "unknown agent"))
            return
        changed = self.ram.pause(agent, not message.resume, self.now())
        if changed:
            self.log((logline.RESUMED if message.resume else logline.PAUSED).format(what=message.what))
        peer.send(CtlDone(message.reqid, changed, ""))
        self._turn_soon()

    @handles(SchedStates)
    def states(self, peer: Peer, message: SchedStates) -> None:
        peer.send(SchedStated(message.reqid, self.ram.states(message.evpids)))

    def tell_stats(self) -> None:
        self.ram.count()

    # one turn of the loop

    def _turn_soon(self) -> None:
        if not self._wanted:
            self._wanted = True
            self.loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._wanted = False
        now = self.now()
        queue = self.peer(Proc.QUEUE)
        for message in self.ram.turn(now):
            if self.traces & Trace.SCHEDULER:
                self.trace(Trace.SCHEDULER, str(message))
            queue.send(message)
        self._sleep(now)

    def _sleep(self, now: int) -> None:
        """Wake when the next envelope is due."""
        wake = min(self.ram.wake(now) or now + SLEEP_MAX, now + SLEEP_MAX)
        if self._timer is not None:
            if now < self._alarm <= wake:
                return             # early is harmless, and a new timer for every message is not free
            self._timer.cancel()
        self._alarm = wake
        # now is the beginning of this second: half a second late is better than a turn too early.
        self._timer = self.loop.call_later(wake - now + 0.5, self._turn_soon)
