"""Explains a recipient: the expansion that RCPT would start, with what its nodes remember, and where each leads.

Nothing is decided here.  Rules, tables, .forward files and the DNS are asked by the code that serves sessions.
"""

import ipaddress
from collections.abc import Callable
from typing import Any

from pysmtpd.base import relay_url
from pysmtpd.base.envelope import Agent, Envelope
from pysmtpd.base.format import COMMAND, PATH, ExpandError, Values
from pysmtpd.base.format import expand as fill
from pysmtpd.base.mailaddr import MailAddr
from pysmtpd.base.paths import MAIL_DIRECTORY
from pysmtpd.base.relay_url import Schema
from pysmtpd.base.struct import replace
from pysmtpd.base.text import is_clean
from pysmtpd.conf.config import Action, Config, Criterion, Expectation, Method
from pysmtpd.lookup import mx, rdns
from pysmtpd.lookup.expand import Expander
from pysmtpd.lookup.explained import Delivery, Explained, Part, Tried
from pysmtpd.lookup.facts import LOCAL, Facts
from pysmtpd.lookup.members import Kind
from pysmtpd.lookup.memo import Memo, Pending
from pysmtpd.lookup.node import Expanded, Node
from pysmtpd.lookup.ruleset import outcome
from pysmtpd.lookup.table import Service, TableError
from pysmtpd.lookup.table_static import StaticTable
from pysmtpd.lookup.trial import envelope_of, words
from pysmtpd.lookup.userinfo import GETPWNAM, userinfo
from pysmtpd.session.path import parse_path

ACCEPTED = "250 2.1.5 Destination address valid: Recipient ok"
CHILDREN_MAX = 200                 # shown of one node
RULES_MAX = 2000                   # that do not match, shown of all members together
HOSTS_MAX = 10                     # shown of one relay
FOR_ROOT = "will fail: only mbox, for the system's users, delivers to root"
ROUTES_MAX = 20                    # relays whose hosts are looked up


class Unexplained(Exception):
    """The question cannot be asked: why."""


