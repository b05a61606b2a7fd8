"""``accept`` and ``reject``: what ``match`` and ``action`` were before 6.4.

The first rule that matches decides, then as now.  One thing is not so any more: whoever had logged in counted as
local.  Where somebody can log in, ``from local`` therefore becomes two rules.
"""

import re

from pysmtpd.conf.classic_deliver import Deliver
from pysmtpd.conf.classic_listen import SOCKET_TAG
from pysmtpd.conf.classic_relay import Relay
from pysmtpd.conf.draft import Deferred, Facts, Said
from pysmtpd.conf.lexer import Kind, Token
from pysmtpd.conf.parser import Parser
from pysmtpd.conf.rewrite import Statement, kept, keyword, mapping, mark, quoted, table, word, words

NAME_MAX = 60                      # characters of the name of an action that is made
_CRITERIA = ("from", "for", "on", "tagged", "sender", "recipient", "authenticated")
_LOOKUP = ("alias", "virtual", "userbase")
_NOT_IN_NAME = re.compile(r"[^A-Za-z0-9.-]+")
_ADDRESS = re.compile(r"[0-9:]|[Ii][Pp][Vv]6:")
LOCAL_NOTE = "who had logged in counted as local; that is a rule of its own now"
LOCAL_NOT_NOTE = "who had logged in counted as local, which must be said now"
ADDRESS_NOTE = "who had logged in counted as local, whatever the address; now the address decides"
REJECT_NOTE = "who had logged in counted as local, whatever the address; so nobody who has is rejected here"
SOCKET_NOTE = "what came by the socket had the tag local, which must be said now"
NEVER_NOTE = "this rule never matched: who had logged in counted as local"
VIRTUAL_NOTE = "the domains of a virtual map are not its keys any more: this asks for the addresses in it"
EXPAND_NOTE = "a rule without an action delivered nothing itself"


def accept(p: Parser, token: Token) -> None:
    """accept = "accept" { criterion | lookup } [ "deliver" ... | "relay" ... ] { "expire" delay | "forward-only" }"""
    rule = _Rule(token)
    rule.criteria(p, _LOOKUP)
    rule.action(p)
    rule.put_off(p)


def reject(p: Parser, token: Token) -> None:
    """reject = "reject" { criterion }"""
    rule = _Rule(token)
    rule.criteria(p, ())
    rule.put_off(p)


