"""One connection: the shell around a session, which carries out its effects."""

import socket

from pysmtpd.base.text import vis
from pysmtpd.base.trace import Trace
from pysmtpd.conf.config import Tls
from pysmtpd.imsg import Message
from pysmtpd.inbound.door import Door
from pysmtpd.messages import BODY_WINDOW, SmtpBody, SmtpMessageCommitted
from pysmtpd.privsep.ioev import Io
from pysmtpd.privsep.mproc import Peer
from pysmtpd.privsep.process import Process
from pysmtpd.privsep.tls import TlsContext, TlsInfo
from pysmtpd.session.effects import Admit, Ask, AuthFailed, Body, Close, Count, Effect, Log, Send, StartTls, Wait
from pysmtpd.session.smtp_session import SmtpSession

SESSION_TIMEOUT = 300.0
CLOSE_TIMEOUT = 30.0               # for the last reply to leave
QUEUE_BACKLOG_MAX = 8 * 1024 * 1024


class Host(Process):
    """What a client needs of the process around it."""

    queue: Peer

    def ask(self, client: "Client", effect: Ask) -> None:
        """Carry a session's question to whom its route names."""
        raise NotImplementedError

    def auth_failed(self, client: "Client", user: str) -> None:
        """The client was not who it said."""
        raise NotImplementedError

    def admit(self, client: "Client", address: str) -> None:
        """The client is at another address now; it is answered whether it may be."""
        raise NotImplementedError

    def secure(self, client: "Client") -> None:
        """The client begins to speak TLS."""
        raise NotImplementedError

    def weigh(self, client: "Client", held: int) -> None:
        """The client holds so many octets now."""
        raise NotImplementedError

    def wait_for_queue(self, client: "Client") -> None:
        """The queue is behind: pace() is called when it is not any more."""
        raise NotImplementedError

    def forget(self, client: "Client") -> None:
        """Its session is over."""
        raise NotImplementedError


class Client:
    """A socket and its session."""

    __slots__ = ("address", "counted", "credit", "door", "held", "id", "io", "process", "secured", "session",
                 "started")

    def __init__(self, process: Host, sock: socket.socket, door: Door, session: SmtpSession, sid: int,
                 address: str, *, counted: bool = False) -> None:
        """``counted``: among the connections of its address."""
        self.address = address
        self.process = process
        self.door = door
        self.session = session
        self.id = sid
        self.credit = BODY_WINDOW
        self.held = 0              # octets, as far as was looked
        self.counted = counted
        self.secured = False
        self.started = False
        self.io = Io(process, sock, self, SESSION_TIMEOUT)

    def begin(self) -> None:
        """Greet, or first shake hands."""
        if self.door.listener.tls is Tls.SMTPS and self.door.context is not None:
            self.process.stats.add("smtp.smtps")
            self._secure(self.door.context)
        else:
            self._start()

    def _secure(self, context: TlsContext) -> None:
        self.process.secure(self)
        self.io.start_tls(context, server=True)

    def _start(self) -> None:
        self.started = True
        self.run(self.session.start(self.process.now()))
        self.pace()

    # what the socket tells

    def io_data(self, data: bytes) -> None:
        # A client that speaks out of turn is read once more, then not until the answer came: watching the socket less
        # for each question would cost more than the question.
        early = not self.session.reading
        self.run(self.session.receive(data, self.process.now()))
        held = self.session.held + self.io.backlog
        if held != self.held:
            self.process.weigh(self, held)
        if early or self._shut():
            self.io.pause()

    def io_eof(self) -> None:
        # It may have said all it wants and still listen: the session closes when it is through.
        self.run(self.session.eof(self.process.now()))

    def io_error(self, text: str) -> None:
        self.run(self.session.error(text, self.process.now()))
        self.end()

    def io_drained(self) -> None:
        self.pace()

    def io_tls(self, info: TlsInfo) -> None:
        self.process.stats.add("smtp.tls")
        self.run(self.session.tls_ready(info.text, self.process.now(), info.fingerprint, info.verified,
                                        info.identities))
        if not self.started:
            self._start()

    def io_timeout(self) -> None:
        if self.session.closed:
            self.io.abort()        # it never took the last reply
        else:
            self.run(self.session.timeout(self.process.now()))

    def io_connected(self) -> None:
        raise AssertionError("an accepted socket is connected")

    # what the session wants

    def run(self, effects: list[Effect]) -> None:
        """Carry out effects in their order; a session says all it has to say of a turn in one Send."""
        for effect in effects:
            if isinstance(effect, Send):
                if self.process.traces and self.process.traces & Trace.SMTP:
                    self._trace_replies(effect.data)
                self.io.write(effect.data)
            elif isinstance(effect, Ask):
                self.process.ask(self, effect)
            elif isinstance(effect, Log):
                self.process.log(effect.line, effect.level)
            elif isinstance(effect, Body):
                self._body(effect.chunk)
            elif isinstance(effect, Count):
                self.process.stats.add(effect.key, effect.amount)
            elif isinstance(effect, AuthFailed):
                self.process.auth_failed(self, effect.user)
            else:
                self._control(effect)

    def _trace_replies(self, data: bytes) -> None:
        """What the client says is not traced: it may be a password, and in time it is the mail."""
        for line in data.splitlines():
            self.process.trace(Trace.SMTP, f"{self.id:016x} >>> {vis(line)}")

    def _control(self, effect: StartTls | Close | Wait | Admit) -> None:
        if isinstance(effect, StartTls):
            assert self.door.context is not None
            self._secure(self.door.context)
        elif isinstance(effect, Close):
            self.io.set_timeout(CLOSE_TIMEOUT)
            self.io.close()
            self.process.forget(self)
        elif isinstance(effect, Admit):
            self.process.admit(self, effect.address)
        else:
            self.io.pause()
            self.process.loop.call_later(effect.seconds, self._wake)

    def _wake(self) -> None:
        if not self.io.closed:
            self.run(self.session.wake(self.process.now()))
            self.pace()

    def answer(self, message: Message) -> None:
        """A process answered."""
        if isinstance(message, SmtpMessageCommitted):
            self.credit = BODY_WINDOW  # the window is one body's
        self.run(self.session.answer(message, self.process.now()))
        self.pace()

    def shed(self) -> None:
        """It holds too much: nothing of it stays, not even replies that it does not take."""
        if self.io.closed:
            return
        waiting = self.io.backlog
        self.run(self.session.shed(self.process.now()))
        if waiting:
            self.io.abort()

    def end(self) -> None:
        self.process.forget(self)
        self.io.abort()

    # the way of a body to the queue

    def _body(self, chunk: bytes) -> None:
        self.credit -= len(chunk)
        self.process.queue.send(SmtpBody(self.id, chunk))

    def credited(self, size: int) -> None:
        """The queue consumed so much."""
        self.credit = min(self.credit + size, BODY_WINDOW)
        self.pace()

    def pace(self) -> None:
        """Read on, unless there is a reason not to."""
        if self.held or self.io.backlog:
            self.process.weigh(self, self.session.held + self.io.backlog)
        if self._shut():
            self.io.pause()
        elif not self.io.reading and self.session.reading:
            # Otherwise each answer would let in another buffer, however little of the last one it used up.
            self.io.resume()

    def _shut(self) -> bool:
        """Whether more from this client would only pile up."""
        if self.process.queue.backlog > QUEUE_BACKLOG_MAX:
            self.process.wait_for_queue(self)
            return True
        return self.credit <= 0 or self.io.backlog > BODY_WINDOW