class Explainer:
    """Answers under one configuration."""

    def __init__(self, config: Config, expander: Expander, dns: Any, shuffle: Callable[[list[Any]], None]) -> None:
        """dns: a resolver."""
        self._config = config
        self._x = expander
        self._dns = dns
        self._shuffle = shuffle
        self._routes: dict[tuple[str, str], tuple[str, ...]] = {}
        self._rules_left = RULES_MAX

    async def explain(self, ask: Expectation) -> Explained:
        """ask: the client, as a test in smtpd.conf describes one.  Raises Unexplained."""
        sender, rcpt = self._address(ask.sender, null=True), self._address(ask.rcpt, null=False)
        ask = replace(ask, source=_source(ask.source), rdns=ask.rdns.removesuffix("."))
        if ask.source != LOCAL and not ask.rdns:
            name = await rdns.client_name(self._dns, ask.source)
            ask = replace(ask, rdns=name.hostname)
        try:
            envelope = envelope_of(self._config, ask, sender, rcpt)
        except ValueError as error:
            raise Unexplained(str(error)) from None
        local = ask.source == LOCAL
        expanded = await _settled(self._x.expansion(envelope, tls=ask.tls, local=local).run)
        facts = Facts(replace(envelope, dest=expanded.root.address), tls=ask.tls, local=local)
        tree = await self._part(expanded.root, facts)
        why = expanded.why
        decision = expanded.root.decision
        if decision is not None and decision.rule is None and not decision.error:
            why += await self._but_for(facts)
        if why and expanded.root.note and expanded.root.address == rcpt:
            why += f"; {expanded.root.note}"
        return Explained(client=_client(ask), sender=str(sender), rcpt=str(rcpt), accepted=not expanded.reply,
                         reply=_reply(expanded, rcpt), why=why, problems=expanded.problems, tree=tree)

    async def _but_for(self, facts: Facts) -> str:
        """The rule that was probably meant for a recipient that none matched."""
        try:
            found = await _settled(lambda memo: self._x.ruleset.nearest(
                Facts(facts.envelope, tls=facts.tls, local=facts.source == LOCAL, memo=memo)))
        except TableError:
            return ""
        if found is None:
            return ""
        rule, criterion = found
        return f"; that at {rule.at} would have, but for {self._criterion(criterion, facts)}"

    def _criterion(self, criterion: Criterion, facts: Facts) -> str:
        """One that does not hold, and why."""
        return f"{words(criterion, self._config.tables)}{_compared(criterion, facts)}{self._bad(criterion)}"

    def _address(self, text: str, *, null: bool) -> MailAddr:
        path = parse_path(f"<{text}>", self._config.hostname)
        if path is None or (path[0].is_null and not null):
            raise Unexplained(f"no client can give the address <{text}>")
        return path[0]

    async def _part(self, node: Node, facts: Facts) -> Part:
        rules: tuple[Tried, ...] = ()
        if node.decision is not None:
            internal = node.parent is not None
            rules = self._rules(node, facts if not internal else self._facts_of(node, facts))
        children = [await self._part(child, facts) for child in node.children[:CHILDREN_MAX]]
        notes = [node.note] if node.note else []
        if node.decision is not None and len(rules) < len(node.decision.failed):
            notes.append(f"{len(node.decision.failed)} rules before it do not match")
        if len(node.children) > CHILDREN_MAX:
            notes.append(f"and {len(node.children) - CHILDREN_MAX} more members")
        name = f"<{node.address}>" if node.kind is Kind.ADDRESS else node.name
        delivery = await self._delivery(node, node.envelope) if node.envelope is not None else None
        return Part(kind=node.kind.value, name=name, origin=self._origin(node), rules=rules, notes=tuple(notes),
                    refused=node.error, delivery=delivery, children=tuple(children))

    def _facts_of(self, node: Node, facts: Facts) -> Facts:
        return Facts(replace(facts.envelope, dest=node.address), tls=facts.tls, local=facts.source == LOCAL,
                     internal=True)

    def _rules(self, node: Node, facts: Facts) -> tuple[Tried, ...]:
        decision = node.decision
        assert decision is not None
        failed = decision.failed
        if node.parent is not None:
            # The first members are told in full: a thousand rules for each of a list would be too much for anybody.
            failed = failed if len(failed) <= self._rules_left else []
            self._rules_left -= len(failed)
        tried = [
            Tried(at=str(rule.at), matched=False, text=self._criterion(criterion, facts))
            for rule, criterion in zip(self._config.rules, failed, strict=False)
        ]
        if decision.rule is not None:
            tried.append(Tried(at=str(decision.rule.at), matched=True, text=outcome(decision.rule)))
        return tuple(tried)

    def _bad(self, criterion: Criterion) -> str:
        """An expression of the criterion that can match nothing."""
        table = self._x.tables.get(criterion.table) if criterion.regex else None
        bad = table.bad_patterns() if isinstance(table, StaticTable) else []
        return f"; {bad[0].pattern} is no expression: {bad[0].reason}" if bad else ""

    def _origin(self, node: Node) -> str:
        origin = node.origin
        if origin is None:
            return ""
        if not origin.table:
            return origin.path
        where = getattr(self._x.tables.get(origin.table), "where", None)
        at = where(origin.key) if where is not None else ""
        text = f'"{origin.key}" in table {origin.table}' + (f", {at}" if at else "")
        return f"{origin.path}, from {text}" if origin.path else text

    # where a delivery leads

    async def _delivery(self, node: Node, envelope: Envelope) -> Delivery:
        action = self._x.actions[envelope.action]
        if envelope.agent is Agent.MTA:
            where = await self._route(action, envelope.dest)
        else:
            uid, home = await self._account(node, action)
            where = (self._mailbox(home, envelope, action),)
            if uid == 0 and (action.method is not Method.MBOX or action.userbase or envelope.command):
                where += (FOR_ROOT,)
        return Delivery(agent=envelope.agent.name.lower(), action=action.name, user=action.user or envelope.user,
                        dest=str(envelope.dest), where=where)

    def _mailbox(self, home: str, envelope: Envelope, action: Action) -> str:
        own = not action.user or action.user == envelope.user
        values = Values(envelope.sender, envelope.rcpt, envelope.dest, envelope.user, home if own else None,
                        self._x.delimiter)
        command = envelope.command
        try:
            if command.startswith("|"):
                return f"command {fill(command[1:], values, COMMAND)}"
            if command:
                return f"file {fill(command, values, PATH)}"
            match action.method:
                case Method.MBOX:
                    return f"mbox {MAIL_DIRECTORY}/{action.user or envelope.user}"
                case Method.MAILDIR:
                    tag = f", sub-address {envelope.subaddress}" if envelope.subaddress else ""
                    return f"maildir {fill(action.argument, values, PATH) or f'{home}/Maildir'}{tag}"
                case Method.MDA:
                    return f"command {fill(action.argument, values, COMMAND)}"
            return f"{action.method.value} {fill(action.argument, values, PATH)}"
        except ExpandError as error:
            return f"{command or f'{action.method.value} {action.argument}'}: {error}"

    async def _account(self, node: Node, action: Action) -> tuple[int | None, str]:
        """User id, if it is known, and home of the user whom the delivery runs as."""
        if not action.user:
            return node.uid, node.home

        def look_up(memo: Memo) -> tuple[int | None, str]:
            value = self._x.tables.lookup(GETPWNAM, Service.USERINFO, action.user, memo)
            info = userinfo(value, GETPWNAM, action.user) if value is not None else None
            return (info.uid, info.home) if info is not None else (None, "")

        try:
            uid, home = await _settled(look_up)
        except TableError:
            return None, ""
        return uid, home

    async def _route(self, action: Action, dest: MailAddr) -> tuple[str, ...]:
        """The hosts a relay would try, in the order of their preference."""
        try:
            url = await _settled(lambda memo: self._url(action, dest, memo))
        except TableError as error:
            return (f"temporary failure: {error}",)
        if url is None:
            return (f"table {action.host or action.domain} has no relay for {dest.domain}",)
        key = (url, "" if url else dest.domain.lower())
        found = self._routes.get(key)
        if found is None:
            if len(self._routes) >= ROUTES_MAX:
                return (f"{url or f'MX of {dest.domain}'}, not looked up here",)
            found = self._routes[key] = await self._hosts(action, url, dest.domain)
        return found

    def _url(self, action: Action, dest: MailAddr, memo: Memo) -> str | None:
        """The relay, empty for MX, None when the table has none."""
        if action.host:
            return self._x.tables.fetch(action.host, Service.RELAYHOST, memo)
        if action.domain:
            return self._x.tables.lookup(action.domain, Service.RELAYHOST, dest.domain, memo)
        return ""

    async def _hosts(self, action: Action, url: str, domain: str) -> tuple[str, ...]:
        head = f"relay {url}" if url else f"MX of {domain}"
        try:
            relay = relay_url.parse(url) if url else None
            policy = _tls(relay_url.effective(relay.schema if relay is not None else Schema.SMTP, action.tls), action)
        except ValueError as error:
            return (f"{head}: {error}",)
        if relay is not None:
            found = await mx.resolve_host(self._dns, relay.host, self._shuffle)
        else:
            found = await mx.resolve_domain(self._dns, domain, self._shuffle)
        if not found.hosts:
            return (f"{head}, {policy}: {found.text}",)
        shown = [f"{host.preference} {host.name} [{host.address}]" if not url else f"{host.name} [{host.address}]"
                 for host in found.hosts[:HOSTS_MAX]]
        more = [f"and {len(found.hosts) - HOSTS_MAX} more"] if len(found.hosts) > HOSTS_MAX else []
        return (f"{head}, {policy}", *shown, *more)


