"""mta: outbound sessions.

All thinking is relay.transfer's; this process gives it sockets, timers, TLS contexts and a voice.  Credentials of
smarthosts come from lka when they are needed; keys of client certificates are read before the jail.
"""

import asyncio
from collections.abc import Callable
from typing import ClassVar

from pysmtpd.base.logline import Level
from pysmtpd.base.procs import Proc
from pysmtpd.imsg import Message
from pysmtpd.messages import (
    CtlDone,
    CtlResumeRoute,
    CtlShowMta,
    CtlText,
    MtaLookedUp,
    MtaResolved,
    QueueBody,
    QueueCancel,
    QueueDeliver,
    RenewFiles,
    SetupFile,
)
from pysmtpd.privsep.ioev import Io, dial
from pysmtpd.privsep.keyfiles import KeyFiles
from pysmtpd.privsep.mproc import Peer
from pysmtpd.privsep.process import Process, handles
from pysmtpd.privsep.tls import TlsContext, TlsError
from pysmtpd.privsep.tls_context import (
    Authorities,
    client_context,
    load_authorities,
    load_pair,
    system_authorities,
)
from pysmtpd.relay import report, tls_policy
from pysmtpd.relay.shell import Handler, Link
from pysmtpd.relay.tls_policy import TlsPolicy
from pysmtpd.relay.transfer import TransferAgent

DRAIN_TIMEOUT = 5.0                # seconds for what is being sent when the daemon stops
DRAIN_STEP = 0.05


class Mta(Process):
    """The process, and the Shell of its transfer agent."""

    ME: ClassVar[Proc] = Proc.MTA
    agent: TransferAgent

    def preload(self) -> None:
        self._files = KeyFiles()
        self._system: Authorities = ()
        self._contexts: dict[TlsPolicy, TlsContext] = {}

    @handles(SetupFile)
    def setup_file(self, peer: Peer, message: SetupFile) -> None:
        self._files.take(peer, message)

    @handles(RenewFiles)
    def renew_files(self, _peer: Peer, _message: RenewFiles) -> None:
        """Contexts of what was handed over; connections there are keep what they began with."""
        for policy in [policy for policy in self._contexts if policy.pki or policy.ca]:
            try:
                self._contexts[policy] = self._context(policy)
            except KeyError:
                continue           # the parent could not open it, and said so
            except TlsError as error:
                self.log(f"warn: mta: {error}; the certificate in use stays", Level.ERR)
        self._files.forget()

    def setup(self) -> None:
        """The authorities of the system cannot be found from inside the jail."""
        policies = {policy for action in self.config.actions.values() if action.is_relay
                    for policy in tls_policy.policies(action)}
        if any(policy.verify and not policy.ca for policy in policies):
            self._system = system_authorities()
        try:
            self._contexts = {policy: self._context(policy) for policy in policies}
        except TlsError as error:
            self.fatal(str(error))
        self._files.forget()

    def _context(self, policy: TlsPolicy) -> TlsContext:
        try:
            return client_context(
                verify=policy.verify, ca=load_authorities(self._files.ca(policy.ca)) if policy.ca else self._system,
                pair=load_pair(*self._files.pair(policy.pki)) if policy.pki else None,
                ciphers=policy.ciphers or self.config.smtp_ciphers, protocols=policy.protocols,
            )
        except TlsError as error:
            raise TlsError(f"pki {policy.pki}: {error}" if policy.pki else str(error)) from None

    def start(self) -> None:
        self.agent = TransferAgent(self.config, self)

    def drain(self) -> None:
        self.agent.stop()
        self._leave_by(self.clock() + DRAIN_TIMEOUT)

    def _leave_by(self, deadline: float) -> None:
        # Without the queue nothing can be brought to its end: whatever is sent now would be sent again.
        if self.agent.quiet or self.peer(Proc.QUEUE).closed or self.clock() >= deadline:
            self.agent.results.flush()
            self.leave()
        else:
            self.loop.call_later(DRAIN_STEP, self._leave_by, deadline)

    def tell_stats(self) -> None:
        for key, value in self.agent.counters().items():
            self.stats.set(key, value)

    # messages

    @handles(QueueDeliver)
    def deliver(self, _peer: Peer, message: QueueDeliver) -> None:
        self.agent.addressing.deliver(message)

    @handles(CtlShowMta)
    def show(self, peer: Peer, message: CtlShowMta) -> None:
        try:
            text, last = report.page(self.agent.known(), message.what, message.after)
        except KeyError:
            peer.send(CtlText(message.reqid, b"", True, False))
        else:
            peer.send(CtlText(message.reqid, text, last))

    @handles(CtlResumeRoute)
    def resume_route(self, peer: Peer, message: CtlResumeRoute) -> None:
        there = self.agent.resume_route(message.route)
        peer.send(CtlDone(message.reqid, there, "" if there else "no such route"))

    @handles(QueueCancel)
    def cancel(self, _peer: Peer, message: QueueCancel) -> None:
        self.agent.cancel(message.evpids)

    @handles(QueueBody)
    def body(self, _peer: Peer, message: QueueBody) -> None:
        self.agent.bodies.received(message)

    @handles(MtaResolved)
    def resolved(self, _peer: Peer, message: MtaResolved) -> None:
        self.agent.questions.resolved(message)

    @handles(MtaLookedUp)
    def looked_up(self, _peer: Peer, message: MtaLookedUp) -> None:
        self.agent.questions.looked_up(message)

    # what the transfer agent needs

    def clock(self) -> float:
        return self.loop.time()

    def soon(self, callback: Callable[[], None]) -> None:
        self.loop.call_soon(callback)

    def later(self, seconds: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        return self.loop.call_later(seconds, callback)

    def dial(self, address: str, port: int, handler: Handler, source: str, timeout: float) -> Io:
        return dial(self, address, port, handler, source, timeout)

    def local_address(self, link: Link) -> str:
        assert isinstance(link, Io)
        try:
            return str(link.socket.getsockname()[0]).partition("%")[0]
        except OSError:
            return ""

    def start_tls(self, link: Link, policy: TlsPolicy, name: str) -> None:
        assert isinstance(link, Io)
        link.start_tls(self._contexts[policy], server=False, name=name)

    def tell_queue(self, message: Message) -> None:
        self.peer(Proc.QUEUE).send(message)

    def tell_lka(self, message: Message) -> None:
        self.peer(Proc.LKA).send(message)
