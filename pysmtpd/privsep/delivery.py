"""What is done for deliveries as only root may, and how the parent judges whether the configuration could ask for it.

A request comes from a process that speaks with strangers, so each is judged as if an enemy had sent it.
"""

import errno
import os
import pwd
import stat
from collections.abc import Sequence

from pysmtpd.conf.config import ALIAS_USER, Action, Config, Method
from pysmtpd.messages import ForwardOpen, ForwardState, MdaWorkerStart, WorkerKind
from pysmtpd.privsep.startup import Identities

ID_LIMIT = 0xFFFFFFFF              # (uid_t)-1 means "leave it" to the kernel
SYSTEM_GIDS = 1000                 # below: groups that systems give rights to, such as disk, shadow or docker
_FAR = frozenset({errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN})
_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR})
_PATH_ONLY = getattr(os, "O_PATH", os.O_RDONLY)


class Refused(Exception):
    """A worker that is not started."""

    def __init__(self, temporary: bool, text: str) -> None:
        super().__init__(text)
        self.temporary = temporary


class NoForward(Exception):
    """A .forward that is not opened."""

    def __init__(self, state: ForwardState, text: str) -> None:
        super().__init__(text)
        self.state = state


def judge_action(config: Config, ask: MdaWorkerStart, users: Sequence[str]) -> Action:
    """The action a worker is asked for.  users: whose workers run or are being started.  Raises Refused."""
    action = config.actions.get(ask.action)
    if action is None or action.is_relay:
        raise Refused(True, "no such action")
    plain = action.method is Method.MBOX and not action.wrapper
    if (ask.kind is WorkerKind.MBOX and not plain) or (action.user and action.user != ask.user):
        raise Refused(True, "not what the action says")
    if len(users) >= config.limits.mda_max_session or users.count(ask.user) >= config.limits.mda_max_session_per_user:
        raise Refused(True, "too many deliveries")
    if "/" in ask.user or "\0" in ask.user or ask.user in ("", ".", ".."):
        raise Refused(False, f"delivery user '{ask.user}' does not exist")
    return action


def userbase_of(action: Action, user: str) -> str:
    """The table that says who a user of an action is; empty: the system does."""
    return "" if action.user or user == ALIAS_USER else action.userbase


def needs_membership(action: Action, gid: int, who: Identities) -> bool:
    """Whether a userbase gives a group that only the system can give, unless the action allows it."""
    return who.privileged and gid < SYSTEM_GIDS and action.gids is None


def judge_userbase(action: Action, entry: pwd.struct_passwd, who: Identities, *, member: bool) -> None:
    """What a userbase says comes through lka, which speaks with strangers.  member: the system was asked, and gives the
    user the group.  Raises Refused."""
    if not action.bounds(entry.pw_uid, entry.pw_gid):
        raise Refused(False, f"MDA not allowed to deliver to: {entry.pw_name} with ids {entry.pw_uid}:{entry.pw_gid}")
    if needs_membership(action, entry.pw_gid, who) and not member:
        raise Refused(False, f"MDA not allowed to deliver to: {entry.pw_name} with group {entry.pw_gid} of the system")


def judge_user(entry: pwd.struct_passwd, kind: WorkerKind, who: Identities, *, system: bool) -> None:
    """Whether a worker may become this user at all.  system: the system told who that is, and not a userbase.

    Raises Refused."""
    name = entry.pw_name
    if not 0 <= entry.pw_uid < ID_LIMIT or not 0 <= entry.pw_gid < ID_LIMIT or "\0" in entry.pw_dir:
        raise Refused(False, f"MDA not allowed to deliver to: {name}")
    if entry.pw_uid == 0 and not (kind is WorkerKind.MBOX and system):
        raise Refused(False, f"MDA not allowed to deliver to: {name}")
    if who.privileged and entry.pw_uid in (who.smtpd_uid, who.smtpq_uid):
        # A worker of theirs would stand on our side of the walls: it could read the spool, or kill the daemon.
        raise Refused(False, f"MDA not allowed to deliver to: {name}")
    if not who.privileged and entry.pw_uid != os.geteuid():
        raise Refused(False, f"not root: cannot deliver to {name}")


def judge_forward(config: Config, ask: ForwardOpen, who: Identities) -> str:
    """Whether a local action could ask for this user's .forward.  Returns the user of the system whom it has to be;
    empty: a userbase says who that is.  Raises NoForward."""
    action = config.actions.get(ask.action)
    if action is None or action.is_relay or (action.user and action.user != ask.user):
        raise NoForward(ForwardState.REFUSED, "no action asks for it")
    if "\0" in ask.user or not ask.user:
        raise NoForward(ForwardState.REFUSED, "there is no such user")
    if not who.privileged and ask.uid != os.geteuid():
        raise NoForward(ForwardState.NONE, "")
    if not action.userbase:
        return ask.user
    if not action.bounds(ask.uid):
        raise NoForward(ForwardState.REFUSED, f"action {action.name} is for other ids than {ask.uid}")
    return ""


def open_forward(home: str, uid: int) -> int:
    """The descriptor of a user's .forward, checked as OpenSMTPD does: a regular file of the user that nobody else can
    write, in a directory of the user or root that nobody else can write.  Raises NoForward."""
    path = f"{home}/.forward"
    try:
        directory = os.open(home, _PATH_ONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise _failure(error, home) from None
    try:
        found = os.fstat(directory)
        if found.st_mode & stat.S_ISVTX:
            raise NoForward(ForwardState.TEMPORARY, f"{home} is sticky")
        fd = os.open(".forward", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC,
                     dir_fd=directory)
    except OSError as error:
        raise _failure(error, path) from None
    finally:
        os.close(directory)
    if found.st_uid not in (0, uid) or found.st_mode & 0o022:
        os.close(fd)
        raise NoForward(ForwardState.REFUSED, f"{path}: insecure file: {home} can be written to by others")
    file = os.fstat(fd)
    if not stat.S_ISREG(file.st_mode) or file.st_uid != uid or file.st_mode & 0o022:
        os.close(fd)
        raise NoForward(ForwardState.REFUSED, f"{path}: insecure file")
    return fd


def _failure(error: Exception, path: str) -> NoForward:
    if isinstance(error, ValueError):
        return NoForward(ForwardState.REFUSED, "the home directory has no path")
    assert isinstance(error, OSError)
    if error.errno in _ABSENT:
        return NoForward(ForwardState.NONE, "")
    if error.errno == errno.ELOOP:
        return NoForward(ForwardState.REFUSED, f"{path}: cannot follow symbolic links")
    state = ForwardState.TEMPORARY if error.errno in _FAR else ForwardState.REFUSED
    return NoForward(state, f"{path}: {error.strerror}")


def make_mailbox(path: str, uid: int, gid: int) -> None:
    """A missing mailbox, made as only root may: exclusively, following nothing, for its owner alone."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return
    try:
        os.fchown(fd, uid, gid)
        os.fchmod(fd, 0o600)
    finally:
        os.close(fd)
