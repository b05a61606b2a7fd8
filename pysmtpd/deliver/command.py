"""mda: a command of the shell that gets the message on its standard input.

It runs in a session of its own, with default signals, exactly the environment given, and nothing open but its three
standard descriptors.  Its exit status is the result, as sysexits.h has it; of all it prints only the last line is kept.
A wrapper gets the message the same way, and what it hands to its ``%{mda}`` comes back on a further pipe and goes
where the action says.
"""

import contextlib
import fcntl
import os
import select
import signal
import time
from collections.abc import Mapping

from pysmtpd.deliver.lines import Newlines, Verbatim
from pysmtpd.deliver.verdict import DELIVERED, TEXT_MAX, Failed, Gone, Sink, Verdict, of_error, permfail, tempfail

SHELL = "/bin/sh"
GRACE = 5.0                        # seconds between SIGTERM and SIGKILL
READ_SIZE = 65536
INNER_FD = 3                       # where the inside of a wrapper writes
# The empty line says that the wrapper came as far as this: one that swallows a message on purpose does not.
INNER_COMMAND = f"{{ echo; cat; }} >&{INNER_FD}"
TICK = 0.1                         # seconds; how often to look for the end of a child where there are no pidfds

EX_OSERR, EX_TEMPFAIL = 71, 75
SHELL_SIGNALED = 128               # what a shell adds to the number of the signal that ended its last command
SIGNALS_MAX = 31
SYSEXITS = {
    64: "command line usage error", 65: "data format error", 66: "cannot open input", 67: "user unknown",
    68: "host name unknown", 69: "service unavailable", 70: "internal software error", 71: "system resource problem",
    72: "critical OS file missing", 73: "can't create user output file", 74: "input/output error",
    75: "temporary failure", 76: "remote error in protocol", 77: "permission denied", 78: "local configuration error",
}
_HANGUP = getattr(select, "POLLRDHUP", 0)
_SIGNALS = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}


def verdict_of(status: int, *, all_read: bool, last_words: bytes) -> Verdict:
    """What a wait status means.  A command that did not read all of the message has not delivered it."""
    said = b'"' + last_words + b'"' if last_words else b""
    code = os.waitstatus_to_exitcode(status)
    ended_by = -code if code < 0 else code - SHELL_SIGNALED
    if 0 < ended_by <= SIGNALS_MAX or code < 0:
        # Out of memory, or killed by hand: nobody has judged the message.
        return tempfail("4.3.0", said or f"terminated; signal {ended_by}".encode()).verdict
    if code == 0:
        return DELIVERED if all_read else tempfail("4.3.0", "mda exited prematurely").verdict
    text = said or b"exited abnormally"
    if code in SYSEXITS:
        text = SYSEXITS[code].encode() + b": " + text
    if code in (EX_OSERR, EX_TEMPFAIL):
        return tempfail("4.3.0", text).verdict
    return permfail("5.3.0", text).verdict


