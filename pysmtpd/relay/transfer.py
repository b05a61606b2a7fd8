"""The transfer agent: takes envelopes, finds their relays, keeps the relays connected, and reports what became of all.

It is driven by messages and by links.  Whatever changes marks its relay; at the end of the turn each marked relay is
driven: its tasks go to idle sessions, and if that is not enough it gets what it needs for another connection, one
thing at a time (hosts, credentials, a source, the host's name), until it can connect, must wait, or has nothing left.
"""

from functools import partial
from itertools import islice
from math import inf

from pysmtpd.base import logline, relay_url
from pysmtpd.base.envelope import Envelope
from pysmtpd.conf.config import Action, Config
from pysmtpd.messages import (
    DeliveryHold,
    DeliveryRelease,
    Found,
    HostList,
    MtaResolved,
    Outcome,
    QueueDeliver,
)
from pysmtpd.relay import connector, limits
from pysmtpd.relay.addressing import Addressing
from pysmtpd.relay.body import Bodies
from pysmtpd.relay.connector import Blocked, Connect, Exhausted
from pysmtpd.relay.hoststat import HostStats
from pysmtpd.relay.lookup import Questions
from pysmtpd.relay.relay import Candidate, Connection, Failure, Relay, RelayKey, relay_key
from pysmtpd.relay.report import Known
from pysmtpd.relay.results import Results
from pysmtpd.relay.route import PTR_KEEP, Network, Route, Usage
from pysmtpd.relay.session import Aborted, Session
from pysmtpd.relay.shell import Shell
from pysmtpd.relay.task import Task, key_of
from pysmtpd.session.client_effects import Failed

HOSTS_KEEP = 60.0                  # seconds; lka knows how long the records live
PTR_PATIENCE = 1.0                 # seconds a connection waits for the name of its host
RECHECK = 5.0                      # seconds, when a limit is reached
SWEEP = 300.0
TRIES_MAX = 3                      # sessions that may end under a task in one attempt
RECENT_MAX = 4096
WOKEN_MAX = 4
LINGER = 2.0                       # seconds an idle connection is kept that is not the relay's last


