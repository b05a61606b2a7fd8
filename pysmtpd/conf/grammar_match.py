"""``match``: which action a message gets, or that it is rejected."""

from collections.abc import Callable

from pysmtpd.conf.config import LOCALHOST, LOCALNAMES, Criterion, Rule
from pysmtpd.conf.diagnostic import about
from pysmtpd.conf.draft import Use, either, listing
from pysmtpd.conf.grammar_reply import refusal, tempfails
from pysmtpd.conf.grammar_table import table, table_follows
from pysmtpd.conf.lexer import Token
from pysmtpd.conf.parser import Parser

ANYHOST = "<anyhost>"
ANYDESTINATION = "<anydestination>"
# In the order in which they are tested.
SLOTS = ("tag", "from", "for", "helo", "auth", "tls", "mail-from", "rcpt-to")


class Making:
    """A rule whose criteria are being read."""

    def __init__(self) -> None:
        self.criteria: dict[str, Criterion] = {}   # by slot
        self.seen: dict[str, Token] = {}

    def put(self, slot: str, criterion: Criterion) -> None:
        self.criteria[slot] = criterion


Option = Callable[[Parser, Making, Token, bool], None]


def match(p: Parser, word: Token) -> None:
    """match = "match" { [ "!" ] criterion } ( "action" NAME | ( "reject" | "tempfail" ) [ reply ] )

    tempfail and the reply are ours."""
    made = Making()
    while True:
        bang = p.token if p.mark("!") else None
        criterion = p.word(*CRITERIA)
        if criterion is None:
            if bang is not None:
                p.fail()
            break
        p.later(f"match {criterion.text}", criterion)
        CRITERIA[criterion.text](p, made, criterion, bang is not None)
    name, reply = "", ""
    verdict = p.must("action", "reject", "tempfail").text
    if verdict == "action":
        name = p.name("action", "the name of an action")
    else:
        reply = refusal(p, verdict)
    p.end()
    made.criteria.setdefault("from", Criterion(kind="from", table=LOCALHOST, at=word.at))
    made.criteria.setdefault("for", Criterion(kind="for", table=LOCALNAMES, at=word.at))
    criteria = tuple(made.criteria[slot] for slot in SLOTS if slot in made.criteria)
    p.draft.rules.append(Rule(criteria=criteria, action=name, reply=reply, at=word.at))


def _once(p: Parser, made: Making, slot: str, word: Token) -> None:
    p.once(made.seen, slot, word, f"{slot} already specified for this rule")


def _implied(p: Parser, made: Making, slot: str, word: Token) -> None:
    """``from auth`` after ``auth`` replaces it, as it always did; that is hardly what was meant."""
    if slot in made.seen:
        p.draft.warnings.append(about(word, f"this replaces the {slot} at {made.seen[slot].at}", warning=True))
    made.seen[slot] = word


def _tested(p: Parser, kind: str, word: Token, negated: bool, use: Use) -> Criterion:
    """tested = [ "regex" ] table"""
    regex = p.word("regex") is not None
    name = table(p, listing(use.words) if regex else use)
    return Criterion(kind=kind, table=name, regex=regex, negated=negated, at=word.at)


def _simple(p: Parser, made: Making, word: Token, negated: bool) -> None:
    """criterion = ( "tag" | "helo" | "mail-from" | "rcpt-to" ) tested"""
    _once(p, made, word.text, word)
    made.put(word.text, _tested(p, word.text, word, negated, _USES[word.text]))


def _auth(p: Parser, made: Making, word: Token, negated: bool) -> None:
    """criterion = "auth" [ tested ]"""
    _once(p, made, "auth", word)
    made.put("auth", _optional(p, "auth", word, negated, either("auth")))


def _optional(p: Parser, kind: str, word: Token, negated: bool, use: Use) -> Criterion:
    if p.token.text == "regex" or (not tempfails(p) and table_follows(p)):
        return _tested(p, kind, word, negated, use)
    p.word("regex")
    return Criterion(kind=kind, negated=negated, at=word.at)


def _tls(p: Parser, made: Making, word: Token, negated: bool) -> None:
    """criterion = "tls" """
    _once(p, made, "tls", word)
    made.put("tls", Criterion(kind="tls", negated=negated, at=word.at))


def _from(p: Parser, made: Making, word: Token, negated: bool) -> None:
    """criterion = "from" ( "any" | "local" | "socket" | "src" tested | "rdns" [ tested ] | "auth" [ tested ]
    | "mail-from" tested )"""
    _once(p, made, "from", word)
    which = p.must("any", "local", "socket", "src", "rdns", "auth", "mail-from")
    p.later(f"match from {which.text}", which)
    anyhost = Criterion(kind="from", table=ANYHOST, at=word.at)
    if which.text in ("any", "local"):
        name = ANYHOST if which.text == "any" else LOCALHOST
        made.put("from", Criterion(kind="from", table=name, negated=negated, at=word.at))
    elif which.text == "socket":
        made.put("from", Criterion(kind="from-socket", negated=negated, at=word.at))
    elif which.text == "src":
        made.put("from", _tested(p, "from", word, negated, listing("from")))
    elif which.text == "rdns":
        made.put("from", _optional(p, "from-rdns", word, negated, listing("rdns")))
    elif which.text == "auth":
        _implied(p, made, "auth", which)
        made.put("from", anyhost)
        made.put("auth", _optional(p, "auth", which, negated, listing("from")))
    else:
        _implied(p, made, "mail-from", which)
        made.put("from", anyhost)
        made.put("mail-from", _tested(p, "mail-from", which, negated, either("from")))


def _for(p: Parser, made: Making, word: Token, negated: bool) -> None:
    """criterion = "for" ( "any" | "local" | "domain" tested | "rcpt-to" tested )"""
    _once(p, made, "for", word)
    which = p.must("any", "local", "domain", "rcpt-to")
    p.later(f"match for {which.text}", which)
    if which.text in ("any", "local"):
        name = ANYDESTINATION if which.text == "any" else LOCALNAMES
        made.put("for", Criterion(kind="for", table=name, negated=negated, at=word.at))
    elif which.text == "domain":
        made.put("for", _tested(p, "for", word, negated, listing("'for'")))
    else:
        _implied(p, made, "rcpt-to", which)
        made.put("for", Criterion(kind="for", table=ANYDESTINATION, at=word.at))
        made.put("rcpt-to", _tested(p, "rcpt-to", which, negated, either("for")))


_USES: dict[str, Use] = {
    "tag": listing("tag"),
    "helo": listing("helo"),
    "mail-from": either("mail-from"),
    "rcpt-to": either("rcpt-to"),
}
CRITERIA: dict[str, Option] = {
    "tag": _simple,
    "from": _from,
    "for": _for,
    "helo": _simple,
    "auth": _auth,
    "tls": _tls,
    "mail-from": _simple,
    "rcpt-to": _simple,
}
