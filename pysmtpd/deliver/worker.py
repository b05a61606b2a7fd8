"""``python -I -m pysmtpd.deliver.worker UID GID HOME USER KIND MAILDIR``: the child that becomes the recipient.

It begins as root, imports what it will ever need, becomes the user for good, and then does one delivery after another
as mda tells it over descriptor 3.  From then on the user owns it, and mda believes it nothing but how a delivery of
this user ended.  It leaves when mda does, or after a few idle seconds.

A worker of the kind ``mbox`` delivers into MAILDIR/USER and nowhere else, whatever it is told: it may be root's.
"""

import contextlib
import os
import resource
import select
import socket
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, NoReturn

from pysmtpd.base.date import Zone, ctime
from pysmtpd.base.procs import Proc
from pysmtpd.deliver.command import Command
from pysmtpd.deliver.lmtp import Lmtp
from pysmtpd.deliver.maildir import open_maildir
from pysmtpd.deliver.mbox import Mbox
from pysmtpd.deliver.verdict import Failed, Gone, Sink, Verdict, permfail, tempfail
from pysmtpd.imsg import Decoder, Encoder, ImsgError, Message
from pysmtpd.messages import BodyCredit, Outcome, WorkerBody, WorkerDeliver, WorkerDelivered
from pysmtpd.privsep import jail
from pysmtpd.privsep.title import set_title
from pysmtpd.session.client_commands import Recipient, Transaction

MDA_FD = 3
IDLE_TIMEOUT = 5.0                 # seconds without a delivery
STALL_TIMEOUT = 300.0              # seconds without the next piece of a body
READ_SIZE = 65536
FALLBACK_DIRECTORY = "/"
FD_MAX = 65536


class Identity(NamedTuple):
    """Whom to become, and what for."""

    uid: int
    gid: int
    home: str
    user: str
    kind: str                      # user or mbox
    mail_directory: str

    @property
    def mailbox(self) -> str:
        return f"{self.mail_directory}/{self.user}"


def parse(arguments: list[str]) -> Identity:
    """The command line.  Raises ValueError."""
    uid, gid, home, user, kind, mail_directory = arguments
    if kind not in ("user", "mbox"):
        raise ValueError(f"there is no worker of kind {kind}")
    if "/" in user or user in ("", ".", "..") or "\0" in user:
        raise ValueError(f"{user!r} names no mailbox")
    return Identity(int(uid), int(gid), home, user, kind, mail_directory)


