"""Starting a Python process of ours: always a fresh interpreter, always with an emptied environment.

Only what the dynamic loader and the C library need survives: an administrator who starts the daemon under
another allocator or time zone means all of it.  Commands that deliver mail get an environment of their own.
"""

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Mapping

KEPT = ("LD_PRELOAD", "LD_LIBRARY_PATH", "TZ")


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What a process of ours gets of the parent's environment."""
    return {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", **{name: environ[name] for name in KEPT if name in environ}}


def open_standard_descriptors() -> None:
    """Whoever started us may have closed some of 0 to 2: nothing of ours may get their numbers, and no socket."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


def keep_to_ourselves() -> None:
    """Whatever descriptors the one who started us left open go no further than this process."""
    for name in os.listdir("/dev/fd"):
        if int(name) > 2:
            with contextlib.suppress(OSError):
                os.set_inheritable(int(name), False)


def spawn(module: str, arguments: list[str], sock: socket.socket, *, keep: tuple[int, ...] = (),
          stderr: int | None = None) -> int:
    """Execute ``python -I -m module arguments`` with sock as descriptor 3; returns the pid.

    ``keep`` are further descriptors that stay open under their own numbers; ``stderr`` becomes standard error."""
    argv = [sys.executable, "-I", "-m", module, *arguments]
    actions: list[tuple[int, int, int]] = [(os.POSIX_SPAWN_DUP2, fd, fd) for fd in keep]
    target = os.dup(sock.fileno()) if sock.fileno() == 3 else sock.fileno()
    try:
        actions.append((os.POSIX_SPAWN_DUP2, target, 3))
        if stderr is not None:
            actions.append((os.POSIX_SPAWN_DUP2, stderr, 2))
        return os.posix_spawn(
            sys.executable, argv, environment(os.environ), file_actions=actions,
            setsigmask=(), setsigdef=(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE),
        )
    finally:
        if target != sock.fileno():
            os.close(target)


def kill(pid: int, number: signal.Signals) -> None:
    """A signal to a child that may be gone already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def cause(status: int) -> str:
    """How a child ended, in OpenSMTPD's words; status: of waitpid."""
    if os.WIFSIGNALED(status):
        return f"terminated; signal {os.WTERMSIG(status)}"
    return "exited okay" if os.WEXITSTATUS(status) == 0 else "exited abnormally"
