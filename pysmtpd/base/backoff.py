"""When to try again: pure functions of time.

OpenSMTPD's back-off: attempt n is due at creation + base * n * n, with a base of 400 s for relays
and of 10 s for local deliveries and bounces.  It is anchored at the creation, so steps that lie in the
past are skipped.  A creation in the future was written before the clock was set back: it counts as now,
or the mail would wait until then.
"""

from math import isqrt

from pysmtpd.base.envelope import Agent

BASE: dict[Agent, int] = {Agent.MTA: 400, Agent.MDA: 10, Agent.BOUNCE: 10}
OVERFLOW_BASE = 3


def next_try(agent: Agent, ctime: int, retry: int, now: int) -> tuple[int, int]:
    """The next attempt's number and time: the first n > retry whose time lies after now."""
    return _next(BASE[agent], ctime, retry + 1, now)


def overflow(ctime: int, now: int) -> int:
    """When to try what no hold queue had room for."""
    return _next(OVERFLOW_BASE, ctime, 0, now)[1]


def _next(base: int, ctime: int, n: int, now: int) -> tuple[int, int]:
    ctime = min(ctime, now)
    n = max(n, isqrt((now - ctime) // base))
    while ctime + base * n * n <= now:
        n += 1
    return n, ctime + base * n * n
