"""``python -I -m pysmtpd.privsep.home``: the root child that goes where one may hang.

A name service may be a server that does not answer, a home and /var/mail may be on one.  The parent never waits for
any of them: it asks such a child, over descriptor 3, one question at a time, and kills it when it takes too long
(privsep.homes).  The child speaks with the parent alone.  It opens files of users, and passes on what they hold; it
reads no meaning into it.
"""

import contextlib
import os
import pwd
import signal
import socket
import stat
import sys
from collections.abc import Callable
from typing import NoReturn

from pysmtpd.base import paths
from pysmtpd.base.procs import Proc
from pysmtpd.base.text import line_of
from pysmtpd.imsg import Decoder, Encoder, ImsgError, Message
from pysmtpd.messages import (
    FORWARD_MAX,
    ForwardMissing,
    ForwardOpened,
    ForwardState,
    Found,
    HomeForward,
    HomeMailbox,
    HomeMember,
    HomeTold,
    HomeUser,
)
from pysmtpd.privsep import jail
from pysmtpd.privsep.delivery import NoForward, make_mailbox, open_forward
from pysmtpd.privsep.passwd import Passwd
from pysmtpd.privsep.title import set_title

PARENT_FD = 3
LIFETIME = 60                      # seconds for one question, should the parent be gone; it waits less
FD_MAX = 65536
READ_SIZE = 65536
WHY_MAX = 1024                     # octets

Find = Callable[[str], pwd.struct_passwd | None]


def answer(ask: Message, find: Find) -> tuple[Message, int | None]:
    """The answer, and the descriptor that goes with it.  May take for ever.

    find: a user of the system; None: there is none; raises OSError when nobody can tell."""
    match ask:
        case HomeUser(reqid, user):
            return _user(reqid, user, find), None
        case HomeMember(reqid, uid, gid):
            return _told(reqid, Found.YES if _is_member(uid, gid) else Found.NO), None
        case HomeMailbox(reqid, user, uid):
            return _mailbox(reqid, user, uid, find), None
        case HomeForward():
            return _forward(ask, find)
    raise ImsgError(f"{type(ask).__name__}: not for a home")


def _told(reqid: int, found: Found, uid: int = 0, gid: int = 0, home: str = "", why: str = "") -> HomeTold:
    return HomeTold(reqid, found, uid, gid, home, line_of(why.encode("utf-8", "replace"), WHY_MAX))


def _user(reqid: int, user: str, find: Find) -> HomeTold:
    try:
        entry = find(user)
    except OSError as error:
        return _told(reqid, Found.TEMPFAIL, why=f"user {user}: {error.strerror}")
    if entry is None:
        return _told(reqid, Found.NO)
    return _told(reqid, Found.YES, entry.pw_uid, entry.pw_gid, entry.pw_dir)


def _is_member(uid: int, gid: int) -> bool:
    try:
        entry = pwd.getpwuid(uid)
        return gid in os.getgrouplist(entry.pw_name, entry.pw_gid)
    except (KeyError, OverflowError):
        return False


def _mailbox(reqid: int, user: str, uid: int, find: Find) -> HomeTold:
    """The mailbox of a user who is no longer looked up, or was told of by a userbase: it must not be made for somebody
    else than the system's user of that name, if there is one."""
    try:
        entry = find(user)
        if entry is not None and entry.pw_uid != uid:
            return _told(reqid, Found.NO, why=f"{user} is another user of the system")
        found = os.stat(paths.MAIL_DIRECTORY)
        make_mailbox(f"{paths.MAIL_DIRECTORY}/{user}", uid, found.st_gid)
    except OSError as error:
        return _told(reqid, Found.TEMPFAIL, why=f"{paths.MAIL_DIRECTORY}/{user}: {error.strerror}")
    # The group is for dot-locks; where it lets nobody make one, or is that of root, the user's own will do.
    return _told(reqid, Found.YES, gid=found.st_gid if found.st_mode & stat.S_IWGRP else 0)


def _forward(ask: HomeForward, find: Find) -> tuple[Message, int | None]:
    try:
        _check_home(ask, find)
        return ForwardOpened(ask.reqid), _content(open_forward(ask.home, ask.uid), ask.home)
    except NoForward as failure:
        return ForwardMissing(ask.reqid, failure.state, line_of(str(failure).encode("utf-8", "replace"), WHY_MAX)), None


def _check_home(ask: HomeForward, find: Find) -> None:
    """What lka says of a user of the system must be true.  Raises NoForward."""
    if not ask.user:
        return
    try:
        entry = find(ask.user)
    except OSError as error:
        raise NoForward(ForwardState.TEMPORARY, f"user {ask.user}: {error.strerror}") from None
    if entry is None:
        raise NoForward(ForwardState.REFUSED, f"there is no user {ask.user}")
    if (entry.pw_uid, entry.pw_dir) != (ask.uid, ask.home):
        raise NoForward(ForwardState.TEMPORARY, f"{ask.user} has another home directory")


def _content(fd: int, home: str) -> int:
    """A pipe with what the file begins with.  Raises NoForward."""
    content = b""
    try:
        while len(content) < FORWARD_MAX and (piece := os.read(fd, FORWARD_MAX - len(content))):
            content += piece
    except OSError as error:
        raise NoForward(ForwardState.TEMPORARY, f"{home}/.forward: {error.strerror}") from None
    finally:
        os.close(fd)
    reading, writing = os.pipe()
    os.write(writing, content)     # a pipe holds at least 4096 octets (PIPE_BUF)
    os.close(writing)
    return reading


def serve(sock: socket.socket, find: Find) -> None:
    """One question after the other, until the parent leaves.  Raises ImsgError, OSError."""
    decoder, encoder = Decoder(Proc.PARENT, Proc.HOME), Encoder(Proc.HOME, Proc.PARENT, os.getpid())
    while data := sock.recv(READ_SIZE):
        for frame in decoder.feed(data):
            signal.alarm(LIFETIME)
            message, fd = answer(frame.message, find)
            signal.alarm(0)
            _send(sock, encoder.encode(message), fd)


def _send(sock: socket.socket, data: bytes, fd: int | None) -> None:
    if fd is None:
        sock.sendall(data)
        return
    sent = socket.send_fds(sock, [data], [fd])
    os.close(fd)
    sock.sendall(data[sent:])


def main() -> NoReturn:
    """All of its life."""
    set_title(f"pysmtpd: {Proc.HOME.value}")
    os.umask(0o077)
    os.chdir("/")
    with contextlib.suppress(PermissionError):
        os.setsid()
    os.closerange(PARENT_FD + 1, FD_MAX)
    jail.let_go_of_terminal(stderr=False)
    jail.restrict(threads=True)
    try:
        serve(socket.socket(fileno=PARENT_FD), Passwd().find)
    except (ImsgError, OSError):
        sys.exit(1)
    sys.exit(0)


if __name__ == "__main__":
    main()
