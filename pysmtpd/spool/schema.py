"""The tables, their versions, and how an envelope becomes a row and back.

An envelope's id is two columns, because SQLite's integers are signed: the order of (msgid, number) is the order
of evpids.  Every other field of Envelope is a column of its own, addresses are two.
"""

from typing import Any

import msgspec

from pysmtpd.base.envelope import Envelope, Schedule
from pysmtpd.spool.backend import Stored, Unreadable

APPLICATION_ID = 0x70736D74        # "psmt"
VERSION = 4
PAGE_SIZE = 4096
_ADDRESSES = frozenset({"sender", "rcpt", "dest"})
_FIELDS = tuple(name for name in Envelope.__struct_fields__ if name != "evpid")
_TEXTS = frozenset({"action", "user", "command", "tag", "smtpname", "helo", "hostname", "username", "source", "envid",
                    "orcpt", "errorline", "esc", "auth", "remote", "subaddress"})


def _columns() -> tuple[str, ...]:
    names: list[str] = []
    for name in _FIELDS:
        names += [f"{name}_user", f"{name}_domain"] if name in _ADDRESSES else [name]
    return tuple(names)


COLUMNS = _columns()
ALL_COLUMNS = ("msgid", "number", "due", "suspended", *COLUMNS)
SELECT_ENVELOPE = f"SELECT {', '.join(ALL_COLUMNS)} FROM envelope"
INSERT_ENVELOPE = (
    f"INSERT INTO envelope ({', '.join(ALL_COLUMNS)}) VALUES ({', '.join('?' * len(ALL_COLUMNS))})"
)
SELECT_SCHEDULE = "SELECT msgid, number, agent, due, ctime, ttl, retry, last_bounce, suspended FROM envelope"

# The statements that lead from each version to the next.  Version 0 is an empty database.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE meta (id INTEGER PRIMARY KEY CHECK (id = 1), next_msgid INTEGER NOT NULL, "
        "clean INTEGER NOT NULL)",
        "CREATE TABLE message (msgid INTEGER PRIMARY KEY, size INTEGER NOT NULL, flags INTEGER NOT NULL, "
        "ctime INTEGER NOT NULL, file INTEGER NOT NULL, next_number INTEGER NOT NULL, body BLOB)",
        "CREATE INDEX message_file ON message (msgid) WHERE file = 1",
        "CREATE TABLE envelope (msgid INTEGER NOT NULL, number INTEGER NOT NULL, due INTEGER NOT NULL, "
        "suspended INTEGER NOT NULL, agent INTEGER NOT NULL, action TEXT NOT NULL, "
        "sender_user TEXT NOT NULL, sender_domain TEXT NOT NULL, rcpt_user TEXT NOT NULL, rcpt_domain TEXT NOT NULL, "
        "dest_user TEXT NOT NULL, dest_domain TEXT NOT NULL, user TEXT NOT NULL, command TEXT NOT NULL, "
        "tag TEXT NOT NULL, smtpname TEXT NOT NULL, helo TEXT NOT NULL, hostname TEXT NOT NULL, "
        "username TEXT NOT NULL, source TEXT NOT NULL, flags INTEGER NOT NULL, ctime INTEGER NOT NULL, "
        "ttl INTEGER NOT NULL, last_try INTEGER NOT NULL, last_bounce INTEGER NOT NULL, retry INTEGER NOT NULL, "
        "notify INTEGER NOT NULL, ret INTEGER NOT NULL, envid TEXT NOT NULL, orcpt TEXT NOT NULL, "
        "errorline TEXT NOT NULL, esc TEXT NOT NULL, bounce INTEGER NOT NULL, bounce_delay INTEGER NOT NULL, "
        "PRIMARY KEY (msgid, number)) WITHOUT ROWID",
        "CREATE INDEX envelope_due ON envelope (agent, due, msgid, number) WHERE suspended = 0",
    ),
    (
        "ALTER TABLE envelope ADD COLUMN auth TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE envelope ADD COLUMN remote TEXT NOT NULL DEFAULT ''",
    ),
    (
        # Until then it was taken from dest at each delivery.  The delimiter is nearly always a plus sign.
        "ALTER TABLE envelope ADD COLUMN subaddress TEXT NOT NULL DEFAULT ''",
        "UPDATE envelope SET subaddress = lower(substr(dest_user, instr(dest_user, '+') + 1)) "
        "WHERE agent = 1 AND instr(dest_user, '+') > 0",
    ),
    # Bodies may be coded since: an older program would deliver records.
    (
        "ALTER TABLE meta ADD COLUMN key_check BLOB",
        "CREATE INDEX message_encrypted ON message (msgid) WHERE flags & 16",
    ),
)
assert len(MIGRATIONS) == VERSION


def to_row(stored: Stored) -> tuple[object, ...]:
    """The values of ALL_COLUMNS."""
    e = stored.envelope
    sender, rcpt, dest = e.sender, e.rcpt, e.dest
    # Enumerations are made plain: sqlite3 adapts subclasses of int the long way round.
    return (
        e.evpid >> 32, e.evpid & 0xFFFFFFFF, stored.due, 1 if stored.suspended else 0,
        int(e.agent), e.action, sender.user, sender.domain, rcpt.user, rcpt.domain, dest.user, dest.domain,
        e.user, e.command, e.tag, e.smtpname, e.helo, e.hostname, e.username, e.source, int(e.flags), e.ctime, e.ttl,
        e.last_try, e.last_bounce, e.retry, int(e.notify), int(e.ret), e.envid, e.orcpt, e.errorline, e.esc,
        int(e.bounce), e.bounce_delay, e.auth, e.remote, e.subaddress,
    )  # fmt: skip


def from_row(row: tuple[Any, ...]) -> Stored | Unreadable:
    """An envelope, proved as strictly as if a stranger had sent it: what lies on a disk for days may rot."""
    msgid, number, due, suspended, agent, action, su, sd, ru, rd, du, dd, *rest = row
    evpid = msgid << 32 | number
    try:
        envelope = msgspec.convert((evpid, agent, action, (su, sd), (ru, rd), (du, dd), *rest), Envelope)
        return Stored(envelope, msgspec.convert(due, int), bool(suspended))
    except msgspec.ValidationError as error:
        return Unreadable(evpid, str(error))


def schedule_of(row: tuple[Any, ...]) -> Schedule | None:
    """What SELECT_SCHEDULE found; None for a row that makes none."""
    msgid, number, agent, due, ctime, ttl, retry, last_bounce, suspended = row
    try:
        expire = ctime + ttl
        return msgspec.convert(
            (msgid << 32 | number, agent, due, expire, ctime, retry, last_bounce, bool(suspended)), Schedule
        )
    except (msgspec.ValidationError, TypeError):
        return None


def plain(name: str, value: object) -> object:
    """The value of one column of an update; raises KeyError for a column there is not."""
    if name not in UPDATABLE:
        raise KeyError(name)
    return value if name in _TEXTS else int(value)  # type: ignore[call-overload]


UPDATABLE = (frozenset(_FIELDS) - _ADDRESSES) | {"due", "suspended"}
