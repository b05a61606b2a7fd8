"""Who a user is: the value of the service userinfo (table(5))."""

import re
from typing import NamedTuple

from pysmtpd.lookup.service import TableError

GETPWNAM = "<getpwnam>"            # the table of the system's users
ID_MAX = 0xFFFFFFFE                # (uid_t)-1 means "leave it" to the kernel
HOME_MAX = 1023                    # octets

_VALUE = re.compile(r"([0-9]{1,10}):([0-9]{1,10}):(.*)", re.DOTALL)


class UserInfo(NamedTuple):
    """A user's ids and home directory."""

    uid: int
    gid: int
    home: str


def userinfo(value: str, table: str, user: str) -> UserInfo:
    """``uid:gid:home`` read.  Raises TableError."""
    match = _VALUE.fullmatch(value)
    if match is None or int(match[1]) > ID_MAX or int(match[2]) > ID_MAX:
        raise TableError(f"table {table}: the value of {user} is not uid:gid:home")
    home = match[3]
    if not home.startswith("/") or len(home.encode()) > HOME_MAX or not home.isprintable():
        raise TableError(f"table {table}: the home directory of {user} is no absolute path")
    return UserInfo(int(match[1]), int(match[2]), home)
