"""What must be true before the daemon starts, and the command that mends it when it is not.

Everything here is read or made by the parent with its privileges, before any other process exists.
"""

import contextlib
import fcntl
import grp
import os
import pwd
import stat
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from pysmtpd.base import paths as base_paths
from pysmtpd.base.paths import Paths

LOCK_WAIT = 5.0
LOW_FD = 10                        # descriptors kept across exec stay clear of 0 to 3


class StartError(RuntimeError):
    """Why the daemon does not start, and how to mend it."""


@contextlib.contextmanager
def _about(path: str) -> Iterator[None]:
    """What the system refuses here is told with the path: EROFS, ENOSPC, EIO."""
    try:
        yield
    except OSError as error:
        raise StartError(f"{error.filename or path}: {error.strerror}") from None


class Identities(NamedTuple):
    """Whom the processes become."""

    smtpd_uid: int
    smtpd_gid: int
    smtpq_uid: int
    smtpq_gid: int
    user: str                      # without root: the one user there is

    @property
    def privileged(self) -> bool:
        return not self.user

    @property
    def one_user(self) -> bool:
        return self.privileged and self.smtpd_uid == self.smtpq_uid


def identities(environ: Mapping[str, str]) -> Identities:
    """_smtpd and _smtpq, or as the environment of root renames them; without root the caller is both."""
    if os.geteuid() != 0:
        uid, gid = os.geteuid(), os.getegid()
        return Identities(uid, gid, uid, gid, _name_of(uid))
    smtpd = _user(environ.get("PYSMTPD_USER") or "_smtpd")
    smtpq = _user(environ.get("PYSMTPD_QUEUE_USER") or "_smtpq")
    group = environ.get("PYSMTPD_QUEUE_GROUP")
    gid = _group(group) if group else smtpq.pw_gid
    for entry in (smtpd, smtpq):
        if entry.pw_uid == 0:
            raise StartError(f"user {entry.pw_name} is root: the daemon needs a user without privileges")
    if smtpd.pw_gid == 0 or gid == 0:
        name = smtpd.pw_name if smtpd.pw_gid == 0 else smtpq.pw_name
        raise StartError(f"user {name} has the group of root: the daemon needs one without privileges")
    return Identities(smtpd.pw_uid, smtpd.pw_gid, smtpq.pw_uid, gid, "")


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        raise StartError(f"uid {uid} has no name: add it to the user database") from None


