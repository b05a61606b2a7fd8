"""``python -I -m pysmtpd.privsep.program JOB``: the child that becomes a table program, or runs a built-in one.

It begins as root with the program's socket as descriptor 3, and standard error already leading to lka.  It makes the
socket standard input and output, becomes the program's user for good, and executes the program with an emptied
environment; a built-in one it imports before that, and runs itself.
"""

import contextlib
import ctypes
import importlib
import os
import signal
import sys
from typing import NoReturn

import msgspec

from pysmtpd.base.struct import Frozen
from pysmtpd.privsep import jail

SOCKET_FD = 3
PR_SET_PDEATHSIG = 1
BUILT_IN = frozenset({"sqlite"})   # modules of pysmtpd.tables


class Job(Frozen):
    """What to run, and as whom."""

    uid: int
    gid: int
    path: str = ""                 # of the program
    arguments: tuple[str, ...] = ()
    built_in: str = ""             # instead of path
    chroot: str = ""


def main() -> NoReturn:
    """The whole life of the child."""
    job = msgspec.json.decode(sys.argv[1], type=Job)
    os.setsid()
    for fd in (0, 1):
        os.dup2(SOCKET_FD, fd)
    os.close(SOCKET_FD)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    module = importlib.import_module(f"pysmtpd.tables.{job.built_in}") if job.built_in in BUILT_IN else None
    os.chdir("/")
    os.umask(0o077)
    if os.geteuid() == 0:
        if job.chroot:
            os.chroot(job.chroot)
            os.chdir("/")
        jail.drop(job.uid, job.gid)
    _end_with_parent()
    if module is not None:
        jail.restrict(threads=True)
        module.main(list(job.arguments))
        os._exit(0)
    try:
        os.execve(job.path, job.arguments, {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin"})
    except OSError as error:
        os.write(2, f"{job.path}: {error.strerror}\n".encode())
        os._exit(127)


def _end_with_parent() -> None:
    """Where the kernel can see to it that no program outlives the daemon."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


if __name__ == "__main__":
    main()
