"""Filters: programs, tests of our own in one phase, and chains of both."""

from pysmtpd.conf.config import Criterion, Filter
from pysmtpd.conf.diagnostic import about, shown
from pysmtpd.conf.draft import anything
from pysmtpd.conf.grammar_table import processor, table, table_follows
from pysmtpd.conf.lexer import Token
from pysmtpd.conf.parser import Parser

_EVERYWHERE = ("fcrdns", "rdns", "src")
_AFTER_AUTH = (*_EVERYWHERE, "helo", "auth")
_AFTER_MAIL = (*_AFTER_AUTH, "mail-from")
# What can be known in a phase, and so be tested.
PHASES: dict[str, tuple[str, ...]] = {
    "connect": _EVERYWHERE,
    "helo": (*_EVERYWHERE, "helo"),
    "ehlo": (*_EVERYWHERE, "helo"),
    "auth": _AFTER_AUTH,
    "mail-from": _AFTER_MAIL,
    "rcpt-to": (*_AFTER_MAIL, "rcpt-to"),
    "data": _AFTER_MAIL,
    "commit": _AFTER_MAIL,
}
WITH_TEXT = ("reject", "disconnect", "rewrite", "report")
WITHOUT_TEXT = ("junk", "bypass")


def proc(p: Parser, word: Token) -> None:
    """proc = "proc" NAME STRING { proc-option }"""
    name = p.string("the name of the proc")
    p.declares("proc", name.text)
    command = p.string("its command")
    before = p.draft.processors.get(name.text)
    if before is not None:
        p.refuse(name, f"a proc already exists with that name: {shown(name.text)}", f"at {before.at}")
    p.draft.processors[name.text] = processor(p, name.text, command.text, word)


def filter_(p: Parser, word: Token) -> None:
    """filter = "filter" NAME ( "proc" NAME | "proc-exec" STRING { proc-option } | "chain" "{" filters "}"
    | "phase" phase "match" condition verdict )"""
    name = p.string("the name of the filter")
    p.declares("filter", name.text)
    before = p.draft.filters.get(name.text)
    if before is not None:
        p.refuse(name, f"a filter already exists with that name: {shown(name.text)}", f"at {before.at}")
    kind = p.must("proc", "proc-exec", "phase", "chain")
    if kind.text == "proc":
        made = Filter(name=name.text, proc=p.name("proc", "the name of a proc"), at=word.at)
    elif kind.text == "proc-exec":
        made = _exec(p, name, word)
    elif kind.text == "phase":
        made = _phase(p, name.text, word)
    else:
        p.must_mark("{")
        made = _chain(p, name.text, word)
    p.end()
    p.draft.filters[name.text] = made


def _exec(p: Parser, name: Token, word: Token) -> Filter:
    command = p.string("a command")
    before = p.draft.processors.get(name.text)
    if before is not None:
        p.draft.warnings.append(about(name, f"this replaces the proc {shown(name.text)} at {before.at}", warning=True))
    p.draft.processors[name.text] = processor(p, name.text, command.text, word)
    return Filter(name=name.text, proc=name.text, at=word.at)


def _phase(p: Parser, name: str, word: Token) -> Filter:
    """phase = "connect" | "helo" | "ehlo" | "auth" | "mail-from" | "rcpt-to" | "data" | "commit" .
    verdict = ( "reject" | "disconnect" | "rewrite" | "report" ) STRING | "junk" | "bypass" """
    phase = p.must(*PHASES)
    p.must("match")
    condition = _condition(p, PHASES[phase.text])
    allowed = WITH_TEXT if phase.text == "commit" else WITH_TEXT + WITHOUT_TEXT
    verdict = p.must(*allowed)
    text = p.string("its text").text if verdict.text in WITH_TEXT else ""
    return Filter(name=name, phase=phase.text, condition=condition, verdict=verdict.text, text=text, at=word.at)


def _condition(p: Parser, known: tuple[str, ...]) -> Criterion:
    """condition = [ "!" ] ( "fcrdns" | ( "rdns" | "auth" ) [ [ "regex" ] table ]
    | ( "src" | "helo" | "mail-from" | "rcpt-to" ) [ "regex" ] table )"""
    negated = p.mark("!")
    which = p.must(*known)
    name, regex = "", False
    if which.text != "fcrdns":
        regex = p.word("regex") is not None
        if regex or which.text not in ("rdns", "auth") or table_follows(p):
            name = table(p, anything(which.text))
    return Criterion(kind=which.text, table=name, regex=regex, negated=negated, at=which.at)


def _chain(p: Parser, name: str, word: Token) -> Filter:
    """filters = NAME { [ "," ] NAME }"""
    tokens: list[Token] = []
    p.new_lines()
    while True:
        token = p.token
        p.name("filter", "the name of a filter")
        if any(token.text == other.text for other in tokens):
            p.refuse(token, f"no filter allowed twice within a filter chain: {shown(token.text)}")
        tokens.append(token)
        comma = p.comma()
        if not comma and p.mark("}"):
            break
    made = Filter(name=name, chain=tuple(token.text for token in tokens), at=word.at)
    p.draft.chain_tokens.append((made, tokens))
    return made


def filter_use(p: Parser) -> str:
    """filter-use = NAME | "{" filters "}"

    The name of the filter; a chain that is written in place gets one."""
    start = p.token
    if not p.mark("{"):
        return p.name("filter", "the name of a filter")
    name = p.draft.chain_name()
    p.draft.filters[name] = _chain(p, name, start)
    return name
