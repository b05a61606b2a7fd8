"""``listen on``."""

from collections.abc import Callable

from pysmtpd.conf.config import LEFT_OUT, Tls
from pysmtpd.conf.diagnostic import shown
from pysmtpd.conf.draft import Listen, anything, either, mapping
from pysmtpd.conf.grammar_filter import filter_use
from pysmtpd.conf.grammar_table import single, table, table_follows
from pysmtpd.conf.lexer import Kind, Token
from pysmtpd.conf.parser import Parser
from pysmtpd.conf.values import protocols

TAG_MAX = 32                       # octets
PKI_MAX = 32
_OURS = frozenset({"proxy", "curves", *(f"no-{word}" for word in LEFT_OUT)})
Option = Callable[[Parser, Listen, Token], None]


def listen(p: Parser, word: Token) -> None:
    """listen = "listen" "on" ( "socket" { socket-option } | STRING { listen-option } )

    STRING is the name of an interface, an address or a host name; all is every address."""
    p.must("on")
    if p.word("socket"):
        made = Listen(word, None)
        p.options("listen", SOCKET_OPTIONS, made)
    else:
        made = Listen(word, p.string("an interface or address"))
        p.options("listen", LISTEN_OPTIONS, made)
    p.end()
    p.draft.listens.append(made)


def _family(p: Parser, made: Listen, word: Token) -> None:
    """family = "inet4" | "inet6" """
    p.once(made.seen, "family", word, "address family already specified")
    made.family = word.text


def _port(p: Parser, made: Listen, word: Token) -> None:
    """port = "port" ( NUMBER | "smtp" | "smtps" | STRING )"""
    p.once(made.seen, "port", word, "port already specified")
    if p.token.kind is Kind.NUMBER:
        made.fields["port"] = p.number("port", 1, 65535)
        return
    token = p.word("smtp", "smtps") or p.string("a port")
    port = p.source.service(token.text)
    if port is None:
        hint = ("write the number without quotes",) if token.text.isdigit() else ()
        p.refuse(token, f"invalid port: {shown(token.text)}", *hint)
    made.fields["port"] = port


def _tls(p: Parser, made: Listen, word: Token) -> None:
    """tls = "tls" | ( "tls-require" | "smtps" ) [ "verify" ]"""
    p.once(made.seen, "tls", word, "TLS mode already specified")
    made.fields["tls"] = {"tls": Tls.OFFERED, "tls-require": Tls.REQUIRED, "smtps": Tls.SMTPS}[word.text]
    if word.text != "tls" and p.word("verify"):
        made.fields["tls_verify"] = True


def _pki(p: Parser, made: Listen, word: Token) -> None:
    """pki-use = "pki" NAME"""
    made.seen.setdefault("pki", word)
    names: tuple[str, ...] = made.fields.get("pki", ())
    if len(names) == PKI_MAX:
        p.refuse(word, "too many pki specified")
    made.fields["pki"] = (*names, p.name("pki", "the name of a pki"))


def _ca(p: Parser, made: Listen, word: Token) -> None:
    """ca-use = "ca" NAME"""
    p.once(made.seen, "ca", word, "ca already specified")
    made.fields["ca"] = p.name("ca", "the name of a ca")


def _hostname(p: Parser, made: Listen, word: Token) -> None:
    """hostname = "hostname" STRING"""
    p.once(made.seen, "hostname", word, "hostname already specified")
    made.fields["hostname"] = p.string("its value").text


def _tls_list(p: Parser, made: Listen, word: Token) -> None:
    """tls-list = ( "ciphers" | "curves" ) STRING

    The latter is ours."""
    p.once(made.seen, word.text, word, f"{word.text} already specified")
    token = p.string(f"a list of {word.text}")
    p.draft.tls_lists.append((word.text, token))
    made.fields[word.text] = token.text


def _protocols(p: Parser, made: Listen, word: Token) -> None:
    """protocols-option = "protocols" STRING"""
    p.once(made.seen, "protocols", word, "protocols already specified")
    made.fields["protocols"] = p.value("a list of TLS versions", protocols)


