"""Group commit: everything that arrived while the last commit ran goes into the next one.

A change is urgent (somebody waits for its 250) or lazy (a delivered envelope's end).  A lazy one joins the next group,
or makes one with others after LAZY seconds or when there are LAZY_GROUP of them: so many may come twice after a crash.
On a fast disk a commit runs in the loop, on a slow one in a thread.  When a commit fails, the urgent changes of its
group are told so and forgotten, the lazy ones are kept and tried again.
"""

import time
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.thread import ThreadPoolExecutor

from pysmtpd.spool.backend import ROOM_MIN, Backend, Change, SpoolConflict, SpoolError

LAZY = 0.100                       # seconds a lazy change may wait
LAZY_GROUP = 32                    # so many do not wait
RETRY = 1.0                        # seconds until failed lazy changes are tried again
THREAD_ABOVE = 0.001               # seconds a commit takes: above, it leaves the loop alone
INLINE_BELOW = 0.0007
WAIT_ABOVE = 0.004                 # seconds a commit takes: above, it may pay to wait for more
WAIT_MAX = 0.005
WAIT_GROUP_MAX = 32
GROUP_CHANGES = 1000
GROUP_OCTETS = 16 * 1024 * 1024
TURNS = 3                          # turns of the loop that a group may gather while each brings more
IDLE = 1.0
LOG_PASSIVE = 4 * 1024 * 1024      # octets of log after which it is checkpointed
LOG_RESTART = 64 * 1024 * 1024

Done = Callable[[bool], None]
Pending = tuple[Change, Done]


