"""Tables in map files: our own, which are looked up in place, and OpenSMTPD's, which are read whole.

A file that was replaced is noticed at the next look-up.  The open file goes on answering until then, and also while
the new one cannot be used: then that is told once, and the old content stays.
"""

import contextlib
import os
from collections.abc import Callable, Hashable, Iterator
from typing import NamedTuple, Protocol

from pysmtpd.lookup.service import TableError
from pysmtpd.lookup.table_keyed import KeyedTable
from pysmtpd.lookup.table_reload import Reloaded
from pysmtpd.lookup.table_static import Held
from pysmtpd.maps import BadMap, bdb, cdb

AT_ONCE_MAX = 64 * 1024            # octets of a file that is read without a thread
MEND = "make it again with: makemap -o {path} {source}"


class Stamp(NamedTuple):
    """What changes when a file is replaced, or written over."""

    device: int
    inode: int
    changed: int                   # nanoseconds
    size: int


class Content(Protocol):
    """An open map."""

    stamp: Stamp

    def get(self, key: bytes) -> bytes | None:
        """The value of a key.  Raises BadMap or OSError."""

    def entries(self) -> Iterator[tuple[bytes, bytes]]:
        """All entries.  Raises BadMap or OSError."""

    def close(self) -> None:
        """No more of it."""


class _InPlace:
    """A file of ours."""

    def __init__(self, fd: int, stamp: Stamp) -> None:
        self.stamp = stamp
        self._fd = fd
        self._cdb = cdb.Cdb(lambda at, size: os.pread(fd, size, at), stamp.size)
        self.get = self._cdb.get
        self.entries = self._cdb.entries

    def close(self) -> None:
        os.close(self._fd)


class _Whole:
    """A Berkeley DB file, whose keys and values end in NUL."""

    def __init__(self, data: bytes, stamp: Stamp) -> None:
        self.stamp = stamp
        self._entries = {_without_nul(key): _without_nul(value) for key, value in bdb.entries(data)}
        self.get = self._entries.get

    def entries(self) -> Iterator[tuple[bytes, bytes]]:
        return iter(self._entries.items())

    def close(self) -> None:
        pass


def _without_nul(item: bytes) -> bytes:
    return item.removesuffix(b"\0")


def stamp_of(path: str) -> Stamp:
    """Raises OSError."""
    found = os.stat(path)
    return Stamp(found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)


def open_map(path: str) -> Content:
    """A map file, of whatever kind.  Raises TableError, with what to do about it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise TableError(f"{path}: {error.strerror}") from None
    keep = False
    try:
        content = _open(fd)
        keep = isinstance(content, _InPlace)
        return content
    except BadMap as error:
        source = path.removesuffix(".db") if path.endswith(".db") else "FILE"
        raise TableError(f"{path}: {error}; {MEND.format(path=path, source=source)}") from None
    except OSError as error:
        raise TableError(f"{path}: {error.strerror}") from None
    finally:
        if not keep:
            os.close(fd)


def _open(fd: int) -> Content:
    found = os.fstat(fd)
    stamp = Stamp(found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)
    start = os.pread(fd, 64, 0)
    if cdb.is_ours(start, os.pread(fd, 16, max(0, stamp.size - 16))):
        return _InPlace(fd, stamp)
    if bdb.find_reader(start) is None:
        raise BadMap("is not a file that makemap made")
    if stamp.size > bdb.FILE_MAX:
        raise BadMap(f"is larger than {bdb.FILE_MAX} octets")
    return _Whole(_read(fd, stamp.size), stamp)


def _read(fd: int, size: int) -> bytes:
    parts, at = list[bytes](), 0
    while at < size and (part := os.pread(fd, min(1 << 20, size - at), at)):
        parts.append(part)
        at += len(part)
    return b"".join(parts)


class Opened(NamedTuple):
    """An open map, and all its entries if the table is asked in ways that need them."""

    content: Content
    held: Held | None


class DbTable(KeyedTable):
    """``db:/path``."""

    def __init__(self, name: str, path: str, delimiter: str = "+", tell: Callable[[str], None] = print,
                 later: Callable[[Reloaded], None] | None = None) -> None:
        """tell: where a file that cannot be used is reported.  later: has a large one read and installed, by a thread.

        Raises TableError when the file cannot be used."""
        super().__init__(name, "db", delimiter)
        self.path = path
        self._tell = tell
        self._later = later
        self._refused: Stamp | None = None
        self._left: tuple[Hashable, ...] = ()  # to a thread: which file, and how it is asked
        self._content = open_map(path)

    def read(self) -> Opened:
        """The file as it is now; for a thread, if it may be large.  Raises TableError."""
        content = open_map(self.path)
        try:
            return Opened(content, self.held(self._texts(content)) if self._compared else None)
        except TableError as error:
            content.close()
            raise TableError(str(error).removeprefix(f"table {self.name}: ")) from None

    def install(self, opened: Opened) -> None:
        """From now on this is the content."""
        self._content.close()
        self._content = opened.content
        self._refused = None
        if opened.held is not None:
            self.hold(opened.content.stamp, opened.held)

    def reload(self) -> None:
        """Open the file anew.  Raises TableError, and then keeps what was there before."""
        self.install(self.read())

    def where(self, key: str) -> str:
        """The file: a map has no lines."""
        return self.path

    # for KeyedTable

    def get(self, key: str) -> str | None:
        """The value of a key."""
        self._refresh()
        with self._failing():
            value = self._content.get(key.encode())
        return None if value is None else self._text(value)

    def entries(self) -> Iterator[tuple[str, str]]:
        """All of them."""
        return self._texts(self._content)

    def _texts(self, content: Content) -> Iterator[tuple[str, str]]:
        with self._failing():
            for key, value in content.entries():
                yield self._text(key), self._text(value)

    def may_read(self, version: Hashable) -> None:
        """All of a large file is read by a thread, once; until then nobody knows."""
        if self._later is None or self._content.stamp.size <= AT_ONCE_MAX:
            return
        if self._left != (version, self._compared):
            self._left = (version, self._compared)
            self._later(self)
        raise TableError(f"table {self.name}: {self.path}: it is being read")

    def version(self) -> Hashable:
        """Which file it is."""
        self._refresh()
        return self._content.stamp

    def _text(self, item: bytes) -> str:
        try:
            return item.decode()
        except UnicodeDecodeError:
            raise TableError(f"table {self.name}: {self.path}: an entry that is not UTF-8") from None

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except BadMap as error:
            raise TableError(f"table {self.name}: {self.path}: {error}") from None
        except OSError as error:
            raise TableError(f"table {self.name}: {self.path}: {error.strerror}") from None

    def _refresh(self) -> None:
        """Notice a new file; one that cannot be used is told of once."""
        try:
            stamp = stamp_of(self.path)
        except OSError:
            stamp = Stamp(0, 0, 0, 0)
        if stamp in (self._content.stamp, self._refused):
            return
        self._refused = stamp
        if self._later is not None and stamp.size > AT_ONCE_MAX:
            self._later(self)
            return
        try:
            self.reload()
        except TableError as error:
            self._tell(f"table {self.name}: {error}: the content of before is kept")
