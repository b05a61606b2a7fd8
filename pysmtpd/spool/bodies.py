"""Bodies that are files: written, fsynced and named before a transaction may mention them.

Every operation on the disk, SQLite's commit included, goes through a Disk, so that a test can stop the world
after each of them.
"""

import errno
import os
import sqlite3
from collections.abc import Iterable

from pysmtpd.base.ids import MsgId, format_msgid, parse_msgid
from pysmtpd.spool.backend import IS_CODED, ROOM_MIN, Message, SpoolError
from pysmtpd.spool.coding import PLAIN, RECORD, Coding, Decoder

READ_SIZE = 65536
_CREATE = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class Disk:
    """The operations that change what is on disk."""

    def create(self, path: str) -> int:
        return os.open(path, _CREATE, 0o600)

    def write(self, fd: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]

    def fsync(self, fd: int) -> None:
        os.fsync(fd)

    def rename(self, old: str, new: str) -> None:
        os.rename(old, new)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def fsync_directory(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def room(self, path: str) -> int:
        """Octets left for us where path is."""
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize

    def commit(self, connection: sqlite3.Connection) -> None:
        connection.execute("COMMIT")


class BodyFile:
    """A body that is being written.  All of it is done by the thread of the bodies."""

    def __init__(self, bodies: "Bodies", path: str) -> None:
        self._bodies = bodies
        self._path = path
        self._fd = -1
        self._broken = False       # something was not written: it can never be finished
        self._encoder = bodies.coding.encoder()

    def write(self, data: bytes) -> None:
        """Append.  Raises SpoolError."""
        self._write(data if self._encoder is None else self._encoder.add(data))

    def _write(self, data: bytes) -> None:
        try:
            if self._fd < 0 and not self._broken:
                self._fd = self._bodies.disk.create(self._path)
            if not self._broken:
                self._bodies.leave_room()
                self._bodies.disk.write(self._fd, data)
        except OSError as error:
            self._broken = True
            raise SpoolError(f"{self._path}: {error.strerror}") from None

    def finish(self, msgid: int) -> None:
        """Make it durable under its name.  Raises SpoolError; then it is gone."""
        disk, path = self._bodies.disk, self._bodies.path(msgid)
        if self._encoder is not None and not self._broken:
            self._write_end(self._encoder.end())
        if self._broken:
            self.discard()
            raise SpoolError(f"{path}: incomplete")
        try:
            disk.fsync(self._fd)
            disk.rename(self._path, path)
            self._path = path
            disk.fsync_directory(self._bodies.directory)
        except OSError as error:
            self.discard()
            raise SpoolError(f"{path}: {error.strerror}") from None
        self._close()

    def _write_end(self, data: bytes) -> None:
        try:
            self._write(data)
        except SpoolError:
            self.discard()
            raise

    def discard(self) -> None:
        """Forget it; what cannot be removed now is swept at the next start."""
        if self._fd >= 0:
            self._close()
            self._bodies.remove_path(self._path)

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        os.close(fd)


class PlainFile:
    """A body to read, as it is."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self, at: int, size: int) -> bytes:
        """Exactly so many octets.  Raises OSError."""
        piece = os.pread(self._fd, size, at)
        if len(piece) != size:
            raise OSError(errno.EIO, "the file is too short")
        return piece

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class CodedFile(PlainFile):
    """A body to read that lies in records.  The one that was read last is kept."""

    def __init__(self, fd: int, coding: Coding) -> None:
        super().__init__(fd)
        self._coding = coding
        self._decoder: Decoder | None = None
        self._starts = [Decoder.HEAD]      # of the records, as far as they are known
        self._number = -1                  # which one is at hand
        self._plain = b""

    def read(self, at: int, size: int) -> bytes:
        """Exactly so many octets.  Raises OSError."""
        parts: list[bytes] = []
        try:
            while size > 0:
                self._turn_to(at // RECORD)
                part = self._plain[at % RECORD :][:size]
                if not part:
                    raise OSError(errno.EIO, "the file is too short")
                parts.append(part)
                at, size = at + len(part), size - len(part)
        except SpoolError as error:
            raise OSError(errno.EIO, str(error)) from None
        return b"".join(parts)

    def _turn_to(self, number: int) -> None:
        if number == self._number:
            return
        if self._decoder is None:
            self._decoder = Decoder(self._coding, os.pread(self._fd, Decoder.HEAD, 0))
        while len(self._starts) <= number:
            start = self._starts[-1]
            self._starts.append(start + Decoder.RECORD_HEAD + self._head(start)[1])
        start = self._starts[number]
        kind, length = self._head(start)
        self._plain = self._decoder.record(number, kind, os.pread(self._fd, length, start + Decoder.RECORD_HEAD))
        self._number = number

    def _head(self, start: int) -> tuple[int, int]:
        return Decoder.head(os.pread(self._fd, Decoder.RECORD_HEAD, start))


class Bodies:
    """The directory of the files."""

    def __init__(self, directory: str, disk: Disk, coding: Coding = PLAIN) -> None:
        self.directory = directory
        self.disk = disk
        self.coding = coding       # of those that are written now
        self._count = 0

    def path(self, msgid: int) -> str:
        return f"{self.directory}/{format_msgid(MsgId(msgid))}"

    def leave_room(self) -> None:
        """The last of the disk is not for new mail.  Raises OSError."""
        if self.disk.room(self.directory) < ROOM_MIN // 2:
            raise OSError(errno.ENOSPC, "the disk is nearly full")

    def create(self) -> BodyFile:
        """A new file without a message."""
        self._count += 1
        return BodyFile(self, f"{self.directory}/tmp.{self._count}")

    def open(self, message: Message) -> PlainFile:
        """The file of a message, to be read.  Raises SpoolError."""
        path = self.path(message.msgid)
        try:
            fd = os.open(path, _READ)
        except OSError as error:
            raise SpoolError(f"{path}: {error.strerror}") from None
        return CodedFile(fd, self.coding) if message.flags & IS_CODED else PlainFile(fd)

    def remove(self, msgid: int) -> None:
        self.remove_path(self.path(msgid))

    def remove_path(self, path: str) -> None:
        try:
            self.disk.unlink(path)
        except OSError:
            # Nothing names it any more, and the next start sweeps it.
            return

    def set_aside(self, place: str) -> str:
        """Where the files of messages were moved to, for the database that names them is not there; empty: there were
        none.  What is left of a copy that went wrong is not ours to delete."""
        try:
            if not any(parse_msgid(name) is not None for name in os.listdir(self.directory)):
                return ""
            number = 1
            while os.path.lexists(f"{place}.{number}"):
                number += 1
            self.disk.rename(self.directory, f"{place}.{number}")
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise SpoolError(f"{self.directory}: {error.strerror}") from None
        return f"{place}.{number}"

    def sweep(self, wanted: Iterable[int]) -> tuple[int, list[int]]:
        """Remove every file of ours that no message names; returns how many, and the messages without a file."""
        missing, removed = set(wanted), 0
        keep = frozenset(missing)
        try:
            os.makedirs(self.directory, 0o700, exist_ok=True)
            names = os.listdir(self.directory)
        except OSError as error:
            raise SpoolError(f"{self.directory}: {error.strerror}") from None
        for name in names:
            msgid = parse_msgid(name)
            if msgid is not None and msgid in keep:
                missing.discard(msgid)
            elif msgid is not None or name.startswith("tmp."):
                self.remove_path(f"{self.directory}/{name}")
                removed += 1
        return removed, sorted(missing)
