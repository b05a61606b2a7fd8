"""What every process is: a table of handlers, a set-up, a jail, and a loop.

The order is always the same: preload (imports, codecs; as root), set-up messages from the parent, the view
of the configuration from conf, setup(), the jail, start(), the loop.  A subclass handles exactly the messages
whose routes lead to its process; that is checked when the class is made.
"""

import asyncio
import gc
import os
import random
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, ClassVar, NoReturn, TypeVar

import setproctitle

from pysmtpd.base.date import Zone
from pysmtpd.base.logline import Level
from pysmtpd.base.paths import Paths
from pysmtpd.base.procs import PROCS, Jail, Proc
from pysmtpd.base.stats import Stats
from pysmtpd.base.struct import Frozen
from pysmtpd.base.trace import Trace
from pysmtpd.conf import config as conf_config
from pysmtpd.conf.config import Config
from pysmtpd.imsg import Frame, ImsgError, Message, routes_to
from pysmtpd.messages import (
    ConfView,
    CtlDone,
    CtlStats,
    CtlStatsTold,
    CtlTrace,
    LogReopen,
    LogSocket,
    SetupDone,
    SetupPeer,
    SetupReady,
    Shutdown,
)
from pysmtpd.privsep import jail
from pysmtpd.privsep.log import Log
from pysmtpd.privsep.loop import Loop
from pysmtpd.privsep.mproc import Peer

PARENT_FD = 3
SETUP_TIMEOUT = 10.0
_FRAMES = Trace.MPROC | Trace.IMSG
_LEFT_TO_PROCESS = {SetupPeer, ConfView, SetupDone, LogSocket, Shutdown, CtlTrace, CtlStats}

Handler = Callable[[Any, Peer, Any], None]
H = TypeVar("H", bound=Callable[..., None])


def handles(*kinds: type[Message]) -> Callable[[H], H]:
    """Mark a method as the handler of these messages."""

    def mark(method: H) -> H:
        method.__handles__ = kinds  # type: ignore[attr-defined]
        return method

    return mark


class Birth(Frozen):
    """What the parent tells a process on its command line: nothing secret."""

    proc: str
    uid: int
    gid: int
    spool: str
    socket: str
    stderr: bool
    verbose: int
    index: int = 0


def die(text: str) -> NoReturn:
    """End this process; the parent takes the daemon down in order."""
    sys.stderr.write(text + "\n")
    os._exit(1)


def receive_view(conf: Peer) -> Config:
    """The configuration, as the process conf sends it.  Raises ImsgError, TimeoutError."""
    pieces: list[bytes] = []
    while True:
        for frame in conf.receive_now():
            if not isinstance(frame.message, ConfView):
                raise ImsgError(f"{type(frame.message).__name__}: not now")
            pieces.append(frame.message.chunk)
            if frame.message.last:
                return conf_config.decode(b"".join(pieces))


