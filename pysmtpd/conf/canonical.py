"""A Config without what depends on how it was written, for printing and comparing.

What was written in place, a table or a chain of filters, has a name with a number in the order of the file.  Here each
use of it has one of its own, numbered in the order of the Config.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from pysmtpd.base.struct import replace
from pysmtpd.conf.config import Action, Config, Criterion, Filter, Listener, Position, Rule, Secret, Table
from pysmtpd.conf.veil import veiled

TABLE = "<dynamic:"
CHAIN = "<dynchain:"
MASKED = "\0"                      # no string of a file holds it
STARS = "********"
LISTENER_TABLES = ("hostnames", "senders", "auth_table", "proxy_from")
ACTION_TABLES = ("alias", "virtual", "userbase", "host", "domain", "helo_src", "src", "auth")
# Uses whose values are passwords.
_CREDENTIALS = ("auth_table", "auth")


def in_place(name: str) -> bool:
    """Whether a table or chain has no name of its own."""
    return name.startswith((TABLE, CHAIN))


def declared_first(filters: dict[str, Filter]) -> list[Filter]:
    """Those with a name, chains last, since they are made of others."""
    named = [one for one in filters.values() if not in_place(one.name)]
    return [one for one in named if not one.chain] + [one for one in named if one.chain]


class _Renaming:
    """Copies what is written in place, once for each use."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.tables = {name: self._declared(table) for name, table in config.tables.items()
                       if not name.startswith(TABLE)}
        self.filters: dict[str, Filter] = {}

    @staticmethod
    def _declared(table: Table) -> Table:
        """Which proc a program was named by is not kept, only the program."""
        return replace(table, backend="proc-exec") if table.backend == "proc" else table

    def table(self, name: str) -> str:
        if not name.startswith(TABLE):
            return name
        own = f"{TABLE}{sum(one.startswith(TABLE) for one in self.tables)}>"
        self.tables[own] = replace(self._config.tables[name], name=own)
        return own

    def chain(self, name: str) -> str:
        if not name.startswith(CHAIN):
            return name
        own = f"{CHAIN}{sum(one.startswith(CHAIN) for one in self.filters):08x}>"
        self.filters[own] = replace(self._config.filters[name], name=own)
        return own

    def listener(self, one: Listener) -> Listener:
        tables = {field: self.table(getattr(one, field)) for field in LISTENER_TABLES}
        return replace(one, filter=self.chain(one.filter), **tables)

    def filter(self, one: Filter) -> Filter:
        return replace(one, condition=one.condition and self.criterion(one.condition))

    def action(self, one: Action) -> Action:
        tables = {field: self.table(getattr(one, field)) for field in ACTION_TABLES}
        return replace(one, filter=self.chain(one.filter), **tables)

    def criterion(self, one: Criterion) -> Criterion:
        return replace(one, table=self.table(one.table))

    def rule(self, one: Rule) -> Rule:
        return replace(one, criteria=tuple(self.criterion(criterion) for criterion in one.criteria))


def canonical(config: Config) -> Config:
    """The same for all files that mean the same, but for positions."""
    names = _Renaming(config)
    for one in declared_first(config.filters):
        names.filters[one.name] = names.filter(one)
    return replace(
        config,
        listeners=tuple(names.listener(one) for one in config.listeners),
        actions={name: names.action(one) for name, one in config.actions.items()},
        rules=tuple(names.rule(one) for one in config.rules),
        xclient_from=names.table(config.xclient_from), xforward_from=names.table(config.xforward_from),
        client_limits=replace(config.client_limits, exempt=names.table(config.client_limits.exempt)),
        filters=names.filters,
        tables=names.tables,
    )


def without_positions(config: Config) -> Config:
    """Every position at its default: what two files that mean the same have in common."""
    bare: Config = _rebuilt(config, lambda one: Position() if isinstance(one, Position) else one)
    return bare


def masked(config: Config) -> Config:
    """Stars for keys, for the values of mappings that hold passwords or may hold some, and for what looks like a
    password in a command or URL."""
    star = Secret(MASKED)
    shown = _harmless(config)
    tables = {
        name: replace(table, keys=tuple(map(veiled, table.keys)),
                      pairs=table.pairs if name in shown else tuple((key, star) for key, _ in table.pairs))
        for name, table in config.tables.items()
    }
    programs = {name: replace(one, arguments=_veiled_arguments(one.arguments))
                for name, one in config.table_programs.items()}
    keys = {field: star for field in ("queue_key", "srs_key", "srs_backup") if getattr(config, field) is not None}
    return replace(
        config, tables=tables, table_programs=programs,
        actions={name: replace(one, argument=veiled(one.argument)) for name, one in config.actions.items()},
        wrappers={name: veiled(command) for name, command in config.wrappers.items()},
        processors={name: replace(one, command=veiled(one.command)) for name, one in config.processors.items()},
        **keys,
    )


def _veiled_arguments(arguments: tuple[str, ...]) -> tuple[str, ...]:
    """As one command, because a password may be the argument behind its name; an argument with blanks stays one."""
    joined = "\t".join(argument.replace("\t", " ") for argument in arguments)
    return tuple(veiled(joined).split("\t")) if "\t" in joined else tuple(map(veiled, arguments))


def _harmless(config: Config) -> set[str]:
    """Tables that are used, and never where values are passwords."""
    records = [*config.listeners, *config.actions.values()]
    uses = [(field, getattr(one, field)) for one in records for field in (*LISTENER_TABLES, *ACTION_TABLES)
            if hasattr(one, field)]
    tests = [criterion for rule in config.rules for criterion in rule.criteria]
    tests += [one.condition for one in config.filters.values() if one.condition is not None]
    uses += [("auth" if one.kind == "auth" else "", one.table) for one in tests]
    return {name for _, name in uses} - {name for field, name in uses if field in _CREDENTIALS}


def builtins(config: Config) -> dict[str, Any]:
    """All fields, those at their default too, of types that JSON has; a position is file:line:column."""
    found: dict[str, Any] = _rebuilt(config, _builtin)
    return found


def _builtin(value: Any) -> Any:
    if isinstance(value, Secret):
        return STARS if value.value == MASKED else value.value
    if isinstance(value, Position):
        return str(value) if value.line else None
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.asdict(value)
    return list(value) if isinstance(value, tuple) else value


def _rebuilt(value: Any, change: Callable[[Any], Any]) -> Any:
    """A record, and all that is in it, from the inside out."""
    if isinstance(value, Secret | Position):
        return change(value)
    if isinstance(value, msgspec.Struct):
        fields = {name: _rebuilt(getattr(value, name), change) for name in value.__struct_fields__}
        return change(msgspec.structs.replace(value, **fields))
    if isinstance(value, dict):
        return {key: _rebuilt(one, change) for key, one in value.items()}
    if isinstance(value, tuple):
        return change(tuple(_rebuilt(one, change) for one in value))
    return value