class _Rule:
    """One rule that is being read."""

    def __init__(self, first: Token) -> None:
        self.first = first
        self.seen: dict[str, Token] = {}
        self.source: list[Said] | None = None      # of from; None: any or local
        self.is_any = False
        self.not_from = False
        self.auth: bool | None = None              # authenticated
        self.tags: list[Said] = []
        self.needs_socket = False                  # its tag is the socket's
        self.said: list[Said] = []                 # of sender and recipient
        self.destinations: list[list[Said]] = []
        self.lookups: list[Said] = []
        self.notes: list[str] = []
        self.how: Deliver | Relay | None = None
        self.method: list[Said] = []               # what follows the name of the action; of reject nothing
        self.ttl: list[Said] = []                  # which comes last
        self.base = ""

    # reading

    def criteria(self, p: Parser, lookups: tuple[str, ...]) -> None:
        """criterion = from | for | "tagged" [ "!" ] STRING | [ "!" ] "authenticated"
        | ( "sender" | "recipient" ) [ "!" ] table . lookup = ( "alias" | "virtual" | "userbase" ) table"""
        while True:
            negated = p.mark("!")
            found = p.word("authenticated") if negated else p.word(*_CRITERIA, *lookups)
            if found is None:
                if negated:
                    p.fail()
                return
            kind = "mapping" if found.text in ("alias", "virtual") else "tagged" if found.text == "on" else found.text
            p.once(self.seen, kind, found, f"{found.text} already specified for this rule")
            self._criterion(p, found, negated)

    def _criterion(self, p: Parser, found: Token, negated: bool) -> None:
        match found.text:
            case "from":
                self._from(p)
            case "for":
                self._for(p, found)
            case "authenticated":
                self.auth = not negated
            case "alias" | "virtual" | "userbase":
                self.lookups += [keyword(found), *mapping(p)]
            case "on":
                tag = p.string("a tag")
                p.draft.tags_of_interfaces.add(tag.text)
                self.tags += [word("tag", found), kept(tag)]
            case "tagged":
                self._tagged(p, found)
            case other:
                today = "mail-from" if other == "sender" else "rcpt-to"
                self.said += [*_not(p, found), word(today, found), *table(p)]

    def _tagged(self, p: Parser, found: Token) -> None:
        negation = _not(p, found)
        tag = p.string("a tag")
        self.tags += [*negation, word("tag", found), kept(tag)]
        if tag.text == SOCKET_TAG:
            self.needs_socket = True
            p.draft.tags_of_interfaces.add(SOCKET_TAG)

    def _from(self, p: Parser) -> None:
        """from = "from" [ "!" ] ( "any" | "all" | "local" | [ "source" ] table )"""
        self.not_from = p.mark("!")
        which = p.word("any", "local", "source", "all")
        if which is None or which.text == "source":
            word_only = which is None and p.token.kind is Kind.WORD and p.token.text != "map"
            if word_only and not _ADDRESS.match(p.token.text):
                p.fail()
            self.source = table(p)
        else:
            self.is_any = which.text != "local"

    def _for(self, p: Parser, found: Token) -> None:
        """for = "for" ( destination | "{" destination { [ "," ] destination } "}" )"""
        if not p.mark("{"):
            self.destinations.append(self._destination(p, found))
            return
        while True:
            p.new_lines()
            self.destinations.append(self._destination(p, found))
            p.new_lines()
            if not p.mark(",") and p.mark("}"):
                return

    def _destination(self, p: Parser, found: Token) -> list[Said]:
        """destination = [ "!" ] ( "any" | "all" | "local" | "domain" table | "virtual" table )"""
        said = [*_not(p, found), word("for", found)]
        which = p.must("any", "local", "domain", "virtual", "all")
        if which.text == "all":
            return [*said, word("any", which)]
        if which.text == "virtual":
            listed = mapping(p)
            self.seen["mapping"] = which
            self.lookups += [keyword(which), *listed]
            self.notes.append(VIRTUAL_NOTE)
            return [*said, word("rcpt-to", which), *listed]
        return [*said, keyword(which), *(table(p) if which.text == "domain" else [])]

    def action(self, p: Parser) -> None:
        """What is done with an accepted message, and for how long."""
        found = p.word("deliver", "relay")
        if found is not None:
            self.how = Deliver(found) if found.text == "deliver" else Relay(found)
            self.how.read(p)
            self.notes += self.how.notes
        seen: dict[str, Token] = {}
        while (option := p.word("expire", "forward-only")) is not None:
            p.once(seen, option.text, option, f"{option.text} already specified for this rule")
            if option.text == "expire":
                ttl = [word("ttl", option), kept(p.string("a time"))]
        if isinstance(self.how, Relay) and self.lookups:
            p.refuse(self.lookups[0].token, f"{self.lookups[0].token.text} may not be used with a relay rule",
                     "it is relayed as it is; to expand addresses, deliver locally")
        if self.how is not None and "forward-only" in seen:
            p.refuse(seen["forward-only"], "forward-only may not be used with an action",
                     "it stands in the place of deliver or relay")
        self._write_method(seen)
        if "expire" in seen:
            self.ttl = ttl

    def _write_method(self, seen: dict[str, Token]) -> None:
        if self.how is not None:
            self.base = self.how.base
            self.method = [*self.how.said, *self.lookups]
        else:
            only = "forward-only" if "forward-only" in seen else "expand-only"
            self.base = only.partition("-")[0]
            self.method = [word(only, seen.get("forward-only", self.first)), *self.lookups]
            if only == "expand-only":
                self.notes.append(EXPAND_NOTE)
        if len(self.lookups) > 2 and self.lookups[1].token.text == "<":
            self.base += f"_{self.lookups[2].token.text}"

    def put_off(self, p: Parser) -> None:
        """The statement is over."""
        p.end()
        if not self.destinations:
            self.destinations.append([word("for", self.first), word("local", self.first)])
        p.draft.deferred_rules.append(Deferred(len(p.draft.rules), self.first, p.last, self.write))

    # writing

    def write(self, facts: Facts) -> tuple[list[Statement], list[str]]:
        """The statements of today's language, and notes."""
        statements: list[Statement] = []
        if self.needs_socket and not facts.has_socket:
            facts.has_socket = True
            statements.append((*words("listen on socket tag", self.first), quoted(SOCKET_TAG, self.first)))
            self.notes.append(SOCKET_NOTE)
        end = [word("reject", self.first)]
        if self.method:
            made, name = self._name(facts)
            if made:
                statements.append((word("action", self.first), name, *self.method, *self.ttl))
            end = [word("action", self.first), name]
        for destination in self.destinations:
            for source in self._sources(facts):
                statements.append((word("match", self.first), *self.tags, *source, *self.said, *destination, *end))
        return statements, self.notes

    def _name(self, facts: Facts) -> tuple[bool, Said]:
        """The name of the action, and whether it is a new one."""
        how = self.how
        if isinstance(how, Relay) and how.pki in facts.pki_cas and not how.has_ca:
            self.method += [word("ca", how.at), quoted(how.pki, how.at)]
        key = tuple(said.token.text for said in (*self.method, *self.ttl))
        new = key not in facts.actions
        if new:
            base = _NOT_IN_NAME.sub("_", self.base)[:NAME_MAX].strip("_")
            numbered = (base if number == 1 else f"{base}_{number}" for number in range(1, len(facts.taken) + 2))
            facts.actions[key] = next(name for name in numbered if name not in facts.taken)
            facts.taken.add(facts.actions[key])
        return new, quoted(facts.actions[key], self.first)

    def _sources(self, facts: Facts) -> list[list[Said]]:
        """from and authenticated: each as a rule of its own."""
        at = self.seen.get("from", self.first)
        negation = [mark("!", at)] if self.not_from else []
        auth = [] if self.auth is None else words("auth", at) if self.auth else [mark("!", at), word("auth", at)]
        not_auth = [mark("!", at), word("auth", at)]
        if self.source is not None:
            return [[*negation, *words("from src", at), *self.source, *(auth or self._no_login(facts, not_auth))]]
        if self.is_any:
            return [[*negation, *words("from any", at), *auth]]
        if self.not_from:
            return self._from_outside(facts, at, auth)
        if self.auth:
            return [words("from auth", at)]
        local = [*words("from local", at), *auth]
        if auth or not facts.auth:
            return [local]
        self.notes.append(LOCAL_NOTE)
        return [local, words("from auth", at)]

    def _from_outside(self, facts: Facts, at: Token, auth: list[Said]) -> list[list[Said]]:
        """from ! local"""
        if self.auth:
            self.notes.append(NEVER_NOTE)
            return [[mark("!", at), *words("from any", at), *auth]]
        not_auth = [mark("!", at), word("auth", at)] if auth or facts.auth else []
        if not_auth and not auth:
            self.notes.append(LOCAL_NOT_NOTE)
        return [[mark("!", at), *words("from local", at), *not_auth]]

    def _no_login(self, facts: Facts, not_auth: list[Said]) -> list[Said]:
        """from source, where somebody can log in."""
        if not facts.auth:
            return []
        rejects = not self.method and not self.not_from
        self.notes.append(REJECT_NOTE if rejects else ADDRESS_NOTE)
        return not_auth if rejects else []


def _not(p: Parser, at: Token) -> list[Said]:
    return [mark("!", at)] if p.mark("!") else []
