"""Which delivery goes to which worker, and when there should be more workers or fewer.  No I/O.

Tasks wait by recipient, so that a user with a thousand messages does not keep the others waiting: recipients are served
in turn, each with a bounded number at once, and beyond a high-water mark the scheduler is asked to keep the rest.
Workers belong to a pool, the workers of one identity: with ``user vmail`` many recipients share a pool, otherwise it is
one.  A worker that has nothing to do goes on to the next task of its pool, and is let go when there is none.

Every method returns what is to be done now.
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from pysmtpd.base.envelope import Envelope
from pysmtpd.conf.config import Action, Limits
from pysmtpd.deliver.plan import Identity

IDLE_TIME = 4.0                    # seconds; less than after which a worker leaves by itself
PATIENCE = 0.25                    # seconds that tasks of a pool wait for its workers before it gets another one


class Task(NamedTuple):
    """One envelope to be delivered."""

    envelope: Envelope
    action: Action
    identity: Identity
    size: int
    has_8bit: bool
    body: bytes = b""              # all of it, if it came along with the envelope
    binary: bool = False           # it must not be converted


class Start(NamedTuple):
    """Ask for a worker; answer by started() or refused()."""

    worker: int
    identity: Identity
    action: str


class Run(NamedTuple):
    """Give the task to this worker; answer by finished() or gone().  ``session`` is the recipient's, for the log."""

    worker: int
    task: Task
    session: int


class Stop(NamedTuple):
    """Let this idle worker go."""

    worker: int


class Hold(NamedTuple):
    """The scheduler should keep this envelope."""

    evpid: int
    holdq: int


class Release(NamedTuple):
    """It may give back so many; 0: all."""

    holdq: int
    number: int


Effect = Start | Run | Stop | Hold | Release


class _Recipient:
    """The tasks of one recipient in one pool."""

    __slots__ = ("held", "holding", "id", "key", "pool", "running", "tasks")

    def __init__(self, number: int, key: tuple[Identity, str], pool: "_Pool") -> None:
        self.id = number
        self.key = key
        self.pool = pool
        self.tasks: deque[Task] = deque()
        self.running = 0
        self.holding = False       # new tasks go back
        self.held = False          # some did


class _Pool:
    """The workers of one identity."""

    __slots__ = ("identity", "idle", "ready", "since", "starting", "workers")

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.ready: OrderedDict[int, _Recipient] = OrderedDict()  # with tasks they may run, in turn
        self.workers = 0           # starting, running, idle, and not yet reaped
        self.starting = 0
        self.idle: dict[int, float] = {}  # since when
        self.since = 0.0           # when it last got a worker, or its first ready recipient


class _Worker:
    """A process, from the moment it was asked for until it was reaped."""

    __slots__ = ("pool", "recipient")

    def __init__(self, pool: _Pool) -> None:
        self.pool = pool
        self.recipient: _Recipient | None = None


