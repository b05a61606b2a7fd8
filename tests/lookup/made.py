"""What the tests of lookup/ are made of."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from pysmtpd.base.envelope import Agent, BounceKind, Envelope, Flag, Ret
from pysmtpd.base.mailaddr import parse
from pysmtpd.conf.config import Action, Config, Criterion, Method, Position, Rule, Secret, Table
from pysmtpd.lookup.expand import Expander
from pysmtpd.lookup.facts import Facts
from pysmtpd.lookup.memo import Memo, Pending
from pysmtpd.lookup.ruleset import Ruleset
from pysmtpd.lookup.table import Service, TableError, Tables
from pysmtpd.lookup.table_static import StaticTable

T = TypeVar("T")


def envelope(to: str = "bob@example.org", sender: str = "alice@example.com", **fields: Any) -> Envelope:
    """What smtp asks about, or with some fields otherwise."""
    rcpt = parse(to)
    values: dict[str, Any] = {
        "evpid": 0, "agent": Agent.MTA, "action": "", "sender": parse(sender), "rcpt": rcpt, "dest": rcpt,
        "user": "", "command": "", "tag": "", "smtpname": "mx.example.org", "helo": "client.example.com",
        "hostname": "client.example.com", "username": "", "source": "192.0.2.7", "flags": 0, "ctime": 1_700_000_000,
        "ttl": 0, "last_try": 0, "last_bounce": 0, "retry": 0, "notify": 0, "ret": Ret.NONE, "envid": "", "orcpt": "",
        "errorline": "", "esc": "", "bounce": BounceKind.NONE, "bounce_delay": 0, **fields,
    }
    return Envelope(**values)


def facts(rcpt: str = "bob@example.org", *, tls: bool = False, local: bool = False, internal: bool = False,
          authenticated: bool = False, **fields: Any) -> Facts:
    flags = Flag.AUTHENTICATED if authenticated else 0
    return Facts(envelope(rcpt, flags=int(flags), **fields), tls=tls, local=local, internal=internal)


def criterion(kind: str, table: str = "", *, regex: bool = False, negated: bool = False) -> Criterion:
    return Criterion(kind=kind, table=table, regex=regex, negated=negated)


def rule(*criteria: Criterion, action: str = "", line: int = 1, reply: str = "") -> Rule:
    return Rule(criteria=criteria, action=action, reply=reply, at=Position("smtpd.conf", line, 1))


def static(name: str, *keys: str, **pairs: str) -> StaticTable:
    table = StaticTable(name)
    table.fill([*((key, "") for key in keys), *pairs.items()])
    return table


class DownTable:
    """A back end nobody answers at."""

    backend = "proc"

    def __init__(self, name: str) -> None:
        self.name = name

    def match(self, service: Service, key: str) -> bool:
        raise TableError(f"table {self.name}: down")

    def lookup(self, service: Service, key: str) -> str | None:
        raise TableError(f"table {self.name}: down")

    def fetch(self, service: Service) -> str | None:
        raise TableError(f"table {self.name}: down")


BUILT_IN = (
    static("<anyhost>", "local", "0.0.0.0/0", "::/0"),
    static("<localhost>", "local", "127.0.0.1", "[::1]", "192.0.2.1"),
    static("<anydestination>", "*"),
    static("<localnames>", "localhost", "mx.example.org", "192.0.2.1", "[::1]"),
)
USERS = static("<getpwnam>", bob="1000:1000:/home/bob", alice="1001:1001:/home/alice")

FROM_ANY, FROM_LOCAL = criterion("from", "<anyhost>"), criterion("from", "<localhost>")
FOR_ANY, FOR_LOCAL = criterion("for", "<anydestination>"), criterion("for", "<localnames>")

LOCAL_RULE = rule(FROM_ANY, FOR_LOCAL, action="local", line=7)
RELAY_RULE = rule(FROM_LOCAL, FOR_ANY, action="out", line=8)


def expander(*rules: Rule, tables: tuple[Any, ...] = (), **fields: Any) -> Expander:
    """One whose actions are ``local`` (maildir) and ``out`` (relay), or those given."""
    actions = fields.pop("actions", None) or (Action(name="local", method=Method.MAILDIR),
                                               Action(name="out", method=Method.RELAY))
    config = Config(hostname="mx.example.org", actions={action.name: action for action in actions}, **fields)
    known = Tables([*BUILT_IN, USERS, *tables])
    return Expander(config, Ruleset(rules or (LOCAL_RULE, RELAY_RULE), known), known)


def table_conf(name: str, *keys: str, **pairs: str) -> Table:
    return Table(name=name, keys=keys, pairs=tuple((key, Secret(value)) for key, value in pairs.items()))


class Clock:
    """Set by hand."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def settled(step: Callable[[Memo], T]) -> T:
    """What a step returns once all it asks is answered."""

    async def all_of_it() -> T:
        memo = Memo()
        try:
            return memo.run(step)
        except Pending as pending:
            return await memo.settle(step, pending)

    return asyncio.run(asyncio.wait_for(all_of_it(), 30))


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 30))
