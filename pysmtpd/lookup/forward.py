"""A user's .forward (forward(5)) and :include: files: asked for when an expansion comes to them, read with bounds.

The parent opens .forward, because only root may; lka gets the descriptor of a file that was checked, and no other.
"""

import asyncio
import enum
import re
from concurrent.futures import Executor
from typing import NamedTuple

from pysmtpd.lookup.members import BadMember, Kind, Members, parse
from pysmtpd.lookup.memo import UNKNOWN_YET, Unknown

FORWARD_MAX = 4096                 # octets, and one more is too many
FORWARD_NODES_MAX = 100
INCLUDE_MAX = 4 * 1024 * 1024      # octets

_CONTINUED = re.compile(r"(?<!\\)((?:\\\\)*)\\\n")
_COMMENT = re.compile(r"(?<!\\)#.*")


class Status(enum.Enum):
    """What became of the wish to read a .forward."""

    NONE = "none"                  # there is none, or nothing is in it
    FILE = "file"
    TEMPORARY = "temporary"        # nobody can tell now
    REFUSED = "refused"            # it is there, and may not be used


class User(NamedTuple):
    """Whose .forward: the question."""

    action: str                    # that the recipient has come to
    name: str
    uid: int
    gid: int
    home: str


class Forward(NamedTuple):
    """The answer: content, or why there is none."""

    status: Status
    content: bytes = b""
    why: str = ""


class Included(NamedTuple):
    """What an :include: file holds, or why it cannot be read."""

    content: bytes
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
    """A whole file, or why not."""
    try:
        with open(path, "rb") as file:
            content = file.read(INCLUDE_MAX + 1)
    except OSError as error:
        return Included(b"", f"{path}: {error.strerror}")
    if len(content) > INCLUDE_MAX:
        return Included(b"", f"{path}: larger than {INCLUDE_MAX} octets")
    return Included(content)
