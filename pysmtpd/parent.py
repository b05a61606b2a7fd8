"""parent: root.  It starts and reaps the others, and does the few things only root may do.

It binds the listeners, opens keys without reading them, and starts delivery workers as their users.  It parses no
stranger's byte: a child's request is a handful of bounded fields, and is judged again here as if an enemy had sent it.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Mapping
from typing import NoReturn

import msgspec
import setproctitle

from pysmtpd.base import logline
from pysmtpd.base.logline import Level
from pysmtpd.base.procs import CHILDREN, PROCS, Proc, User
from pysmtpd.base.struct import Frozen
from pysmtpd.base.trace import SILENT, Trace
from pysmtpd.imsg import ImsgError
from pysmtpd.messages import (
    AuthStart,
    ConfDone,
    ForwardMissing,
    ForwardOpen,
    ForwardOpened,
    HomeTold,
    LogReopen,
    LogSocket,
    MdaWorkerStart,
    MdaWorkerStop,
    SetupControlSocket,
    SetupDone,
    SetupListener,
    SetupPeer,
    SetupReady,
    Shutdown,
    TableRefused,
    TableStart,
    TableStarted,
    TableStop,
    UserTold,
)
from pysmtpd.privsep import doors, forwards, jail, keyfiles, listen, log, notify, spawn, startup
from pysmtpd.privsep.homes import Homes
from pysmtpd.privsep.log import Log
from pysmtpd.privsep.loop import Loop
from pysmtpd.privsep.mproc import Peer, pair, refuse_descriptors
from pysmtpd.privsep.password_checks import PasswordChecks
from pysmtpd.privsep.process import Birth, Process, handles, receive_view
from pysmtpd.privsep.programs import NotStarted, Programs
from pysmtpd.privsep.startup import Identities, StartError
from pysmtpd.privsep.workers import Workers
from pysmtpd.readconf import KEY_TIMEOUT, Job

START_TIMEOUT = 20.0
STOP_TIMEOUT = 8.0                 # for each stage of an orderly stop
STOP_ORDER: tuple[tuple[Proc, ...], ...] = (
    (Proc.SMTP,), (Proc.MTA, Proc.MDA), (Proc.CONTROL, Proc.LKA, Proc.SCHEDULER), (Proc.QUEUE,),
)


class Options(Frozen):
    """The command line, as __main__ understood it."""

    config: str
    macros: dict[str, str] = {}
    foreground: bool = False
    stderr: bool = False
    verbose: int = 0
    paused: tuple[str, ...] = ()


class Parent(Process):
    """The parent process."""

    ME = Proc.PARENT

    def __init__(self, birth: Birth, log: Log, options: Options, who: Identities, lock: int) -> None:
        super().__init__(birth, log)
        self.options = options
        self.who = who
        self.ready_pipe: int | None = None
        self.inherited: list[socket.socket] = []  # of the service manager
        self.manager = ""                         # the socket it hears us on
        self._lock = lock
        self._pids: dict[int, tuple[Proc, int]] = {}
        self.homes = Homes(self)
        self._workers = Workers(self)
        self._passwords = PasswordChecks()
        self._programs = Programs(who)
        self._waiting: set[tuple[Proc, int]] = set()
        self._stage = -1
        self._stage_timer: asyncio.TimerHandle | None = None
        self._control: socket.socket | None = None

    # starting

    def begin(self) -> NoReturn:
        """Start the others, and serve them until the end."""
        conf = self._start_conf()
        if not self.options.foreground:
            startup.let_go_of_input()
        self._begin_log()
        self.log(logline.STARTING.format(name="pysmtpd", version=_version()))
        self._warn()
        self._doors = doors.Doors(self.config.listeners, self.inherited, self.log)
        listeners = self._doors.open()
        self._control = listen.control_socket(self.paths.socket)
        names = [(proc, index) for proc in CHILDREN for index in range(self._number(proc))]
        for proc, index in names:
            self._start_child(proc, index)
        self._wire(names, conf)
        self._hand_over(listeners)
        for peer in self._children():
            if self._log.file is not None:
                peer.send(LogSocket(), os.dup(self._log.file))
            peer.send(SetupDone(self.traces, sorted(self.paused)))
        for _, sock in listeners:
            sock.close()
        self._serve(conf)

    def _begin_log(self) -> None:
        self._log.configure(self.ME.value, self.config)
        if self.config.log_file and not self.options.stderr:
            try:
                self._log.replace(log.open_file(self.config.log_file))
            except OSError as error:
                raise StartError(f"{self.config.log_file}: {error.strerror}") from None
        if not self._log.has_reader:
            print("pysmtpd: warning: there is no syslogd: log lines wait for one (-d: standard error)", file=sys.stderr)

    def _warn(self) -> None:
        if not self.who.privileged:
            self.log(f"warn: not root: every process runs as {self.who.user}, and delivers to {self.who.user} only")
        silent = ", ".join(bit.name.lower() for bit in Trace if self.traces & bit & SILENT)
        if silent:
            self.log(f"warn: nothing is traced yet under: {silent}", Level.ERR)
        if self.who.one_user:
            self.log("warn: one user for all processes: the spool is not kept from the others")

    def _start_conf(self) -> Peer:
        job = Job(path=self.options.config, macros=self.options.macros, user=self.who.user,
                  state_dir="" if self.who.privileged else self.paths.spool, verbose=bool(self.options.verbose))
        mine, theirs = pair()
        pid = spawn.spawn("pysmtpd.readconf", [msgspec.json.encode(job).decode()], theirs)
        theirs.close()
        conf = Peer(self, mine, Proc.PARENT, Proc.CONF)
        # Somebody may have to type the key of the queue.
        conf.socket.settimeout(START_TIMEOUT + KEY_TIMEOUT)
        self._pids[pid] = (Proc.CONF, 0)
        try:
            self.config = receive_view(conf)
        except (ImsgError, TimeoutError):
            # It has said why on standard error.
            raise StartError("the configuration was not accepted") from None
        conf.socket.settimeout(START_TIMEOUT)
        return conf

    def _start_child(self, proc: Proc, index: int) -> None:
        user = PROCS[proc].user
        uid, gid = ((self.who.smtpq_uid, self.who.smtpq_gid) if user is User.SMTPQ
                    else (self.who.smtpd_uid, self.who.smtpd_gid))
        birth = Birth(proc=proc.value, index=index, uid=uid, gid=gid, spool=self.paths.spool, socket=self.paths.socket,
                      stderr=self.options.stderr, verbose=self.traces)
        mine, theirs = pair()
        refuse_descriptors(mine)
        keep = (self._lock,) if proc is Proc.QUEUE else ()
        pid = spawn.spawn("pysmtpd.privsep.reexec", [msgspec.json.encode(birth).decode()], theirs, keep=keep)
        theirs.close()
        self._pids[pid] = (proc, index)
        self._waiting.add((proc, index))
        peer = Peer(self, mine, Proc.PARENT, proc, index)
        peer.socket.settimeout(START_TIMEOUT)
        self._peers.setdefault(proc, []).append(peer)

    def _children(self) -> list[Peer]:
        return [peer for proc in CHILDREN for peer in self.peers(proc)]

    def _wire(self, names: list[tuple[Proc, int]], conf: Peer) -> None:
        children = {(peer.proc, peer.index): peer for peer in self._children()}
        for at, one in enumerate(names):
            for other in names[at + 1 :]:
                if other[0] in PROCS[one[0]].peers:
                    a, b = pair()
                    children[one].send(SetupPeer(other[0].value, other[1]), a.detach())
                    children[other].send(SetupPeer(one[0].value, one[1]), b.detach())
        for name, peer in children.items():
            a, b = pair()
            conf.send(SetupPeer(name[0].value, name[1]), a.detach())
            peer.send(SetupPeer(Proc.CONF.value, 0), b.detach())
        conf.send(SetupDone(0, []))

    def _number(self, proc: Proc) -> int:
        """How many of these there are."""
        return self.config.smtp_workers if proc is Proc.SMTP else 1

    def _open_again(self) -> None:
        """Addresses that were absent may be there now."""
        for index, sock in self._doors.again():
            for peer in self.peers(Proc.SMTP):
                peer.send(SetupListener(index), os.dup(sock.fileno()))
            sock.close()
        if self._doors.waiting:
            self.loop.call_later(doors.AGAIN, self._open_again)

    def _hand_over(self, listeners: list[tuple[int, socket.socket]]) -> None:
        for peer in self.peers(Proc.SMTP):
            for index, sock in listeners:
                peer.send(SetupListener(index), os.dup(sock.fileno()))
        assert self._control is not None
        self.peer(Proc.CONTROL).send(SetupControlSocket(), os.dup(self._control.fileno()))
        self._control.close()
        self._key_files = keyfiles.HandOver(self.config, self.peers, self.log)
        self._key_files.start()

    def _look_at_files(self) -> None:
        self._key_files.look()
        self.loop.call_later(keyfiles.LOOK, self._look_at_files)

    def _serve(self, conf: Peer) -> NoReturn:
        self.loop = Loop()
        asyncio.set_event_loop(self.loop)
        self.loop.set_exception_handler(self._exception)
        self._log.attach(self.loop.call_soon, self.loop.call_later)
        self._log.on_lost = self._log_lost
        for number in (signal.SIGINT, signal.SIGTERM):
            self.loop.add_signal_handler(number, self.stop, 0)
        self.loop.add_signal_handler(signal.SIGCHLD, self._reap)
        self.loop.add_signal_handler(signal.SIGHUP, self._hangup)
        for peer in (conf, *self._children()):
            peer.attach(self.loop)
        if self._doors.waiting:
            self.loop.call_later(doors.AGAIN, self._open_again)
        if self._key_files:
            self.loop.call_later(keyfiles.LOOK, self._look_at_files)
        timer = self.loop.call_later(START_TIMEOUT, self._too_slow)
        self._timer = timer
        self.loop.call_soon(self._reap)
        self.loop.run_forever()
        with contextlib.suppress(OSError):
            os.unlink(self.paths.socket)
        self.log(logline.EXITING)
        self._log.finish()
        os._exit(self._status)

    def _hangup(self) -> None:
        if self.config.log_file and not self.options.stderr:
            self._reopen_log()
            return
        self.log("warn: SIGHUP: there is no reload yet; restart to read the configuration again", Level.ERR)

    def _too_slow(self) -> None:
        names = ", ".join(sorted(proc.value for proc, _ in self._waiting))
        self.log(f"parent: {names}: not ready after {START_TIMEOUT:.0f}s", Level.CRIT)
        self.stop(1)

    @handles(ConfDone)
    def conf_done(self, peer: Peer, _message: ConfDone) -> None:
        peer.close()

    @handles(SetupReady)
    def setup_ready(self, peer: Peer, _message: SetupReady) -> None:
        self._waiting.discard((peer.proc, peer.index))
        if self._waiting or self._leaving:
            return
        self._timer.cancel()
        self.log("info: ready", Level.DEBUG)
        self._notify("READY=1")
        if self.ready_pipe is not None:
            os.write(self.ready_pipe, b"0")
            os.close(self.ready_pipe)
            self.ready_pipe = None
            if not self._log.to_stderr:
                jail.let_go_of_terminal(stderr=False)

    def _notify(self, state: str) -> None:
        try:
            notify.notify(self.manager, state)
        except OSError as error:
            self.log(f"warn: parent: the service manager does not hear: {error.strerror}", Level.ERR)

    @handles(LogReopen)
    def log_reopen(self, peer: Peer, _message: LogReopen) -> None:
        fd = self._open_log()
        if fd is not None:
            peer.send(LogSocket(), fd)

    def _open_log(self) -> int | None:
        """Where processes log to, opened anew; None when there is nothing."""
        if self.config.log_file:
            try:
                return log.open_file(self.config.log_file)
            except OSError as error:
                self.log(f"warn: {self.config.log_file}: {error.strerror}", Level.ERR)
                return None
        sock = log.open_syslog()
        return None if sock is None else sock.detach()

    def _log_lost(self) -> None:
        sock = log.open_syslog()
        if sock is not None:
            self._log.replace(sock.detach())

    def _reopen_log(self) -> None:
        """Another file may stand where the log did: logs are rotated."""
        fd = self._open_log()
        if fd is None:
            return
        for peer in self._children():
            peer.send(LogSocket(), os.dup(fd))
        self._log.replace(fd)
        self.log(f"info: logging to {self.config.log_file}")

    # stopping

    def stop(self, status: int) -> None:
        """Stop everything in order, queue last."""
        self._status = self._status or status
        if not self._leaving:
            self._leaving = True
            self._notify("STOPPING=1")
            self._timer.cancel()
            self._next_stage()

    def _next_stage(self) -> None:
        if self._stage_timer is not None:
            self._stage_timer.cancel()
        self._stage += 1
        if self._stage == len(STOP_ORDER):
            self._workers.stop_all()
            self._passwords.stop_all()
            self.homes.stop_all()
            self._programs.stop_all()
            self.loop.stop()
            return
        stage = STOP_ORDER[self._stage]
        if not any(proc in stage for proc, _ in self._pids.values()):
            self._next_stage()
            return
        for proc in stage:
            for peer in self.peers(proc):
                peer.send(Shutdown())
        self._stage_timer = self.loop.call_later(STOP_TIMEOUT, self._kill_stage, stage)

    def _kill_stage(self, stage: tuple[Proc, ...]) -> None:
        for pid, (proc, _) in list(self._pids.items()):
            if proc in stage:
                self.log(f"warn: {proc.value} does not stop: killed", Level.ERR)
                spawn.kill(pid, signal.SIGKILL)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if self._workers.gone(pid, status) or self._passwords.gone(pid) or self.homes.gone(pid):
                continue
            if (table := self._programs.gone(pid)) is not None:
                self.log(f"info: the program of table {table} {spawn.cause(status)}", Level.DEBUG)
            elif pid in self._pids:
                self._child_gone(pid, status)
        if self._leaving and 0 <= self._stage < len(STOP_ORDER):
            stage = STOP_ORDER[self._stage]
            if not any(proc in stage for proc, _ in self._pids.values()):
                self._next_stage()

    def _child_gone(self, pid: int, status: int) -> None:
        proc, index = self._pids.pop(pid)
        if proc is Proc.CONF and status == 0:
            return
        for peer in self.peers(proc):
            if peer.index == index:
                peer.close()
        if not self._leaving or status != 0:
            title = f"pysmtpd: {proc.value}"
            self.log(logline.LOST_CHILD.format(title=title, cause=spawn.cause(status)), Level.ERR)
            self.stop(1)

    def peer_lost(self, peer: Peer, reason: str) -> None:
        """SIGCHLD tells of a dead child; a child that speaks nonsense is taken down here."""
        if peer.proc is Proc.HOME:
            self.homes.lost(peer, reason)
        elif reason != "socket closed":
            self.log(f"parent: process {peer.proc.value} {reason}", Level.CRIT)
            self.stop(1)

    # delivery workers

    @handles(MdaWorkerStart)
    def worker_start(self, peer: Peer, ask: MdaWorkerStart) -> None:
        self._workers.start(peer, ask)

    @handles(UserTold)
    def user_told(self, _peer: Peer, told: UserTold) -> None:
        self._workers.told(told)

    @handles(MdaWorkerStop)
    def worker_stop(self, _peer: Peer, ask: MdaWorkerStop) -> None:
        self._workers.stop(ask.reqid)

    @handles(ForwardOpen)
    def forward_open(self, peer: Peer, ask: ForwardOpen) -> None:
        forwards.open_forward(self.homes, self.config, self.who, peer, ask)

    @handles(HomeTold, ForwardMissing)
    def home_told(self, peer: Peer, told: HomeTold | ForwardMissing) -> None:
        self.homes.answered(peer, told)

    @handles(ForwardOpened)
    def home_opened(self, peer: Peer, told: ForwardOpened) -> None:
        self.homes.answered(peer, told, peer.claim_fd())

    # passwords of system users

    @handles(AuthStart)
    def auth_start(self, peer: Peer, ask: AuthStart) -> None:
        self._passwords.start(self.config, peer, ask)

    # table programs

    @handles(TableStart)
    def table_start(self, peer: Peer, ask: TableStart) -> None:
        """Start what the configuration names for this table, and nothing else."""
        program = self.config.table_programs.get(ask.table)
        if program is None or self._leaving:
            peer.send(TableRefused(ask.table, "no such program"))
            return
        try:
            started = self._programs.start(program)
        except NotStarted as refused:
            peer.send(TableRefused(ask.table, str(refused)))
            return
        peer.send(TableStarted(ask.table, False), started.socket.detach())
        peer.send(TableStarted(ask.table, True), started.errors)

    @handles(TableStop)
    def table_stop(self, _peer: Peer, ask: TableStop) -> None:
        self._programs.stop(ask.table)


def _version() -> str:
    from pysmtpd import VERSION

    return VERSION


def main(options: Options, state_dir: str, environ: Mapping[str, str]) -> NoReturn:
    """Start the daemon.  Raises StartError; otherwise ends the program."""
    spawn.open_standard_descriptors()
    sockets = doors.inherited(environ, os.getpid())
    who = startup.identities(environ)
    where = startup.find_paths(state_dir, environ)
    startup.prepare_spool(where, who)
    ready = None if options.foreground else startup.detach()
    spawn.keep_to_ourselves()
    jail.keep_capabilities()
    lock = startup.take_lock(where)
    birth = Birth(proc=Proc.PARENT.value, uid=os.geteuid(), gid=os.getegid(), spool=where.spool, socket=where.socket,
                  stderr=options.stderr, verbose=options.verbose)
    parent = Parent(birth, Log(stderr=options.stderr, verbose=bool(options.verbose)), options, who, lock)
    parent.paused = set(options.paused)
    parent.ready_pipe = ready
    parent.inherited = sockets
    parent.manager = environ.get("NOTIFY_SOCKET", "")
    setproctitle.setproctitle("pysmtpd: [priv]")
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        parent.begin()
    except (StartError, OSError) as error:
        for pid in parent._pids:
            spawn.kill(pid, signal.SIGTERM)
        # What the system refuses: descriptors (ulimit -n), processes, memory.
        text = f"cannot start: {error}" if isinstance(error, OSError) else str(error)
        print(f"pysmtpd: {text}", file=sys.stderr)
        os._exit(1)
