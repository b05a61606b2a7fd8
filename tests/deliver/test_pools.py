"""Which worker does what, under every limit, with a clock that we move."""

from collections import Counter
from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st

from pysmtpd.conf.config import Action, Limits, Method
from pysmtpd.deliver.plan import Identity
from pysmtpd.deliver.pools import IDLE_TIME, PATIENCE, Effect, Hold, Pools, Release, Run, Start, Stop, Task
from pysmtpd.messages import WorkerKind
from tests.deliver.support import envelope

LOCAL = Action(name="local", method=Method.MAILDIR)


def task(number: int, user: str = "joe", run_as: str = "", kind: WorkerKind = WorkerKind.USER) -> Task:
    return Task(envelope(number, user=user), LOCAL, Identity(run_as or user, kind), 10, False)


class World:
    """Pools, and what became of their wishes."""

    def __init__(self, **limits: int) -> None:
        ids = count(1)
        self.pools = Pools(Limits(**limits), lambda: next(ids))
        self.now = 0.0
        self.busy: dict[int, int] = {}  # worker to evpid
        self.starting: list[int] = []
        self.stopping: list[int] = []
        self.held: Counter[int] = Counter()
        self.freed: list[Release] = []
        self.order: list[str] = []

    def take(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Start(worker):
                    self.starting.append(worker)
                case Run(worker, one):
                    assert worker not in self.busy and worker not in self.stopping + self.starting
                    self.busy[worker] = one.envelope.evpid
                    self.order.append(one.envelope.user)
                case Stop(worker):
                    assert worker not in self.busy and worker not in self.stopping
                    self.stopping.append(worker)
                case Hold(_, holdq):
                    self.held[holdq] += 1
                case Release():
                    self.freed.append(effect)

    def add(self, *tasks: Task) -> None:
        for one in tasks:
            self.take(self.pools.add(one, self.now))

    def start(self) -> None:
        for worker in self.starting[:]:
            self.starting.remove(worker)
            self.take(self.pools.started(worker, self.now))

    def finish(self, worker: int) -> None:
        del self.busy[worker]
        self.take(self.pools.finished(worker, self.now))

    def end(self, worker: int) -> None:
        self.busy.pop(worker, None)
        if worker in self.stopping:
            self.stopping.remove(worker)
        self.take(self.pools.gone(worker, self.now))

    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.take(self.pools.tick(self.now))


def test_one_worker_does_many() -> None:
    world = World()
    world.add(*[task(number) for number in range(1, 11)])
    assert len(world.starting) == 1
    world.start()
    for number in range(1, 11):
        assert list(world.busy.values()) == [number]
        world.finish(next(iter(world.busy)))
    assert not world.busy and world.pools.pending == 0
    world.tick(IDLE_TIME)
    (worker,) = world.stopping
    world.end(worker)
    assert world.pools.idle


def test_more_workers_only_when_tasks_wait() -> None:
    world = World(mda_max_session_per_user=3)
    world.add(*[task(number) for number in range(1, 11)])
    world.start()
    world.tick(PATIENCE / 2)
    assert len(world.busy) == 1 and not world.starting
    for _ in range(5):
        world.tick(PATIENCE)
        world.start()
    assert len(world.busy) == 3


def test_recipients_of_one_worker_take_turns() -> None:
    world = World()
    world.add(*[task(number, "a", "vmail") for number in range(1, 6)], task(6, "b", "vmail"), task(7, "c", "vmail"))
    world.start()
    while world.busy:
        world.finish(next(iter(world.busy)))
    assert world.order == ["a", "b", "c", "a", "a", "a", "a"]


def test_all_places_taken() -> None:
    world = World(mda_max_session=2)
    world.add(task(1, "a"), task(2, "b"), task(3, "c"))
    world.start()
    assert sorted(world.busy.values()) == [1, 2] and not world.starting
    first = next(iter(world.busy))
    world.finish(first)
    assert world.stopping == [first], "an idle worker makes place"
    assert not world.starting, "but only when it is gone"
    world.end(first)
    world.start()
    assert sorted(world.busy.values()) == [2, 3]


def test_both_kinds_of_a_user_count_together() -> None:
    world = World(mda_max_session_per_user=1)
    world.add(task(1, kind=WorkerKind.MBOX), task(2, kind=WorkerKind.USER))
    world.start()
    world.tick(1)
    assert list(world.busy.values()) == [1] and not world.starting
    world.end(next(iter(world.busy)))
    world.tick(1)
    world.start()
    assert list(world.busy.values()) == [2]


def test_a_refusal_fails_all_that_wait() -> None:
    world = World()
    world.add(task(1), task(2), task(3, "other"))
    tasks, effects = world.pools.refused(world.starting[0])
    assert [one.envelope.evpid for one in tasks] == [1, 2] and effects == []
    del world.starting[0]
    world.start()
    assert list(world.busy.values()) == [3]


def test_a_refused_second_worker_fails_nothing() -> None:
    world = World()
    world.add(task(1), task(2))
    world.start()
    world.tick(PATIENCE)
    assert world.pools.refused(world.starting.pop()) == ([], [])
    world.finish(next(iter(world.busy)))
    assert list(world.busy.values()) == [2]


def test_high_and_low_water() -> None:
    world = World(mda_task_hiwat=4, mda_task_lowat=2, mda_task_release=3)
    world.add(*[task(number) for number in range(1, 8)])
    ((holdq, held),) = world.held.items()
    assert held == 3
    world.start()
    world.finish(next(iter(world.busy)))
    assert world.freed == []
    world.finish(next(iter(world.busy)))
    assert world.freed == [Release(holdq, 3)]
    world.add(task(8))
    assert world.held[holdq] == 3, "below the mark there is room again"
    while world.busy:
        world.finish(next(iter(world.busy)))
    assert world.freed[-1] == Release(holdq, 0)


def test_a_lost_worker_gets_nothing_more() -> None:
    world = World()
    world.add(task(1))
    world.start()
    (worker,) = world.busy
    world.take(world.pools.lost(worker))
    world.add(task(2))
    assert world.busy == {worker: 1}
    world.end(worker)
    world.start()
    assert list(world.busy.values()) == [2]


def test_what_was_removed_is_not_delivered() -> None:
    world = World()
    world.add(task(1), task(2), task(3), task(4, "other"))
    world.start()
    assert world.pools.drop({1, 2, 4, 9}) == (1, []), "two have begun"
    while world.busy:
        world.finish(next(iter(world.busy)))
    assert len(world.order) == 3
    assert world.pools.pending == 0


def test_when_all_that_waited_was_removed_others_may_come() -> None:
    world = World(mda_task_hiwat=2, mda_task_lowat=1, mda_task_release=5)
    world.add(task(1), task(2), task(3))
    ((holdq, _),) = world.held.items()
    count, effects = world.pools.drop({1, 2})
    assert (count, effects) == (2, [Release(holdq, 0)])
    world.start()                      # whom nobody needs any more
    assert not world.busy
    world.tick(IDLE_TIME)
    world.end(world.stopping[0])
    assert world.pools.idle


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["add", "add", "start", "finish", "end", "refuse", "tick", "lost", "drop"]),
                          st.integers(0, 5)), max_size=60))
