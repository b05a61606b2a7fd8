"""The tests in smtpd.conf: what the rules say about a recipient, asked before anybody else can ask.

The evaluator and the tables are the daemon's own.  Only the rules are asked, not who exists: what an expansion makes
of a recipient depends on users and files that change.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pysmtpd.base.envelope import Agent, BounceKind, Envelope, Flag, Ret
from pysmtpd.base.mailaddr import MailAddr
from pysmtpd.conf.config import Config, Criterion, Expectation, Table
from pysmtpd.lookup.build import build_tables
from pysmtpd.lookup.expand import refusing_reply
from pysmtpd.lookup.facts import LOCAL, UNKNOWN, Facts
from pysmtpd.lookup.memo import Pending
from pysmtpd.lookup.node import INVALID_RECIPIENT
from pysmtpd.lookup.ruleset import Decision, Ruleset, describe, outcome
from pysmtpd.session.path import parse_path

KEYS_SHOWN = 3


class Result(NamedTuple):
    """What became of one test.

    passed: None when it could not be asked.  got: what came instead, or why nothing did.  notes: each rule tried."""

    passed: bool | None
    got: str
    notes: list[str]


def run(config: Config, expectations: Sequence[Expectation]) -> list[Result]:
    """The result of each."""
    if not expectations:
        return []
    ruleset = Ruleset(config.rules, build_tables(config, strict=False))
    return [_run(config, ruleset, one) for one in expectations]


def _run(config: Config, ruleset: Ruleset, one: Expectation) -> Result:
    addresses = [parse_path(f"<{text}>", config.hostname) for text in (one.sender, one.rcpt)]
    for text, path in zip((one.sender, one.rcpt), addresses, strict=True):
        if path is None:
            return Result(False, f"no client can give the address <{text}>", [])
    sender, rcpt = (path[0] for path in addresses if path is not None)
    envelope = envelope_of(config, one, sender, rcpt)
    local = one.source == LOCAL
    try:
        decision = ruleset.evaluate(Facts(envelope, tls=one.tls, local=local))
    except Pending:
        return Result(None, "it needs a table that is not asked before the daemon runs", [])
    if decision.error:
        return Result(None, decision.error, [])
    verdict, text = _verdict(config, decision, envelope)
    passed = verdict == one.verdict and (text == one.text if verdict == "action" else text.startswith(one.text))
    return Result(passed, f'{verdict} "{text}"', [] if passed else _notes(config, decision))


def _verdict(config: Config, decision: Decision, envelope: Envelope) -> tuple[str, str]:
    """What the daemon does: action and its name, or reject or tempfail and the reply."""
    rule = decision.rule
    if rule is None:
        return "reject", INVALID_RECIPIENT
    if rule.action:
        return "action", rule.action
    if not rule.reply:
        return "reject", INVALID_RECIPIENT
    reply = refusing_reply(rule.reply, envelope, config.sub_addr_delim)
    return "tempfail" if reply.startswith("4") else "reject", reply


def envelope_of(config: Config, one: Expectation, sender: MailAddr, rcpt: MailAddr) -> Envelope:
    """As a session would ask: from the socket the client has our name, and counts as authenticated."""
    hostname = one.rdns or (config.hostname if one.source == LOCAL else UNKNOWN)
    flags = int(Flag.AUTHENTICATED) if one.username or one.source == LOCAL else 0
    return Envelope(
        0, Agent.MTA, "", sender, rcpt, rcpt, "", "", one.tag, config.hostname, one.helo, hostname, one.username,
        one.source, flags, 0, 0, 0, 0, 0, 0, Ret.NONE, "", "", "", "", BounceKind.NONE, 0,
    )


def _notes(config: Config, decision: Decision) -> list[str]:
    """Each rule tried: where it stands, and which criterion did not hold, or what it did."""
    notes = [
        f"{rule.at}: does not match: {words(criterion, config.tables)}"
        for rule, criterion in zip(config.rules, decision.failed, strict=False)
    ]
    rule = decision.rule
    return [*notes, f"{rule.at}: matches: {outcome(rule)}" if rule is not None else "no rule matches"]


def words(criterion: Criterion, tables: Mapping[str, Table]) -> str:
    """A criterion with the entries of its table, when they stand in the rule."""
    text, table = describe(criterion), tables.get(criterion.table)
    if table is None or not table.name.startswith("<dynamic:"):
        return text
    keys = [f'"{key}"' for key in table.keys[:KEYS_SHOWN]] + ["..."] * (len(table.keys) > KEYS_SHOWN)
    return text.replace(table.name, keys[0] if len(keys) == 1 else f"{{ {', '.join(keys)} }}")
