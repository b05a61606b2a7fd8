"""``relay`` before 6.4, and its URLs."""

import re
from typing import NamedTuple

from pysmtpd.conf.diagnostic import did_you_mean, one_of, shown
from pysmtpd.conf.draft import Said
from pysmtpd.conf.lexer import Kind, Token
from pysmtpd.conf.parser import Parser
from pysmtpd.conf.rewrite import kept, keyword, mapping, mark, quoted, table, word, words

_URL = re.compile(r"(?:([A-Za-z0-9+.-]+)://)?(?:([^@]*)@)?(\[[^]]*\]|[A-Za-z0-9_.-]+)(?::([0-9]{1,5}))?/?")
_SMTPS_PORT = "465"


class Schema(NamedTuple):
    """What a schema of a URL meant.  ``both``: it stood for smtps and for STARTTLS."""

    today: str
    tls: bool = False
    auth: bool = False
    both: bool = False
    note: str = ""


_PLAIN = "smtp:// never spoke TLS, which is smtp+notls:// now; today's smtp:// speaks it where it is offered"
_OFFERED = "smtp+tls:// spoke TLS where it was offered, which is smtp:// now; today's smtp+tls:// demands it"
_BOTH = "there is no schema any more that tries both smtps and STARTTLS: check that this one fits the port"
SCHEMAS = {
    "smtp": Schema("smtp+notls", note=_PLAIN),
    "smtp+tls": Schema("smtp", note=_OFFERED),
    "lmtp": Schema("lmtp"),
    "smtps": Schema("smtps", tls=True),
    "tls": Schema("smtp+tls", tls=True),
    "smtps+auth": Schema("smtps", tls=True, auth=True),
    "tls+auth": Schema("smtp+tls", tls=True, auth=True),
    "secure": Schema("smtps", tls=True, both=True, note=_BOTH),
    "secure+auth": Schema("smtps", tls=True, auth=True, both=True, note=_BOTH),
    "ssl": Schema("smtps", tls=True, both=True, note=_BOTH),
    "ssl+auth": Schema("smtps", tls=True, auth=True, both=True, note=_BOTH),
    "backup": Schema("backup"),
    "tls+backup": Schema("backup", tls=True),
}
_WITHOUT = Schema("")
VERIFY_NOTE = "without verify no certificate was checked, hence no-verify: remove that word to have it checked"
# Of a relay before 5.2: what stood in the place of a URL, which schema that is, and where enable auth looked.
_FIRST_TLS = ("tls", "ssl", "smtps")
_FIRST_PORTS = {"smtp": "25", "smtps": "465", "submission": "587"}
_FIRST_SECRETS = "secrets"
_COMMON = ("as", "source", "hostname", "hostnames", "helo", "pki", "certificate", "ca")


