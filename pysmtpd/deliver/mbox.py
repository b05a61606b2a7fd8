"""mbox: appended to one file, under the locks that other programs know.

Locks are taken as Debian's policy asks: fcntl first, then a dot-lock, each without blocking and together tried again,
so that two programs can never wait for one another.  flock is taken too where it is a lock of its own.  A dot-lock is
only possible where the directory lets us write; that is what the mail directory's group is for.

A small message is held back until it is complete, so that the mailbox is locked for milliseconds; a large one is
appended as it comes.  Whatever goes wrong, the file is cut back to where it ended before.
"""

import contextlib
import errno
import fcntl
import os
import stat
import time

from pysmtpd.deliver.disk import sync_directory, write_all
from pysmtpd.deliver.lines import FromQuoting, Newlines
from pysmtpd.deliver.verdict import DELIVERED, Failed, Verdict, of_error, permfail, tempfail

HELD_MAX = 256 * 1024              # octets of a message that is not appended yet
LOCK_TIMEOUT = 60.0                # seconds to wait for the locks of others
LOCK_PAUSE = 0.05
STALE_LOCK = 300.0                 # seconds after which a dot-lock belongs to a dead program
NOWHERE = "/dev/null"


class Mbox:
    """One message on its way into a mailbox.

    ``from_line`` is the sender and date of the From_ line.  ``owned``: the mailbox must be ours, as in a mail directory
    where others may create files.  Raises Failed, and then the mailbox is as it was."""

    def __init__(self, path: str, from_line: str, *, owned: bool, lock_timeout: float = LOCK_TIMEOUT) -> None:
        if not path.startswith("/"):
            raise tempfail("4.3.5", f"{path}: not an absolute path")
        self._path = path
        self._owned = owned
        self._timeout = lock_timeout
        self._newlines = Newlines()
        self._quoting = FromQuoting()
        self._held: list[bytes] = [b"From ", from_line.encode(), b"\n"]
        self._size = 0
        self._tail = b"\n"
        self._mailbox: Mailbox | None = None

    def write(self, chunk: bytes) -> None:
        self._put(self._quoting.convert(self._newlines.convert(chunk)))

    def _put(self, data: bytes) -> None:
        self._tail = data[-1:] or self._tail
        if self._mailbox is not None:
            self._mailbox.append(data)
            return
        self._held.append(data)
        self._size += len(data)
        if self._size > HELD_MAX:
            self._open().append(self._take())

    def _take(self) -> bytes:
        held, self._held = b"".join(self._held), []
        return held

    def _open(self) -> "Mailbox":
        self._mailbox = Mailbox(self._path, owned=self._owned, lock_timeout=self._timeout)
        return self._mailbox

    def finish(self) -> Verdict:
        self._put(self._quoting.convert(self._newlines.end()) + self._quoting.end())
        mailbox = self._mailbox or self._open()
        mailbox.append(self._take() + (b"\n" if self._tail == b"\n" else b"\n\n"))
        mailbox.commit()
        return DELIVERED

    def abort(self) -> None:
        if self._mailbox is not None:
            self._mailbox.undo()


class Mailbox:
    """A mailbox, open and locked.  Raises Failed, and then it is closed, unlocked and as it was."""

    def __init__(self, path: str, *, owned: bool, lock_timeout: float = LOCK_TIMEOUT) -> None:
        self._path = path
        self._dot_lock: str | None = None
        self._size = 0
        try:
            self._fd, self._created = _open_mailbox(path, owned=owned)
        except OSError as error:
            raise of_error(path, error) from None
        try:
            self._lock(lock_timeout)
            self._check_name()
            self._size = os.fstat(self._fd).st_size
            if self._size and os.pread(self._fd, 1, self._size - 1) != b"\n":
                # Somebody died while appending: what comes must not become a part of that.
                write_all(self._fd, b"\n\n")
        except OSError as error:
            self._close()
            raise of_error(path, error) from None
        except Failed:
            self._close()
            raise

    def _check_name(self) -> None:
        """A mail reader may have replaced the file while we waited for its lock."""
        here, there = os.fstat(self._fd), os.lstat(self._path)
        if (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino):
            raise tempfail("4.2.0", f"{self._path}: was replaced by another program")

    def append(self, data: bytes) -> None:
        try:
            write_all(self._fd, data)
        except OSError as error:
            self.undo()
            raise of_error(self._path, error) from None

    def commit(self) -> None:
        """Make it durable, and unlock."""
        try:
            os.fsync(self._fd)
            if self._created:
                sync_directory(os.path.dirname(self._path))
        except OSError as error:
            # fsync of a device means nothing and is refused.
            if error.errno != errno.EINVAL:
                self.undo()
                raise of_error(self._path, error) from None
        self._close()

    def undo(self) -> None:
        """Cut the mailbox back to its old end, and unlock."""
        with contextlib.suppress(OSError):
            if self._path != NOWHERE:
                os.ftruncate(self._fd, self._size)
                os.fsync(self._fd)
        self._close()

    def _close(self) -> None:
        if self._dot_lock is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._dot_lock)
            self._dot_lock = None
        with contextlib.suppress(OSError):
            os.close(self._fd)

    def _lock(self, timeout: float) -> None:
        if self._path == NOWHERE:
            return
        deadline = time.monotonic() + timeout
        while not self._try_locks():
            if time.monotonic() >= deadline:
                raise tempfail("4.2.0", f"{self._path}: locked by another program")
            time.sleep(LOCK_PAUSE)

    def _try_locks(self) -> bool:
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            self._unlock()
            return False
        path = f"{self._path}.lock"
        try:
            locked = _dot_lock(path)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG):
                # Nobody without rights of his own can make a dot-lock here: those who read us do not use one either.
                return True
            raise
        if locked:
            self._dot_lock = path
        else:
            self._unlock()
        return locked

    def _unlock(self) -> None:
        with contextlib.suppress(OSError):
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            fcntl.lockf(self._fd, fcntl.LOCK_UN)


def _open_mailbox(path: str, *, owned: bool) -> tuple[int, bool]:
    """The descriptor, and whether the file is new.  A symbolic or hard link may lead to somebody else's file, and
    anything but a regular file (or /dev/null) is no mailbox."""
    flags = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        fd, created = os.open(path, flags), False
    except FileNotFoundError:
        fd, created = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600), True
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise permfail("5.2.0", f"{path}: is a symbolic link") from None
        raise
    found = os.fstat(fd)
    if path == NOWHERE and stat.S_ISCHR(found.st_mode):
        return fd, False
    wrong = None
    if not stat.S_ISREG(found.st_mode):
        wrong = permfail("5.2.0", f"{path}: is not a regular file")
    elif found.st_nlink != 1:
        wrong = permfail("5.2.0", f"{path}: has other links")
    elif owned and found.st_uid != os.geteuid():
        wrong = tempfail("4.2.0", f"{path}: belongs to somebody else")
    if wrong is not None:
        os.close(fd)
        raise wrong
    return fd, created


def _dot_lock(path: str) -> bool:
    """Create path, or find it taken; one that a dead program left is removed for the next try."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        with contextlib.suppress(FileNotFoundError):
            if time.time() - os.lstat(path).st_mtime > STALE_LOCK:
                os.unlink(path)
        return False
    try:
        os.write(fd, b"%d\n" % os.getpid())
    finally:
        os.close(fd)
    return True
