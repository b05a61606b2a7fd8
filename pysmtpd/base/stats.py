"""Statistics keys, as smtpctl show stats prints them.

Each process counts in its own dictionary; control adds them up when asked.  A gauge goes up and down, a
counter only up.  Only keys touched since the start are shown.
"""

from collections.abc import Callable

GAUGES = frozenset({
    "bounce.envelope", "bounce.message", "bounce.session", "control.session",
    "mda.envelope", "mda.pending", "mda.running", "mda.user",
    "mta.connector", "mta.domain", "mta.envelope", "mta.host", "mta.relay", "mta.route", "mta.session",
    "mta.source", "mta.task", "mta.task.running",
    "scheduler.envelope", "scheduler.envelope.inflight", "scheduler.ramqueue.envelope",
    "scheduler.ramqueue.hold", "scheduler.ramqueue.holdq",
    "smtp.session", "smtp.session.inet4", "smtp.session.inet6", "smtp.session.local", "smtp.smtps", "smtp.tls",
})
COUNTERS = frozenset({
    "queue.bounce", "queue.commit", "queue.commit.message",
    "scheduler.delivery.loop", "scheduler.delivery.ok", "scheduler.delivery.permfail",
    "scheduler.delivery.tempfail", "scheduler.envelope.expired", "scheduler.envelope.incoming",
    "scheduler.envelope.removed", "scheduler.envelope.updated", "scheduler.ramqueue.hold-overflow",
    "smtp.auth.failed", "smtp.auth.ok", "smtp.limit.auth-fail", "smtp.limit.conn-rate", "smtp.limit.max-conn",
    "smtp.limit.max-conn-per-client",
})
KEYS = GAUGES | COUNTERS | {"uptime"}


class Stats:
    """The counters of one process."""

    __slots__ = ("tell", "values")

    def __init__(self) -> None:
        self.values: dict[str, int] = {}
        self.tell: Callable[[str], None] | None = None  # hears of each change while traced

    def add(self, key: str, amount: int = 1) -> None:
        """Raises KeyError for a key that is not declared above."""
        try:
            self.values[key] += amount
        except KeyError:
            if key not in KEYS:
                raise
            self.values[key] = amount
        if self.tell is not None:
            self.tell(f"{key} {amount:+} = {self.values[key]}")

    def set(self, key: str, value: int) -> None:
        if key not in KEYS:
            raise KeyError(key)
        self.values[key] = value
        if self.tell is not None:
            self.tell(f"{key} = {value}")