class Relay:
    """``relay``, in today's language: said is what follows the name of the action."""

    def __init__(self, at: Token) -> None:
        self.at = at
        self.said = [keyword(at)]
        self.base = "relay"            # of the action's name
        self.notes: list[str] = []
        self.pki = ""
        self.has_ca = False
        self._schema = _WITHOUT
        self._seen: dict[str, Token] = {}
        self._verify: Token | None = None
        self._first_schema = ""        # before 5.2: of the words behind the host
        self._first_port = ""

    def read(self, p: Parser) -> None:
        """relay = "relay" ( "via" STRING { via-option | option } | { mx-option | option } )"""
        via = p.word("via")
        if via is None:
            self._options(p, ("backup", "tls"))
        else:
            url = p.string("the URL of a host")
            if "://" in url.text:
                self._url(p, url, url.text)
                self._options(p, ("auth", "verify"))
            else:
                self._host(p, url)
        if self._schema.auth and "auth" not in self._seen:
            assert via is not None
            p.refuse(via, "this URL has a label, and no auth table where to find it", "write auth <TABLE> behind it")
        if self._schema.tls:
            self._tls(self._verify)

    def _options(self, p: Parser, special: tuple[str, ...]) -> None:
        while (option := p.word(*special, *_COMMON)) is not None:
            kind = "tls" if "enable" in special and option.text in _FIRST_TLS else option.text
            p.once(self._seen, kind, option, f"{option.text} already specified for this rule")
            self.said += self._first(p, option) if "enable" in special else self._option(p, option)

    def _host(self, p: Parser, host: Token) -> None:
        """A host without a schema; before 5.2 what is a URL now was said by words behind it."""
        self._options(p, ("auth", "verify", "enable", "port", *_FIRST_TLS))
        said, self.said = self.said[1:], self.said[:1]
        schema = self._first_schema
        if schema and "auth" in self._seen:
            schema += "+auth"
        port = f":{self._first_port}" if self._first_port else ""
        self._url(p, host, f"{schema}://{host.text}{port}" if schema else f"{host.text}{port}")
        self.said += said

    def _first(self, p: Parser, option: Token) -> list[Said]:
        """first = "port" ( NUMBER | STRING | "smtps" ) | "tls" | "ssl" | "smtps" | "enable" "auth" """
        if option.text in _FIRST_TLS:
            self._first_schema = option.text
        elif option.text == "port":
            port = p.advance() if p.token.kind is Kind.NUMBER else p.word("smtps") or p.string("a port")
            self._first_port = _FIRST_PORTS.get(port.text, port.text)
        elif option.text == "enable":
            self._seen["auth"] = p.must("auth")
            return [keyword(p.last), mark("<", option), word(_FIRST_SECRETS, option), mark(">", option)]
        else:
            return self._option(p, option)
        return []

    def _tls(self, verify: Token | None) -> None:
        """TLS is demanded; without verify no certificate is checked."""
        at = verify or self.at
        self.said += [word("tls", at)] if verify is not None else words("tls no-verify", at)
        if verify is None:
            self.notes.append(VERIFY_NOTE)

    def _option(self, p: Parser, option: Token) -> list[Said]:
        """option = "as" STRING | "source" table | ( "hostname" | "pki" | "ca" ) STRING | "hostnames" table
        | "backup" [ STRING ] | "tls" [ "verify" ] | "auth" table | "verify" """
        match option.text:
            case "as":
                return [word("mail-from", option), kept(p.string("an address"))]
            case "source":
                return [word("src", option), *table(p)]
            case "hostname":
                return [word("helo", option), kept(p.string("a host name"))]
            case "hostnames" | "helo":
                return [word("helo-src", option), *mapping(p)]
            case "auth":
                return [keyword(option), *mapping(p)]
            case "backup":
                return self._backup(p, option)
            case "tls":
                self._tls(p.word("verify"))
                return []
            case "verify":
                return self._verified(p, option)
        return self._named(p, option)

    def _named(self, p: Parser, option: Token) -> list[Said]:
        value = p.string("its name")
        if option.text == "ca":
            self.has_ca = True
            return [keyword(option), kept(value)]
        self.pki = value.text.lower()
        return [keyword(option) if option.text == "pki" else word("pki", option), kept(value)]

    def _backup(self, p: Parser, option: Token) -> list[Said]:
        self.base = "backup"
        return [keyword(option), *([word("mx", option), kept(p.advance())] if p.at_string else [])]

    def _verified(self, p: Parser, option: Token) -> list[Said]:
        if not self._schema.tls:
            p.refuse(option, 'cannot "verify" with insecure protocol', "expected a URL with tls:// or smtps://")
        self._verify = option
        return []

    def _url(self, p: Parser, token: Token, said: str) -> None:
        """URL = [ schema "://" ] [ label "@" ] host [ ":" port ]"""
        match = _URL.fullmatch(said)
        if match is None:
            p.refuse(token, "invalid url", "expected [schema://][label@]host[:port]")
        name, label, host, port = match[1], match[2], match[3], match[4]
        schema = SCHEMAS.get(name.lower()) if name else _WITHOUT
        if schema is None:
            p.refuse(token, f"unknown schema {shown(name + '://')}{did_you_mean(name, SCHEMAS)}",
                     f"expected {one_of(SCHEMAS)}")
        self._schema = schema
        self.base = f"relay_{host}"
        if schema.note:
            self.notes.append(schema.note)
        if schema.today == "backup":
            self.base = "backup"
            self.said += [word("backup", token), word("mx", token), quoted(host, token)]
            return
        if label and not schema.auth:
            p.refuse(token, "a label is only for URLs with +auth", f"write {name or 'tls'}+auth://, or remove it")
        if schema.auth and not label:
            label = host
            self.notes.append("a URL without a label looked up its credentials by the name of the host")
        today = schema.today
        if schema.both and port and port != _SMTPS_PORT:
            today = "smtp+tls"
        if today == "lmtp" and not port:
            p.refuse(token, "lmtp needs a port", "write lmtp://host:port")
        text = f"{f'{today}://' if today else ''}{f'{label}@' if label else ''}{host}{f':{port}' if port else ''}"
        self.said += [word("host", token), kept(token) if text == token.text else quoted(text, token)]
