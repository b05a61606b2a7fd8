"""An outbound session: one connection to one host, and the tasks it takes, one after the other.

It binds three things together: the link, the conversation (session.smtp_client), and the mail data that come from the
queue.  When all of a message's data are here and more tasks wait, it takes the next one already, so that a server with
PIPELINING hears the end of one message and the commands of the next in one write.
"""

from collections import deque
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple, Protocol

from pysmtpd.base import logline, relay_url
from pysmtpd.base.envelope import Envelope
from pysmtpd.base.relay_url import Schema
from pysmtpd.messages import Found, Outcome
from pysmtpd.relay import tls_policy
from pysmtpd.relay.body import Bodies, Body
from pysmtpd.relay.connector import Connect
from pysmtpd.relay.lookup import Questions
from pysmtpd.relay.relay import Connection, Relay
from pysmtpd.relay.results import Results
from pysmtpd.relay.shell import Link, Shell, TlsInfo
from pysmtpd.relay.task import Task
from pysmtpd.session import client_effects as client
from pysmtpd.session import effects
from pysmtpd.session.client_effects import Failed, StartTls
from pysmtpd.session.path import valid_domain
from pysmtpd.session.smtp_client import SmtpClient, State

BACKLOG_MAX = 128 * 1024           # octets waiting to be sent, above which no more mail data are taken
GREETING_TIMEOUT = 60.0            # seconds, while there are other hosts to try
COMMAND_TIMEOUT = 300.0            # RFC 5321 4.5.3.2
END_OF_DATA_TIMEOUT = 600.0        # RFC 5321 4.5.3.2.6
QUIT_TIMEOUT = 10.0
EARLY_MAX = 65536                  # octets a server may say before we said who we are


class Job:
    """A task that is being sent."""

    __slots__ = ("body", "task")

    def __init__(self, task: Task, body: Body) -> None:
        self.task = task
        self.body = body


class Aborted(NamedTuple):
    """A task whose session ended before these of its envelopes were decided."""

    task: Task
    undecided: tuple[int, ...]
    safe: bool                     # trying again cannot make a duplicate


class Agent(Protocol):
    """What a session needs of the agent it works for."""

    shell: Shell
    hostname: str
    questions: Questions
    bodies: Bodies
    results: Results

    def has_alternative(self, relay: Relay) -> bool: ...

    def again_in_the_clear(self, session: "Session") -> None: ...

    def next_task(self, session: Connection) -> Task | None: ...

    def session_opened(self, session: "Session") -> None: ...

    def session_ready(self, session: "Session") -> None: ...

    def idle_too_long(self, session: "Session") -> None: ...

    def transaction_done(self, session: "Session") -> None: ...

    def session_failed(self, session: "Session", failed: Failed, aborted: list[Aborted]) -> None: ...

    def session_closed(self, session: "Session") -> None: ...


@lru_cache(maxsize=1024)
def _remote(name: str) -> str:
    """A server's name as reports have it; empty when it is none."""
    name = name.rstrip(".")
    if relay_url.literal(name):
        return f"[{name}]"
    return name if valid_domain(name) else ""