def become(identity: Identity) -> None:
    """Give up root for good.  Raises OSError or JailError; then the worker must end."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(PermissionError):
        os.setsid()
    _silence()
    if os.geteuid() == 0:
        if identity.uid == 0:
            if identity.kind != "mbox":
                raise jail.JailError("a delivery as root")
            os.setgroups([identity.gid])
            os.setresgid(identity.gid, identity.gid, identity.gid)
        else:
            jail.drop(identity.uid, identity.gid)
    try:
        os.chdir(identity.home)
    except OSError:
        os.chdir(FALLBACK_DIRECTORY)


def _silence() -> None:
    """The daemon's standard descriptors, perhaps a terminal, are not the user's to write to; nor is whatever else the
    daemon was started with."""
    os.closerange(MDA_FD + 1, FD_MAX)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)


class Worker:
    """Deliveries, one after the other."""

    def __init__(self, identity: Identity, sock: socket.socket) -> None:
        self._identity = identity
        self._sock = sock
        self._encoder = Encoder(Proc.WORKER, Proc.MDA, os.getpid())
        self._decoder = Decoder(Proc.MDA, Proc.WORKER)
        self._jobid = 0                # of the delivery whose body still comes, or 0
        self._sink: Sink | None = None  # None while the rest of a body is thrown away
        self._zone = _zone()
        self._sinks: dict[str, Callable[[WorkerDeliver], Sink]] = {
            "maildir": self._maildir, "mbox": self._mbox, "file": self._file, "lmtp": self._lmtp, "mda": self._mda,
        }

    def run(self) -> None:
        """Serve until mda leaves, or there was nothing to do for a while.  Raises ImsgError for a bad frame."""
        try:
            while data := self._read():
                for frame in self._decoder.feed(data):
                    self._handle(frame.message)
        except (Gone, ConnectionError, TimeoutError):
            pass
        finally:
            if self._sink is not None:
                self._sink.abort()

    def failed(self, what: str) -> None:
        """A bug: tell mda before the end."""
        if self._jobid:
            with contextlib.suppress(OSError, ImsgError):
                self._done(Verdict(Outcome.TEMPFAIL, "4.3.0", what.encode()))

    def _read(self) -> bytes:
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        if not poll.poll((STALL_TIMEOUT if self._jobid else IDLE_TIMEOUT) * 1000):
            return b""
        return self._sock.recv(READ_SIZE)

    def _send(self, message: Message) -> None:
        self._sock.sendall(self._encoder.encode(message))

    def _handle(self, message: Message) -> None:
        if isinstance(message, WorkerDeliver):
            self._deliver(message)
        elif isinstance(message, WorkerBody):
            self._body(message)

    def _deliver(self, ask: WorkerDeliver) -> None:
        if self._jobid:
            raise ImsgError("WorkerDeliver: before the last body was complete")
        self._jobid = ask.jobid
        try:
            self._sink = self._open(ask)
        except Failed as failed:
            self._done(failed.verdict)

    def _open(self, ask: WorkerDeliver) -> Sink:
        make = self._sinks.get(ask.method)
        if make is None or (self._identity.kind == "mbox" and ask.method != "mbox"):
            raise permfail("5.3.5", f"no {ask.method} delivery by this worker")
        if ask.wrapper and self._identity.kind == "mbox":
            raise permfail("5.3.5", "no wrapper in this worker")
        sink = make(ask)
        if not ask.wrapper:
            return sink
        return Command(ask.wrapper, dict(ask.environment), timeout=ask.timeout, watch=self._sock.fileno(), inner=sink)

    def _body(self, piece: WorkerBody) -> None:
        if piece.jobid != self._jobid:
            raise ImsgError("WorkerBody: of no delivery")
        try:
            self._feed(piece)
        except Failed as failed:
            self._sink = None
            self._done(failed.verdict)
        if piece.last or piece.abort:
            self._jobid = 0
        elif self._sink is not None:
            self._send(BodyCredit(piece.jobid, len(piece.chunk)))

    def _feed(self, piece: WorkerBody) -> None:
        if self._sink is None:
            return
        if piece.abort:
            sink, self._sink = self._sink, None
            sink.abort()
            self._done(Verdict(Outcome.TEMPFAIL, "4.3.0", b"Error reading body"))
            return
        self._sink.write(piece.chunk)
        if piece.last:
            sink, self._sink = self._sink, None
            self._done(sink.finish())

    def _done(self, verdict: Verdict) -> None:
        self._send(WorkerDelivered(self._jobid, verdict.outcome, verdict.esc, verdict.text[:1024]))

    # the methods

    def _maildir(self, ask: WorkerDeliver) -> Sink:
        path = ask.argument or f"{self._identity.home}/Maildir"
        token = int.from_bytes(os.urandom(8), "big")
        return open_maildir(path, int(time.time()), token, extension=ask.extension, junk=ask.junk,
                            binary=ask.binary)

    def _mbox(self, ask: WorkerDeliver) -> Sink:
        return Mbox(self._identity.mailbox, self._from_line(ask), owned=True)

    def _file(self, ask: WorkerDeliver) -> Sink:
        return Mbox(ask.argument, self._from_line(ask), owned=False)

    def _from_line(self, ask: WorkerDeliver) -> str:
        return f"{ask.mbox_from} {ctime(int(time.time()), self._zone)}"

    def _lmtp(self, ask: WorkerDeliver) -> Sink:
        tx = Transaction(ask.lmtp_from, (Recipient(ask.lmtp_rcpt),), ask.size, ask.has_8bit, binary=ask.binary,
                         smtputf8=not (ask.lmtp_from + ask.lmtp_rcpt).isascii())
        return Lmtp(ask.argument, tx, timeout=ask.timeout, watch=self._sock.fileno())

    def _mda(self, ask: WorkerDeliver) -> Sink:
        if not ask.argument:
            raise tempfail("4.3.5", "no command")
        return Command(ask.argument, dict(ask.environment), timeout=ask.timeout, watch=self._sock.fileno(),
                       binary=ask.binary)


def _zone() -> Zone:
    local = time.localtime()
    return Zone(local.tm_gmtoff, local.tm_zone)


def main() -> NoReturn:
    """All of a worker's life."""
    identity = parse(sys.argv[1:])
    set_title(f"pysmtpd: worker {identity.user}")
    sock = socket.socket(fileno=MDA_FD)
    os.set_inheritable(MDA_FD, False)
    sock.settimeout(STALL_TIMEOUT)
    worker = Worker(identity, sock)

    def bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        # The modules that print tracebacks may be out of reach by now.
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        where = f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}" if trace else "?"
        worker.failed(f"bug: {kind.__name__} in {where}: {error}")
        os._exit(1)

    sys.excepthook = bug
    become(identity)
    worker.run()
    os._exit(0)


if __name__ == "__main__":
    main()