def _user(name: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        command = "useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin"
        raise StartError(f"user {name} does not exist; create it with:\n    {command} {name}") from None


def _group(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise StartError(f"group {name} does not exist; create it with:\n    groupadd --system {name}") from None


def find_paths(state_dir: str, environ: Mapping[str, str]) -> Paths:
    """The system places as root, the user's own without; --state-dir overrides both."""
    if state_dir:
        return base_paths.under(os.path.abspath(state_dir))
    if os.geteuid() == 0:
        return base_paths.system()
    own = base_paths.state_dir_of(environ)
    if not own:
        raise StartError("there is no HOME to keep the spool in; use --state-dir DIR")
    return base_paths.under(os.path.abspath(own))


def find_config(given: str) -> str:
    """-f, or the first of the usual files that exists."""
    if given:
        if not os.path.exists(given):
            raise StartError(f"{given}: no such file; see etc/smtpd.conf.sample for one to begin with")
        return given
    for path in base_paths.CONFIG_FILES:
        if os.path.exists(path):
            return path
    places = " or ".join(base_paths.CONFIG_FILES)
    raise StartError(f"there is no configuration in {places}; write one, or name one with -f FILE")


def prepare_spool(paths: Paths, who: Identities) -> None:
    """Check the spool and make what is missing inside it."""
    with _about(paths.spool):
        _prepare(paths, who)


def _prepare(paths: Paths, who: Identities) -> None:
    if who.privileged:
        if not os.path.lexists(paths.spool):
            raise StartError(_mend(paths.spool, "is missing", f"install -d -o root -g root -m 0711 {paths.spool}"))
        _check(paths.spool, 0, 0o711)
        _make(paths.queue, who.smtpq_uid, who.smtpq_gid, 0o700)
        _make(paths.empty, 0, 0, 0o755)
        if os.listdir(paths.empty):
            raise StartError(_mend(paths.empty, "must stay empty", f"rm -r {paths.empty}"))
    else:
        try:
            os.makedirs(paths.spool, 0o700, exist_ok=True)
        except OSError as error:
            raise StartError(f"{paths.spool}: {error.strerror}; use --state-dir DIR") from None
        _check(paths.spool, who.smtpd_uid, None)
        if os.lstat(paths.spool).st_mode & stat.S_IWOTH:
            # Anybody could put his own control socket in the place of ours.
            raise StartError(_mend(paths.spool, "can be written to by everybody", f"chmod o-w {paths.spool}"))
        _make(paths.queue, who.smtpd_uid, who.smtpd_gid, 0o700)
    _check_files(paths.queue, who.smtpq_uid)


def _make(path: str, uid: int, gid: int, mode: int) -> None:
    try:
        os.mkdir(path, 0o700)
        if os.geteuid() == 0:
            os.chown(path, uid, gid)
        os.chmod(path, mode)
    except FileExistsError:
        pass
    except OSError as error:
        raise StartError(f"{path}: {error.strerror}") from None
    _check(path, uid, mode)


def _check(path: str, uid: int, mode: int | None) -> None:
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise StartError(f"{path} is not a directory")
    if found.st_uid != uid:
        raise StartError(_mend(path, f"does not belong to uid {uid}", f"chown {uid} {path}"))
    if mode is not None and stat.S_IMODE(found.st_mode) != mode:
        raise StartError(_mend(path, f"has mode {stat.S_IMODE(found.st_mode):04o}", f"chmod {mode:04o} {path}"))


def _mend(path: str, trouble: str, command: str) -> str:
    return f"{path} {trouble}; mend it with:\n    {command}"


def _check_files(queue: str, uid: int) -> None:
    with os.scandir(queue) as entries:
        for entry in entries:
            found = entry.stat(follow_symlinks=False)
            if found.st_uid != uid:
                raise StartError(_mend(entry.path, f"does not belong to uid {uid}", f"chown -R {uid} {queue}"))
            if stat.S_IMODE(found.st_mode) & 0o077:
                raise StartError(_mend(entry.path, "is open to others", f"chmod -R go-rwx {queue}"))


def take_lock(paths: Paths) -> int:
    """The descriptor whose lock says that this spool has a daemon.

    Waits for the processes of a daemon whose parent was killed; raises StartError when it still lives."""
    with _about(paths.lock):
        return _lock(paths)


def _lock(paths: Paths) -> int:
    fd = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, LOW_FD)
    os.close(fd)
    end = time.monotonic() + LOCK_WAIT
    while True:
        try:
            fcntl.flock(high, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            holder = _holder(high)
            if holder or time.monotonic() > end:
                os.close(high)
                who = f"pid {holder}" if holder else "its processes do not leave"
                raise StartError(f"another daemon works on {paths.spool} ({who})") from None
            time.sleep(0.02)
    os.ftruncate(high, 0)
    os.pwrite(high, f"{os.getpid()}\n".encode(), 0)
    return high


def _holder(fd: int) -> int:
    """The pid of the parent that holds the lock, if it still runs; else 0."""
    text = os.pread(fd, 32, 0).split(b"\n")[0]
    pid = int(text) if text.isdigit() else 0
    # Our own number is what a killed parent had before: the first of a container is always the same.
    if pid and pid != os.getpid():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, 0)
            return pid
    return 0


def detach() -> int:
    """Go on in the background; the descriptor tells the foreground process that all is well."""
    reading, writing = os.pipe()
    if os.fork():
        os.close(writing)
        word = os.read(reading, 1)
        os._exit(0 if word == b"0" else 1)
    os.close(reading)
    os.setsid()
    os.chdir("/")
    return writing


def let_go_of_input() -> None:
    """In the background nothing is read from whoever started us, once the configuration is there."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.close(null)
