"""The language of smtpd.conf before 6.4: which statements are in it, and the short ones.

Both languages may stand in one file.  A statement that begins like one of today's (``listen``, ``pki``) is read as
yesterday's only if it uses a word of that; ``table``, ``include`` and macros are the same in both, but what is a
reserved word is not.  The productions do what the manuals of 5.3 to 6.0 promise, and know the spellings of 5.1 and
5.2.  What they make of a statement is in today's language: see conf/rewrite.py.
"""

import shlex
from collections.abc import Callable

from pysmtpd.conf.classic_listen import enqueuer, is_classic_listen, listen
from pysmtpd.conf.classic_rule import accept, reject
from pysmtpd.conf.config import Rule
from pysmtpd.conf.diagnostic import about
from pysmtpd.conf.draft import Deferred, Facts, Listen, Rewritten, Said
from pysmtpd.conf.lexer import Kind, Token
from pysmtpd.conf.parser import Parser
from pysmtpd.conf.rewrite import kept, keyword, mark, now, quoted, word, words
from pysmtpd.conf.words import CLASSIC_RESERVED

FILTERS = "/usr/libexec/smtpd"     # where the program of a filter that names none was looked for
Production = Callable[[Parser, Token], None]
FILTER_NOTE = "filter programs for OpenSMTPD before 6.6 spoke another protocol: this needs one of today"


def production(p: Parser, token: Token) -> Production | None:
    """What reads the statement that begins with this word, if that is in yesterday's language."""
    found: Production | None
    if p.replaying:
        return None
    if token.text in STATEMENTS:
        found = STATEMENTS[token.text]
    elif token.text in SHARED:
        is_classic, read = SHARED[token.text]
        found = read if is_classic(p, p.rest_of_line()) else None
    else:
        found = None
    if found is not None or (p.classic and token.text in ("table", "include")):
        p.reserved = CLASSIC_RESERVED
    return found


def finish(p: Parser) -> None:
    """Read what was put off until all of the files were known: who listens, and then the rules."""
    draft = p.draft
    facts = Facts(draft, p.source.hostname())
    _splice(p, facts, draft.deferred_listens, draft.listens)
    facts.has_socket = any(listen.where is None for listen in draft.listens)
    facts.auth = any("auth" in listen.seen for listen in draft.listens)
    _splice(p, facts, draft.deferred_rules, draft.rules)


def _splice(p: Parser, facts: Facts, deferred: list[Deferred], made: list[Listen] | list[Rule]) -> None:
    """Read statements that were put off, and put what they make into its place."""
    added = 0
    for place, first, last, write in deferred:
        statements, notes = write(facts)
        p.draft.rewritten.append(Rewritten(first, last, tuple(statements), tuple(notes)))
        before = len(made)
        for statement in statements:
            p.replay([said.token for said in statement])
        new = made[before:]
        del made[before:]
        made[place + added:place + added] = new  # type: ignore[assignment]
        added += len(new)


# statements of one line

def _setting(today: str) -> Production:
    """A statement whose first word is another today."""

    def read(p: Parser, token: Token) -> None:
        now(p, token, [[*words(today, token), *_values(p)]])

    return read


def _values(p: Parser) -> list[Said]:
    """Strings and numbers, and commas, to the end of the line."""
    found = []
    while p.at_string or p.token.kind is Kind.NUMBER or p.token.is_mark(","):
        found.append(kept(p.advance()))
    return found


def _limit(p: Parser, token: Token) -> None:
    """limit = "limit" ( "session" | "smtp" | "mta" [ "for" "domain" STRING ] | "mda" | "scheduler" ) { limit }"""
    which = p.word("smtp", "session", "mta", "mda", "scheduler") or p.fail()
    said = [word("smtp" if which.text == "session" else which.text, token), word("limit", which)]
    if which.text == "mta" and (begin := p.word("for")) is not None:
        said += [keyword(begin), keyword(p.must("domain")), kept(p.string("a domain"))]
    while p.at_string or p.token.kind is Kind.NUMBER or (p.token.text in ("inet4", "inet6") and which.text == "mta"):
        said.append(keyword(p.advance()))
    now(p, token, [said])


def _nothing(why: str) -> Production:
    """A statement that has no counterpart."""

    def read(p: Parser, token: Token) -> None:
        p.string("a value")
        p.draft.warnings.append(about(token, f"{token.text} has no effect any more: {why}", warning=True))
        now(p, token, [], f"{token.text} is gone: {why}")

    return read


def _map(p: Parser, token: Token) -> None:
    """map = "map" NAME [ "{" ] [ "source" [ "plain" | "file" | "db" ] ] STRING [ "}" ]

    A table, before 5.3."""
    name = p.string("the name of the map")
    p.declares("table", name.text)
    braces = p.mark("{")
    if braces:
        p.new_lines()
    kind = "file"
    if p.word("source"):
        kind = "db" if p.must("plain", "file", "db").text == "db" else "file"
    path = p.string("a path")
    if braces:
        p.new_lines()
        p.must_mark("}")
    source = quoted(f"db:{path.text}", path) if kind == "db" else kept(path)
    now(p, token, [[word("table", token), kept(name), source]])