async def _settled(step: Callable[[Memo], Any]) -> Any:
    memo = Memo()
    try:
        return memo.run(step)
    except Pending as pending:
        return await memo.settle(step, pending)


def _source(text: str) -> str:
    """The address of a client, however it is written, as a session has it."""
    if text in (LOCAL, "socket"):
        return LOCAL
    bare = text.removeprefix("[").removesuffix("]")
    try:
        address = ipaddress.ip_address(bare[5:] if bare[:5].lower() == "ipv6:" else bare)
    except ValueError:
        raise Unexplained(f"{text} is no address of a client") from None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _client(ask: Expectation) -> str:
    parts = ["this machine" if ask.source == LOCAL else f"{ask.source} ({ask.rdns or 'no name'})"]
    parts += [f"HELO {ask.helo}"] * bool(ask.helo) + [f"authenticated as {ask.username}"] * bool(ask.username)
    return ", ".join(parts + ["TLS"] * ask.tls + [f"tag {ask.tag}"] * bool(ask.tag))


def _reply(expanded: Expanded, rcpt: MailAddr) -> str:
    if not expanded.reply:
        return ACCEPTED
    return expanded.reply if expanded.whole else f"{expanded.reply}: <{rcpt}>"


_FACTS = {"tag": "tag", "from": "source", "from-rdns": "hostname", "for": "domain", "helo": "helo",
          "mail-from": "sender", "rcpt-to": "dest", "auth": "username"}


def _compared(criterion: Criterion, facts: Facts) -> str:
    """What a criterion was compared with."""
    if criterion.kind == "auth" and not facts.authenticated:
        return ", and the client is not authenticated"
    if criterion.kind == "tls":
        return f", and the client speaks {'it' if facts.tls else 'none'}"
    if not criterion.table:
        return ""
    value = getattr(facts, _FACTS[criterion.kind])
    return f", and it is {value}" if value and is_clean(value) else ", and there is none"


def _tls(schema: Schema, action: Action) -> str:
    """What a relay demands, in words."""
    if schema in (Schema.SMTP_NOTLS, Schema.LMTP):
        return "no TLS"
    if schema is Schema.SMTP:
        return "TLS when it is offered"
    verified = "verified" if relay_url.is_verified(schema, action.tls) else "not verified"
    return f"TLS {'from the start' if schema is Schema.SMTPS else 'required'}, {verified}"
