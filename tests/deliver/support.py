"""The two ends that delivery stands between: a worker in a process of its own, and mda between a queue and a parent."""

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

from pysmtpd.base.envelope import Agent, BounceKind, Envelope, Ret
from pysmtpd.base.logline import Level
from pysmtpd.base.mailaddr import parse
from pysmtpd.base.procs import Proc
from pysmtpd.conf.config import Action, Config, Limits, Method
from pysmtpd.imsg import CHUNK_MAX, Decoder, Encoder, Message
from pysmtpd.mda import Mda
from pysmtpd.messages import (
    BODY_WINDOW,
    BodyClose,
    BodyCredit,
    BodyOpen,
    Delivered,
    MdaWorkerExited,
    MdaWorkerRefused,
    MdaWorkerStart,
    MdaWorkerStarted,
    Outcome,
    QueueBody,
    QueueDeliver,
    Result,
    WorkerBody,
    WorkerDeliver,
    WorkerDelivered,
    WorkerKind,
)
from pysmtpd.privsep import spawn
from pysmtpd.privsep.log import Log
from pysmtpd.privsep.mproc import Peer
from pysmtpd.privsep.process import Birth

# Whom a worker of kind user may become: nobody as root, else the caller.
WHO = (65534, 65534) if os.getuid() == 0 else (os.getuid(), os.getgid())
BODY = b"Subject: x\r\n\r\nhello\r\n"


def ask_for(jobid: int, method: str, argument: str = "", **fields: object) -> WorkerDeliver:
    """A WorkerDeliver with everything else at a harmless value."""
    values: dict[str, object] = {
        "wrapper": "", "mbox_from": "a@example.org", "lmtp_from": "a@example.org", "lmtp_rcpt": "joe", "size": 0,
        "has_8bit": False, "junk": False, "extension": "", "environment": [("PATH", "/usr/bin:/bin")], "timeout": 30,
    }
    values.update(fields)
    return WorkerDeliver(jobid=jobid, method=method, argument=argument, **values)  # type: ignore[arg-type]


class WorkerEnd:
    """The mda's end of a worker."""

    def __init__(self, sock: socket.socket, pid: int, home: Path) -> None:
        self.sock, self.pid, self.home = sock, pid, home
        self.credit = 0
        self._encoder = Encoder(Proc.MDA, Proc.WORKER, os.getpid())
        self._decoder = Decoder(Proc.WORKER, Proc.MDA)
        self._messages: list[Message] = []
        self._status: int | None = None
        sock.settimeout(20)

    def send(self, *messages: Message) -> None:
        for message in messages:
            self.sock.sendall(self._encoder.encode(message))

    def receive(self) -> Message | None:
        """The next message, or None at the end."""
        while not self._messages:
            data = self.sock.recv(65536)
            if not data:
                return None
            self._messages += [frame.message for frame in self._decoder.feed(data)]
        return self._messages.pop(0)

    def result(self) -> WorkerDelivered:
        """The next result; credit that comes before it is added up."""
        while True:
            message = self.receive()
            assert message is not None, "the worker left"
            if isinstance(message, BodyCredit):
                self.credit += message.size
            else:
                assert isinstance(message, WorkerDelivered)
                return message

    def deliver(self, ask: WorkerDeliver, body: bytes = BODY) -> WorkerDelivered:
        """One whole delivery."""
        self.send(ask, WorkerBody(ask.jobid, body, True))
        result = self.result()
        assert result.jobid == ask.jobid
        return result

    def wait(self) -> int:
        """The worker's wait status, after its end."""
        if self._status is None:
            self._status = os.waitpid(self.pid, 0)[1]
        return self._status

    def close(self) -> None:
        self.sock.close()
        if self._status is None:
            os.kill(self.pid, signal.SIGTERM)
            self.wait()


def start(home: Path, mail: Path, kind: str = "user", *, who: tuple[int, int] = WHO, user: str = "joe") -> WorkerEnd:
    """Start a worker as the parent would."""
    mine, theirs = socket.socketpair()
    arguments = [str(who[0]), str(who[1]), str(home), user, kind, str(mail)]
    pid = spawn.spawn("pysmtpd.deliver.worker", arguments, theirs)
    theirs.close()
    return WorkerEnd(mine, pid, home)


def envelope(evpid: int = 0x1_0000_0001, **fields: object) -> Envelope:
    """An envelope for a local delivery; addresses may be given as text."""
    values: dict[str, object] = {
        "evpid": evpid, "agent": Agent.MDA, "action": "local", "sender": "a@example.org", "rcpt": "joe@example.com",
        "dest": "joe@example.com", "user": "joe", "command": "", "tag": "", "smtpname": "mx", "helo": "x",
        "hostname": "x", "username": "", "source": "local", "flags": 0, "ctime": 1_700_000_000, "ttl": 3600,
        "last_try": 0, "last_bounce": 0, "retry": 0, "notify": 0, "ret": Ret.NONE, "envid": "", "orcpt": "",
        "errorline": "", "esc": "", "bounce": BounceKind.NONE, "bounce_delay": 0,
    }
    values.update(fields)
    for name in ("sender", "rcpt", "dest"):
        if isinstance(values[name], str):
            values[name] = parse(str(values[name]))
    return Envelope(**values)  # type: ignore[arg-type]


def config(*actions: Action, wrappers: dict[str, str] | None = None, **limits: int) -> Config:
    """What mda is told of smtpd.conf."""
    return Config(hostname="mx", actions={one.name: one for one in actions}, wrappers=wrappers or {},
                  limits=Limits(**limits))


