"""Where log lines go: standard error with -d, the system's syslog otherwise.

Lines are gathered and written once per turn of the loop, never on the path of a reply.  syslog's socket is
opened before the jail; when it goes away (syslogd was restarted) the parent is asked for another one.
"""

import contextlib
import os
import socket
import time
from collections.abc import Callable

from pysmtpd.base.logline import Level

SYSLOG_PATHS = ("/dev/log", "/var/run/log", "/var/run/syslog")
FACILITY_MAIL = 2 << 3
IDENT = "smtpd"
LINE_MAX = 2048
BUFFER_MAX = 4096                  # lines; what comes beyond is counted and dropped


def open_syslog() -> socket.socket | None:
    """A datagram socket connected to syslogd, or None when there is none."""
    for path in SYSLOG_PATHS:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            sock.connect(path)
        except OSError:
            sock.close()
            continue
        sock.setblocking(False)
        return sock
    return None


class Log:
    """The log of one process."""

    def __init__(self, *, stderr: bool, verbose: bool) -> None:
        self.verbose = verbose
        self._stderr = stderr
        self._lines: list[tuple[Level, str]] = []
        self._dropped = 0
        self._defer: Callable[[Callable[[], None]], object] | None = None
        self._syslog = None if stderr else open_syslog()
        self.on_lost: Callable[[], None] = lambda: None

    def attach(self, defer: Callable[[Callable[[], None]], object]) -> None:
        """From now on write at the end of a turn: ``defer`` is the loop's call_soon."""
        self._defer = defer

    def replace(self, sock: socket.socket) -> None:
        """A fresh socket to syslogd, from the parent."""
        if self._syslog is not None:
            self._syslog.close()
        sock.setblocking(False)
        self._syslog = sock

    def write(self, line: str, level: Level = Level.INFO) -> None:
        """Queue one line.  Debug lines are dropped unless verbose."""
        if level is Level.DEBUG and not self.verbose:
            return
        if len(self._lines) >= BUFFER_MAX:
            self._dropped += 1
            return
        self._lines.append((level, line))
        if self._defer is None:
            self.flush()
        elif len(self._lines) == 1:
            self._defer(self.flush)

    def flush(self) -> None:
        """Write what is queued."""
        lines, self._lines = self._lines, []
        if self._dropped:
            lines.append((Level.ERR, f"warn: {self._dropped} log lines dropped"))
            self._dropped = 0
        if not lines:
            return
        if self._stderr:
            _write_all(2, "".join([f"{line}\n" for _, line in lines]).encode("utf-8", "replace"))
        elif self._syslog is not None:
            self._send(self._syslog, lines)

    def _send(self, sock: socket.socket, lines: list[tuple[Level, str]]) -> None:
        stamp = time.strftime("%b %e %H:%M:%S")
        for level, line in lines:
            text = f"<{FACILITY_MAIL | level}>{stamp} {IDENT}[{os.getpid()}]: {line[:LINE_MAX]}"
            try:
                sock.send(text.encode("utf-8", "replace"))
            except BlockingIOError:
                self._dropped += 1
            except OSError:
                self._dropped += 1
                self.on_lost()
                return


def _write_all(fd: int, data: bytes) -> None:
    # A log nobody reads any more must not stop the mail.
    with contextlib.suppress(BrokenPipeError, BlockingIOError):
        while data:
            data = data[os.write(fd, data) :]