def test_nothing_is_forgotten(steps: list[tuple[str, int]]) -> None:
    """Whatever happens: limits hold, each task runs once or fails or is held, and in the end all is idle."""
    world = World(mda_max_session=3, mda_max_session_per_user=2, mda_task_hiwat=4, mda_task_lowat=2)
    added = failed = dropped = 0
    lost: set[int] = set()

    def refuse() -> None:
        nonlocal failed
        tasks, effects = world.pools.refused(world.starting.pop())
        failed += len(tasks)
        world.take(effects)

    for number, (step, which) in enumerate(steps, 1):
        able = sorted(set(world.busy) - lost)
        if step == "add":
            added += 1
            world.add(task(number, f"u{which}", f"u{which % 3}"))
        elif step == "start":
            world.start()
        elif step == "finish" and able:
            world.finish(able[which % len(able)])
        elif step == "end" and world.busy:
            world.end(sorted(world.busy)[which % len(world.busy)])
        elif step == "lost" and able:
            lost.add(able[which % len(able)])
            world.take(world.pools.lost(able[which % len(able)]))
        elif step == "drop":
            count, effects = world.pools.drop({number - 1 - which, number - 2 - which})
            dropped += count
            world.take(effects)
        elif step == "refuse" and world.starting:
            refuse()
        else:
            world.tick(0.3)
        assert len(world.busy) + len(world.starting) + len(world.stopping) <= 3
    for _ in range(200):
        world.start()
        for worker in [*world.busy, *world.stopping]:
            world.end(worker)
        world.tick(5.0)
    assert world.pools.idle
    assert len(world.order) + failed + dropped + sum(world.held.values()) == added
