"""The delivery workers, for the parent: who is asked for, who that is, and those that run.

A request is judged by privsep.delivery.  A user of a userbase is looked up by lka, which may be wrong: what it says
is judged like everything else."""

import asyncio
import os
import pwd
import signal
import socket
from typing import Protocol

from pysmtpd.base import paths
from pysmtpd.base.procs import Proc
from pysmtpd.base.struct import Frozen
from pysmtpd.conf.config import Config
from pysmtpd.messages import (
    Found,
    MdaWorkerExited,
    MdaWorkerRefused,
    MdaWorkerStart,
    MdaWorkerStarted,
    UserAsk,
    UserTold,
    WorkerKind,
)
from pysmtpd.privsep import delivery, listen, spawn
from pysmtpd.privsep.delivery import Refused
from pysmtpd.privsep.mproc import Peer, pair, refuse_descriptors
from pysmtpd.privsep.startup import Identities

USER_TIMEOUT = 40.0                # seconds for lka to look a user up; it has its own limits


class Worker(Frozen):
    """A delivery worker that runs."""

    reqid: int
    user: str


class Starter(Protocol):
    """What is needed of the parent."""

    config: Config
    loop: asyncio.AbstractEventLoop
    who: Identities

    def new_reqid(self) -> int: ...

    def peer(self, proc: Proc) -> Peer: ...


class Workers:
    """All of them."""

    def __init__(self, parent: Starter) -> None:
        self._parent = parent
        self.running: dict[int, Worker] = {}           # by pid
        self._asking: dict[int, MdaWorkerStart] = {}   # until lka has told who the user is

    def start(self, peer: Peer, ask: MdaWorkerStart) -> None:
        """mda asks for one."""
        parent = self._parent
        users = [worker.user for worker in self.running.values()] + [one.user for one in self._asking.values()]
        try:
            action = delivery.judge_action(parent.config, ask, users)
            userbase = delivery.userbase_of(action, ask.user)
            if not userbase:
                self._start_for(peer, ask, delivery.system_user(ask.user), system=True)
                return
        except Refused as refused:
            peer.send(MdaWorkerRefused(ask.reqid, refused.temporary, str(refused)))
            return
        number = parent.new_reqid()
        self._asking[number] = ask
        parent.peer(Proc.LKA).send(UserAsk(number, userbase, ask.user))
        parent.loop.call_later(USER_TIMEOUT, self.told, UserTold(number, Found.TEMPFAIL, 0, 0, ""))

    def told(self, told: UserTold) -> None:
        """lka says who a user is."""
        ask = self._asking.pop(told.reqid, None)
        if ask is None:
            return
        mda = self._parent.peer(Proc.MDA)
        if told.found is Found.YES:
            entry = pwd.struct_passwd((ask.user, "", told.uid, told.gid, "", told.home, ""))
            self._start_for(mda, ask, entry, system=False)
        else:
            temporary = told.found is Found.TEMPFAIL
            text = "Temporary failure in user lookup" if temporary else "Permanent failure in user lookup"
            mda.send(MdaWorkerRefused(ask.reqid, temporary, text))

    def _start_for(self, peer: Peer, ask: MdaWorkerStart, entry: pwd.struct_passwd, *, system: bool) -> None:
        try:
            delivery.judge_user(entry, ask.kind, self._parent.who, system=system)
            pid, sock = self._spawn(entry, ask.kind)
        except Refused as refused:
            peer.send(MdaWorkerRefused(ask.reqid, refused.temporary, str(refused)))
            return
        except OSError as error:
            peer.send(MdaWorkerRefused(ask.reqid, True, f"{error.strerror}"))
            return
        self.running[pid] = Worker(reqid=ask.reqid, user=ask.user)
        peer.send(MdaWorkerStarted(ask.reqid, pid, entry.pw_dir), sock.detach())

    def _spawn(self, entry: pwd.struct_passwd, kind: WorkerKind) -> tuple[int, socket.socket]:
        gid = entry.pw_gid
        if kind is WorkerKind.MBOX and self._parent.who.privileged:
            gid = os.stat(paths.MAIL_DIRECTORY).st_gid
            listen.make_mailbox(f"{paths.MAIL_DIRECTORY}/{entry.pw_name}", entry.pw_uid, gid)
        mine, theirs = pair()
        arguments = [str(entry.pw_uid), str(gid), entry.pw_dir, entry.pw_name,
                     "mbox" if kind is WorkerKind.MBOX else "user", paths.MAIL_DIRECTORY]
        refuse_descriptors(mine)
        pid = spawn.spawn("pysmtpd.deliver.worker", arguments, theirs)
        theirs.close()
        return pid, mine

    def stop(self, reqid: int) -> None:
        """One does not leave, or is not trusted any more."""
        for pid, worker in self.running.items():
            if worker.reqid == reqid:
                spawn.kill(pid, signal.SIGKILL)

    def stop_all(self) -> None:
        """The daemon ends."""
        for pid in self.running:
            spawn.kill(pid, signal.SIGTERM)
            spawn.kill(pid, signal.SIGCONT)     # its user may have stopped it

    def gone(self, pid: int, status: int) -> bool:
        """A child ended; False when it was none of these."""
        worker = self.running.pop(pid, None)
        if worker is None:
            return False
        mda = self._parent.peer(Proc.MDA)
        if not mda.closed:
            mda.send(MdaWorkerExited(worker.reqid, spawn.cause(status)))
        return True
