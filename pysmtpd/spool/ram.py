"""The spool in memory, for tests: the same promises as SQLite's, except that nothing survives."""

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from pysmtpd.base.envelope import Agent, Schedule
from pysmtpd.base.struct import replace
from pysmtpd.spool import schema
from pysmtpd.spool.backend import Change, Message, SpoolConflict, SpoolError, Stored, Unreadable
from pysmtpd.spool.bodies import Bodies, Disk


class RamSpool:
    """A Backend."""

    def __init__(self, directory: str = "", first_msgid: int = 1) -> None:
        self.bodies = Bodies(f"{directory}/bodies", Disk())
        self.warnings: list[str] = []
        self.failing = False       # commits fail while it is set
        self.commits = 0
        self._next_msgid = first_msgid
        self._messages: dict[int, tuple[Message, bytes, int]] = {}
        self._envelopes: dict[int, Stored] = {}
        if directory:
            self.bodies.sweep(())

    def apply(self, changes: Iterable[Change]) -> None:
        """Raises SpoolConflict or SpoolError."""
        if self.failing:
            raise SpoolError("disk I/O error")
        saved = dict(self._messages), dict(self._envelopes), self._next_msgid
        group = list(changes)
        try:
            for change in group:
                self._add(change)
            for change in group:
                self._change(change)
            for change in group:
                self._remove(change)
        except SpoolError:
            self._messages, self._envelopes, self._next_msgid = saved
            raise
        self.commits += 1

    def _add(self, change: Change) -> None:
        message = change.message
        if message is not None:
            if message.msgid in self._messages:
                raise SpoolConflict(f"message {message.msgid:08x} exists")
            self._messages[message.msgid] = message, change.body, len(change.insert) + 1
        for stored in change.insert:
            if stored.envelope.evpid in self._envelopes:
                raise SpoolConflict(f"envelope {stored.envelope.evpid:016x} exists")
            self._envelopes[stored.envelope.evpid] = stored

    def _change(self, change: Change) -> None:
        self._next_msgid = change.next_msgid or self._next_msgid
        change.numbered = [self._number(stored) for stored in change.notices]
        change.gone = [evpid for evpid, _ in change.update if evpid not in self._envelopes]
        for evpid, values in change.update:
            if evpid in self._envelopes:
                self._envelopes[evpid] = changed(self._envelopes[evpid], dict(values))

    def _number(self, stored: Stored) -> Stored:
        msgid = stored.envelope.evpid >> 32
        if msgid not in self._messages:
            raise SpoolConflict(f"no message {msgid:08x}")
        message, body, number = self._messages[msgid]
        self._messages[msgid] = message, body, number + 1
        numbered = stored._replace(envelope=replace(stored.envelope, evpid=msgid << 32 | number))
        self._envelopes[numbered.envelope.evpid] = numbered
        return numbered

    def _remove(self, change: Change) -> None:
        for evpid in change.delete:
            self._envelopes.pop(evpid, None)
        for msgid in {evpid >> 32 for evpid in change.delete}:
            if msgid in self._messages and not any(evpid >> 32 == msgid for evpid in self._envelopes):
                message, _, _ = self._messages.pop(msgid)
                if message.file:
                    self.bodies.remove(msgid)

    def message(self, msgid: int) -> Message | None:
        return self._messages[msgid][0] if msgid in self._messages else None

    def body(self, msgid: int) -> bytes | None:
        found = self._messages.get(msgid)
        return found[1] if found is not None and not found[0].file else None

    def load(self, evpids: Sequence[int]) -> list[Stored | Unreadable]:
        return [self._envelopes[evpid] for evpid in evpids if evpid in self._envelopes]

    def due(self, agent: Agent, after_due: int, after_evpid: int, until: int, limit: int) -> list[Schedule]:
        found = [
            stored.schedule for stored in self._envelopes.values()
            if stored.envelope.agent is agent and not stored.suspended and stored.due <= until
            and (stored.due, stored.envelope.evpid) > (after_due, after_evpid)
        ]
        return sorted(found, key=lambda schedule: (schedule.due, schedule.evpid))[:limit]

    def walk(self, msgid: int, after: int, limit: int) -> list[Stored | Unreadable]:
        evpids = sorted(e for e in self._envelopes if e > after and msgid in (0, e >> 32))
        return [self._envelopes[evpid] for evpid in evpids[:limit]]

    def count(self) -> int:
        return len(self._envelopes)

    def next_msgid(self) -> int:
        return self._next_msgid

    def used_msgid(self, first: int, last: int) -> int | None:
        return min((msgid for msgid in self._messages if first <= msgid <= last), default=None)

    def room(self) -> int:
        return sys.maxsize

    def checkpoint(self, *, restart: bool = False) -> int:
        return 0

    def close(self, *, clean: bool = True) -> None:
        return


def changed(stored: Stored, values: dict[str, Any]) -> Stored:
    """The envelope after an update.  Raises KeyError for a field that cannot be updated."""
    for name, value in values.items():
        schema.plain(name, value)
    due = int(values.pop("due", stored.due))
    suspended = bool(values.pop("suspended", stored.suspended))
    return Stored(replace(stored.envelope, **values), due, suspended)
