"""The spool in SQLite: WAL, synchronous=FULL, one connection that writes, one that reads.

The writing connection also makes the checkpoints: before SQLite 3.51.3 a second connection that writes or
checkpoints at the same time can corrupt the database.  Both connections are used by one thread at a time; the reading
one only by the loop, so that a delivery is never kept waiting by somebody's fsync.
"""

import os
import sqlite3
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

from pysmtpd.base.envelope import Agent, Schedule
from pysmtpd.base.struct import replace
from pysmtpd.spool import schema
from pysmtpd.spool.backend import IS_CODED, Change, Message, SpoolConflict, SpoolError, Stored, Unreadable
from pysmtpd.spool.bodies import Bodies, Disk
from pysmtpd.spool.coding import PLAIN, Coding

CHECK_MAX = 64 * 1024 * 1024       # larger databases are not checked at an unclean start: it would take seconds
_LOAD_MANY = 100
_ROOMY = 256 * 1024 * 1024         # octets left, above which nobody asks how many

_INSERT_MESSAGE = (
    "INSERT INTO message (msgid, size, flags, ctime, file, next_number, body) VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_DELETE_ENVELOPE = "DELETE FROM envelope WHERE msgid = ? AND number = ?"
_DELETE_MESSAGE = "DELETE FROM message WHERE msgid = ?1 AND NOT EXISTS (SELECT 1 FROM envelope WHERE msgid = ?1)"
_DUE = (
    schema.SELECT_SCHEDULE + " INDEXED BY envelope_due WHERE suspended = 0 AND agent = ? "
    "AND (due, msgid, number) > (?, ?, ?) AND due <= ? ORDER BY due, msgid, number LIMIT ?"
)


class SqliteSpool:
    """A Backend.  Raises SpoolError from the constructor when the file is not a spool of ours."""

    def __init__(self, directory: str, first_msgid: int, disk: Disk | None = None, coding: Coding = PLAIN) -> None:
        self.disk = disk or Disk()
        self.directory = directory
        self.bodies = Bodies(f"{directory}/bodies", self.disk, coding)
        self._coding = coding
        self.warnings: list[str] = []  # what the operator should hear of
        self._path = f"{directory}/spool.db"
        self._settled = False
        self._new = False          # the database: there was none
        self._quarantined: set[int] = set()
        self._create()
        try:
            self._writer = self._connect()
            self._prepare(first_msgid)
            self._reader = self._connect()
            self._reader.execute("PRAGMA query_only = ON")
        except sqlite3.Error as error:
            raise SpoolError(f"{self._path}: {error}{self._hint()}") from None
        if self._new and (lost := self.bodies.set_aside(f"{directory}/lost")):
            self.warnings.append(f"warn: queue: {self._path} is new, but there were bodies: moved to {lost}")
        self._files = {row[0] for row in self._read("SELECT msgid FROM message WHERE file = 1")}
        swept, missing = self.bodies.sweep(self._files)
        if swept:
            self.warnings.append(f"info: queue: {swept} unreferenced bodies removed")
        self.warnings += [f"warn: queue: the body of message {msgid:08x} is missing" for msgid in missing]
        self._settle_now()

    # opening

    def _hint(self) -> str:
        """What SQLite's "disk I/O error" and "unable to open database file" often mean."""
        found = os.statvfs(self.directory)
        full = found.f_bavail == 0 or (found.f_files and found.f_favail == 0)
        return " (the disk is full)" if full else ""

    def _create(self) -> None:
        """The database is nobody else's, nor are the files that SQLite makes after its example."""
        try:
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise SpoolError(f"{self._path}: {error.strerror}") from None

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=5.0, isolation_level=None, check_same_thread=False, cached_statements=64
        )
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("PRAGMA mmap_size = 0")
        # Debian's library would write each deleted body once more, as zeros, to the log: on a full disk nothing
        # could be deleted any more.
        connection.execute("PRAGMA secure_delete = FAST")
        connection.execute("PRAGMA cache_size = -8192")
        return connection

    def _prepare(self, first_msgid: int) -> None:
        execute = self._writer.execute
        version = self._check_identity()
        self._new = version == 0
        # The empty database is made without syncs and synced as a whole by _settle(): a disk that cannot sync
        # refuses mail, not the start.
        execute("PRAGMA synchronous = OFF")
        if version == 0:
            execute(f"PRAGMA page_size = {schema.PAGE_SIZE}")
        if execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
            raise SpoolError(f"{self._path}: the file system cannot do WAL")
        execute("PRAGMA wal_autocheckpoint = 0")
        if version < schema.VERSION:
            self._migrate(version, first_msgid)
        (clean,) = execute("SELECT clean FROM meta").fetchone()
        if not clean:
            self._check_integrity()
        self._check_key()
        execute("UPDATE meta SET clean = 0")
        if version == 0:
            execute("PRAGMA wal_checkpoint(RESTART)")
        execute("PRAGMA synchronous = FULL")

    def _check_identity(self) -> int:
        (application,) = self._writer.execute("PRAGMA application_id").fetchone()
        (version,) = self._writer.execute("PRAGMA user_version").fetchone()
        (tables,) = self._writer.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if application != schema.APPLICATION_ID and (application or version or tables):
            raise SpoolError(f"{self._path}: not a spool of pysmtpd (application id {application:#x})")
        if version > schema.VERSION:
            raise SpoolError(
                f"{self._path}: made by a newer pysmtpd (version {version}, this one knows {schema.VERSION})"
            )
        return int(version)

    def _migrate(self, version: int, first_msgid: int) -> None:
        execute = self._writer.execute
        execute("BEGIN IMMEDIATE")
        try:
            for statement in chain.from_iterable(schema.MIGRATIONS[version:]):
                execute(statement)
            if version == 0:
                execute("INSERT INTO meta (id, next_msgid, clean) VALUES (1, ?, 1)", (first_msgid,))
            execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
            execute(f"PRAGMA user_version = {schema.VERSION}")
            execute("COMMIT")
        except sqlite3.Error:
            self._rollback()
            raise

    def _check_integrity(self) -> None:
        if os.stat(self._path).st_size > CHECK_MAX:
            return
        (answer,) = self._writer.execute("PRAGMA quick_check(1)").fetchone()
        if answer != "ok":
            self.warnings.append(f"warn: queue: {self._path} is damaged: {answer}")

    def _check_key(self) -> None:
        """Whoever cannot read what is here must not begin: each try to deliver would fail, until the mail expires."""
        ((check,),) = self._writer.execute("SELECT key_check FROM meta").fetchall()
        if self._coding.fits(check) and self._coding.cipher is not None:
            return
        (count,) = self._writer.execute("SELECT count(*) FROM message WHERE flags & 16").fetchone()
        if count:
            why = "with another key" if self._coding.cipher is not None else "and smtpd.conf has no queue encryption"
            raise SpoolError(f"{self._path}: {count} messages are encrypted, {why}; start with the key they were "
                             "stored with, until they are delivered")
        if self._coding.cipher is not None:
            self._writer.execute("UPDATE meta SET key_check = ?", (self._coding.check(),))

    def _settle_now(self) -> None:
        try:
            self._settle()
        except OSError as error:
            self.warnings.append(f"warn: queue: {self._path} cannot be synced: {error.strerror}; refusing mail")

    def _settle(self) -> None:
        """The database file and its name are on stable storage.  Raises OSError."""
        if self._settled:
            return
        for path in (self._path, f"{self._path}-wal"):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                self.disk.fsync(fd)
            finally:
                os.close(fd)
        self.disk.fsync_directory(self.directory)
        self._settled = True

    # writing

    def apply(self, changes: Iterable[Change]) -> None:
        """One transaction.  Raises SpoolConflict or SpoolError."""
        group = list(changes)
        try:
            self._settle()
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                removed = self._transaction(group)
                self.disk.commit(self._writer)
            except BaseException:
                self._rollback()
                raise
        except sqlite3.IntegrityError as error:
            raise SpoolConflict(str(error)) from None
        except sqlite3.Error as error:
            raise SpoolError(str(error)) from None
        except OSError as error:
            raise SpoolError(error.strerror or "I/O error") from None
        self._files.update(change.message.msgid for change in group if change.message and change.message.file)
        for msgid in removed:
            self._files.discard(msgid)
            self.bodies.remove(msgid)

    def _rollback(self) -> None:
        if self._writer.in_transaction:
            try:
                self._writer.execute("ROLLBACK")
            except sqlite3.Error:
                # The error that led here is the one to tell; SQLite has rolled back itself.
                return

    def _transaction(self, group: list[Change]) -> list[int]:
        """Everything but BEGIN and COMMIT; returns the messages whose file is no longer needed."""
        many = self._writer.executemany
        messages = [self._message_row(change, change.message) for change in group if change.message is not None]
        if messages:
            many(_INSERT_MESSAGE, messages)
        rows = [schema.to_row(stored) for change in group for stored in change.insert]
        if rows:
            many(schema.INSERT_ENVELOPE, rows)
        deleted: list[int] = []
        for change in group:
            if change.next_msgid:
                self._writer.execute("UPDATE meta SET next_msgid = ?", (change.next_msgid,))
            if change.notices:
                change.numbered = [self._number(stored) for stored in change.notices]
            if change.update:
                change.gone = [evpid for evpid, values in change.update if not self._update(evpid, values)]
            deleted += change.delete
        if not deleted:
            return []
        many(_DELETE_ENVELOPE, [(evpid >> 32, evpid & 0xFFFFFFFF) for evpid in deleted])
        msgids = {evpid >> 32 for evpid in deleted}
        many(_DELETE_MESSAGE, [(msgid,) for msgid in msgids])
        return [msgid for msgid in msgids & self._files if not self._exists(msgid)]

    def _message_row(self, change: Change, message: Message) -> tuple[object, ...]:
        body = None if message.file else change.body
        if body is not None and message.flags & IS_CODED:
            body = self._coding.encode(body)
        file, next_number = int(message.file), len(change.insert) + 1
        return message.msgid, message.size, message.flags, message.ctime, file, next_number, body

    def _exists(self, msgid: int) -> bool:
        return self._writer.execute("SELECT 1 FROM message WHERE msgid = ?", (msgid,)).fetchone() is not None

    def _update(self, evpid: int, values: Any) -> bool:
        columns = ", ".join(f"{name} = ?" for name in values)
        done = self._writer.execute(
            f"UPDATE envelope SET {columns} WHERE msgid = ? AND number = ?",
            (*(schema.plain(name, value) for name, value in values.items()), evpid >> 32, evpid & 0xFFFFFFFF),
        )
        return done.rowcount == 1

    def _number(self, stored: Stored) -> Stored:
        msgid = stored.envelope.evpid >> 32
        row = self._writer.execute("SELECT next_number FROM message WHERE msgid = ?", (msgid,)).fetchone()
        if row is None:
            raise sqlite3.IntegrityError(f"no message {msgid:08x}")
        self._writer.execute("UPDATE message SET next_number = next_number + 1 WHERE msgid = ?", (msgid,))
        numbered = renumbered(stored, msgid << 32 | row[0])
        self._writer.execute(schema.INSERT_ENVELOPE, schema.to_row(numbered))
        return numbered

    def room(self) -> int:
        try:
            left = self.disk.room(self.directory)
            return left if left > _ROOMY else left + self._reusable()
        except (OSError, SpoolError):
            # Whatever is wrong with it, the commit will say.
            return sys.maxsize

    def _reusable(self) -> int:
        """The files do not shrink: what was deleted is free within them, and the log begins anew when checkpointed."""
        free = self._read("PRAGMA freelist_count")[0][0]
        return int(free) * schema.PAGE_SIZE + os.stat(f"{self._path}-wal").st_size

    def checkpoint(self, *, restart: bool = False) -> int:
        """Raises SpoolError."""
        try:
            mode = "RESTART" if restart else "PASSIVE"
            _, log, done = self._writer.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        except sqlite3.Error as error:
            raise SpoolError(str(error)) from None
        return 0 if log == done else int(log) * schema.PAGE_SIZE

    def close(self, *, clean: bool = True) -> None:
        """Leave a database without a log behind, as far as the disk allows."""
        try:
            self._reader.close()
            if clean:
                self._writer.execute("UPDATE meta SET clean = 1")
                self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._writer.close()
        except sqlite3.Error as error:
            raise SpoolError(str(error)) from None

    # reading

    def _read(self, sql: str, values: Sequence[object] = ()) -> list[Any]:
        """All rows at once: a statement left open would keep the log from starting again."""
        try:
            return self._reader.execute(sql, values).fetchall()
        except sqlite3.OperationalError:
            # Perhaps text that is not UTF-8: read it in a way that its envelope can be told from the others.
            return self._read_leniently(sql, values)
        except sqlite3.Error as error:
            raise SpoolError(str(error)) from None

    def _read_leniently(self, sql: str, values: Sequence[object]) -> list[Any]:
        self._reader.text_factory = _lenient
        try:
            return self._reader.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise SpoolError(str(error)) from None
        finally:
            self._reader.text_factory = str

    def message(self, msgid: int) -> Message | None:
        rows = self._read("SELECT msgid, size, flags, ctime, file FROM message WHERE msgid = ?", (msgid,))
        if not rows:
            return None
        _, size, flags, ctime, file = rows[0]
        return Message(msgid, size, flags, ctime, bool(file))

    def body(self, msgid: int) -> bytes | None:
        rows = self._read("SELECT body, flags FROM message WHERE msgid = ? AND file = 0", (msgid,))
        if not rows or not isinstance(rows[0][0], bytes):
            return None
        body, flags = rows[0]
        if not flags & IS_CODED:
            return bytes(body)
        try:
            return self._coding.decode(body)
        except SpoolError as error:
            raise SpoolError(f"message {msgid:08x}: {error}") from None

    def load(self, evpids: Sequence[int]) -> list[Stored | Unreadable]:
        found: list[Stored | Unreadable] = []
        for evpid in evpids:
            sql = schema.SELECT_ENVELOPE + " WHERE msgid = ? AND number = ?"
            found += map(self._stored, self._read(sql, (evpid >> 32, evpid & 0xFFFFFFFF)))
        return found

    def _stored(self, row: Any) -> Stored | Unreadable:
        stored = schema.from_row(row)
        if isinstance(stored, Unreadable) and len(self._quarantined) < _QUARANTINE_MAX:
            self._quarantined.add(stored.evpid)
        return stored

    def due(self, agent: Agent, after_due: int, after_evpid: int, until: int, limit: int) -> list[Schedule]:
        found: list[Schedule] = []
        after = after_due, after_evpid >> 32, after_evpid & 0xFFFFFFFF
        while len(found) < limit:
            # Rows that are left out must not look like the end of the queue.
            wanted = limit - len(found)
            rows = self._read(_DUE, (int(agent), *after, until, wanted))
            found += [s for row in rows if (s := schema.schedule_of(row)) and s.evpid not in self._quarantined]
            if len(rows) < wanted:
                break
            msgid, number, _, due, *_ = rows[-1]
            after = due, msgid, number
        return found

    def walk(self, msgid: int, after: int, limit: int) -> list[Stored | Unreadable]:
        where = " WHERE (msgid, number) > (?, ?)" + (" AND msgid = ?" if msgid else "")
        values = (after >> 32, after & 0xFFFFFFFF, *((msgid,) if msgid else ()), limit)
        return [self._stored(row) for row in self._read(
            schema.SELECT_ENVELOPE + where + " ORDER BY msgid, number LIMIT ?", values)]

    def count(self) -> int:
        return int(self._read("SELECT count(*) FROM envelope")[0][0])

    def next_msgid(self) -> int:
        return int(self._read("SELECT next_msgid FROM meta")[0][0])

    def used_msgid(self, first: int, last: int) -> int | None:
        rows = self._read("SELECT min(msgid) FROM message WHERE msgid BETWEEN ? AND ?", (first, last))
        return None if rows[0][0] is None else int(rows[0][0])


_QUARANTINE_MAX = 100_000
_lenient: Callable[[bytes], str] = lambda data: data.decode("utf-8", "surrogateescape")  # noqa: E731


def renumbered(stored: Stored, evpid: int) -> Stored:
    """The same envelope under another id."""
    return stored._replace(envelope=replace(stored.envelope, evpid=evpid))
