"""``action``: how accepted mail goes on."""

from collections.abc import Callable
from typing import Any

from pysmtpd.base.format import DELIVERY
from pysmtpd.conf.config import Action, Method
from pysmtpd.conf.diagnostic import shown
from pysmtpd.conf.draft import Use, either, listing, mapping, userinfo
from pysmtpd.conf.grammar_filter import filter_use
from pysmtpd.conf.grammar_table import table
from pysmtpd.conf.lexer import Token
from pysmtpd.conf.parser import Parser
from pysmtpd.conf.values import delay, ids, protocols

ACTION_MAX = 255                   # octets of a name, as an envelope keeps it


class Making:
    """An action whose options are being read."""

    def __init__(self, method: Method) -> None:
        self.method = method
        self.fields: dict[str, Any] = {}
        self.seen: dict[str, Token] = {}


Option = Callable[[Parser, Making, Token], None]


def action(p: Parser, _word: Token) -> None:
    """action = "action" NAME ( local { local-option } | "relay" { relay-option } ) { "ttl" delay }"""
    name = p.string("the name of the action")
    p.declares("action", name.text)
    before = p.draft.actions.get(name.text)
    if before is not None:
        p.refuse(name, f"an action is already declared with that name: {shown(name.text)}", f"at {before.at}")
    if not 0 < len(name.text.encode()) <= ACTION_MAX:
        p.refuse(name, f"the name of an action has 1 to {ACTION_MAX} octets")
    made = Making(Method(p.must(*METHODS).text))
    METHODS[made.method](p, made)
    relay = made.method is Method.RELAY
    p.options("action relay" if relay else "action", RELAY_OPTIONS if relay else LOCAL_OPTIONS, made)
    _ttl(p, made, RELAY_OPTIONS if relay else LOCAL_OPTIONS)
    p.end()
    if "auth" in made.seen and not {"host", "domain"} & made.seen.keys():
        p.refuse(made.seen["auth"], "auth may not be specified without host on an action")
    p.draft.actions[name.text] = Action(name=name.text, method=made.method, at=name.at, **made.fields)


def _ttl(p: Parser, made: Making, options: dict[str, Option]) -> None:
    while (word := p.word("ttl")) is not None:
        p.once(made.seen, "ttl", word, "ttl already specified for this action")
        made.fields["ttl"] = p.value("a time", delay)
        late = p.word(*options)
        if late is not None:
            p.refuse(late, f"{late.text} after ttl: ttl must be the last option of an action")


# local methods

def _plain(_p: Parser, _made: Making) -> None:
    """local = "mbox" | "forward-only" | "expand-only" """


def _maildir(p: Parser, made: Making) -> None:
    """local = "maildir" [ STRING ] [ "junk" ]"""
    if p.at_string:
        made.fields["argument"] = p.format("a path", DELIVERY)
    else:
        p.word("a path")
    if p.word("junk"):
        made.fields["junk"] = True


def _lmtp(p: Parser, made: Making) -> None:
    """local = "lmtp" STRING [ "rcpt-to" ]"""
    token = p.token
    made.fields["argument"] = p.format("the path of a socket, or host:port", DELIVERY)
    p.draft.lmtp.append((token, made.fields["argument"], made.fields))
    if p.word("rcpt-to"):
        made.fields["lmtp_rcpt_to"] = True


def _mda(p: Parser, made: Making) -> None:
    """local = "mda" STRING"""
    made.fields["argument"] = p.format("a command", DELIVERY)


def _user(p: Parser, made: Making, word: Token) -> None:
    """local-option = "user" NAME"""
    if made.method in (Method.MBOX, Method.FORWARD_ONLY, Method.EXPAND_ONLY):
        p.refuse(word, f"user may not be specified for {made.method.value}",
                 "it would never run anything as that user" if made.method is not Method.MBOX
                 else "a mailbox belongs to its recipient")
    p.once(made.seen, "user", word, "user already specified for this action")
    token = p.string("a user")
    made.fields["user"] = token.text
    p.draft.users.append(token)


def _mapping(p: Parser, made: Making, word: Token) -> None:
    """local-option = ( "alias" | "virtual" ) table"""
    p.once(made.seen, word.text, word, f"{word.text} mapping already specified for this action")
    other = {"alias": "virtual", "virtual": "alias"}.get(word.text, "")
    if other in made.seen:
        p.refuse(word, f"{other} mapping already specified for this action", "alias and virtual exclude each other")
    made.fields[word.text] = table(p, mapping(word.text))


