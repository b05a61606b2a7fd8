"""The children that go where one may hang (privsep.home), for the parent: it asks them, and waits for none.

A question has a time to be answered in, waiting included.  A child that works on one for long is hanging: it does not
count any more, so that others have theirs answered by another child, and at the end of its time it is killed.  What
hangs is one home, one user, or a whole server of them: there is one question at a time about each, and children that
hang in the same directory get no more than a part of all places.
"""

import asyncio
import os
import signal
from collections import Counter, deque
from collections.abc import Callable
from typing import Protocol

from pysmtpd.base.logline import Level
from pysmtpd.base.procs import Proc
from pysmtpd.imsg import Frame, Message
from pysmtpd.privsep import spawn
from pysmtpd.privsep.mproc import Peer, pair

LIMIT = 10.0                       # seconds to an answer
FRESH = 1.0                        # seconds until a child is taken to hang
AT_ONCE = 4                        # children that do not hang
CHILDREN_MAX = 16                  # all, with those that were killed and are not gone yet
TOGETHER_MAX = 6                   # that hang in the same directory
WAITING_MAX = 1000                 # questions
WAITING_WHERE = 500                # of them, about the same directory of homes
WAITING_ABOUT = 50                 # about the same home: who sends mail to one that hangs shall not fill all places
IDLE = 30.0                        # seconds; one child is kept
TICK = 0.25                        # seconds

# The answer and its descriptor, now the callee's; or None: there is none in time.
Tell = Callable[[Message | None, int | None], None]


class Owner(Protocol):
    """What is needed of the parent."""

    loop: asyncio.AbstractEventLoop

    def log(self, line: str, level: Level = ..., /) -> None: ...

    def peer_frame(self, peer: Peer, frame: Frame) -> None: ...

    def peer_lost(self, peer: Peer, reason: str) -> None: ...


class _Job:
    """A question."""

    __slots__ = ("due", "key", "message", "since", "tell", "where")

    def __init__(self, message: Message, key: str, where: str, tell: Tell, due: float) -> None:
        self.message, self.key, self.where, self.tell, self.due = message, key, where, tell, due
        self.since = 0.0           # when a child began to work on it

    @property
    def directory(self) -> str:
        """Of the home, as no home is called."""
        return f"{self.where}/"


class _Child:
    """A process."""

    __slots__ = ("hangs", "job", "peer", "pid", "since")

    def __init__(self, pid: int, peer: Peer) -> None:
        self.pid, self.peer = pid, peer
        self.job: _Job | None = None
        self.hangs = False
        self.since = 0.0           # idle