def _auth(p: Parser, made: Listen, word: Token) -> None:
    """auth = ( "auth" | "auth-optional" ) [ table | ( "dovecot" | "saslauthd" ) PATH ]

    The latter are ours; alone, they are the value of a table, as any other string."""
    p.once(made.seen, "auth", word, "auth already specified")
    made.fields["auth"] = "required" if word.text == "auth" else "optional"
    service = p.token
    if p.word("dovecot", "saslauthd"):
        if p.at_string:
            path = p.string("the path of its socket")
            if not path.text.startswith("/"):
                p.refuse(path, f"the socket of {service.text} must be an absolute path")
            made.fields.update(auth_backend=service.text, auth_path=path.text)
        else:
            made.fields["auth_table"] = single(p, service, anything("auth"))
        return
    if p.token.kind is Kind.WORD and p.token.text in _OURS:
        return                     # an option, although the word is not reserved
    if table_follows(p):
        made.fields["auth_table"] = table(p, anything("auth"))


def _filter(p: Parser, made: Listen, word: Token) -> None:
    """filter-option = "filter" filter-use"""
    p.once(made.seen, "filter", word, "filter already specified")
    made.fields["filter"] = filter_use(p)


def _tag(p: Parser, made: Listen, word: Token) -> None:
    """tag = "tag" STRING"""
    p.once(made.seen, "tag", word, "tag already specified")
    token = p.string("a tag")
    if len(token.text.encode()) > TAG_MAX:
        p.refuse(token, f"tag name too long: more than {TAG_MAX} octets")
    made.fields["tag"] = token.text


def _hostnames(p: Parser, made: Listen, word: Token) -> None:
    """hostnames = "hostnames" table"""
    p.once(made.seen, "hostnames", word, "hostnames already specified")
    made.fields["hostnames"] = table(p, mapping("hostnames"))


def _senders(p: Parser, made: Listen, word: Token) -> None:
    """senders = "senders" table [ "masquerade" ]"""
    p.once(made.seen, "senders", word, "senders already specified")
    made.fields["senders"] = table(p, mapping("senders"))
    if p.word("masquerade"):
        made.fields["masquerade"] = True


def _flag(p: Parser, made: Listen, word: Token) -> None:
    """flag = "mask-src" | "no-dsn" | "received-auth" | "lmtp"

    The last is ours."""
    p.once(made.seen, word.text, word, f"{word.text} already specified")
    made.fields[word.text.replace("-", "_")] = True


def _proxy(p: Parser, made: Listen, word: Token) -> None:
    """proxy = "proxy-v2" | "proxy" "from" table

    The latter is ours."""
    p.once(made.seen, "proxy", word, f"{word.text} already specified" if "proxy" not in made.seen
           or made.seen["proxy"].text == word.text else "proxy-v2 and proxy from exclude each other")
    if word.text == "proxy-v2":
        made.fields["proxy_v2"] = True
    else:
        p.must("from")
        made.fields["proxy_from"] = table(p, either("proxy from"))


def _without(p: Parser, made: Listen, word: Token) -> None:
    """without = "no-pipelining" | "no-8bitmime" | "no-chunking" | "no-binarymime" | "no-smtputf8"
    | "no-enhancedstatuscodes" | "no-size" | "no-limits" | "no-help"

    Ours: a keyword that EHLO does not offer."""
    p.once(made.seen, word.text, word, f"{word.text} already specified")
    made.fields["without"] = (*made.fields.get("without", ()), word.text.removeprefix("no-"))


SOCKET_OPTIONS: dict[str, Option] = {
    "filter": _filter,
    "mask-src": _flag,
    "no-dsn": _flag,
    "tag": _tag,
    **{f"no-{word}": _without for word in LEFT_OUT},
}
LISTEN_OPTIONS: dict[str, Option] = {
    **SOCKET_OPTIONS,
    "inet4": _family,
    "inet6": _family,
    "port": _port,
    "tls": _tls,
    "tls-require": _tls,
    "smtps": _tls,
    "pki": _pki,
    "ca": _ca,
    "ciphers": _tls_list,
    "curves": _tls_list,
    "protocols": _protocols,
    "hostname": _hostname,
    "hostnames": _hostnames,
    "auth": _auth,
    "auth-optional": _auth,
    "senders": _senders,
    "received-auth": _flag,
    "lmtp": _flag,
    "proxy-v2": _proxy,
    "proxy": _proxy,
}