class Process:
    """The base of every process."""

    ME: ClassVar[Proc]
    _handlers: ClassVar[dict[type[Message], Handler]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "ME" not in cls.__dict__:
            return
        found: dict[type[Message], Handler] = {}
        for name in dir(cls):
            method = getattr(cls, name)
            for kind in getattr(method, "__handles__", ()):
                found[kind] = method
        wanted = routes_to(cls.ME) - _LEFT_TO_PROCESS
        if found.keys() != wanted:
            wrong = sorted(kind.__name__ for kind in found.keys() ^ wanted)
            raise TypeError(f"{cls.__name__}: handlers and routes differ in {', '.join(wrong)}")
        cls._handlers = found

    def __init__(self, birth: Birth, log: Log) -> None:
        self.birth = birth
        self.index = birth.index
        self.paths = Paths(birth.spool, birth.socket)
        self.stats = Stats()
        self.random = random.SystemRandom()
        self.traces = birth.verbose  # Trace bits
        self.config: Config = Config(hostname="")
        self.paused: set[str] = set()
        self.zone = Zone(0, "UTC")
        self.loop: asyncio.AbstractEventLoop
        self._log = log
        self._peers: dict[Proc, list[Peer]] = {}
        self._reqid = self.random.getrandbits(31) << 32
        self._status = 0
        self._leaving = False

    # for subclasses to override

    def preload(self) -> None:
        """Import and warm everything that will ever be needed: nothing can be imported from inside the jail."""

    def setup(self) -> None:
        """The last work with privileges; self.config is there."""

    def start(self) -> None:
        """In the jail; the loop is about to run."""

    def drain(self) -> None:
        """The daemon stops: finish what is in hand, then leave()."""
        self.leave()

    def lost(self, peer: Peer, reason: str) -> None:
        """An untrusted peer is gone."""

    # for subclasses to use

    def now(self) -> int:
        """Seconds since the epoch."""
        return int(time.time())

    def new_reqid(self) -> int:
        """An id not given before, hard to guess, never 0."""
        self._reqid = (self._reqid + (1 << 32)) & 0x7FFFFFFF_FFFFFFFF
        return self._reqid | self.random.getrandbits(32) | 1

    def log(self, line: str, level: Level = Level.INFO) -> None:
        self._log.write(line, level)

    def trace(self, bit: Trace, text: str) -> None:
        """A debug line, when this subject is traced."""
        if self.traces & bit:
            self._log.write(f"{bit.name.lower()}: {text}", Level.DEBUG)

    def bug(self, what: str) -> None:
        """Log the exception being handled: one session fails, the process goes on."""
        self.log(f"bug: {what}: {traceback.format_exc(limit=-8).replace(chr(10), ' | ')}", Level.CRIT)

    def peer(self, proc: Proc) -> Peer:
        """The peer of a process of which there is one."""
        return self._peers[proc][0]

    def peers(self, proc: Proc) -> list[Peer]:
        return self._peers.get(proc, [])

    def adopt(self, sock: socket.socket, proc: Proc, index: int = 0) -> Peer:
        """A connected socket becomes a peer."""
        peer = Peer(self, sock, self.ME, proc, index)
        peer.attach(self.loop)
        return peer

    def leave(self, status: int = 0) -> None:
        """End the loop after this turn."""
        self._status = self._status or status
        self._leaving = True
        self.loop.call_soon(self.loop.stop)

    # peers

    def peer_frame(self, peer: Peer, frame: Frame) -> None:
        message = frame.message
        if self.traces and self.traces & _FRAMES:
            self._trace_frame(peer, frame)
        handler = self._handlers.get(type(message))
        if handler is not None:
            handler(self, peer, message)
        else:
            self._runtime_message(peer, message)

    def _trace_frame(self, peer: Peer, frame: Frame) -> None:
        """Names and ids only: what a message carries may be a secret."""
        name = type(frame.message).__name__
        self.trace(Trace.MPROC, f"{peer.proc.value} -> {self.ME.value} : {name}")
        self.trace(Trace.IMSG, f"{peer.proc.value} -> {self.ME.value} : {frame.spec.number:#06x} {name} "
                               f"reqid={getattr(frame.message, 'reqid', 0):016x} pid={frame.pid}")

    def set_traces(self, traces: int) -> None:
        """What is traced from now on: Trace bits."""
        self.traces = traces
        self._log.verbose = bool(traces)
        self.stats.tell = (lambda text: self.trace(Trace.STAT, text)) if traces & Trace.STAT else None

    def peer_lost(self, peer: Peer, reason: str) -> None:
        if peer.proc in (Proc.WORKER, Proc.CLIENT, Proc.AUTH):
            self.lost(peer, reason)
        elif reason != "socket closed":
            self.fatal(f"process {peer.proc.value} {reason}")
        elif peer.proc is Proc.PARENT:
            # Nobody is left to work for: leave at once, whatever is not committed was not promised.
            self._log.finish()
            os._exit(0 if self._leaving else 1)
        # Any other process that went away is the parent's to deal with.

    def _runtime_message(self, peer: Peer, message: Message) -> None:
        if isinstance(message, Shutdown):
            self._leaving = True
            self.drain()
        elif isinstance(message, CtlTrace):
            self.set_traces((self.traces | message.on) & ~message.off)
            peer.send(CtlDone(message.reqid, True, ""))
        elif isinstance(message, CtlStats):
            self.tell_stats()
            peer.send(CtlStatsTold(message.reqid, sorted((k, max(v, 0)) for k, v in self.stats.values.items())))
        elif isinstance(message, LogSocket):
            self._log.replace(peer.claim_fd())
        else:
            raise ImsgError(f"{type(message).__name__}: not now")

    def tell_stats(self) -> None:
        """Bring counters up to date that are only computed when asked for."""

    def fatal(self, text: str) -> NoReturn:
        """Log, and end this process at once."""
        self.log(f"{self.ME.value}: {text}", Level.CRIT)
        self._log.finish()
        os._exit(1)

    # life

    def run(self) -> NoReturn:
        """All of a process's life after exec, to its exit."""
        os.umask(0o077)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        title = f"pysmtpd: {self.ME.value}" + (f" {self.index}" if self.index else "")
        setproctitle.setproctitle(title)
        try:
            self._prepare()
            self._enter_jail()
            self._loop()
        except (ImsgError, OSError, jail.JailError) as error:
            self.fatal(str(error))
        self._log.finish()
        os._exit(self._status)

    def _prepare(self) -> None:
        time.localtime()
        local = time.localtime()
        self.zone = Zone(local.tm_gmtoff, local.tm_zone)
        "".encode("idna")
        self.preload()
        parent = Peer(self, socket.socket(fileno=PARENT_FD), self.ME, Proc.PARENT)
        parent.socket.settimeout(SETUP_TIMEOUT)
        self._peers[Proc.PARENT] = [parent]
        self._receive_setup(parent)
        self._receive_view()
        self._log.configure(self.ME.value, self.config)
        jail.raise_descriptor_limit()
        self.setup()

    def _receive_setup(self, parent: Peer) -> None:
        while True:
            done = False
            for frame in parent.receive_now():
                done = self._setup_message(parent, frame) or done
            if done:
                return

    def _setup_message(self, parent: Peer, frame: Frame) -> bool:
        message = frame.message
        if isinstance(message, Shutdown):
            self._log.finish()
            os._exit(0)
        if isinstance(message, SetupDone):
            self.set_traces(message.verbose)
            self.paused = set(message.paused)
            return True
        parent.fd = parent.take_fd() if frame.spec.fd else None
        if isinstance(message, SetupPeer):
            proc = Proc(message.proc)
            peer = Peer(self, socket.socket(fileno=parent.claim_fd()), self.ME, proc, message.index)
            self._peers.setdefault(proc, []).append(peer)
        elif isinstance(message, LogSocket):
            self._log.replace(parent.claim_fd())
        else:
            self._handlers[type(message)](self, parent, message)
        return False

    def _receive_view(self) -> None:
        conf = self._peers.pop(Proc.CONF)[0]
        conf.socket.settimeout(SETUP_TIMEOUT)
        self.config = receive_view(conf)
        conf.close()

    def _enter_jail(self) -> None:
        role = PROCS[self.ME]
        root = {Jail.NONE: "", Jail.EMPTY: self.paths.empty, Jail.SPOOL: self.paths.spool}[role.jail]
        if root and os.geteuid() == 0:
            self.paths = Paths("", self.paths.socket) if role.jail is Jail.SPOOL else self.paths
        jail.let_go_of_terminal(stderr=self._log.to_stderr)
        jail.enter(root, self.birth.uid, self.birth.gid, threads=self.ME in (Proc.QUEUE, Proc.LKA))

    def _loop(self) -> None:
        self.loop = Loop()
        asyncio.set_event_loop(self.loop)
        self.loop.set_exception_handler(self._exception)
        self._log.attach(self.loop.call_soon, self.loop.call_later)
        self._log.on_lost = self._log_lost
        self.start()
        for peers in self._peers.values():
            for peer in peers:
                peer.attach(self.loop)
        self.peer(Proc.PARENT).send(SetupReady())
        gc.collect()
        gc.freeze()
        self.loop.run_forever()

    def _log_lost(self) -> None:
        self.peer(Proc.PARENT).send(LogReopen())

    def _exception(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        text = "".join(traceback.format_exception(error, limit=-8)) if error else str(context.get("message"))
        self.fatal("bug: " + text.strip().replace("\n", " | "))
