"""The key of an encrypted queue that does not stand in smtpd.conf: read from standard input, or asked for.

Only the process conf does this, and it sends the key to queue alone."""

import os
import select
import sys
import termios
import time

from pysmtpd.privsep.startup import StartError

KEY_SIZE = 32                      # octets
LINE_MAX = 1024


def read_key(*, stdin: bool, timeout: float, fd: int = 0) -> str:
    """One line without its end.  Without stdin a terminal is needed, and it does not show what is typed.

    Raises StartError."""
    if not stdin and not os.isatty(fd):
        raise StartError("queue encryption: smtpd.conf has no key, and there is no terminal to ask for it; "
                         'write: queue encryption "stdin"')
    key = _line(fd, timeout) if stdin else _asked(fd, timeout)
    if len(key) != KEY_SIZE:
        raise StartError(f"invalid key for queue encryption: it must be exactly {KEY_SIZE} octets, this has {len(key)}")
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise StartError("invalid key for queue encryption: it is not UTF-8") from None


def _asked(fd: int, timeout: float) -> bytes:
    before = termios.tcgetattr(fd)
    silent = termios.tcgetattr(fd)
    silent[3] &= ~termios.ECHO
    sys.stderr.write("queue key: ")
    sys.stderr.flush()
    try:
        termios.tcsetattr(fd, termios.TCSAFLUSH, silent)
        return _line(fd, timeout)
    finally:
        termios.tcsetattr(fd, termios.TCSAFLUSH, before)
        sys.stderr.write("\n")


def _line(fd: int, timeout: float) -> bytes:
    end = time.monotonic() + timeout
    got = b""
    while b"\n" not in got and len(got) < LINE_MAX:
        ready, _, _ = select.select([fd], [], [], max(0.0, end - time.monotonic()))
        if not ready:
            raise StartError(f"queue encryption: no key within {timeout:.0f}s")
        piece = os.read(fd, LINE_MAX)
        if not piece:
            break
        got += piece
    return got.partition(b"\n")[0]