def _pki(p: Parser, token: Token) -> None:
    """pki = "pki" NAME { ( "certificate" | "cert" | "key" | "dhparams" | "ca" | "dhe" ) STRING }"""
    name = p.string("the name of a pki")
    p.declares("pki", name.text.lower())
    p.draft.unfinished.append(name.text.lower())
    said = [keyword(token), kept(name)]
    authority: list[Said] = []
    notes = []
    while (option := p.word("certificate", "cert", "key", "dhparams", "dhe", "ca")) is not None:
        value = p.string("its value")
        if option.text == "ca":
            p.draft.pki_cas.add(name.text.lower())
            authority = [word("ca", option), Said(kept(name).token, copied=False), word("cert", option), kept(value)]
        elif option.text == "dhparams":
            said += [word("dhe", option), word("auto", value)]
            notes.append("parameters for Diffie-Hellman are chosen automatically now, and not read from a file")
        else:
            said += [keyword(option) if option.text != "certificate" else word("cert", option), kept(value)]
    p.end()
    p.draft.unfinished.remove(name.text.lower())
    statements = [said] if len(said) > 2 or not authority else []
    if not statements and name.text.lower() not in p.draft.pkis:
        # It may be that no other line makes this pki.
        p.draft.mentioned.discard(("pki", name.text.lower()))
        p.draft.declared.pop(("pki", name.text.lower()), None)
    now(p, token, [*statements, authority] if authority else statements, *notes)


def _ca(p: Parser, token: Token) -> None:
    """ca = "ca" NAME ( "certificate" | "cert" ) STRING"""
    name = p.string("the name of a ca")
    p.declares("ca", name.text.lower())
    option = p.must("certificate", "cert")
    now(p, token, [[keyword(token), kept(name), word("cert", option), kept(p.string("the path of a certificate"))]])


def _queue(p: Parser, token: Token) -> None:
    """queue = "queue" ( "compression" [ STRING ] | "encryption" "key" STRING )"""
    what = p.must("compression", "encryption")
    said = [keyword(token), keyword(what)]
    if what.text == "compression":
        p.string("an algorithm")
    else:
        p.must("key")
        said.append(kept(p.secret("a key")))
    now(p, token, [said])


def _filter(p: Parser, token: Token) -> None:
    """filter = "filter" NAME [ PROGRAM { ARGUMENT } | "chain" NAME { NAME } ]"""
    name = p.string("the name of the filter")
    p.declares("filter", name.text)
    said = [keyword(token), kept(name)]
    program = p.word("chain") or (p.string("a program") if p.at_string else name)
    given = []
    while p.at_string or p.token.kind is Kind.NUMBER:
        given.append(p.advance())
    if program.text == "chain" and program.kind is Kind.WORD:
        members = [one for member in given for one in (kept(member), mark(",", member))][:-1]
        now(p, token, [[*said, keyword(program), mark("{", program), *members, mark("}", p.last)]], FILTER_NOTE)
        return
    path = program.text if program is not name else f"{FILTERS}/{name.text}"
    path = path if path.startswith("/") else f"filter-{path}"
    command = shlex.join([path, *(one.text for one in given)])
    now(p, token, [[*said, word("proc-exec", program), quoted(command, program)]], FILTER_NOTE)


def _texts(tokens: list[Token]) -> list[str]:
    return [token.text if token.kind is Kind.WORD else "" for token in tokens]


def _is_pki(p: Parser, tokens: list[Token]) -> bool:
    return p.classic or bool({"certificate", "dhparams", "ca"} & set(_texts(tokens)[1:]))


def _is_queue(p: Parser, tokens: list[Token]) -> bool:
    texts = _texts(tokens)
    return texts[:2] == ["encryption", "key"] or (
        p.classic and texts[0] == "compression" and tokens[1].kind in (Kind.WORD, Kind.QUOTED))


def _is_filter(p: Parser, tokens: list[Token]) -> bool:
    """Only where rules are yesterday's: else a misspelled word of today's would be the name of a program."""
    if not p.classic or len(tokens) < 2:
        return False
    what = tokens[1].text if tokens[1].kind is Kind.WORD else ""
    if what == "chain":
        return tokens[2].kind in (Kind.WORD, Kind.QUOTED)
    return what not in ("proc", "proc-exec", "phase") and tokens[1].kind in (Kind.WORD, Kind.QUOTED, Kind.NEWLINE)


STATEMENTS: dict[str, Production] = {
    "accept": accept,
    "reject": reject,
    "bounce-warn": _setting("bounce warn-interval"),
    "ciphers": _setting("smtp ciphers"),
    "curve": _nothing("the curves of TLS are chosen automatically"),
    "enqueuer": enqueuer,
    "expire": _setting("queue ttl"),
    "hostname": _nothing("the server's name is the first line of /etc/mail/mailname"),
    "limit": _limit,
    "map": _map,
    "max-message-size": _setting("smtp max-message-size"),
    "max-mta-deferred": _setting("mta max-deferred"),
    "size": _setting("smtp max-message-size"),
    "subaddressing-delimiter": _setting("smtp sub-addr-delim"),
}
# Those that begin like today's: which are yesterday's, and what reads them.
SHARED: dict[str, tuple[Callable[[Parser, list[Token]], bool], Production]] = {
    "ca": (_is_pki, _ca),
    "filter": (_is_filter, _filter),
    "listen": (is_classic_listen, listen),
    "pki": (_is_pki, _pki),
    "queue": (_is_queue, _queue),
}
