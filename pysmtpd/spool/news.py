"""What the scheduler is told of a group of changes, once the group is durable."""

from collections.abc import Iterable
from typing import Protocol

from pysmtpd.messages import QueueDone, QueueEnvelopes
from pysmtpd.spool.backend import Stored

SCHEDULES_MAX = 256                # in one frame
EVPIDS_MAX = 1024
REMOVED = 0                        # QueueDone.result of what ended without a delivery


class Scheduler(Protocol):
    """Whom it is told."""

    def send(self, message: QueueDone | QueueEnvelopes) -> None: ...


class News:
    """Gathered while the group's changes are acknowledged, told at its end."""

    def __init__(self) -> None:
        self._changed: list[Stored] = []
        self._ended: dict[int, list[int]] = {}     # by result

    def changed(self, stored: Iterable[Stored]) -> None:
        """These envelopes are new or changed."""
        self._changed += stored

    def ended(self, evpids: Iterable[int], result: int) -> None:
        """These are gone; result is an Outcome, or REMOVED."""
        self._ended.setdefault(result, []).extend(evpids)

    def tell(self, scheduler: Scheduler) -> None:
        """First what ended: an envelope may come back as a bounce."""
        ended, self._ended = self._ended, {}
        for result, evpids in ended.items():
            for at in range(0, len(evpids), EVPIDS_MAX):
                scheduler.send(QueueDone(evpids[at : at + EVPIDS_MAX], result))
        changed, self._changed = self._changed, []
        for at in range(0, len(changed), SCHEDULES_MAX):
            scheduler.send(QueueEnvelopes([stored.schedule for stored in changed[at : at + SCHEDULES_MAX]]))