class Session:
    """One connection."""

    def __init__(self, agent: Agent, relay: Relay, to: Connect, *, plain: bool = False) -> None:
        """``plain``: TLS was tried with this host, and failed."""
        self.agent = agent
        self.relay = relay
        self.candidate = to.candidate
        self.route = to.route
        self.id = agent.shell.new_reqid()
        self.schema = Schema.SMTP_NOTLS if plain else relay.key.schema
        self.ready = False         # it was, once
        self.over = False
        self.blameless = False     # it ended for a reason of our own
        self.taken = 0             # transactions begun
        self.sated = False         # its server takes no more (RFC 9422)
        self.done = 0              # transactions brought to their end
        self.messages = 0          # of them, those that someone accepted
        self.link: Link | None = None
        self._client: SmtpClient | None = None
        self._shaking = False      # hands: until the first octets that came by TLS; a server may refuse us last
        self.connected = False
        self.source = ""
        self._early = b""
        self._current: Job | None = None
        self._following: Job | None = None
        self._accepted = False     # by someone, of the current task
        self._aborted: list[Aborted] = []
        self._domains: set[str] = set()        # of recipients, where the server counts them
        self._todo: deque[client.Effect] = deque()
        self._running = False

    def __hash__(self) -> int:
        return self.id

    @property
    def busy(self) -> bool:
        return self._current is not None

    @property
    def tasks(self) -> list[Task]:
        """Those it has taken and not yet ended."""
        return [job.task for job in (self._current, self._following) if job is not None]

    @property
    def remote(self) -> str:
        """The server's name in reports, once it was heard."""
        return "" if self._client is None else _remote(self.candidate.name)

    @property
    def patient(self) -> bool:
        """Whether it may take another task, by the limits of its relay and those that its server told."""
        limits, client = self.relay.limits, self._client
        if self.sated or self.taken >= limits.session_mail_max:
            return False
        return client is None or (client.failures < limits.max_failures_per_session
                                  and not 0 < client.extensions.mail_max <= self.taken)

    def open(self, timeout: float) -> None:
        """Connect."""
        host = self.route.host
        self.agent.shell.log(logline.MTA_CONNECTING.format(
            id=self.id, schema=f"{self.schema}://", address=logline.address_text(host.address),
            port=self.relay.key.port, host=host.ptr or "<unknown>",
        ))
        try:
            self.link = self.agent.shell.dial(host.address, self.relay.key.port, self, self.route.source, timeout)
        except OSError as error:
            reason = f"IO Error: {error.strerror or error}"
            self.agent.shell.soon(lambda: self._end(client.Failed(reason)))

    # what the link tells

    def io_connected(self) -> None:
        assert self.link is not None
        self.connected = True
        self.source = self.agent.shell.local_address(self.link)
        self.agent.shell.log(logline.MTA_CONNECTED.format(id=self.id))
        self.link.set_timeout(GREETING_TIMEOUT if self.agent.has_alternative(self.relay) else COMMAND_TIMEOUT)
        key = self.relay.key
        if key.helo_src:
            address = logline.address_text(self.source)
            self.agent.questions.lookup("addrname", key.helo_src, address, self._helo_found)
        else:
            self._begin(key.helo or self.agent.hostname)

    def _helo_found(self, found: Found, value: str) -> None:
        if self.over:
            return
        if found is Found.YES:
            self._begin(value)
        else:
            self._end(client.Failed("Failed to retrieve helo string"))

    def _begin(self, helo: str) -> None:
        try:
            self._client = SmtpClient(
                helo, lmtp=self.schema is Schema.LMTP, starttls=tls_policy.starttls(self.schema),
                credentials=self.relay.secret or "", secure=self.schema is Schema.SMTPS,
            )
        except ValueError as error:
            self._end(client.Failed(str(error)))
            return
        if self.schema is Schema.SMTPS:
            self._shake_hands()
        else:
            early, self._early = self._early, b""
            self._run(self._client.start())
            if early:
                self._run(self._client.receive(early))

    def _shake_hands(self) -> None:
        assert self.link is not None
        self._shaking = True
        self.agent.shell.start_tls(self.link, self.relay.key.tls, self.candidate.name)

    def io_data(self, data: bytes) -> None:
        if self._client is None:
            # lka has not told our own name yet (helo-src): keep the greeting.
            self._early += data
            if len(self._early) > EARLY_MAX:
                self._end(client.Failed("Remote host sent too much data"))
            return
        self._shaking = False
        self._run(self._client.receive(data))

    def io_tls(self, info: TlsInfo) -> None:
        assert self._client is not None
        log = self.agent.shell.log
        log(logline.MTA_TLS.format(id=self.id, ciphers=info.text))
        if info.fingerprint:
            result = "valid" if info.verified else "unverified"
            log(logline.MTA_CERT_CHECK.format(id=self.id, result=result, fingerprint=info.fingerprint))
        started = self.schema is Schema.SMTPS
        self._run(self._client.start() if started else self._client.tls_ready())

    def io_eof(self) -> None:
        if not self._downgrade():
            self._hear_end(None)

    def io_error(self, text: str) -> None:
        if not self._downgrade():
            self._hear_end(f"IO Error: {text}")

    def io_timeout(self) -> None:
        assert self.link is not None
        if self.over:
            self.link.abort()
        elif self in self.relay.idle:
            self.agent.idle_too_long(self)
        elif not self._downgrade():
            self._hear_end("Connection timeout")

    def io_drained(self) -> None:
        self._feed()

    def _hear_end(self, reason: str | None) -> None:
        if self._client is None:
            self._end(client.Failed(reason or "Connection closed unexpectedly"))
        elif self._client.state is State.QUIT or reason is None:
            self._run(self._client.eof())
        else:
            self._run(self._client.lost(reason))

    def _downgrade(self) -> bool:
        """A handshake that nobody demanded failed: the same host once more, in the clear."""
        if self.over or not self._shaking or tls_policy.starttls(self.schema) is not StartTls.OFFERED:
            return False
        self.agent.shell.log(logline.MTA_DOWNGRADE.format(id=self.id))
        self._close()
        self.agent.again_in_the_clear(self)
        return True

    # tasks

    def take(self, task: Task) -> None:
        """Send a task.  Only while idle."""
        assert self._client is not None and self._current is None
        self._current = self._job(task)
        self._run(self._client.send(task.transaction()))

    def quit(self) -> None:
        """Say good-bye.  Only while idle."""
        assert self._client is not None and self.link is not None
        self.link.set_timeout(QUIT_TIMEOUT)
        self._run(self._client.quit())

    def refuses(self, task: Task) -> tuple[str, str] | None:
        """Why this server can never take a task, as enhanced code and text."""
        assert self._client is not None
        limit = self._client.extensions.size
        if limit and task.size > limit:
            return "5.3.4", "message too large for peer"
        if task.binary and not self._client.extensions.takes_binary:
            # It could only be converted, which is for those who understand it (RFC 3030 3).
            return "5.6.1", "peer does not take binary mail (BINARYMIME)"
        if task.key.smtputf8 and not self._client.extensions.smtputf8:
            return "5.6.7", "peer does not take internationalized mail (SMTPUTF8)"
        return None

    def allows(self, task: Task) -> list[Envelope]:
        """What of a task may go in one transaction, by what the server told (RFC 9422); when it is nothing, this
        session can send no more of it, but another one can."""
        assert self._client is not None
        told = self._client.extensions
        if not told.domain_max:
            return task.envelopes[: told.rcpt_max] if told.rcpt_max else task.envelopes
        found: list[Envelope] = []
        domains = set(self._domains)
        for envelope in task.envelopes:
            domains.add(envelope.dest.domain.lower())
            if len(domains) > told.domain_max:
                domains.discard(envelope.dest.domain.lower())
            elif not told.rcpt_max or len(found) < told.rcpt_max:
                found.append(envelope)
        self.sated = not found
        return found

    def _job(self, task: Task) -> Job:
        self.taken += 1
        if self._client is not None and self._client.extensions.domain_max:
            self._domains |= {envelope.dest.domain.lower() for envelope in task.envelopes}
        return Job(task, self.agent.bodies.open(task.key.msgid, self._feed, task.body))

    def _feed(self) -> None:
        """Give the server what it waits for, as far as it is here and the link takes it."""
        job = self._current
        if job is None or self._client is None or self.link is None or self.over:
            return
        if job.body.failed:
            self._unreadable(job)
            return
        while self._client.state is State.BODY and job.body.chunks and self.link.backlog <= BACKLOG_MAX:
            chunk, last = job.body.take()
            if not last:
                self._run(self._client.body(chunk, last=False))
                continue
            following = self._look_ahead()
            self.link.set_timeout(END_OF_DATA_TIMEOUT)
            upcoming = following.task.transaction() if following is not None else None
            self._run(self._client.body(chunk, last=True, following=upcoming))

    def _look_ahead(self) -> Job | None:
        """Another task, if one waits and may follow at once."""
        assert self._client is not None
        may = self._client.extensions.pipelining and self.patient and not self.relay.limits.session_transaction_delay
        task = self.agent.next_task(self) if may else None
        self._following = self._job(task) if task is not None else None
        return self._following

    def _unreadable(self, job: Job) -> None:
        """The queue cannot give us the mail data: without them there is no end of data but the connection's."""
        for envelope in job.task.envelopes:
            self._result(envelope, Outcome.TEMPFAIL, "4.3.0", "Could not get message fd")
        job.task.envelopes = []
        self.blameless = True
        assert self._client is not None
        self._run(self._client.lost("Could not get message fd"))

    # what the conversation wants

    def _run(self, wanted: Iterable[client.Effect]) -> None:
        """Carry out effects in order; those that follow from one come after all before it."""
        self._todo.extend(wanted)
        if self._running:
            return
        self._running = True
        try:
            while self._todo:
                self._do(self._todo.popleft())
        finally:
            self._running = False

    def _do(self, effect: client.Effect) -> None:
        if isinstance(effect, effects.Send):
            if self.link is not None:
                self.link.write(effect.data)
        elif isinstance(effect, client.RcptDone):
            self._rcpt_done(effect)
        elif isinstance(effect, client.TxDone):
            self._tx_done()
        elif isinstance(effect, client.NeedBody):
            self._feed()
        elif isinstance(effect, client.Ready):
            self._be_ready()
        else:
            self._do_rarely(effect)

    def _do_rarely(self, effect: client.Effect) -> None:
        if isinstance(effect, client.TxAborted):
            job, self._current, self._following = self._current, self._following, None
            if job is not None:
                self.agent.bodies.close(job.body)
                self._aborted.append(Aborted(job.task, effect.undecided, effect.safe))
        elif isinstance(effect, client.Failed):
            self._end(effect)
        elif isinstance(effect, effects.StartTls):
            self._shake_hands()
        elif isinstance(effect, client.Bye):
            self.agent.shell.log(logline.MTA_DISCONNECTED.format(id=self.id, reason="quit", messages=self.messages))
        elif isinstance(effect, effects.Close):
            self._close()

    def _be_ready(self) -> None:
        assert self.link is not None and self._client is not None
        if self._client.state is not State.READY:
            return                 # it said more than it should: its end follows
        if not self.ready:
            self.ready = True
            self.link.set_timeout(COMMAND_TIMEOUT)
            self.agent.session_opened(self)
        self.agent.session_ready(self)

    def _rcpt_done(self, effect: client.RcptDone) -> None:
        assert self._current is not None
        self._accepted |= effect.outcome is Outcome.OK
        envelopes = self._current.task.envelopes
        if envelopes:
            self._result(envelopes[effect.rcpt], effect.outcome, effect.esc, effect.text)

    def _result(self, envelope: Envelope, outcome: Outcome, esc: str, text: str) -> None:
        dsn = outcome is Outcome.OK and self._client is not None and self._client.extensions.dsn
        self.agent.results.add(envelope, outcome, esc, text, session=self.id, source=self.source,
                               relay=str(self.route.host), dsn_relayed=dsn, remote=self.remote)

    def _tx_done(self) -> None:
        assert self._current is not None and self.link is not None
        self.agent.bodies.close(self._current.body)
        self._current, self._following = self._following, None
        self.done += 1
        self.messages += self._accepted
        self._accepted = False
        self.link.set_timeout(COMMAND_TIMEOUT)
        self.agent.transaction_done(self)

    # the end

    def _end(self, failed: client.Failed) -> None:
        """It failed, once."""
        if self.over:
            return
        self._close(abort=True)
        self.agent.session_failed(self, failed, self._aborted)

    def _close(self, *, abort: bool = False) -> None:
        if self.over:
            return
        self.over = True
        if self.link is not None:
            (self.link.abort if abort else self.link.close)()
        self.agent.session_closed(self)