class TransferAgent:
    """All of outbound mail in one process."""

    def __init__(self, config: Config, shell: Shell) -> None:
        self.shell = shell
        self.hostname = config.hostname
        self.questions = Questions(shell)
        self.bodies = Bodies(shell)
        self.hosts = HostStats(config.max_deferred)
        self.results = Results(shell, self.hosts)
        self.network = Network()
        self.addressing = Addressing(config, self.questions, self._enqueue, self._fail)
        self.relays: dict[RelayKey, Relay] = {}
        self.stopping = False
        self._config = config
        self._marked: dict[Relay, None] = {}
        self._blocked: dict[Relay, None] = {}  # at a limit, those that waited longest first
        self._recent: dict[tuple[str, str, str], Relay] = {}  # by action, URL, and what of the envelope counts
        self._sweep_at = 0.0

    # envelopes

    def _enqueue(self, message: QueueDeliver, action: Action, smarthost: str, rewritten: str) -> None:
        envelope = message.envelope
        try:
            relay = self._relay(envelope, action, smarthost)
            task = key_of(envelope, action.mail_from, rewritten, utf8_header=message.utf8_header)
        except ValueError as error:
            self._fail(envelope, Outcome.TEMPFAIL, "4.3.5", str(error))
            return
        if relay.add(envelope, task, message.size, message.has_8bit, message.body, binary=message.binary):
            self.mark(relay)
            return
        if not relay.holding:
            relay.holding = True
            self.shell.log(logline.MTA_HIWAT.format(relay=relay))
        self.shell.tell_queue(DeliveryHold(envelope.evpid, relay.holdq))

    def _relay(self, envelope: Envelope, action: Action, smarthost: str) -> Relay:
        """The relay of an envelope.  Raises ValueError with what to report."""
        domain = "" if smarthost else envelope.dest.domain
        short = (action.name, smarthost or f"@{domain}", envelope.smtpname if action.backup else "")
        relay = self._recent.get(short)
        if relay is None or relay.retired:
            if len(self._recent) >= RECENT_MAX:
                self._recent.clear()
            key = relay_key(envelope, action, _parse(smarthost) if smarthost else None)
            relay = self._recent[short] = self.relays.get(key) or self._new_relay(key)
        return relay

    def _new_relay(self, key: RelayKey) -> Relay:
        found = limits.limits_of(self._config.mta_limits, key.domain)
        relay = self.relays[key] = Relay(key, self.shell.new_reqid(), found, self.network)
        if not key.label:
            relay.secret = ""
        if not key.src:
            relay.source = ""
        literal = None if key.mx else relay_url.literal(key.domain)
        if literal is not None:
            relay.hosts, relay.hosts_at = [Candidate(0, key.domain, literal)], inf
        return relay

    def _fail(self, envelope: Envelope, outcome: Outcome, esc: str, text: str) -> None:
        """It never came to a session."""
        self.results.add(envelope, outcome, esc, text, relay=envelope.dest.domain)

    def _flush(self, relay: Relay, outcome: Outcome, esc: str, text: str, *, unreachable: bool = False) -> None:
        """Nothing more can be done for the tasks of a relay."""
        while relay.tasks:
            for envelope in relay.take().envelopes:
                self.results.add(envelope, outcome, esc, text, relay=relay.key.domain, unreachable=unreachable)
        if relay.holding:
            relay.holding = False
            self.shell.tell_queue(DeliveryRelease(relay.holdq, -1))
        relay.failed.clear()

    def cancel(self, evpids: list[int]) -> None:
        """They were removed from the queue.  What is being sent is sent."""
        gone = frozenset(evpids)
        for relay in list(self.relays.values()):
            if relay.tasks and relay.drop(gone):
                if relay.holding and len(relay.tasks) <= relay.limits.task_lowat:
                    relay.holding = bool(relay.tasks)
                    self.shell.tell_queue(DeliveryRelease(relay.holdq, relay.limits.task_release * relay.holding))
                self.mark(relay)

    # driving

    def mark(self, relay: Relay) -> None:
        """Look at this relay at the end of the turn."""
        if not self._marked:
            self.shell.soon(self._drive_marked)
        self._marked[relay] = None

    def _drive_marked(self) -> None:
        marked, self._marked = self._marked, {}
        for relay in marked:
            self._drive(relay)

    def _drive(self, relay: Relay) -> None:
        while relay.tasks and relay.idle:
            # The one used last: those that are not needed grow old and leave.
            session = relay.idle.pop()
            task = self.next_task(session)
            if task is not None:
                session.take(task)
            elif session.patient:
                relay.idle.append(session)
                break
            else:
                session.quit()
        while relay.wants_connection() and not self.stopping and self._connect(relay):
            pass
        self._retire(relay)

    def _retire(self, relay: Relay) -> None:
        if relay.in_use or self.relays.get(relay.key) is not relay:
            return
        if relay.timer is not None:
            relay.timer.cancel()
        del self.relays[relay.key]
        relay.retired = True
        self._blocked.pop(relay, None)
        clock = self.shell.clock()
        if clock > self._sweep_at:
            self._sweep_at = clock + SWEEP
            self.network.sweep(clock)

    def next_task(self, session: Connection) -> Task | None:
        """A waiting task that the server of this session may be given."""
        relay = session.relay
        while relay.tasks and not self.stopping:
            task = relay.take()
            self._release(relay)
            refusal = session.refuses(task)
            if refusal is None:
                return self._portion(session, task)
            for envelope in task.envelopes:
                self.results.add(envelope, Outcome.PERMFAIL, *refusal, session=session.id, source=session.source,
                                 relay=str(session.route.host))
        return None

    def _portion(self, session: Connection, task: Task) -> Task | None:
        """As much of a task as this server takes at once; the rest waits for its next transaction, or for another
        session."""
        allowed = session.allows(task)
        if not allowed:
            session.relay.give_back(task)
            return None
        if len(allowed) < len(task.envelopes):
            session.relay.give_back(task.split(allowed))
        return task

    def _release(self, relay: Relay) -> None:
        if not relay.holding:
            return
        if not relay.tasks:
            relay.holding = False
            self.shell.tell_queue(DeliveryRelease(relay.holdq, 0))
        elif len(relay.tasks) == relay.limits.task_lowat:
            self.shell.log(logline.MTA_LOWAT.format(relay=relay))
            self.shell.tell_queue(DeliveryRelease(relay.holdq, relay.limits.task_release))

    # connecting

    def _connect(self, relay: Relay) -> bool:
        """One step towards another connection; whether there may be a next one now."""
        if not self._prepared(relay):
            return False
        clock = self.shell.clock()
        choice = connector.choose(relay, self.network, clock)
        if isinstance(choice, Exhausted):
            if self._other_source(relay):
                return False
            self._flush(relay, Outcome.TEMPFAIL, choice.esc, choice.reason, unreachable=True)
            return False
        if isinstance(choice, Blocked):
            if choice.until == inf:
                self._blocked[relay] = None
            self._wait(relay, min(choice.until - clock, RECHECK if choice.until == inf else inf))
            return False
        if not self._named(relay, choice.route):
            return False
        self._open(relay, choice)
        return True

    def _other_source(self, relay: Relay) -> bool:
        """Whether another source address is to be had where this one cannot reach any host."""
        source = relay.source
        if not relay.key.src or source is None or connector.reaches(relay):
            return False
        relay.source = None
        if source in relay.unfit:
            relay.unfit.clear()        # they begin to repeat
            return False
        relay.unfit.add(source)
        self.mark(relay)
        return True

    def _prepared(self, relay: Relay) -> bool:
        """Whether all is known that a connection needs; if not, lka is asked for the first thing missing."""
        key = relay.key
        if relay.hosts is None or self.shell.clock() - relay.hosts_at > HOSTS_KEEP:
            if "hosts" not in relay.asking:
                relay.asking.add("hosts")
                self.questions.resolve(key.domain, key.mx, partial(self._resolved, relay))
        elif relay.secret is None:
            self._ask(relay, "credentials", key.auth, key.label)
        elif relay.source is None:
            self._ask(relay, "source", key.src, "")
        else:
            return True
        return False

    def _ask(self, relay: Relay, service: str, table: str, key: str) -> None:
        if service not in relay.asking:
            relay.asking.add(service)
            self.questions.lookup(service, table, key, partial(self._answered, relay, service))

    def _answered(self, relay: Relay, service: str, found: Found, value: str) -> None:
        relay.asking.discard(service)
        if found is not Found.YES:
            what = "source address" if service == "source" else service
            self._flush(relay, Outcome.TEMPFAIL, "4.3.5", f"Could not retrieve {what}")
        elif service == "credentials":
            relay.secret = value
        else:
            relay.source = relay_url.literal(value.strip()) or value
        self.mark(relay)

    def _resolved(self, relay: Relay, answer: MtaResolved) -> None:
        relay.asking.discard("hosts")
        self.mark(relay)
        if answer.status is HostList.OK:
            relay.hosts = connector.candidates(answer.hosts, relay.key.backup, relay.limits.family)
            relay.hosts_at = self.shell.clock()
            return
        if answer.status is HostList.TEMPFAIL and relay.hosts:
            # What was true a minute ago is better than nothing.
            relay.hosts_at = self.shell.clock()
            return
        self.shell.log(logline.MTA_RESOLVE_FAILED.format(relay=relay, reason=answer.text))
        permanent = answer.status is HostList.PERMFAIL
        self._flush(relay, Outcome.PERMFAIL if permanent else Outcome.TEMPFAIL, answer.esc, answer.text)

    def _named(self, relay: Relay, route: Route) -> bool:
        """Whether the name of the host is known, or has been waited for long enough: it is for the log only."""
        host, clock = route.host, self.shell.clock()
        if host.ptr_at is None or clock - host.ptr_at > PTR_KEEP:
            host.ptr_at = clock
            self.questions.lookup("ptr", "", host.address, partial(self._ptr_found, relay, route))
        left = host.ptr_at + PTR_PATIENCE - clock
        if host.ptr is not None or left <= 0:
            return True
        self._wait(relay, left + 0.01)
        return False

    def _ptr_found(self, relay: Relay, route: Route, found: Found, value: str) -> None:
        route.host.ptr = value if found is Found.YES and value != "<unknown>" else ""
        self.mark(relay)

    def _wait(self, relay: Relay, seconds: float) -> None:
        if relay.timer is not None:
            relay.timer.cancel()
        relay.timer = self.shell.later(max(seconds, 0.0), partial(self._woken, relay))

    def _woken(self, relay: Relay) -> None:
        relay.timer = None
        self.mark(relay)

    def _open(self, relay: Relay, to: Connect, *, plain: bool = False) -> None:
        clock = self.shell.clock()
        session = Session(self, relay, to, plain=plain)
        relay.sessions.add(session)
        relay.opening += 1
        for usage in self._usages(session):
            usage.nconn += 1
            usage.lastconn = clock
        if relay.key.src:
            relay.source = None
            relay.unfit.clear()
        session.open(connector.connect_timeout(relay))

    def _usages(self, session: Session) -> list[Usage]:
        relay, route = session.relay, session.route
        return [relay.usage, relay.domain, relay.connector(route.source), self.network.source(route.source),
                route.host, route]

    # what sessions tell

    def again_in_the_clear(self, session: Session) -> None:
        """TLS failed where it was not demanded."""
        self._open(session.relay, Connect(session.candidate, session.route), plain=True)

    def has_alternative(self, relay: Relay) -> bool:
        """Whether there are hosts that were not tried in this attempt."""
        return len(relay.hosts or ()) > len(relay.failed) + 1

    def session_opened(self, session: Session) -> None:
        """It is ready for the first time: others may follow it."""
        session.relay.opening -= 1
        session.relay.proven = session.route.proven = True

    def session_ready(self, session: Session) -> None:
        """It can take a task."""
        relay = session.relay
        delay = relay.limits.session_transaction_delay
        if self.stopping or not session.patient:
            session.quit()
        elif delay and session.taken:
            self.shell.later(delay, partial(self._rested, session))
        else:
            self._employ(session)
        if relay.tasks:
            self.mark(relay)

    def _rested(self, session: Session) -> None:
        if not session.over:
            self._employ(session)

    def _employ(self, session: Session) -> None:
        task = self.next_task(session)
        if task is not None:
            session.take(task)
            return
        relay = session.relay
        if not session.patient:
            session.quit()
            return
        relay.idle.append(session)
        keepalive = relay.limits.session_keepalive
        assert session.link is not None
        session.link.set_timeout(keepalive if len(relay.sessions) == 1 else min(LINGER, keepalive))

    def idle_too_long(self, session: Session) -> None:
        """The last connection of a relay lingers, the others leave sooner."""
        session.relay.idle.remove(session)
        session.quit()

    def transaction_done(self, session: Session) -> None:
        """Whatever came of it, this host does its work: the attempt starts anew."""
        session.relay.failed.clear()
        if session.route.penalty:
            session.route.prove()

    def session_failed(self, session: Session, failed: Failed, aborted: list[Aborted]) -> None:
        """It ended otherwise than by QUIT.  Tasks that may be tried again go to the next host at once."""
        relay = session.relay
        if session.done:
            plural = "" if session.done == 1 else "s"
            self.shell.log(logline.MTA_ERROR_AFTER.format(
                id=session.id, count=session.done, s=plural, reason=failed.reason))
        else:
            self.shell.log(logline.MTA_ERROR.format(id=session.id, reason=failed.reason))
        if not session.blameless and not session.done and (aborted or not session.ready):
            self._blame(session, failed)
        for task, undecided, safe in reversed(aborted):
            self._aborted(session, task, undecided, safe, failed)
        if relay.tasks:
            self.mark(relay)

    def _blame(self, session: Session, failed: Failed) -> None:
        relay, route = session.relay, session.route
        relay.failed[route.host.address] = Failure(failed.reason, failed.esc, not session.connected)
        relay.proven = False
        seconds = route.disable(self.shell.clock())
        if seconds:
            self.shell.log(logline.MTA_ROUTE_DISABLED.format(route=route, seconds=seconds))
            self.shell.later(seconds, partial(self._enable, route))

    def resume_route(self, number: int) -> bool:
        """Somebody knows that it works again; False when there is no such route."""
        route = next((one for one in self.network.routes.values() if one.id == number), None)
        if route is None:
            return False
        if route.disabled_until:
            route.enable()
            self.shell.log(logline.MTA_ROUTE_ENABLED.format(route=route))
        for relay in self.relays.values():
            self.mark(relay)
        return True

    def _enable(self, route: Route) -> None:
        if route.disabled_until and route.disabled_until <= self.shell.clock() + 1:
            route.enable()
            self.shell.log(logline.MTA_ROUTE_ENABLED.format(route=route))

    def _aborted(self, session: Session, task: Task, undecided: tuple[int, ...], safe: bool, failed: Failed) -> None:
        envelopes = [task.envelopes[index] for index in undecided] if task.envelopes else []
        task.tries += 1
        tries = max(TRIES_MAX, len(session.relay.hosts or ()))
        if safe and task.tries < tries and envelopes and not self.stopping:
            task.envelopes = envelopes
            session.relay.give_back(task)
            return
        for envelope in envelopes:
            self.results.add(envelope, Outcome.TEMPFAIL, failed.esc or "4.4.2", failed.reason,
                             session=session.id, source=session.source, relay=str(session.route.host),
                             remote=session.remote)

    def session_closed(self, session: Session) -> None:
        """It is over, one way or another."""
        relay = session.relay
        relay.sessions.discard(session)
        if session in relay.idle:
            relay.idle.remove(session)
        if not session.ready:
            relay.opening -= 1
        for usage in self._usages(session):
            usage.nconn -= 1
        session.route.lastdisc = self.shell.clock()
        self.mark(relay)
        # Others may wait for a limit that both share: those that waited longest are looked at, a few for each end.
        for other in list(islice(self._blocked, WOKEN_MAX)):
            del self._blocked[other]
            self.mark(other)

    # the end

    def stop(self) -> None:
        """Take nothing new; what is being sent is sent."""
        self.stopping = True
        for relay in self.relays.values():
            relay.tasks.clear()
            for session in relay.idle:
                session.quit()
            relay.idle.clear()

    @property
    def quiet(self) -> bool:
        """Whether no session is at work."""
        return not any(session.busy for relay in self.relays.values() for session in relay.sessions)

    def known(self) -> Known:
        """What smtpctl may be shown."""
        return Known(list(self.relays.values()), self.network, self.hosts, self.shell.clock())

    def counters(self) -> dict[str, int]:
        """Statistics of this moment."""
        relays, network = self.relays.values(), self.network
        waiting = [task for relay in relays for task in relay.tasks]
        running = [task for relay in relays for session in relay.sessions for task in session.tasks]
        return {
            "mta.connector": sum(len(relay.connectors) for relay in relays),
            "mta.domain": len(network.domains),
            "mta.envelope": sum(len(task.envelopes) for task in waiting + running) + self.addressing.waiting,
            "mta.host": len(network.hosts),
            "mta.relay": len(relays),
            "mta.route": len(network.routes),
            "mta.session": sum(len(relay.sessions) for relay in relays),
            "mta.source": len(network.sources),
            "mta.task": len(waiting) + len(running),
            "mta.task.running": len(running),
        }


def _parse(smarthost: str) -> relay_url.RelayUrl:
    try:
        return relay_url.parse(smarthost.strip())
    except ValueError:
        raise ValueError("Cannot parse smarthost") from None
