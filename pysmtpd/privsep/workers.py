"""The delivery workers, for the parent: who is asked for, who that is, and those that run.

A request is judged by privsep.delivery.  A user of a userbase is looked up by lka, which may be wrong: what it says
is judged like everything else.  One of the system is looked up, and a mailbox made, by who may hang (privsep.home)."""

import asyncio
import pwd
import signal
import socket
from functools import partial
from typing import Protocol

from pysmtpd.base import paths
from pysmtpd.base.procs import Proc
from pysmtpd.base.struct import Frozen
from pysmtpd.conf.config import Config
from pysmtpd.imsg import Message
from pysmtpd.messages import (
    Found,
    HomeMailbox,
    HomeMember,
    HomeTold,
    HomeUser,
    MdaWorkerExited,
    MdaWorkerRefused,
    MdaWorkerStart,
    MdaWorkerStarted,
    UserAsk,
    UserTold,
    WorkerKind,
)
from pysmtpd.privsep import delivery, spawn
from pysmtpd.privsep.delivery import Refused
from pysmtpd.privsep.homes import Homes
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
    homes: Homes
    loop: asyncio.AbstractEventLoop
    who: Identities

    def new_reqid(self) -> int: ...

    def peer(self, proc: Proc) -> Peer: ...


class Workers:
    """All of them."""

    def __init__(self, parent: Starter) -> None:
        self._parent = parent
        self.running: dict[int, Worker] = {}           # by pid
        self._asking: dict[int, MdaWorkerStart] = {}   # until it is known who the user is

    def start(self, peer: Peer, ask: MdaWorkerStart) -> None:
        """mda asks for one."""
        parent = self._parent
        users = [worker.user for worker in self.running.values()] + [one.user for one in self._asking.values()]
        try:
            action = delivery.judge_action(parent.config, ask, users)
        except Refused as refused:
            peer.send(MdaWorkerRefused(ask.reqid, refused.temporary, str(refused)))
            return
        number = parent.new_reqid()
        self._asking[number] = ask
        userbase = delivery.userbase_of(action, ask.user)
        if userbase:
            parent.peer(Proc.LKA).send(UserAsk(number, userbase, ask.user))
            parent.loop.call_later(USER_TIMEOUT, self.told, UserTold(number, Found.TEMPFAIL, 0, 0, ""))
        else:
            parent.homes.ask(HomeUser(number, ask.user), f"user/{ask.user}", partial(self._system_told, number))

    def told(self, told: UserTold) -> None:
        """lka says who a user is."""
        ask = self._asking.get(told.reqid)
        if ask is None:
            return
        if told.found is not Found.YES:
            self._unknown(told.reqid, told.found)
            return
        entry = _entry(ask, told.uid, told.gid, told.home)
        if delivery.needs_membership(self._parent.config.actions[ask.action], told.gid, self._parent.who):
            question = HomeMember(told.reqid, told.uid, told.gid)
            self._parent.homes.ask(question, f"user/{told.uid}", partial(self._member_told, entry, told.reqid))
        else:
            self._judge(told.reqid, entry, system=False)

    # what those tell who may hang

    def _system_told(self, number: int, told: Message | None, _fd: int | None) -> None:
        ask = self._asking.get(number)
        if ask is None:
            return
        if not isinstance(told, HomeTold) or told.found is Found.TEMPFAIL:
            self._unknown(number, Found.TEMPFAIL)
        elif told.found is Found.NO:
            self._refuse(number, Refused(False, f"delivery user '{ask.user}' does not exist"))
        else:
            self._judge(number, _entry(ask, told.uid, told.gid, told.home), system=True)

    def _member_told(self, entry: pwd.struct_passwd, number: int, told: Message | None, _fd: int | None) -> None:
        if not isinstance(told, HomeTold):
            self._unknown(number, Found.TEMPFAIL)
        else:
            self._judge(number, entry, system=False, member=told.found is Found.YES)

    def _mailbox_told(self, number: int, entry: pwd.struct_passwd, told: Message | None, _fd: int | None) -> None:
        if not isinstance(told, HomeTold) or told.found is not Found.YES:
            final = isinstance(told, HomeTold) and told.found is Found.NO
            why = told.why if isinstance(told, HomeTold) else f"mailbox of {entry.pw_name}: cannot be made now"
            self._refuse(number, Refused(not final, why))
        else:
            self._start(number, entry, told.gid or entry.pw_gid)

    # its end

    def _unknown(self, number: int, found: Found) -> None:
        temporary = found is Found.TEMPFAIL
        text = "Temporary failure in user lookup" if temporary else "Permanent failure in user lookup"
        self._refuse(number, Refused(temporary, text))

    def _refuse(self, number: int, refused: Refused) -> None:
        ask = self._asking.pop(number, None)
        if ask is not None:
            self._parent.peer(Proc.MDA).send(MdaWorkerRefused(ask.reqid, refused.temporary, str(refused)))

    def _judge(self, number: int, entry: pwd.struct_passwd, *, system: bool, member: bool = False) -> None:
        ask, who = self._asking.get(number), self._parent.who
        if ask is None:
            return
        try:
            delivery.judge_user(entry, ask.kind, who, system=system)
            if not system:
                delivery.judge_userbase(self._parent.config.actions[ask.action], entry, who, member=member)
        except Refused as refused:
            self._refuse(number, refused)
            return
        if ask.kind is WorkerKind.MBOX and who.privileged:
            question = HomeMailbox(number, entry.pw_name, entry.pw_uid)
            self._parent.homes.ask(question, f"{paths.MAIL_DIRECTORY}/{entry.pw_name}",
                                   partial(self._mailbox_told, number, entry))
        else:
            self._start(number, entry, entry.pw_gid)

    def _start(self, number: int, entry: pwd.struct_passwd, gid: int) -> None:
        ask = self._asking.pop(number, None)
        if ask is None:
            return
        mda = self._parent.peer(Proc.MDA)
        try:
            pid, sock = self._spawn(entry, gid, ask.kind)
        except OSError as error:
            mda.send(MdaWorkerRefused(ask.reqid, True, f"{error.strerror}"))
            return
        self.running[pid] = Worker(reqid=ask.reqid, user=ask.user)
        mda.send(MdaWorkerStarted(ask.reqid, pid, entry.pw_dir), sock.detach())

    def _spawn(self, entry: pwd.struct_passwd, gid: int, kind: WorkerKind) -> tuple[int, socket.socket]:
        mine, theirs = pair()
        arguments = [str(entry.pw_uid), str(gid), entry.pw_dir, entry.pw_name,
                     "mbox" if kind is WorkerKind.MBOX else "user", paths.MAIL_DIRECTORY]
        refuse_descriptors(mine)
        try:
            return spawn.spawn("pysmtpd.deliver.worker", arguments, theirs), mine
        except OSError:
            mine.close()
            raise
        finally:
            theirs.close()

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


def _entry(ask: MdaWorkerStart, uid: int, gid: int, home: str) -> pwd.struct_passwd:
    return pwd.struct_passwd((ask.user, "", uid, gid, "", home, ""))
