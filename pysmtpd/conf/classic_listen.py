"""``listen on`` before 6.4."""

from pysmtpd.conf.config import LEFT_OUT
from pysmtpd.conf.diagnostic import about
from pysmtpd.conf.draft import Deferred, Facts, Said
from pysmtpd.conf.lexer import Kind, Token
from pysmtpd.conf.parser import Parser
from pysmtpd.conf.rewrite import (
    Statement,
    entries,
    kept,
    keyword,
    mapping,
    now,
    quoted,
    table,
    table_follows,
    word,
)

CERTIFICATES = "/etc/mail/certs"   # where a certificate was looked for by its name, before 5.4
DSN_RET_NOTE = "dsn-ret is gone: whoever asks for it gets the whole message back"
SOCKET_TAG = "local"               # what came by the socket had this tag, from 5.9 on
_ONLY_CLASSIC = frozenset({"certificate", "dsn-notify", "dsn-ret", "enable", "mask-source", "secure", "ssl"})
_BEFORE_VALUE = frozenset({
    "ca", "ciphers", "curves", "filter", "hostname", "hostnames", "on", "pki", "port", "protocols", "senders", "tag",
})
_WITHOUT = tuple(f"no-{word}" for word in LEFT_OUT)
_FLAGS = ("inet4", "inet6", "tls", "mask-src", "received-auth", "no-dsn", "lmtp", "proxy-v2", *_WITHOUT)
_STRINGS = ("pki", "ca", "ciphers", "curves", "protocols", "hostname", "tag")
_TLS = ("tls", "tls-require", "smtps")
# What may stand in the place of a table that can be left out, and was not reserved in 6.0.
_NO_TABLE = frozenset({"curves", "dsn-notify", "dsn-ret", "mask-src", "protocols", "proxy", "proxy-v2", "secure",
                       "ssl", *_WITHOUT})


def is_classic_listen(p: Parser, tokens: list[Token]) -> bool:
    """Whether a word of yesterday's stands where an option does."""
    before = ""
    for token in tokens:
        if token.kind is Kind.WORD and token.text in _ONLY_CLASSIC and before not in _BEFORE_VALUE:
            return True
        before = token.text if token.kind is Kind.WORD else ""
    return p.classic


def listen(p: Parser, token: Token) -> None:
    """listen = "listen" "on" ( "socket" | STRING ) { option }"""
    said = [keyword(token), keyword(p.must("on"))]
    socket = p.word("socket")
    where = socket or p.string("an interface or address")
    made = _Listen(where, socket is None)
    said.append(keyword(where) if socket else kept(where))
    while made.option(p):
        pass
    p.end()
    if made.both is not None and made.port is not None:
        p.refuse(made.port, f"port may not be specified with {made.tls.text if made.tls else ''}",
                 "it listens on port 25 with tls and on port 465 with smtps; write a line for each instead")
    made.said = [*said, *made.said]
    p.draft.deferred_listens.append(Deferred(len(p.draft.listens), token, p.last, made.write))


def enqueuer(p: Parser, token: Token) -> None:
    """enqueuer = "enqueuer" "filter" NAME"""
    option = p.must("filter")
    now(p, token, [[word("listen", token), word("on", token), word("socket", token), keyword(option),
                    kept(p.string("the name of a filter"))]])


