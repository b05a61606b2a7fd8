"""The point of no return: from here on a process can do only its job.

In this order: chroot, groups, user, no_new_privs, limits, not dumpable; then the proof that root cannot be had
back.  Without root only the last ones apply.
"""

import contextlib
import ctypes
import os
import resource
import sys

PR_SET_DUMPABLE = 4
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
PR_SET_NO_NEW_PRIVS = 38


class JailError(RuntimeError):
    """A privilege could not be given up."""


class _Libc:
    """prctl(2), found before the jail hides the library."""

    def __init__(self) -> None:
        self._prctl = None
        if sys.platform == "linux":
            with contextlib.suppress(OSError, AttributeError):
                self._prctl = ctypes.CDLL(None, use_errno=True).prctl

    def prctl(self, option: int, value: int) -> None:
        if self._prctl is not None and self._prctl(option, value, 0, 0, 0) != 0:
            raise JailError(f"prctl({option}): {os.strerror(ctypes.get_errno())}")


_LIBC = _Libc()


def raise_descriptor_limit() -> None:
    """As many descriptors as the hard limit allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def let_go_of_terminal(*, stderr: bool) -> None:
    """Nothing to read, and nothing to write to but the log when that goes to standard error.

    Those who speak with strangers would otherwise hold the terminal the daemon was started from, and could read what
    is typed there long after it went into the background."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, 1) if stderr else (0, 1, 2):
        os.dup2(null, fd)
    if null > 2:
        os.close(null)
    if stderr and os.isatty(2):
        with contextlib.suppress(OSError):
            terminal = os.open(os.ttyname(2), os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC)
            os.dup2(terminal, 2)
            os.close(terminal)


def enter(root: str, uid: int, gid: int, *, threads: bool) -> None:
    """Become uid and gid inside root (empty: no chroot).  Raises JailError or OSError; then the process must end."""
    if os.geteuid() == 0:
        if root:
            os.chroot(root)
            os.chdir("/")
        drop(uid, gid)
    restrict(threads=threads)


def drop(uid: int, gid: int) -> None:
    """Give up root for good, and prove it."""
    os.setgroups([gid])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if os.getresuid() != (uid, uid, uid) or os.getresgid() != (gid, gid, gid) or os.getgroups() != [gid]:
        raise JailError("the kernel kept a privilege")
    # Some users have root's group for their own (all of OpenShift's): there is nothing to regain then.
    for regain in (os.setresuid, os.setresgid) if gid else (os.setresuid,):
        try:
            regain(0, 0, 0)
        except PermissionError:
            continue
        raise JailError("root can be had back")


def keep_capabilities() -> None:
    """Those that were given to a parent without root, to listen below port 1024, are not for its children."""
    with contextlib.suppress(JailError):
        _LIBC.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)


def not_dumpable() -> None:
    """Nobody looks inside, and no core is left."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _LIBC.prctl(PR_SET_DUMPABLE, 0)


def restrict(*, threads: bool) -> None:
    """What needs no privilege: no new ones ever, no core, no new processes, nobody looks inside."""
    _LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not threads:
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    _LIBC.prctl(PR_SET_DUMPABLE, 0)