class Thread:
    """One thread that does one thing after the other."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._executor = ThreadPoolExecutor(max_workers=1)

    def run(self, job: Callable[[], None], done: Callable[[SpoolError | None], None]) -> None:
        """Do job in the thread, then call done in the loop.  Errors other than SpoolError end the process."""

        def finished(future: Future[None]) -> None:
            self._loop.call_soon_threadsafe(self._report, future, done)

        self._executor.submit(job).add_done_callback(finished)

    @staticmethod
    def _report(future: Future[None], done: Callable[[SpoolError | None], None]) -> None:
        try:
            future.result()
        except SpoolError as error:
            done(error)
        else:
            done(None)

    def close(self) -> None:
        """Nothing more will be run."""
        self._executor.shutdown(wait=False)


class Writer:
    """The one who commits."""

    def __init__(self, backend: Backend, loop: AbstractEventLoop, warn: Callable[[str], None],
                 clock: Callable[[], float] = time.monotonic) -> None:
        self.commits = 0
        self._clock = clock
        self.on_group: Callable[[], None] = lambda: None  # after the answers to a group
        self._backend = backend
        self._loop = loop
        self._warn = warn
        self._thread = Thread(loop)
        self._urgent: list[Pending] = []
        self._lazy: list[Pending] = []
        self._busy = False
        self._scheduled = False
        self._timer: TimerHandle | None = None     # for lazy changes
        self._wait: TimerHandle | None = None      # for a larger group
        self._expected = 0
        self._idle: TimerHandle | None = None
        self._ewma = 0.0
        self._threaded = False
        self._taken = 0                            # urgent changes in the group being committed
        self._log = 0                              # octets written to the log since it was checkpointed, about
        self._left = 0                             # octets of it that could not be checkpointed
        self._drained: Callable[[], None] | None = None

    def submit(self, change: Change, done: Done) -> None:
        """Commit it as soon as may be; done(True) when it is durable, done(False) when nothing of it is."""
        self._urgent.append((change, done))
        if self._wait is not None:
            if len(self._urgent) >= self._expected:
                self._stop_waiting()
        elif not self._busy and not self._scheduled:
            self._schedule()

    def later(self, change: Change, done: Done) -> None:
        """Commit it with others; done(True) when it is durable.  done(False) only when it can never be."""
        self._lazy.append((change, done))
        if self._busy:
            return
        if len(self._lazy) == LAZY_GROUP and not self._scheduled and self._wait is None:
            self._schedule()
        elif self._timer is None:
            self._timer = self._loop.call_later(LAZY, self._lazy_due)

    def drain(self, done: Callable[[], None]) -> None:
        """Commit all there is, then call done.  What fails now is given up."""
        self._drained = done
        if not self._busy:
            self._next()

    def close(self, *, clean: bool) -> None:
        """Raises SpoolError when the database could not be closed in order."""
        for timer in (self._timer, self._wait, self._idle):
            if timer is not None:
                timer.cancel()
        self._backend.close(clean=clean)

    # when

    def _schedule(self) -> None:
        self._scheduled = True
        self._loop.call_soon(self._turn, 0, 0)

    def _turn(self, turns: int, seen: int) -> None:
        # Another turn of the loop costs some microseconds and reads what other peers have sent meanwhile:
        # one sync for them all.
        if len(self._urgent) > seen and turns < TURNS:
            self._loop.call_soon(self._turn, turns + 1, len(self._urgent))
            return
        self._scheduled = False
        if not self._busy and self._wait is None:
            self._commit()

    def _lazy_due(self) -> None:
        self._timer = None
        if not self._busy and not self._scheduled and self._wait is None:
            self._commit()

    def _stop_waiting(self) -> None:
        if self._wait is not None:
            self._wait.cancel()
            self._wait = None
        if not self._busy and not self._scheduled:
            self._commit()

    def _next(self, committed: int = 0) -> None:
        """A commit is over: what now?"""
        if self._drained is not None:
            if self._urgent or self._lazy:
                self._commit()
            else:
                self._drained()
        elif self._log > LOG_PASSIVE:
            self._checkpoint()
        elif self._urgent:
            self._again(committed)
        elif len(self._lazy) >= LAZY_GROUP and self._timer is None:    # with a timer: the disk has just failed
            self._schedule()
        else:
            if self._lazy and self._timer is None:
                self._timer = self._loop.call_later(LAZY, self._lazy_due)
            if self._idle is None:
                self._idle = self._loop.call_later(IDLE, self._idle_due)

    def _again(self, committed: int) -> None:
        # On a slow disk two half groups would take turns for ever; waiting for the other half doubles the rate.
        expected = committed + len(self._urgent)
        if self._ewma > WAIT_ABOVE and 1 < expected <= WAIT_GROUP_MAX and committed:
            self._expected = expected
            self._wait = self._loop.call_later(min(0.4 * self._ewma, WAIT_MAX), self._stop_waiting)
        elif not self._scheduled:
            self._schedule()

    # commit

    def _refuse_without_room(self) -> bool:
        """On a disk that is nearly full nothing new begins, or nothing old could ever end; whether that was so."""
        octets = sum([len(change.body) + 1024 * len(change.insert) for change, _ in self._urgent])
        # A body is written twice: to the log, and from there to the database.
        if not octets or self._backend.room() >= ROOM_MIN + self._log + self._left + 2 * octets:
            return False
        refused = [pending for pending in self._urgent if pending[0].message is not None]
        self._urgent = [pending for pending in self._urgent if pending[0].message is None]
        self._warn(f"warn: queue: {len(refused)} messages refused: the disk is nearly full")
        for _, done in refused:
            done(False)
        return True

    def _commit(self) -> None:
        refused = self._refuse_without_room()
        group = self._take()
        if refused and not group and self._drained is not None:
            self._next()
        if not group:
            return
        self._busy = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        changes = [change for change, _ in group]
        began = self._clock()
        if self._threaded:
            self._thread.run(lambda: self._backend.apply(changes), lambda error: self._over(group, began, error))
            return
        failure: SpoolError | None = None
        try:
            self._backend.apply(changes)
        except SpoolError as error:
            failure = error
        self._over(group, began, failure)

    def _take(self) -> list[Pending]:
        """The next group: all that waits, within bounds.  Lazy changes are small, and all go along."""
        self._taken = self._bounded()
        group = self._urgent[: self._taken] + self._lazy
        del self._urgent[: self._taken]
        self._lazy.clear()
        return group

    def _bounded(self) -> int:
        octets = 0
        for count, (change, _) in enumerate(self._urgent):
            octets += len(change.body)
            if count >= GROUP_CHANGES or octets > GROUP_OCTETS:
                return max(count, 1)
        return len(self._urgent)

    def _over(self, group: list[Pending], began: float, error: SpoolError | None) -> None:
        self._busy = False
        urgent = self._taken
        if error is None:
            self._succeeded(group, self._clock() - began)
        elif isinstance(error, SpoolConflict) and len(group) > 1:
            self._one_by_one(group)
        else:
            self._failed(group, urgent, error)
        self.on_group()
        if not self._busy:
            self._next(urgent)

    def _succeeded(self, group: list[Pending], took: float) -> None:
        self.commits += 1
        self._ewma = took if not self._ewma else 0.8 * self._ewma + 0.2 * took
        self._threaded = self._ewma >= (INLINE_BELOW if self._threaded else THREAD_ABOVE)
        self._log += 16384 + sum([len(change.body) + 1024 for change, _ in group])
        for _, done in group:
            done(True)

    def _one_by_one(self, group: list[Pending]) -> None:
        """One of them cannot be done at all; the others must not suffer for it."""
        for change, done in group:
            try:
                self._backend.apply([change])
            except SpoolError as error:
                self._warn(f"warn: queue: commit failed: {error}")
                done(False)
            else:
                self.commits += 1
                done(True)

    def _failed(self, group: list[Pending], urgent: int, error: SpoolError) -> None:
        self._warn(f"warn: queue: commit failed: {error}")
        keep = group[urgent:]
        if keep and not isinstance(error, SpoolConflict) and self._drained is None:
            self._lazy[:0] = keep
            if self._timer is None:
                self._timer = self._loop.call_later(RETRY, self._lazy_due)
            group = group[:urgent]
        for _, done in group:
            done(False)

    # checkpoints

    def _idle_due(self) -> None:
        self._idle = None
        if not (self._busy or self._scheduled or self._urgent or self._lazy) and self._log:
            self._checkpoint()

    def _checkpoint(self) -> None:
        self._busy = True
        left = [0]
        restart = self._left > LOG_RESTART

        def work() -> None:
            left[0] = self._backend.checkpoint(restart=restart)

        def over(error: SpoolError | None) -> None:
            self._busy = False
            if error is not None:
                self._warn(f"warn: queue: checkpoint failed: {error}")
            self._left, self._log = left[0], 0
            self._next()

        self._thread.run(work, over)

