"""maildir: one file for each message, written aside in tmp and renamed into new once it is on the disk."""

import contextlib
import os
import re
import socket

from pysmtpd.deliver.disk import sync_directory, write_all
from pysmtpd.deliver.lines import Newlines, Verbatim
from pysmtpd.deliver.verdict import DELIVERED, Verdict, of_error, tempfail

MODE = 0o700
HEADER_MAX = 65536                 # octets of header that are searched for the mark of a spam filter
JUNK = ".Junk"
_SPAM = re.compile(rb"^x-spam(?:-flag)?: yes\r?$", re.IGNORECASE | re.MULTILINE)
_BAD_IN_EXTENSION = "!#$%&'*/?^`{|}~"
_TO_COLON = str.maketrans(dict.fromkeys(_BAD_IN_EXTENSION, ":"))


def file_name(seconds: int, token: int, host: str) -> str:
    """A name nobody else gives: time, 64 random bits, host."""
    host = host.replace("/", "\\057").replace(":", "\\072") or "localhost"
    return f"{seconds}.{token:016x}.{host}"


def extension_folder(extension: str) -> str:
    """The name of the folder for a sub-address; a slash or a second leading dot would lead elsewhere."""
    name = extension.translate(_TO_COLON)
    return f".{name}" if name.strip(".") else ""


class Maildir:
    """One message on its way into a maildir.  Raises Failed, and then nothing of it is left."""

    def __init__(self, path: str, name: str, *, extension: str = "", junk: bool = False,
                 binary: bool = False) -> None:
        if not path.startswith("/"):
            raise tempfail("4.3.5", f"{path}: not an absolute path")
        self._base = path.rstrip("/") or "/"
        self._name = name
        self._lines = Verbatim() if binary else Newlines()
        self._binary = binary
        self._ended = True
        self._head: bytes | None = b"" if junk else None
        self._spam = False
        self._folder = self._choose(extension)
        self._tmp = f"{self._folder}/tmp/{name}"
        try:
            _make(self._folder)
            self._fd = os.open(self._tmp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise of_error(self._folder, error) from None

    def _choose(self, extension: str) -> str:
        folder = extension_folder(extension) if extension else ""
        if folder and os.path.isdir(f"{self._base}/{folder}"):
            return f"{self._base}/{folder}"
        return self._base

    def write(self, chunk: bytes) -> None:
        self._put(self._lines.convert(chunk))

    def _put(self, data: bytes) -> None:
        if not data:
            return
        self._ended = data.endswith(b"\n")
        if self._head is not None:
            self._look(data)
        try:
            write_all(self._fd, data)
        except OSError as error:
            self.abort()
            raise of_error(self._folder, error) from None

    def _look(self, data: bytes, *, last: bool = False) -> None:
        """Search the header for the mark of a spam filter, once there is all of it."""
        head = (self._head or b"") + data
        end = head.find(b"\r\n\r\n" if self._binary else b"\n\n")
        if end < 0 and len(head) <= HEADER_MAX and not last:
            self._head = head
            return
        self._head = None
        self._spam = _SPAM.search(head[: end + 1] if end >= 0 else head) is not None

    def finish(self) -> Verdict:
        self._put(self._lines.end())
        if not (self._ended or self._binary):
            self._put(b"\n")
        if self._head is not None:
            self._look(b"", last=True)
        try:
            os.fsync(self._fd)
            os.close(self._fd)
            self._fd = -1
            target = self._folder
            if self._spam:
                target = f"{self._base}/{JUNK}"
                _make(target)
            os.rename(self._tmp, f"{target}/new/{self._name}")
            sync_directory(f"{target}/new")
        except OSError as error:
            self.abort()
            raise of_error(self._folder, error) from None
        return DELIVERED

    def abort(self) -> None:
        with contextlib.suppress(OSError):
            if self._fd >= 0:
                os.close(self._fd)
        self._fd = -1
        with contextlib.suppress(OSError):
            os.unlink(self._tmp)


def open_maildir(path: str, seconds: int, token: int, *, extension: str, junk: bool,
                 binary: bool = False) -> Maildir:
    """Begin a delivery; the caller gives the time and 64 random bits."""
    return Maildir(path, file_name(seconds, token, socket.gethostname()), extension=extension, junk=junk,
                   binary=binary)


def _make(path: str) -> None:
    """A maildir at path with its parents, as far as they are missing."""
    for part in ("cur", "tmp", "new"):
        if not os.path.isdir(f"{path}/{part}"):
            _make_directories(f"{path}/{part}")


def _make_directories(path: str) -> None:
    parent = os.path.dirname(path)
    try:
        os.mkdir(path, MODE)
    except FileNotFoundError:
        _make_directories(parent)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, MODE)
    except FileExistsError:
        # Another worker was faster, or it is a file; what is done next will tell.
        return
    sync_directory(parent)