class _Listen:
    """One ``listen on`` whose options are being read."""

    def __init__(self, where: Token, has_address: bool) -> None:
        self.where = where
        self.has_address = has_address
        self.said: list[Said] = []
        self.seen: set[str] = set()
        self.tls: Token | None = None
        self.both: Said | None = None  # what stands for smtps, and again for tls
        self.port: Token | None = None
        self.hostname = ""
        self.pki = ""
        self.pki_file = False          # the pki was a file's name
        self.notes: list[str] = []

    def option(self, p: Parser) -> bool:
        """Read one option; False when there is none."""
        if self.has_address:
            p.word("enable")           # of the first versions, before auth
            found = p.word("port", *_FLAGS, "tls-require", "smtps", "secure", "ssl", *_STRINGS, "certificate", "filter",
                           "auth", "auth-optional", "hostnames", "senders", "proxy", "mask-source", "dsn-notify",
                           "dsn-ret")
        else:
            found = p.word("filter", "mask-source", "mask-src", "no-dsn", "tag", *_WITHOUT)
        if found is None:
            return False
        self.seen.add(found.text)
        self.said += self._option(p, found)
        return True

    def _option(self, p: Parser, found: Token) -> list[Said]:
        text = found.text
        if text in _TLS or text in ("secure", "ssl"):
            return self._tls(p, found)
        if text == "mask-source":
            return [word("mask-src", found)]
        if text in ("dsn-notify", "dsn-ret"):
            return self._dsn(p, found)
        if text in _FLAGS:
            return [keyword(found)]
        if text == "port":
            return [keyword(found), self._port(p)]
        if text in ("auth", "auth-optional"):
            option = p.token.kind is Kind.WORD and p.token.text in _NO_TABLE
            return [keyword(found), *(mapping(p) if not option and table_follows(p) else [])]
        if text == "proxy":
            return [keyword(found), keyword(p.must("from")), *table(p)]
        if text in ("hostnames", "senders"):
            extra = [] if text == "hostnames" else ["masquerade"]
            return [keyword(found), *mapping(p), *([keyword(p.last)] if extra and p.word(*extra) else [])]
        if text == "filter" and p.token.is_mark("{"):
            return [keyword(found), *entries(p)]
        return self._string(p, found)

    def _string(self, p: Parser, found: Token) -> list[Said]:
        value = p.string("its value")
        if found.text == "hostname":
            self.hostname = value.text.lower()
        elif found.text in ("pki", "certificate"):
            self.pki, self.pki_file = value.text.lower(), found.text == "certificate"
            return [word("pki", found) if self.pki_file else keyword(found), kept(value)]
        return [keyword(found), kept(value)]

    def _port(self, p: Parser) -> Said:
        self.port = p.last
        if p.token.kind is Kind.NUMBER:
            return keyword(p.advance())
        return keyword(p.word("smtps") or p.word("smtp") or p.string("a port"))

    def _tls(self, p: Parser, found: Token) -> list[Said]:
        """tls = "tls" | ( "tls-require" | "smtps" ) [ "verify" ] | "secure" | "ssl"

        The last two are both smtps and tls, each on its port."""
        if self.tls is not None:
            p.refuse(found, "TLS mode already specified", f"it was given at {self.tls.at}")
        self.tls = found
        if found.text in ("secure", "ssl"):
            self.both = word("smtps", found)
            return [self.both]
        verify = p.word("verify") if found.text != "tls" else None
        return [keyword(found), *([keyword(verify)] if verify else [])]

    def _dsn(self, p: Parser, found: Token) -> list[Said]:
        """dsn = "dsn-notify" "disable" | "dsn-ret" "headers" """
        p.must("disable" if found.text == "dsn-notify" else "headers")
        if found.text == "dsn-notify":
            return [word("no-dsn", found)]
        self.notes.append(DSN_RET_NOTE)
        p.draft.warnings.append(about(found, DSN_RET_NOTE, warning=True))
        return []

    def write(self, facts: Facts) -> tuple[list[Statement], list[str]]:
        """The statements of today's language, and notes."""
        statements: list[Statement] = []
        at = self.where
        if self.tls is not None and not self.pki:
            self._find_pki(facts)
        elif self.pki_file and self.pki not in facts.pkis:
            statements.append(self._files())
        if self.pki in facts.pki_cas and "ca" not in self.seen:
            self.said += [word("ca", at), quoted(self.pki, at)]
        tag = at.text if self.has_address else SOCKET_TAG
        if tag in facts.tags and "tag" not in self.seen:
            self.said += [word("tag", at), quoted(tag, at)]
        statements += self._each_address(tuple(self.said))
        if self.both is not None:
            other = word("tls", self.both.token)
            statements += self._each_address(tuple(other if one is self.both else one for one in self.said))
        return statements, self.notes

    def _each_address(self, statement: Statement) -> list[Statement]:
        """The statement, or for ``all`` one for each family."""
        if self.where.text != "all":
            return [statement]
        self.notes.append("all is only known where interfaces have groups; these are the same everywhere")
        families = {"0.0.0.0": "inet6", "::": "inet4"}
        return [tuple(word(address, self.where) if one.token is self.where else one for one in statement)
                for address, other in families.items() if other not in self.seen]

    def _find_pki(self, facts: Facts) -> None:
        """Without pki the certificate of the listener's own name was shown, or that of ``*``."""
        known = facts.pkis
        names = [name for name in (self.hostname, facts.hostname, "*") if name in known]
        if not names and len(known) == 1:
            names = [*known]
        if names:
            assert self.tls is not None
            self.said += [word("pki", self.tls), quoted(names[0], self.tls)]
            self.notes.append("which certificate a listener shows must be said now")

    def _files(self) -> Statement:
        """The pki whose files have its name."""
        at, base = self.where, f"{CERTIFICATES}/{self.pki}"
        self.notes.append(f"certificates are not looked for in {CERTIFICATES} any more: these are their paths")
        return (word("pki", at), quoted(self.pki, at), word("cert", at), quoted(f"{base}.crt", at), word("key", at),
                quoted(f"{base}.key", at))
