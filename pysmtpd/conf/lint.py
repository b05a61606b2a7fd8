"""Warnings: what is allowed, and yet hardly meant."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from pysmtpd.conf.config import Config, Criterion, Position, Rule, Table
from pysmtpd.conf.diagnostic import Diagnostic
from pysmtpd.conf.grammar_match import ANYDESTINATION, ANYHOST

_ALWAYS = ((f"<{ANYHOST}>",), (f"<{ANYDESTINATION}>",))


class _Test(NamedTuple):
    """A criterion by what it asks, so that equal ones are equal."""

    kind: str
    keys: tuple[str, ...]
    regex: bool
    negated: bool


def warnings(config: Config) -> list[Diagnostic]:
    """All warnings about a complete configuration."""
    found = [*_unused(config), *_unreachable(config), *_open_relays(config)]
    return [Diagnostic(at, message, warning=True) for at, message in found]


def _unused(config: Config) -> Iterator[tuple[Position, str]]:
    named = {rule.action for rule in config.rules}
    for action in config.actions.values():
        if action.name not in named:
            yield action.at, f'action "{action.name}" is never used'


def _unreachable(config: Config) -> Iterator[tuple[Position, str]]:
    """Rules that come after one which matches all that they match."""
    tests = [(rule, {_test(one, config.tables) for one in rule.criteria}) for rule in config.rules]
    for number, (rule, mine) in enumerate(tests):
        for earlier, theirs in tests[:number]:
            if {one for one in theirs if one.keys[:1] not in _ALWAYS or one.negated} <= mine:
                yield rule.at, f"this rule never matches: the one at {earlier.at} takes all that it would"
                break


def _test(criterion: Criterion, tables: Mapping[str, Table]) -> _Test:
    table = tables.get(criterion.table)
    in_place = table is not None and table.name.startswith("<dynamic:")
    keys = table.keys if table is not None and in_place else (f"<{criterion.table}>",)
    return _Test(criterion.kind, keys, criterion.regex, criterion.negated)


def _always(criterion: Criterion) -> bool:
    return criterion.table in (ANYHOST, ANYDESTINATION) and not criterion.negated


def _open_relays(config: Config) -> Iterator[tuple[Position, str]]:
    for rule in config.rules:
        action = config.actions.get(rule.action)
        if action is not None and action.is_relay and not action.backup and _is_open(rule):
            yield rule.at, "open relay: anyone may send to anywhere; add auth, or write from local or from src"


def _is_open(rule: Rule) -> bool:
    return all(_always(criterion) for criterion in rule.criteria)
