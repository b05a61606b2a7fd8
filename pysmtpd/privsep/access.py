"""Whether somebody else could connect to a socket, read from owners and modes."""

import grp
import os
import pwd
import stat
from typing import NamedTuple


class _Who(NamedTuple):
    """A user with all groups.  uid -1: somebody of whom nothing is known."""

    name: str
    uid: int
    gids: frozenset[int]


def obstacle(path: str, user: str) -> str:
    """Why a user could not connect to a socket, or an empty string; user is empty for whoever it may be.

    Raises PermissionError when the caller may not look there."""
    who = _who(user)
    if who is None:
        return f"there is no user {user}"
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return "it is not there; is its server running?"
    except PermissionError:
        raise
    except OSError as error:
        return error.strerror or "it cannot be looked at"
    if not stat.S_ISSOCK(found.st_mode):
        return "it is not a socket"
    at = os.path.dirname(os.path.realpath(path))
    while True:
        if not _may(os.stat(at), who, stat.S_IXOTH):
            return f"{who.name} may not enter {at} {_owners(os.stat(at))}"
        if at in ("/", ""):
            break
        at = os.path.dirname(at)
    return "" if _may(found, who, stat.S_IWOTH) else f"{who.name} may not write to it {_owners(found)}"


def _who(user: str) -> _Who | None:
    if not user:
        return _Who("a recipient", -1, frozenset())
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        return None
    return _Who(user, entry.pw_uid, frozenset(os.getgrouplist(user, entry.pw_gid)))


def _may(found: os.stat_result, who: _Who, bit: int) -> bool:
    """bit: as it stands in the mode for others."""
    if who.uid == 0:
        return True
    if who.uid == found.st_uid:
        return bool(found.st_mode & bit << 6)
    if found.st_gid in who.gids:
        return bool(found.st_mode & bit << 3)
    return bool(found.st_mode & bit)


def _owners(found: os.stat_result) -> str:
    """``(mode 0660, root:dovecot)``"""
    try:
        user = pwd.getpwuid(found.st_uid).pw_name
    except KeyError:
        user = str(found.st_uid)
    try:
        group = grp.getgrgid(found.st_gid).gr_name
    except KeyError:
        group = str(found.st_gid)
    return f"(mode {stat.S_IMODE(found.st_mode):04o}, {user}:{group})"
