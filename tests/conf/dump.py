"""A Config as lines of text: what is not at its default, without positions and built-in tables."""

from collections.abc import Iterator
from typing import Any

import msgspec

from pysmtpd.conf.config import Config, Rule, Secret, Table

ALWAYS = ("hostname", "admd")      # of Config: what every file has


def dump(config: Config) -> str:
    """All that a file said, in the order of Config's fields."""
    return "".join(f"{line}\n" for line in _lines(config))


def _lines(config: Config) -> Iterator[str]:
    for name, value in _changed(config):
        if name == "tables":
            yield from (f"table {_table(table)}" for key, table in value.items() if not _builtin(key))
        elif name == "mta_limits":
            yield from (f"mta_limits {key or '*'}{_fields(limits)}" for key, limits in value.items() if _fields(limits))
        elif isinstance(value, dict):
            yield from (f"{name} {key}{_fields(one)}" for key, one in value.items())
        elif name == "rules":
            for rule in value:
                criteria = " ".join(f"({one.kind}{_fields(one, 'kind')})" for one in rule.criteria)
                yield f"rule {criteria} -> {_verdict(rule)}"
        elif name == "expectations":
            yield from (f"test{_fields(one)}" for one in value)
        elif name == "listeners":
            yield from (f"listener {one.address} {one.port}{_fields(one, 'address', 'port')}" for one in value)
        elif name not in ALWAYS or value != "mail.example.org":
            yield f"{name} {_text(value)}"


def _builtin(name: str) -> bool:
    return name.startswith("<") and not name.startswith("<dynamic:")


def _table(table: Table) -> str:
    pairs = " ".join(f"{key}=>{value.value}" for key, value in table.pairs)
    entries = " ".join(table.keys)
    return f"{table.name} {table.backend} {table.shape} {table.path}{{{entries}{pairs}}}"


def _changed(record: Any) -> Iterator[tuple[str, Any]]:
    for field in msgspec.structs.fields(record):
        value = getattr(record, field.name)
        default = field.default
        if default is msgspec.NODEFAULT and field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory()
        if value != default and field.name != "at":
            yield field.name, value


def _fields(record: Any, *but: str) -> str:
    if not isinstance(record, msgspec.Struct):
        return f" {_text(record)}"
    but = (*but, "name")
    return "".join(f" {name}={_text(value)}" for name, value in _changed(record) if name not in but)


def _text(value: Any) -> str:
    if isinstance(value, Secret):
        return f"secret {value.value}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ",".join(_text(one) for one in value)
    if isinstance(value, msgspec.Struct):
        return f"({_fields(value).strip()})"
    return str(value)


def _verdict(rule: Rule) -> str:
    return rule.action or f"reject {rule.reply}".strip()
