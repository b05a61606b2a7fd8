"""A relay: where a domain's mail goes and how, the tasks that wait for it, and the connections it has."""

from collections import deque
from collections.abc import Set as AbstractSet
from typing import NamedTuple, Protocol

from pysmtpd.base.envelope import Envelope
from pysmtpd.base.relay_url import RelayUrl, Schema, literal
from pysmtpd.conf.config import Action, MtaLimits
from pysmtpd.relay import tls_policy
from pysmtpd.relay.route import Network, Route, Usage
from pysmtpd.relay.shell import Link, Timer
from pysmtpd.relay.task import Task, TaskKey
from pysmtpd.relay.tls_policy import TlsPolicy


class Connection(Protocol):
    """What a relay's owner does with one of its sessions."""

    id: int
    link: Link | None
    route: Route
    source: str

    @property
    def relay(self) -> "Relay": ...

    @property
    def busy(self) -> bool: ...

    @property
    def tasks(self) -> list[Task]: ...

    @property
    def patient(self) -> bool: ...

    def refuses(self, task: Task) -> tuple[str, str] | None: ...

    def allows(self, task: Task) -> list[Envelope]: ...

    def take(self, task: Task) -> None: ...

    def quit(self) -> None: ...


class RelayKey(NamedTuple):
    """Envelopes for which all of this is equal share connections, whatever their actions are called."""

    domain: str                    # lower case: whose mail exchangers, or the smarthost itself
    mx: bool
    schema: Schema
    port: int
    tls: TlsPolicy
    label: str = ""                # of the credentials in the table auth
    auth: str = ""
    src: str = ""
    helo: str = ""
    helo_src: str = ""
    backup: str | None = None      # our own name among the exchangers


class Candidate(NamedTuple):
    """A host that may be tried."""

    preference: int
    name: str
    address: str


class Failure(NamedTuple):
    """Why a host could not be used."""

    reason: str
    esc: str
    network: bool                  # it was never spoken with


class Relay:
    """One relay, as long as there is mail for it or a connection to it."""

    def __init__(self, key: RelayKey, holdq: int, limits: MtaLimits, network: Network) -> None:
        self.key = key
        self.holdq = holdq
        self.limits = limits
        self.usage = Usage()
        self.domain = network.domain(key.domain)
        self.connectors: dict[str, Usage] = {}
        self.tasks: deque[Task] = deque()
        self.sessions: set[Connection] = set()
        self.idle: list[Connection] = []
        self.opening = 0           # sessions that are not ready yet
        self.holding = False       # the scheduler keeps envelopes back for us
        self.proven = False        # a session was ready since the last failure
        self.hosts: list[Candidate] | None = None
        self.hosts_at = 0.0
        self.failed: dict[str, Failure] = {}   # by address, since mail last went through
        self.secret: str | None = None         # credentials, "" when none are needed
        self.source: str | None = None         # the next connection's, "" for the system's choice
        self.unfit: set[str] = set()           # sources that reach none of the hosts
        self.asking: set[str] = set()          # what lka was asked for
        self.timer: Timer | None = None
        self.retired = False       # forgotten: another one took its place, or will
        self._open: dict[TaskKey, Task] = {}   # waiting tasks that take more envelopes

    def __str__(self) -> str:
        key = self.key
        parts = [key.domain]
        if not key.mx:
            parts.append(f"port={key.port}")
        parts.append(key.schema.value)
        if key.label:
            parts.append(f"auth={key.auth}:{key.label}")
        if key.tls.pki:
            parts.append(f"pki_name={key.tls.pki}")
        if not key.mx:
            parts.append("mx")
        if key.backup is not None:
            parts.append(f"backup={key.backup}")
        parts += [f"{name}={value}" for name, value in (
            ("sourcetable", key.src), ("helotable", key.helo_src), ("heloname", key.helo)) if value]
        return f"[relay:{','.join(parts)}]"

    @property
    def in_use(self) -> bool:
        return bool(self.tasks or self.sessions or self.asking)

    def connector(self, source: str) -> Usage:
        return self.connectors.get(source) or self.connectors.setdefault(source, Usage())

    def add(self, envelope: Envelope, key: TaskKey, size: int, has_8bit: bool, body: bytes = b"", *,
            binary: bool = False) -> bool:
        """Take an envelope; False when there are enough tasks already."""
        task = self._open.get(key)
        if task is None or task.full:
            if len(self.tasks) >= self.limits.task_hiwat:
                return False
            task = self._open[key] = Task(key, size, has_8bit, body, binary=binary)
            self.tasks.append(task)
        task.envelopes.append(envelope)
        return True

    def take(self) -> Task:
        """The next task; from now on nothing is added to it."""
        task = self.tasks.popleft()
        if self._open.get(task.key) is task:
            del self._open[task.key]
        return task

    def drop(self, evpids: AbstractSet[int]) -> bool:
        """Forget these as far as they wait; whether there were any."""
        before = sum(len(task.envelopes) for task in self.tasks)
        for task in self.tasks:
            task.envelopes = [envelope for envelope in task.envelopes if envelope.evpid not in evpids]
        for key in [key for key, task in self._open.items() if not task.envelopes]:
            del self._open[key]
        self.tasks = deque(task for task in self.tasks if task.envelopes)
        return sum(len(task.envelopes) for task in self.tasks) < before

    def give_back(self, task: Task) -> None:
        self.tasks.appendleft(task)

    def wants_connection(self) -> bool:
        """Whether another one would help."""
        tasks, nconn = len(self.tasks), len(self.sessions)
        if tasks <= self.opening:
            return False
        return nconn <= 2 or nconn < tasks / 2


def relay_key(envelope: Envelope, action: Action, url: RelayUrl | None) -> RelayKey:
    """The relay of an envelope, through the smarthost of ``url`` or by MX.  Raises ValueError: its text is what to
    report as a temporary failure."""
    schema = tls_policy.effective(url.schema if url else Schema.SMTP, action)
    label = url.label if url else ""
    if label and not action.auth:
        raise ValueError("No auth table for relaying")
    domain = (url.host if url else envelope.dest.domain).lower()
    backup = (action.backup_mx or envelope.smtpname).lower() if action.backup else None
    return RelayKey(
        (literal(domain) or domain) if url else domain, url is None, schema, url.port if url else 25,
        tls_policy.policy(schema, action), label, action.auth if label else "", action.src, action.helo,
        action.helo_src, backup,
    )
