"""A user's .forward (forward(5)) and :include: files: asked for when an expansion comes to them, read with bounds.

The parent has .forward opened, because only root may; lka gets what a file holds that was checked, and no other.
"""

import asyncio
import enum
import errno
import os
import re
import stat
from collections.abc import Callable
from concurrent.futures import Executor
from typing import NamedTuple

from pysmtpd.lookup.members import BadMember, Kind, Members, parse
from pysmtpd.lookup.memo import UNKNOWN_YET, Unknown
from pysmtpd.messages import FORWARD_MAX, ForwardState

FORWARD_NODES_MAX = 100
INCLUDE_MAX = 4 * 1024 * 1024      # octets
TIMEOUT = 30.0                     # seconds for the parent, which has its own limit
ABSENT_KEPT = 2.0                  # seconds that nobody is asked again for a file that was not there
ABSENT_MAX = 4096

_CONTINUED = re.compile(r"(?<!\\)((?:\\\\)*)\\\n")
_COMMENT = re.compile(r"(?<!\\)#.*")


class Opening(enum.Enum):
    """What became of the wish to read a .forward."""

    NONE = "none"                  # there is none, or nothing is in it
    FILE = "file"
    TEMPORARY = "temporary"        # nobody can tell now
    REFUSED = "refused"            # it is there, and may not be used


STATES = {ForwardState.NONE: Opening.NONE, ForwardState.TEMPORARY: Opening.TEMPORARY,
          ForwardState.REFUSED: Opening.REFUSED}


class User(NamedTuple):
    """Whose .forward: the question."""

    action: str                    # that the recipient has come to
    name: str
    uid: int
    gid: int
    home: str


class Forward(NamedTuple):
    """The answer: content, or why there is none."""

    opening: Opening
    content: bytes = b""
    why: str = ""


ABSENT = Forward(Opening.NONE)


class Included(NamedTuple):
    """What an :include: file holds, or why it cannot be read."""

    members: Members
    why: str = ""


def read_forward(content: bytes) -> Members:
    """The members in a .forward: one or several a line; ``#`` begins a comment, a backslash at its end continues a
    line.  Includes are passed over."""
    found = Members([], [])
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return Members([], [BadMember("", "is not UTF-8")])
    for raw in _CONTINUED.sub(r"\1", text).split("\n"):
        line = _COMMENT.sub("", raw).replace("\\#", "#").strip()
        if line:
            members = parse(line)
            found.good.extend(member for member in members.good if member.kind is not Kind.INCLUDE)
            found.bad.extend(members.bad)
    return found


def read_include(content: bytes) -> Members:
    """The members in an :include: file.  Files in files are not read."""
    found = Members([], [])
    for raw in content.decode("utf-8", "replace").split("\n"):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        members = parse(line)
        for member in members.good:
            if member.kind is Kind.INCLUDE:
                found.bad.append(BadMember(member.text, "is an include in an include"))
            else:
                found.good.append(member)
        found.bad.extend(members.bad)
    return found


class Forwards:
    """Asks the parent for .forward files, and reads what it opened."""

    def __init__(self, ask: Callable[[int, User], None], clock: Callable[[], float]) -> None:
        """ask: send the question with this number; opened() or missing() answers it.  clock: seconds."""
        self._ask = ask
        self._clock = clock
        self._number = 0
        self._asked: dict[int, asyncio.Future[Forward]] = {}
        self._absent: dict[User, float] = {}

    def known(self, user: User) -> Forward | Unknown:
        """That there was none a moment ago: most users have none."""
        return ABSENT if self._absent.get(user, 0.0) > self._clock() else UNKNOWN_YET

    async def answer(self, user: User) -> Forward:
        """The .forward of a user, within a bounded time."""
        self._number += 1
        number = self._number
        future: asyncio.Future[Forward] = asyncio.get_running_loop().create_future()
        self._asked[number] = future
        try:
            self._ask(number, user)
            async with asyncio.timeout(TIMEOUT):
                found = await future
        except TimeoutError:
            return Forward(Opening.TEMPORARY, b"", f"{user.home}/.forward: not opened within {TIMEOUT:g} seconds")
        finally:
            del self._asked[number]
        if found.opening is Opening.NONE:
            self._absent.pop(user, None)
            if len(self._absent) >= ABSENT_MAX:
                del self._absent[next(iter(self._absent))]
            self._absent[user] = self._clock() + ABSENT_KEPT
        return found

    def opened(self, number: int, fd: int) -> None:
        """A descriptor, ours from now on: a pipe that everything is in already, so that nobody waits."""
        found = read_open(fd)
        future = self._asked.get(number)
        if future is not None and not future.done():
            future.set_result(found)

    def missing(self, number: int, why: Forward) -> None:
        """There is none."""
        future = self._asked.get(number)
        if future is not None and not future.done():
            future.set_result(why)


def read_open(fd: int) -> Forward:
    """Read a .forward, up to the first octet that is too many, and close it."""
    try:
        return Forward(Opening.FILE, os.read(fd, FORWARD_MAX))
    except OSError as error:
        return Forward(Opening.TEMPORARY, b"", f".forward: {error.strerror}")
    finally:
        os.close(fd)


class Lists:
    """Reads the long values of aliases, in threads: it takes tens of milliseconds."""

    def __init__(self, threads: Executor) -> None:
        self._threads = threads

    def known(self, _value: str) -> Members | Unknown:
        return UNKNOWN_YET

    async def answer(self, value: str) -> Members:
        """The members of the list."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, parse, value)


class Includes:
    """Reads :include: files, in threads, because a file may be far away."""

    def __init__(self, threads: Executor) -> None:
        self._threads = threads

    def known(self, _path: str) -> Included | Unknown:
        return UNKNOWN_YET

    async def answer(self, path: str) -> Included:
        """The file at a path.  Bounded by whoever asks."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, read_file, path)


def read_file(path: str) -> Included:
    """The members in a whole file, or why not."""
    try:
        fd = _open(path)
        with open(fd, "rb") as file:
            content = file.read(INCLUDE_MAX + 1)
    except OSError as error:
        return Included(_NOBODY, f"{path}: {error.strerror}")
    if len(content) > INCLUDE_MAX:
        return Included(_NOBODY, f"{path}: larger than {INCLUDE_MAX} octets")
    return Included(read_include(content))


_NOBODY = Members([], [])


def _open(path: str) -> int:
    """A regular file.  Lists belong to people who are not the administrator: theirs must neither hold a thread, as a
    FIFO would, nor be a link to what they may not read and lka may, whose lines would be told as bad members.

    Raises OSError."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    link = None
    try:
        fd = os.open(path, flags | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EMLINK):
            raise
        link = os.lstat(path)
        fd = os.open(path, flags)
    found = os.fstat(fd)
    why = "" if stat.S_ISREG(found.st_mode) else "not a regular file"
    if link is not None and link.st_uid not in (0, found.st_uid):
        why = "a link to somebody else's file"
    if why:
        os.close(fd)
        raise OSError(errno.EPERM, why)
    return fd