class Homes:
    """All of them, and the questions that wait."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._children: dict[Peer, _Child] = {}
        self._pids: set[int] = set()           # with those that were killed
        self._idle: list[_Child] = []
        self._busy: set[str] = set()           # what is asked about now
        self._waiting: deque[_Job] = deque()   # by age
        self._counts: Counter[str] = Counter() # of those that wait, by home and by directory
        self._ticking = False

    def ask(self, message: Message, about: str, tell: Tell) -> None:
        """Have a question answered.  about: the user or home it is about, as a path."""
        job = _Job(message, about, os.path.dirname(about), tell, self._owner.loop.time() + LIMIT)
        if (len(self._waiting) >= WAITING_MAX or self._counts[job.key] >= WAITING_ABOUT
                or self._counts[job.directory] >= WAITING_WHERE):
            tell(None, None)
            return
        self._waiting.append(job)
        self._counts.update((job.key, job.directory))
        self._serve()
        self._wind()

    def _serve(self) -> None:
        kept: deque[_Job] = deque()
        while self._waiting and (self._idle or self._may_grow()):
            job = self._waiting.popleft()
            if self._must_wait(job):
                kept.append(job)
                continue
            child = self._free()
            if child is None:
                kept.append(job)
                break
            self._begin(child, job)
        self._waiting.extendleft(reversed(kept))

    def _must_wait(self, job: _Job) -> bool:
        hanging = sum(child.hangs and child.job is not None and child.job.where == job.where
                      for child in self._children.values())
        return job.key in self._busy or hanging >= TOGETHER_MAX

    def _may_grow(self) -> bool:
        return (sum(not child.hangs for child in self._children.values()) < AT_ONCE
                and len(self._pids) < CHILDREN_MAX)

    def _free(self) -> _Child | None:
        """An idle child, or a new one; None when none can be started."""
        if self._idle:
            return self._idle.pop()
        mine, theirs = pair()
        try:
            pid = spawn.spawn("pysmtpd.privsep.home", [], theirs)
        except OSError as error:
            mine.close()
            self._owner.log(f"warn: parent: home: {error.strerror}", Level.ERR)
            return None
        finally:
            theirs.close()
        peer = Peer(self._owner, mine, Proc.PARENT, Proc.HOME)
        peer.attach(self._owner.loop)
        self._pids.add(pid)
        child = self._children[peer] = _Child(pid, peer)
        return child

    def _forget(self, job: _Job) -> None:
        """It does not wait any more."""
        for name in (job.key, job.directory):
            self._counts[name] -= 1
            if not self._counts[name]:
                del self._counts[name]

    def _begin(self, child: _Child, job: _Job) -> None:
        self._forget(job)
        child.job = job
        job.since = self._owner.loop.time()
        self._busy.add(job.key)
        child.peer.send(job.message)

    def answered(self, peer: Peer, message: Message, fd: int | None = None) -> None:
        """A child has answered; the descriptor is ours from now on."""
        child = self._children.get(peer)
        if child is None or child.job is None:
            if fd is not None:
                os.close(fd)
            return
        job, child.job, child.hangs = child.job, None, False
        self._busy.discard(job.key)
        child.since = self._owner.loop.time()
        self._idle.append(child)
        job.tell(message, fd)
        self._serve()

    # time

    def _wind(self) -> None:
        if not self._ticking and (self._waiting or len(self._children) > 1 or len(self._busy) > 0):
            self._ticking = True
            self._owner.loop.call_later(TICK, self._tick)

    def _tick(self) -> None:
        self._ticking = False
        now = self._owner.loop.time()
        while self._waiting and self._waiting[0].due <= now:
            job = self._waiting.popleft()
            self._forget(job)
            job.tell(None, None)
        for child in list(self._children.values()):
            self._look_at(child, now)
        self._serve()
        self._wind()

    def _look_at(self, child: _Child, now: float) -> None:
        job = child.job
        if job is not None:
            child.hangs = now - job.since >= FRESH
            if job.due <= now:
                self._owner.log(f"warn: parent: {job.key}: nothing for {now - job.since:.0f} seconds: given up",
                                Level.ERR)
                self._drop(child)
        elif now - child.since >= IDLE and len(self._children) > 1:
            self._drop(child)

    # ends

    def lost(self, peer: Peer, reason: str) -> None:
        """The socket of a child has ended."""
        child = self._children.get(peer)
        if child is not None:
            self._owner.log(f"warn: parent: home: {reason}", Level.ERR)
            self._drop(child)
            self._serve()

    def _drop(self, child: _Child) -> None:
        """One that hangs may be in the hands of the kernel for some time yet; it keeps its place until it is gone."""
        del self._children[child.peer]
        if child in self._idle:
            self._idle.remove(child)
        if child.job is not None or child.peer.closed:
            spawn.kill(child.pid, signal.SIGKILL)
        child.peer.close()         # an idle one leaves by itself
        if child.job is not None:
            self._busy.discard(child.job.key)
            child.job.tell(None, None)

    def stop_all(self) -> None:
        """The daemon ends."""
        for pid in self._pids:
            spawn.kill(pid, signal.SIGKILL)

    def gone(self, pid: int) -> bool:
        """A child ended; False when it was none of these."""
        known = pid in self._pids
        self._pids.discard(pid)
        if known and self._waiting:
            self._serve()
        return known
