"""What a spool must be able to do, and the words it is told in.

A Change is one step that happens whole or not at all; the writer gathers changes into groups, and a backend
makes a group durable in one transaction.  Backends know nothing of processes, timers or threads.
Times are whole seconds, sizes octets.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from pysmtpd.base.envelope import Agent, Envelope, Schedule

INLINE_MAX = 128 * 1024            # a larger body is a file
ROOM_MIN = 8 * 1024 * 1024         # octets of disk that new mail leaves free: a delete needs some before it frees any

HAS_8BIT = 1                       # Message.flags: the body has octets above 127
IS_BINARY = 2                      # not all of it are lines that end in CRLF (RFC 3030 3): it is never converted
HAS_UTF8_HEADER = 4                # it came by SMTPUTF8, and has a header beyond ASCII (RFC 6532)
IS_CODED = 8                       # the body lies in records: spool.coding
IS_ENCRYPTED = 16                  # and these are encrypted


class SpoolError(Exception):
    """The spool cannot do it: nothing of it was done."""


class SpoolConflict(SpoolError):
    """An id is taken: this change can never be done, others can."""


class Message(NamedTuple):
    """What is known of a message besides its envelopes."""

    msgid: int
    size: int
    flags: int
    ctime: int                     # when it arrived
    file: bool                     # its body is a file


class Stored(NamedTuple):
    """An envelope as it lies in the spool."""

    envelope: Envelope
    due: int
    suspended: bool

    @property
    def schedule(self) -> Schedule:
        e = self.envelope
        return Schedule(e.evpid, e.agent, self.due, e.expire, e.ctime, e.retry, e.last_bounce, self.suspended)


class Unreadable(NamedTuple):
    """A row that makes no envelope: it stays where it is."""

    evpid: int
    reason: str


Update = tuple[int, Mapping[str, object]]


class Change:
    """One step.  Within a group all messages and envelopes are added first, then rows are updated, then deleted."""

    __slots__ = ("body", "delete", "gone", "insert", "message", "next_msgid", "notices", "numbered", "update")

    def __init__(
        self,
        message: Message | None = None,
        body: bytes = b"",
        insert: Sequence[Stored] = (),
        update: Sequence[Update] = (),
        delete: Sequence[int] = (),
        notices: Sequence[Stored] = (),
        next_msgid: int = 0,
    ) -> None:
        self.message = message
        self.body = body
        self.insert = insert
        self.update = update       # (evpid, fields of Envelope, or due and suspended, with their new values)
        self.delete = delete       # evpids; a message goes with its last envelope
        self.notices = notices     # envelopes that get the next number of their message; evpid holds its msgid << 32
        self.next_msgid = next_msgid
        self.numbered: list[Stored] = []  # after the commit: the notices with their evpids
        self.gone: list[int] = []  # after the commit: evpids of updates that met no row


class Backend(Protocol):
    """A spool.  apply and checkpoint are called by one thread at a time; the rest by the loop.

    What reads raises SpoolError when the disk does not let it."""

    def apply(self, changes: Iterable[Change]) -> None:
        """Make a group durable.  Raises SpoolConflict or SpoolError; then nothing of it is."""

    def message(self, msgid: int) -> Message | None: ...

    def body(self, msgid: int) -> bytes | None:
        """The body of a message that is not a file."""

    def load(self, evpids: Sequence[int]) -> list[Stored | Unreadable]:
        """Those of the envelopes that there are."""

    def due(self, agent: Agent, after_due: int, after_evpid: int, until: int, limit: int) -> list[Schedule]:
        """The next ones in the order (due, evpid) that are not suspended, due not after ``until``.  Fewer than
        ``limit`` only when there are no more."""

    def walk(self, msgid: int, after: int, limit: int) -> list[Stored | Unreadable]:
        """Envelopes in the order of their ids, after this one; msgid 0 is all messages."""

    def count(self) -> int:
        """All envelopes.  It reads all of them: a quarter of a second for a million."""

    def next_msgid(self) -> int:
        """The first id that was never handed out, as of the last commit."""

    def used_msgid(self, first: int, last: int) -> int | None:
        """The lowest id in use from first to last."""

    def room(self) -> int:
        """Octets that can still be stored: on the disk, in the log, and where something was deleted."""

    def checkpoint(self, *, restart: bool = False) -> int:
        """Move the log into the database; returns the octets of log that are left."""

    def close(self, *, clean: bool = True) -> None: ...
