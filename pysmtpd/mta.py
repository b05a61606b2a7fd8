"""mta: outbound sessions.

All thinking is relay.transfer's; this process gives it sockets, timers, TLS contexts and a voice.  Credentials of
smarthosts come from lka when they are needed; keys of client certificates are read before the jail.
"""

import asyncio
from collections.abc import Callable
from typing import ClassVar

from pysmtpd.base.procs import Proc
from pysmtpd.imsg import Message
from pysmtpd.messages import MtaLookedUp, MtaResolved, QueueBody, QueueDeliver, SetupFile
from pysmtpd.privsep import tls
from pysmtpd.privsep.ioev import Io, dial
from pysmtpd.privsep.mproc import Peer
from pysmtpd.privsep.process import Process, handles
from pysmtpd.privsep.tls import TlsContext
from pysmtpd.relay import tls_policy
from pysmtpd.relay.shell import Handler, Link
from pysmtpd.relay.tls_policy import TlsPolicy
from pysmtpd.relay.transfer import TransferAgent

FILE_MAX = 1024 * 1024             # octets of a certificate, key or CA file
DRAIN_TIMEOUT = 5.0                # seconds for what is being sent when the daemon stops
DRAIN_STEP = 0.05


class Mta(Process):
    """The process, and the Shell of its transfer agent."""

    ME: ClassVar[Proc] = Proc.MTA
    agent: TransferAgent

    def preload(self) -> None:
        self._files: dict[tuple[str, str], bytes] = {}
        self._contexts: dict[TlsPolicy, TlsContext] = {}

    @handles(SetupFile)
    def setup_file(self, peer: Peer, message: SetupFile) -> None:
        with open(peer.claim_fd(), "rb") as file:
            self._files[message.kind, message.name] = file.read(FILE_MAX)

    def setup(self) -> None:
        """Contexts are made here, because the system's CA store cannot be found from inside the jail."""
        for action in self.config.actions.values():
            if action.is_relay:
                for policy in tls_policy.policies(action):
                    self._contexts.setdefault(policy, self._context(policy))
        self._files.clear()

    def _context(self, policy: TlsPolicy) -> TlsContext:
        pair = None
        if policy.pki:
            pair = self._files["cert", policy.pki], self._files["key", policy.pki]
        ca = self._files["ca", policy.ca] if policy.ca else b""
        return tls.client_context(verify=policy.verify, ca=ca, pair=pair,
                                  ciphers=policy.ciphers or self.config.smtp_ciphers)

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
        self.agent.deliver(message)

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
