"""Where log lines go: standard error with -d, otherwise where ``log destination`` says, by default the system's syslog.

Lines are gathered and written once per turn of the loop, never on the path of a reply.  syslog's socket, or the file,
is opened before the jail; when the former goes away (syslogd was restarted) or was not there yet, the parent is asked
for another one, and what was to be said meanwhile is kept; when the latter is rotated (SIGHUP) the parent sends another
one.
"""

import contextlib
import errno
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
KEPT_MAX = 4096                    # likewise of those that wait for a syslogd
ASK_AGAIN = 1.0                    # seconds between two questions for one
SEND_AGAIN = 0.005                 # seconds until one that does not keep up is sent more: some take ten lines at once
STUCK = 0.1                        # likewise when it took nothing
NOBODY = 10.0                      # seconds until it is looked whether there is one, though nothing is said
LAST_WAIT = 0.5                    # seconds for the last lines of a process
FILE_MODE = 0o640

_BUSY = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM})

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
        self._kept: list[bytes] = []   # datagrams that nobody took
        self._asked = -ASK_AGAIN       # when on_lost was called last
        self._later: Callable[[float, Callable[[], None]], object] | None = None
        self._pushing = False          # soon, by the loop
        self._waiting = False          # for a syslogd, likewise
        self.on_lost: Callable[[], None] = lambda: None

    @property
    def has_reader(self) -> bool:
        """Whether somebody takes the lines now, as far as is known."""
        return self.to_stderr or self.file is not None or self._syslog is not None

    def configure(self, process: str, config: Config) -> None:
        """What the configuration says of it; a file comes by replace()."""
        self._process = process
        self._json = config.log_format == "json"
        self._host = config.hostname.partition(".")[0]
        if self._json:
            logline.keep_fields()
        if config.log_destination == "stderr":
            self.to_stderr = True

    def attach(self, defer: Callable[[Callable[[], None]], object],
               later: Callable[[float, Callable[[], None]], object] | None = None) -> None:
        """From now on write at the end of a turn: ``defer`` is the loop's call_soon, ``later`` its call_later."""
        self._defer, self._later = defer, later

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
            self._push()
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
        if self._dropped and len(self._kept) < KEPT_MAX:
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
        else:
            self._send(lines)

    def finish(self) -> None:
        """Write what is queued, before the process ends; a syslogd that does not keep up is waited for a little."""
        if self._syslog is not None:
            self._syslog.settimeout(LAST_WAIT)
        self._pushing, self._later = False, None
        self.flush()
        if self._kept:
            self._push()

    def _append(self, fd: int, lines: Queued) -> None:
        """As syslogd would write them, or JSON alone.  One write, so that the lines of two processes do not mix."""
        before = "" if self._json else f"{time.strftime('%b %e %H:%M:%S')} {self._host} {IDENT}[{os.getpid()}]: "
        try:
            _write_all(fd, "".join([f"{before}{line}\n" for _, line in lines]).encode("utf-8", "replace"))
        except OSError:
            self._dropped += len(lines)

    def _send(self, lines: Queued) -> None:
        stamp, most = time.strftime("%b %e %H:%M:%S"), JSON_MAX if self._json else LINE_MAX
        self._kept += [
            f"<{FACILITY_MAIL | level}>{stamp} {IDENT}[{os.getpid()}]: {line[:most]}".encode("utf-8", "replace")
            for level, line in lines
        ]
        if not self._pushing:
            self._push()
        elif len(self._kept) > KEPT_MAX:
            self._dropped += len(self._kept) - KEPT_MAX
            del self._kept[KEPT_MAX:]

    def _push(self) -> None:
        """Send what is kept; what nobody takes stays, with the time at which it was said."""
        self._pushing = False
        sent = 0
        for datagram in self._kept:
            if not self._sent(datagram):
                break
            sent += 1
        del self._kept[:sent]
        self._dropped += max(0, len(self._kept) - KEPT_MAX)
        del self._kept[KEPT_MAX:]
        if self._kept:
            self._go_on(SEND_AGAIN if sent else STUCK)

    def _go_on(self, pause: float) -> None:
        now = time.monotonic()
        if self._syslog is None:
            if now - self._asked >= ASK_AGAIN:
                self._asked = now
                self.on_lost()
            if self._syslog is None and self._later is not None and not self._waiting:
                self._waiting = True
                self._later(NOBODY, self._look)
        elif self._later is not None:
            self._pushing = True
            self._later(pause, self._push)

    def _look(self) -> None:
        self._waiting = False
        if self._kept and not self._pushing:
            self._push()

    def _sent(self, datagram: bytes) -> bool:
        """False when nobody takes it now."""
        if self._syslog is None:
            return False
        try:
            self._syslog.send(datagram)
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                self._dropped += 1
                return True
            if error.errno not in _BUSY:
                self._syslog.close()
                self._syslog = None
            return False
        return True


def _write_all(fd: int, data: bytes) -> None:
    # A log nobody reads any more must not stop the mail.
    with contextlib.suppress(BrokenPipeError, BlockingIOError):
        while data:
            data = data[os.write(fd, data) :]