class Lines(Log):
    """A log that is kept."""

    def __init__(self) -> None:
        super().__init__(stderr=True, verbose=False)
        self.lines: list[str] = []

    def write(self, line: str, level: Level = Level.INFO) -> None:
        self.lines.append(line)


class End:
    """The far end of a peer of mda."""

    def __init__(self, mda: Mda, proc: Proc) -> None:
        near, self.sock = socket.socketpair()
        self.sock.setblocking(False)
        self._encoder = Encoder(proc, Proc.MDA, 1)
        self._decoder = Decoder(Proc.MDA, proc)
        self._out = bytearray()
        peer = Peer(mda, near, Proc.MDA, proc)
        peer.attach(mda.loop)
        mda._peers[proc] = [peer]

    def send(self, message: Message, fd: int | None = None) -> None:
        data = self._encoder.encode(message)
        if fd is None:
            self._out += data
            return
        assert not self._out
        socket.send_fds(self.sock, [data], [fd])
        os.close(fd)

    def flush(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._out:
                del self._out[: self.sock.send(self._out)]

    def receive(self) -> list[Message]:
        try:
            data = self.sock.recv(1 << 20)
        except BlockingIOError:
            return []
        return [frame.message for frame in self._decoder.feed(data)]


class House:
    """mda between a queue that knows some bodies and a parent that starts workers in ``home``."""

    def __init__(self, settings: Config, home: Path) -> None:
        self.loop = asyncio.SelectorEventLoop()
        self.bugs: list[object] = []
        self.loop.set_exception_handler(lambda _, context: self.bugs.append(context.get("exception")))
        self.log = Lines()
        self.mda = Mda(Birth(proc="mda", uid=0, gid=0, spool="", socket="", stderr=True, verbose=0), self.log)
        self.mda.loop = self.loop
        self.mda.config = settings
        self.mda.setup()
        self.mda.start()
        self.queue, self.parent = End(self.mda, Proc.QUEUE), End(self.mda, Proc.PARENT)
        self.home = home
        self.bodies: dict[int, bytes] = {}
        self.results: dict[int, Result] = {}
        self.seen: list[Message] = []  # all that mda sent
        self.workers: dict[int, int] = {}  # pid to reqid
        self.refuse: tuple[bool, str] | None = None
        self.fake: Callable[[int], socket.socket] | None = None  # in place of a real worker
        self._rest: dict[int, tuple[bytes, int]] = {}  # of a body: what is not sent, and the window

    def close(self) -> None:
        for pid in self.workers:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        for peers in (*self.mda._peers.values(), list(self.mda._by_peer)):
            for peer in peers:
                peer.close()
        self.queue.sock.close()
        self.parent.sock.close()
        self.loop.close()

    def deliver(self, one: Envelope, body: bytes = BODY, *, carried: bool = False) -> None:
        """Queue says: deliver this; carried: and here is its body."""
        self.bodies[one.evpid >> 32] = body
        self.queue.send(QueueDeliver(one, len(body), False, body if carried else b""))

    def run(self, until: Callable[[], object], seconds: float = 20.0) -> None:
        """Let everybody work until it is true."""
        end = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < end, (self.seen, self.log.lines)
            self.turn()

    def result(self, evpid: int = 0x1_0000_0001) -> Result:
        """How a delivery ended."""
        self.run(lambda: evpid in self.results)
        return self.results[evpid]

    def turn(self) -> None:
        self.queue.flush()
        self.parent.flush()
        self.loop.call_later(0.002, self.loop.stop)
        self.loop.run_forever()
        assert not self.bugs, self.bugs
        for message in self.queue.receive() + self.parent.receive():
            self.seen.append(message)
            self._answer(message)
        self._reap()

    def _answer(self, message: Message) -> None:
        match message:
            case BodyOpen(reqid, msgid):
                self._rest[reqid] = (self.bodies[msgid], BODY_WINDOW)
                self._more(reqid)
            case BodyCredit(reqid, size):
                rest, window = self._rest[reqid]
                self._rest[reqid] = (rest, window + size)
                self._more(reqid)
            case BodyClose(reqid):
                self._rest.pop(reqid, None)
            case Delivered(results):
                self.results.update({one.evpid: one for one in results})
            case MdaWorkerStart():
                self._start(message)

    def _more(self, reqid: int) -> None:
        rest, window = self._rest[reqid]
        while rest and window > 0:
            chunk, rest = rest[: min(window, CHUNK_MAX)], rest[min(window, CHUNK_MAX) :]
            window -= len(chunk)
            self.queue.send(QueueBody(reqid, chunk, not rest))
        self._rest[reqid] = (rest, window)

    def _start(self, message: MdaWorkerStart) -> None:
        if self.refuse is not None:
            self.parent.send(MdaWorkerRefused(message.reqid, *self.refuse))
        elif self.fake is not None:
            self.parent.send(MdaWorkerStarted(message.reqid, 1, str(self.home)), self.fake(message.reqid).detach())
        else:
            kind = "mbox" if message.kind is WorkerKind.MBOX else "user"
            end = start(self.home, self.home, kind, user=message.user)
            self.workers[end.pid] = message.reqid
            self.parent.send(MdaWorkerStarted(message.reqid, end.pid, str(self.home)), end.sock.detach())

    def _reap(self) -> None:
        for pid, reqid in list(self.workers.items()):
            gone, status = os.waitpid(pid, os.WNOHANG)
            if gone:
                del self.workers[pid]
                cause = "exited okay" if status == 0 else f"terminated; signal {os.WTERMSIG(status)}"
                self.parent.send(MdaWorkerExited(reqid, cause))


MAILDIR = Action(name="local", method=Method.MAILDIR, argument="~/Maildir")
OK = Outcome.OK