class Command:
    """A command that runs and gets a message.

    ``watch`` is a socket whose end means that nobody wants the result any more: Gone is raised then.  ``inner`` is
    where the output of a wrapper goes.  Raises Failed; the command is dead then."""

    def __init__(self, command: str, environment: Mapping[str, str], *, timeout: float, watch: int = -1,
                 inner: Sink | None = None, binary: bool = False) -> None:
        self._deadline = time.monotonic() + timeout
        self._watch = watch
        self._inner = Inner(inner) if inner is not None else None
        self._lines = Verbatim() if binary else Newlines()
        self._last = b""
        self._status: int | None = None
        self._all_read = True
        self._stdin, self._output, self._inside = -1, -1, -1
        try:
            self._pid = self._start(command, environment)
        except OSError as error:
            self._undo()
            raise of_error(SHELL, error) from None
        self._pidfd = os.pidfd_open(self._pid) if hasattr(os, "pidfd_open") else -1

    def _start(self, command: str, environment: Mapping[str, str]) -> int:
        theirs: list[int] = []
        try:
            stdin, self._stdin = _pipe()
            theirs.append(stdin)
            self._output, output = _pipe()
            theirs.append(output)
            actions = [(os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, output, 1),
                       (os.POSIX_SPAWN_DUP2, output, 2)]
            if self._inner is not None:
                self._inside, inside = _pipe()
                theirs.append(inside)
                actions.append((os.POSIX_SPAWN_DUP2, inside, INNER_FD))
            for fd in (self._stdin, self._output, self._inside):
                if fd >= 0:
                    os.set_blocking(fd, False)
            return os.posix_spawn(SHELL, [SHELL, "-c", command], environment, file_actions=actions, setsid=True,
                                  setsigmask=(), setsigdef=_SIGNALS)
        finally:
            for fd in theirs:
                os.close(fd)

    def write(self, chunk: bytes) -> None:
        self._feed(self._lines.convert(chunk))

    def _feed(self, data: bytes) -> None:
        view = memoryview(data)
        while view and self._all_read:
            view = view[self._write_some(view) :]
            if view and self._all_read:
                self._turn(writing=True)

    def _write_some(self, view: memoryview) -> int:
        try:
            return os.write(self._stdin, view) if self._status is None else self._unread()
        except BlockingIOError:
            return 0
        except BrokenPipeError:
            return self._unread()

    def _unread(self) -> int:
        self._all_read = False
        return 0

    def finish(self) -> Verdict:
        self._feed(self._lines.end())
        os.close(self._stdin)
        self._stdin = -1
        while self._status is None or self._inside >= 0:
            self._turn()
        self._read_output()
        verdict = verdict_of(self._status, all_read=self._all_read, last_words=self.last_words)
        self._close()
        if self._inner is None:
            return verdict
        return self._inner.finish(verdict)

    def abort(self) -> None:
        self._kill()
        self._undo()

    def _undo(self) -> None:
        self._close()
        if self._inner is not None:
            self._inner.abort()

    @property
    def last_words(self) -> bytes:
        """The last line that was printed."""
        return self._last.rstrip().rpartition(b"\n")[2].strip()[:TEXT_MAX]

    def _turn(self, *, writing: bool = False) -> None:
        """Wait for anything to happen, and take note of it."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            self.abort()
            raise tempfail("4.3.0", "terminated; timeout")
        poll = select.poll()
        if writing:
            poll.register(self._stdin, select.POLLOUT)
        for fd in (self._output, self._inside, self._pidfd if self._status is None else -1):
            if fd >= 0:
                poll.register(fd, select.POLLIN)
        if self._watch >= 0:
            poll.register(self._watch, _HANGUP)
        wait = left if self._pidfd >= 0 else min(left, TICK)
        ready = dict(poll.poll(wait * 1000))
        if self._watch in ready:
            self.abort()
            raise Gone
        if self._output in ready:
            self._read_output()
        if self._inside in ready:
            self._read_inside()
        self._reap()

    def _reap(self) -> bool:
        if self._status is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self._status = status
                # What still holds the pipe of a wrapper open gets a moment, not the rest of the time.
                self._deadline = min(self._deadline, time.monotonic() + GRACE)
        return self._status is not None

    def _read_output(self) -> None:
        data = _read(self._output)
        if data == b"":
            os.close(self._output)
            self._output = -1
        elif data is not None:
            self._last = (self._last + data)[-4 * TEXT_MAX :]

    def _read_inside(self) -> None:
        data = _read(self._inside)
        if data is None or self._inner is None:
            return
        try:
            self._inner.write(data)
        except Failed:
            self._kill()
            self._close()
            raise
        if not data:
            os.close(self._inside)
            self._inside = -1

    def _kill(self) -> None:
        """End the command and whatever stayed in its process group."""
        if self._status is not None:
            return
        self._signal(signal.SIGTERM)
        end = time.monotonic() + GRACE
        # Not reaped before the last signal, so that the number still means this group.
        while time.monotonic() < end and not os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            time.sleep(0.01)
        self._signal(signal.SIGKILL)
        end = time.monotonic() + GRACE
        while time.monotonic() < end and not self._reap():
            time.sleep(0.01)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, number)

    def _close(self) -> None:
        for fd in (self._stdin, self._output, self._inside, self._pidfd):
            if fd >= 0:
                os.close(fd)
        self._stdin = self._output = self._inside = self._pidfd = -1


class Inner:
    """What comes out of a wrapper, on its way to where the action delivers."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._lines = Newlines()
        self._mark = False
        self._size = 0

    def write(self, data: bytes) -> None:
        if data and not self._mark:
            self._mark, data = True, data[1:]
        self._size += len(data)
        if data:
            self._sink.write(self._lines.convert(data).replace(b"\n", b"\r\n"))

    def finish(self, verdict: Verdict) -> Verdict:
        """The verdict on the wrapper decides first."""
        if verdict is DELIVERED and self._size:
            return self._sink.finish()
        self._sink.abort()
        if verdict is DELIVERED and self._mark:
            return tempfail("4.3.0", "the wrapper passed on nothing").verdict
        return verdict

    def abort(self) -> None:
        self._sink.abort()


def _pipe() -> tuple[int, int]:
    """A pipe above the descriptors that a command gets, closed on exec."""
    ends = []
    for fd in os.pipe():
        ends.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, INNER_FD + 1))
        os.close(fd)
    return ends[0], ends[1]


def _read(fd: int) -> bytes | None:
    """What there is; None when there is nothing now."""
    if fd < 0:
        return None
    try:
        return os.read(fd, READ_SIZE)
    except BlockingIOError:
        return None