class Pools:
    """All of them."""

    def __init__(self, limits: Limits, new_id: Callable[[], int]) -> None:
        self._limits = limits
        self._new_id = new_id
        self._pools: dict[Identity, _Pool] = {}
        self._recipients: dict[tuple[Identity, str], _Recipient] = {}
        self._workers: dict[int, _Worker] = {}
        self._wanting: OrderedDict[Identity, _Pool] = OrderedDict()  # pools that a limit keeps from a worker

    @property
    def idle(self) -> bool:
        """Nothing to do, and nobody to do it."""
        return not self._recipients and not self._workers

    @property
    def pending(self) -> int:
        return sum(len(one.tasks) for one in self._recipients.values())

    @property
    def running(self) -> int:
        return sum(one.running for one in self._recipients.values())

    @property
    def recipients(self) -> int:
        return len(self._recipients)

    def add(self, task: Task, now: float) -> list[Effect]:
        """A new task."""
        recipient = self._recipient(task)
        load = len(recipient.tasks) + recipient.running
        if recipient.holding or load >= self._limits.mda_task_hiwat:
            recipient.holding = recipient.held = True
            return [Hold(task.envelope.evpid, recipient.id)]
        recipient.tasks.append(task)
        pool = recipient.pool
        if not pool.ready:
            pool.since = now
        self._make_ready(recipient)
        return self._serve(pool, now)

    def drop(self, evpids: AbstractSet[int]) -> tuple[int, list[Effect]]:
        """Forget these as far as they wait; how many did."""
        count = 0
        effects: list[Effect] = []
        for recipient in list(self._recipients.values()):
            kept = [task for task in recipient.tasks if task.envelope.evpid not in evpids]
            if len(kept) == len(recipient.tasks):
                continue
            count += len(recipient.tasks) - len(kept)
            recipient.tasks = deque(kept)
            effects += self._dropped(recipient)
        return count, effects

    def _dropped(self, recipient: _Recipient) -> list[Effect]:
        if not recipient.tasks:
            recipient.pool.ready.pop(recipient.id, None)
        load = len(recipient.tasks) + recipient.running
        if load == 0:
            effects = self._forget(recipient)
            self._drop(recipient.pool)
            return effects
        if load <= self._limits.mda_task_lowat and recipient.holding:
            recipient.holding = False
            return [Release(recipient.id, self._limits.mda_task_release)]
        return []

    def started(self, worker: int, now: float) -> list[Effect]:
        """A worker that was asked for is there."""
        pool = self._workers[worker].pool
        pool.starting -= 1
        return self._free(worker, now)

    def refused(self, worker: int) -> tuple[list[Task], list[Effect]]:
        """It is not.  Returns the tasks that only it could have done: they have failed."""
        pool = self._workers.pop(worker).pool
        pool.starting -= 1
        pool.workers -= 1
        if pool.workers:
            return [], []
        tasks: list[Task] = []
        effects: list[Effect] = []
        for recipient in [one for one in self._recipients.values() if one.pool is pool]:
            tasks += recipient.tasks
            recipient.tasks.clear()
            effects += self._forget(recipient)
        pool.ready.clear()
        self._drop(pool)
        return tasks, effects

    def finished(self, worker: int, now: float) -> list[Effect]:
        """A worker has done its task."""
        return self._settle(worker) + self._free(worker, now)

    def gone(self, worker: int, now: float) -> list[Effect]:
        """A worker's process has ended, whatever it was doing."""
        effects = self._settle(worker)
        pool = self._workers.pop(worker).pool
        pool.workers -= 1
        pool.idle.pop(worker, None)
        effects += self._serve(pool, now)
        self._drop(pool)
        return effects + self._serve_wanting(now)

    def lost(self, worker: int) -> list[Effect]:
        """Nothing more can be had of a worker, but its process has not ended yet."""
        self._workers[worker].pool.idle.pop(worker, None)
        return self._settle(worker)

    def tick(self, now: float) -> list[Effect]:
        """Call it a few times a second while not idle."""
        effects: list[Effect] = []
        for pool in list(self._pools.values()):
            effects += self._serve(pool, now)
            for worker in [worker for worker, since in pool.idle.items() if now - since >= IDLE_TIME]:
                del pool.idle[worker]
                effects.append(Stop(worker))
        return effects

    # tasks

    def _recipient(self, task: Task) -> _Recipient:
        key = (task.identity, task.envelope.user)
        recipient = self._recipients.get(key)
        if recipient is None:
            pool = self._pools.get(task.identity)
            if pool is None:
                pool = self._pools[task.identity] = _Pool(task.identity)
            recipient = self._recipients[key] = _Recipient(self._new_id(), key, pool)
        return recipient

    def _make_ready(self, recipient: _Recipient) -> None:
        if recipient.tasks and recipient.running < self._limits.mda_max_session_per_user:
            recipient.pool.ready.setdefault(recipient.id, recipient)

    def _take(self, pool: _Pool, worker: int) -> Run:
        """The next task of the recipient whose turn it is."""
        _, recipient = pool.ready.popitem(last=False)
        task = recipient.tasks.popleft()
        recipient.running += 1
        self._make_ready(recipient)
        self._workers[worker].recipient = recipient
        return Run(worker, task, recipient.id)

    def _settle(self, worker: int) -> list[Effect]:
        """The task of a worker is over."""
        recipient, self._workers[worker].recipient = self._workers[worker].recipient, None
        if recipient is None:
            return []
        recipient.running -= 1
        self._make_ready(recipient)
        load = len(recipient.tasks) + recipient.running
        if load == 0:
            return self._forget(recipient)
        if load == self._limits.mda_task_lowat and recipient.held:
            recipient.holding = False
            return [Release(recipient.id, self._limits.mda_task_release)]
        return []

    def _forget(self, recipient: _Recipient) -> list[Effect]:
        del self._recipients[recipient.key]
        return [Release(recipient.id, 0)] if recipient.held else []

    # workers

    def _free(self, worker: int, now: float) -> list[Effect]:
        pool = self._workers[worker].pool
        if pool.ready:
            pool.since = now
            return [self._take(pool, worker)]
        pool.idle[worker] = now
        # Another pool may wait for the place it takes.
        return self._serve_wanting(now)

    def _serve(self, pool: _Pool, now: float) -> list[Effect]:
        """Give tasks to idle workers, and get another worker when these are too few."""
        effects: list[Effect] = []
        while pool.ready and pool.idle:
            worker, _ = pool.idle.popitem()
            pool.since = now
            effects.append(self._take(pool, worker))
        alone = pool.workers == 0
        if pool.ready and not pool.starting and (alone or now - pool.since >= PATIENCE):
            effects += self._grow(pool, now)
        return effects

    def _grow(self, pool: _Pool, now: float) -> list[Effect]:
        same_user = sum(one.workers for one in self._pools.values() if one.identity.user == pool.identity.user)
        if len(self._workers) >= self._limits.mda_max_session:
            # A place becomes free when a worker is reaped; let an idle one go if there is any.
            self._wanting.setdefault(pool.identity, pool)
            return self._evict()
        if same_user >= self._limits.mda_max_session_per_user:
            return []
        self._wanting.pop(pool.identity, None)
        number = self._new_id()
        self._workers[number] = _Worker(pool)
        pool.workers += 1
        pool.starting += 1
        pool.since = now
        recipient = next(iter(pool.ready.values()))
        return [Start(number, pool.identity, recipient.tasks[0].action.name)]

    def _evict(self) -> list[Effect]:
        oldest = min(((since, worker, pool) for pool in self._pools.values() for worker, since in pool.idle.items()),
                     key=lambda entry: entry[0], default=None)
        if oldest is None:
            return []
        _, worker, pool = oldest
        del pool.idle[worker]
        return [Stop(worker)]

    def _serve_wanting(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for _ in range(len(self._wanting)):
            identity, pool = self._wanting.popitem(last=False)
            if identity in self._pools:
                effects += self._serve(pool, now)
        return effects

    def _drop(self, pool: _Pool) -> None:
        if not pool.workers and not pool.ready:
            self._pools.pop(pool.identity, None)
            self._wanting.pop(pool.identity, None)
