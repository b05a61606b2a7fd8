"""Where log lines go: standard error with -d, otherwise where ``log destination`` says, by default the system's syslog.

Lines are gathered and written once per turn of the loop, never on the path of a reply.  syslog's socket, or the file,
is opened before the jail; when the former goes away (syslogd was restarted) the parent is asked for another one, and
when the latter is rotated (SIGHUP) the parent sends another one.
"""

import contextlib
import os
import socket
import stat
import time
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from pysmtpd.base import logline
from pysmtpd.base.logline import Level, Line
from pysmtpd.conf.config import Config

SYSLOG_PATHS = ("/dev/log", "/var/run/log", "/var/run/syslog")
FACILITY_MAIL = 2 << 3
IDENT = "smtpd"
LINE_MAX = 2048                    # characters of a datagram to syslog
JSON_MAX = 8000                    # likewise: cut, it would be no JSON any more
BUFFER_MAX = 4096                  # lines; what comes beyond is counted and dropped
FILE_MODE = 0o640

Queued = list[tuple[Level, str]]


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


def open_file(path: str) -> int:
    """The file of the log, to append to.  Raises OSError, also for what is no regular file."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(path, flags, FILE_MODE)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(0, "is not a regular file")
    return fd


def as_json(line: str, level: Level, process: str, now: float) -> str:
    """One object on one line: what every line has, then the fields of a declared one, then its text."""
    made: dict[str, str | int] = {
        "time": datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds"), "level": level.name.lower(),
        "process": process, "pid": os.getpid(),
    }
    if isinstance(line, Line):
        made |= {"event": line.event, **line.fields}
    made["text"] = str(line)       # msgspec knows no subclass of str
    return msgspec.json.encode(made).decode()


class Log:
    """The log of one process."""

    def __init__(self, *, stderr: bool, verbose: bool) -> None:
        """stderr: nothing else, whatever the configuration says."""
        self.verbose = verbose
        self.to_stderr = stderr
        self.file: int | None = None
        self._process = ""
        self._json = False
        self._host = ""
        self._lines: Queued = []
        self._dropped = 0
        self._defer: Callable[[Callable[[], None]], object] | None = None
        self._syslog = None if stderr else open_syslog()
        self.on_lost: Callable[[], None] = lambda: None

    def configure(self, process: str, config: Config) -> None:
        """What the configuration says of it; a file comes by replace()."""
        self._process = process
        self._json = config.log_format == "json"
        self._host = config.hostname.partition(".")[0]
        if self._json:
            logline.keep_fields()
        if config.log_destination == "stderr":
            self.to_stderr = True

    def attach(self, defer: Callable[[Callable[[], None]], object]) -> None:
        """From now on write at the end of a turn: ``defer`` is the loop's call_soon."""
        self._defer = defer

    def replace(self, fd: int) -> None:
        """A fresh socket to syslogd, or file, from the parent."""
        if self._syslog is not None:
            self._syslog.close()
            self._syslog = None
        if self.file is not None:
            os.close(self.file)
            self.file = None
        if stat.S_ISSOCK(os.fstat(fd).st_mode):
            self._syslog = socket.socket(fileno=fd)
            self._syslog.setblocking(False)
        else:
            self.file = fd

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
        if self._json:
            now = time.time()
            lines = [(level, as_json(line, level, self._process, now)) for level, line in lines]
        if self.to_stderr:
            _write_all(2, "".join([f"{line}\n" for _, line in lines]).encode("utf-8", "replace"))
        elif self.file is not None:
            self._append(self.file, lines)
        elif self._syslog is not None:
            self._send(self._syslog, lines)

    def _append(self, fd: int, lines: Queued) -> None:
        """As syslogd would write them, or JSON alone.  One write, so that the lines of two processes do not mix."""
        before = "" if self._json else f"{time.strftime('%b %e %H:%M:%S')} {self._host} {IDENT}[{os.getpid()}]: "
        try:
            _write_all(fd, "".join([f"{before}{line}\n" for _, line in lines]).encode("utf-8", "replace"))
        except OSError:
            self._dropped += len(lines)

    def _send(self, sock: socket.socket, lines: Queued) -> None:
        stamp, most = time.strftime("%b %e %H:%M:%S"), JSON_MAX if self._json else LINE_MAX
        for level, line in lines:
            text = f"<{FACILITY_MAIL | level}>{stamp} {IDENT}[{os.getpid()}]: {line[:most]}"
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