def _userbase(p: Parser, made: Making, word: Token) -> None:
    """local-option = "userbase" table [ "ids" STRING ]"""
    p.once(made.seen, "userbase", word, "userbase mapping already specified for this action")
    made.fields["userbase"] = table(p, userinfo("userbase"))
    if p.word("ids"):
        made.fields["uids"], made.fields["gids"] = p.value("a range of ids", ids)


def _wrapper(p: Parser, made: Making, _word: Token) -> None:
    """local-option = "wrapper" NAME"""
    made.fields["wrapper"] = p.name("mda wrapper", "the name of an mda wrapper")


# relay

_RELAY_TABLES: dict[str, Use] = {
    "helo-src": mapping("helo-src"),
    "src": either("src"),
    "host": listing("host"),
    "domain": mapping("domain"),
    "auth": mapping("auth"),
}


def _relay_table(p: Parser, made: Making, word: Token) -> None:
    """relay-option = ( "helo-src" | "src" | "host" | "domain" | "auth" ) table"""
    kind = "host" if word.text in ("host", "domain") else word.text
    p.once(made.seen, kind, word, f"{kind} mapping already specified for this action")
    made.seen[word.text] = word
    if kind == "host" and "backup" in made.seen:
        p.refuse(word, f"backup and {word.text} are mutually exclusive")
    made.fields[word.text.replace("-", "_")] = table(p, _RELAY_TABLES[word.text])


def _relay_text(p: Parser, made: Making, word: Token) -> None:
    """relay-option = ( "helo" | "ciphers" | "mail-from" ) STRING"""
    p.once(made.seen, word.text, word, f"{word.text} already specified for this action")
    token = p.string("its value")
    if word.text == "ciphers":
        p.draft.tls_lists.append(("ciphers", token))
    made.fields[word.text.replace("-", "_")] = token.text


def _relay_protocols(p: Parser, made: Making, word: Token) -> None:
    """relay-option = "protocols" STRING"""
    p.once(made.seen, "protocols", word, "protocols already specified for this action")
    made.fields["protocols"] = p.value("a list of TLS versions", protocols)


def _relay_name(p: Parser, made: Making, word: Token) -> None:
    """relay-option = ( "pki" | "ca" ) NAME"""
    p.once(made.seen, word.text, word, f"{word.text} already specified for this action")
    made.fields[word.text] = p.name(word.text, f"the name of a {word.text}")


def _backup(p: Parser, made: Making, word: Token) -> None:
    """relay-option = "backup" [ "mx" STRING ]"""
    p.once(made.seen, "backup", word, "backup already specified for this action")
    if "host" in made.seen:
        p.refuse(word, "backup and host are mutually exclusive")
    made.fields["backup"] = True
    if p.word("mx"):
        made.fields["backup_mx"] = p.string("the name of an MX").text


def _relay_tls(p: Parser, made: Making, word: Token) -> None:
    """relay-option = "tls" [ "no-verify" ]"""
    p.once(made.seen, "tls", word, "tls already specified for this action")
    made.fields["tls"] = "no-verify" if p.word("no-verify") else "verify"


def _relay_filter(p: Parser, made: Making, word: Token) -> None:
    """relay-option = "filter" filter-use"""
    p.once(made.seen, "filter", word, "filter already specified for this action")
    made.fields["filter"] = filter_use(p)


def _srs(p: Parser, made: Making, word: Token) -> None:
    """relay-option = "srs" """
    p.once(made.seen, "srs", word, "srs already specified for this action")
    made.fields["srs"] = True
    p.draft.srs_users.append(word)


METHODS: dict[str, Callable[[Parser, Making], None]] = {
    Method.MBOX: _plain,
    Method.MAILDIR: _maildir,
    Method.LMTP: _lmtp,
    Method.MDA: _mda,
    Method.FORWARD_ONLY: _plain,
    Method.EXPAND_ONLY: _plain,
    Method.RELAY: _plain,
}
LOCAL_OPTIONS: dict[str, Option] = {
    "user": _user,
    "alias": _mapping,
    "virtual": _mapping,
    "userbase": _userbase,
    "wrapper": _wrapper,
}
RELAY_OPTIONS: dict[str, Option] = {
    "helo": _relay_text,
    "helo-src": _relay_table,
    "pki": _relay_name,
    "ca": _relay_name,
    "ciphers": _relay_text,
    "protocols": _relay_protocols,
    "src": _relay_table,
    "mail-from": _relay_text,
    "backup": _backup,
    "host": _relay_table,
    "domain": _relay_table,
    "tls": _relay_tls,
    "auth": _relay_table,
    "filter": _relay_filter,
    "srs": _srs,
}
