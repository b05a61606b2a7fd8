"""The grammar of smtpd.conf(5): statements, and the directives that are a few words long.

Each production is a function with its EBNF as documentation.  STRING is a quoted string or a word that is not
reserved, NAME a STRING that names something; NUMBER and the marks are those of the lexer.  Between braces line ends
mean nothing; elsewhere a statement ends with its line.
"""

import ipaddress
import os.path
import re
from collections.abc import Callable
from typing import NoReturn

from pysmtpd.base.format import WRAPPER
from pysmtpd.conf import (
    grammar_action,
    grammar_expect,
    grammar_filter,
    grammar_limit,
    grammar_listen,
    grammar_log,
    grammar_match,
    grammar_table,
)
from pysmtpd.conf.classic import STATEMENTS as CLASSIC
from pysmtpd.conf.classic import production
from pysmtpd.conf.config import Ca, Pki, Secret
from pysmtpd.conf.diagnostic import Refused, about, closest, shown
from pysmtpd.conf.draft import FileUse, either
from pysmtpd.conf.hints import unknown
from pysmtpd.conf.lexer import File, Kind, Token
from pysmtpd.conf.parser import Parser
from pysmtpd.conf.source import FILE_MAX
from pysmtpd.conf.text import decode
from pysmtpd.conf.values import delay, host_name, size
from pysmtpd.conf.words import CLASSIC_RESERVED, RESERVED

INCLUDES_MAX = 16                  # files inside each other
NUMBER_MAX = 2**31 - 1
WORKERS_MAX = 32


def statement(p: Parser) -> None:
    """statement = macro | include | admd | bounce | ca | mda | mta | pki | queue | resolver | scheduler | smtp | srs
    | proc | filter | table-statement | listen | action | match | test | log"""
    token = p.token
    if token.kind not in (Kind.WORD, Kind.QUOTED):
        p.string("a directive or a macro definition")
    p.advance()
    if p.token.is_mark("="):
        p.reserved = CLASSIC_RESERVED if p.classic else p.reserved
        macro(p, token)
    elif token.kind is Kind.WORD and (read := production(p, token)) is not None:
        read(p, token)
    elif token.kind is Kind.WORD and token.text in STATEMENTS:
        p.later(token.text, token)
        STATEMENTS[token.text](p, token)
    else:
        _unknown(p, token)


def _unknown(p: Parser, token: Token) -> NoReturn:
    """A line that begins with a word of no language."""
    if token.text in STATEMENTS or token.text in CLASSIC:
        p.refuse(token, f"a directive is written without quotes: {token.text}")
    near = closest(token.text, [*STATEMENTS, *CLASSIC] if p.classic else STATEMENTS)
    meant = f', did you mean "{near}"?' if near else ""
    p.refuse(token, f"unknown directive {shown(token.text)}{meant}",
             "expected a directive (listen, action, match, table ...) or name = value", *unknown(token))


def macro(p: Parser, name: Token) -> None:
    """macro = STRING "=" STRING"""
    p.must_mark("=")
    p.draft.broken_macros.add(name.text)
    p.draft.macro_tokens[name.text] = name
    value = p.string("the value of the macro")
    if any(char.isspace() for char in name.text[1:]):
        p.refuse(name, "macro name cannot contain whitespace")
    p.end()
    if name.text not in p.fixed:
        p.macros[name.text] = value.text
    if name.kind is Kind.WORD and name.text in p.reserved:
        p.refuse(name, f'{name.text} is a reserved word; a macro of that name is written "{name.text}" = ...')
    elif name.kind is Kind.WORD and name.text in RESERVED:
        p.draft.to_quote.append(name)


def include(p: Parser, _word: Token) -> None:
    """include = "include" STRING"""
    token = p.string("the path of a file")
    p.end()
    if not set(token.text) & set("*?["):
        _include(p, token, token.text)
        return
    paths = p.source.glob(token.text)
    if not paths:
        p.draft.warnings.append(about(token, f"no file matches {shown(token.text)}", warning=True))
    for path in paths:
        try:
            _include(p, token, path)
        except Refused as refused:             # the others are there
            p.draft.errors.append(refused.diagnostic)


def _include(p: Parser, token: Token, path: str) -> None:
    depth, file = 1, token.file
    while True:
        if os.path.normpath(file.name) == os.path.normpath(path):
            p.refuse(token, f"{path} includes itself")
        if file.included is None:
            break
        depth, file = depth + 1, file.included.file
    if depth >= INCLUDES_MAX:
        p.refuse(token, f"more than {INCLUDES_MAX} files include each other")
    try:
        data = p.source.read(path, FILE_MAX + 1)
    except OSError as error:
        p.draft.incomplete = True
        if isinstance(error, PermissionError) and not p.draft.unprivileged:
            p.draft.unread.append(path)
            p.draft.warnings.append(about(token, f"not checked: {path}: need root", warning=True))
            return
        p.refuse(token, f"failed to include file {path}: {error.strerror}")
    text, trouble = decode(data, path)
    if trouble:
        p.draft.incomplete = True
        p.refuse(token, trouble)
    p.read(File(path, text, token), statement)


def admd(p: Parser, _word: Token) -> None:
    """admd = "admd" STRING"""
    token = p.string("the name of the administrative domain")
    if not token.text or not all(" " <= char <= "~" for char in token.text):
        p.refuse(token, "not a valid admd: only printable ASCII")
    p.draft.settings["admd"] = token.text


def bounce(p: Parser, _word: Token) -> None:
    """bounce = "bounce" "warn-interval" delay { "," delay }"""
    p.must("warn-interval")
    intervals = {p.value("a time", delay)}
    while p.mark(","):
        intervals.add(p.value("a time", delay))
    p.draft.settings["warn_intervals"] = tuple(sorted(intervals))


def _pki_name(text: str) -> str:
    """Hyphens may stand where no host name has them, as in OpenSMTPD."""
    if text == "*":
        return text
    host_name(re.sub(r"(?<!^)-", "_", text))
    return text.lower()


def ca(p: Parser, word: Token) -> None:
    """ca = "ca" NAME "cert" STRING"""
    name = p.value("the name of a ca", _pki_name)
    p.declares("ca", name)
    p.must("cert")
    file = p.string("the path of a certificate")
    p.draft.cas[name] = Ca(name=name, cert=file.text, at=word.at)
    p.draft.files["ca", name] = FileUse(file.text, file)


def pki(p: Parser, word: Token) -> None:
    """pki = "pki" NAME { "cert" STRING | "key" STRING | "dhe" ( "none" | "auto" | "legacy" ) }"""
    name = p.value("the name of a pki", _pki_name)
    p.declares("pki", name)
    before = p.draft.pkis.get(name) or Pki(name=name, at=word.at)
    fields = {"cert": before.cert, "key": before.key, "dhe": before.dhe}
    p.draft.pki_tokens.setdefault(name, word)
    p.draft.unfinished.append(name)
    while (option := p.word("cert", "key", "dhe")) is not None:
        if option.text == "dhe":
            fields["dhe"] = p.value("a DHE keyword", _dhe)
        else:
            file = p.string(f"the path of a {_FILES[option.text]}")
            fields[option.text] = file.text
            p.draft.files[option.text, name] = FileUse(file.text, file)
    p.end()
    p.draft.unfinished.remove(name)
    p.draft.pkis[name] = Pki(name=name, cert=fields["cert"], key=fields["key"], dhe=fields["dhe"], at=before.at)


_FILES = {"cert": "certificate", "key": "private key"}


def _dhe(text: str) -> str:
    if text.lower() not in ("none", "auto", "legacy"):
        raise ValueError("expected none, auto or legacy")
    return text.lower()


def mda(p: Parser, _word: Token) -> None:
    """mda = "mda" ( "limit" { limit } | "wrapper" NAME STRING )"""
    if p.must("limit", "wrapper").text == "limit":
        grammar_limit.limits(p, "mda")
        return
    name = p.string("the name of the wrapper")
    p.declares("mda wrapper", name.text)
    command = p.format("its command", WRAPPER)
    if name.text in p.draft.wrappers:
        p.refuse(name, f"mda wrapper already declared with that name: {name.text}")
    p.draft.wrappers[name.text] = command


def mta(p: Parser, _word: Token) -> None:
    """mta = "mta" ( "max-deferred" NUMBER | "limit" mta-limits )"""
    word = p.must("max-deferred", "limit")
    if word.text == "limit":
        grammar_limit.mta_limits(p)
        return
    p.later("mta max-deferred", word)
    p.draft.settings["max_deferred"] = p.number("max-deferred", 0, NUMBER_MAX)


def queue(p: Parser, _word: Token) -> None:
    """queue = "queue" ( "compression" | "encryption" [ STRING ] | "ttl" delay )"""
    word = p.must("compression", "encryption", "ttl")
    p.later(f"queue {word.text}", word)
    settings = p.draft.settings
    if word.text == "ttl":
        settings["queue_ttl"] = p.value("a time", delay)
    elif word.text == "compression":
        settings["queue_compression"] = True
    else:
        settings.update(queue_encryption=True, queue_key=None, queue_key_stdin=False)
        if p.at_string or p.token.kind is Kind.NUMBER:
            _queue_key(p, p.key("a key"))


def _queue_key(p: Parser, token: Token) -> None:
    if token.text.lower() in ("stdin", "-"):
        p.draft.settings["queue_key_stdin"] = True
    elif len(token.text.encode()) != 32:
        # Its line is not shown, because the key stands there.
        found = about(token, "invalid key for queue encryption: it must be exactly 32 octets, "
                             f"this has {len(token.text.encode())}")
        raise Refused(found._replace(line=""))
    else:
        p.draft.settings["queue_key"] = Secret(token.text)


def resolver(p: Parser, _word: Token) -> None:
    """resolver = "resolver" STRING

    Ours; ADDR, ADDR:PORT or [ADDR]:PORT, and one for each name server."""
    server = p.value("the address of a name server", _server)
    p.draft.settings["resolvers"] = (*p.draft.settings.get("resolvers", ()), server)


def _server(text: str) -> str:
    address, port = text, ""
    if text.startswith("["):
        address, _, port = text[1:].partition("]")
        port = port.removeprefix(":") if port.startswith(":") else port and "x"
    elif text.count(":") == 1:
        address, _, port = text.partition(":")
        port = port or "x"
    if port and not (port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 65536):
        raise ValueError("its port is not one from 1 to 65535")
    try:
        ipaddress.ip_address(address)
    except ValueError:
        raise ValueError("expected an address, with or without :port; IPv6 with one as \"[addr]:port\"") from None
    return text


def scheduler(p: Parser, _word: Token) -> None:
    """scheduler = "scheduler" "limit" { limit }"""
    p.must("limit")
    grammar_limit.limits(p, "scheduler")


def smtp(p: Parser, _word: Token) -> None:
    """smtp = "smtp" ( "limit" smtp-limits | "ciphers" STRING | "max-message-size" size | "sub-addr-delim" STRING
    | "workers" NUMBER | ( "xclient" | "xforward" ) "from" table | "bare-newline" ( "reject" | "normalize" ) )"""
    word = p.must("limit", "ciphers", "max-message-size", "sub-addr-delim", "workers", "xclient", "xforward",
                  "bare-newline")
    if word.text == "limit":
        grammar_limit.smtp_limits(p)
    elif word.text == "ciphers":
        token = p.string("a list of ciphers")
        p.draft.tls_lists.append(("ciphers", token))
        p.draft.settings["smtp_ciphers"] = token.text
    elif word.text == "max-message-size":
        p.draft.settings["max_message_size"] = p.value("a size", size)
    elif word.text == "workers":
        p.draft.settings["smtp_workers"] = p.number("workers", 1, WORKERS_MAX)
    elif word.text == "bare-newline":
        p.draft.settings["normalize_newlines"] = p.must("reject", "normalize").text == "normalize"
    elif word.text in ("xclient", "xforward"):
        p.must("from")
        p.draft.settings[f"{word.text}_from"] = grammar_table.table(p, either(f"smtp {word.text} from"))
    else:
        p.draft.settings["sub_addr_delim"] = p.value("a list of delimiters", _delimiters)


def _delimiters(text: str) -> str:
    if not text:
        raise ValueError("it must be one character, or several of which any delimits")
    if not all("!" <= char <= "~" and char != "@" for char in text):
        raise ValueError("it must be of printable characters, and without @")
    if len(set(text)) < len(text):
        raise ValueError("a character stands in it twice")
    return text


def srs(p: Parser, _word: Token) -> None:
    """srs = "srs" ( "key" [ "backup" ] STRING | "ttl" delay )"""
    word = p.must("key", "ttl")
    p.later(f"srs {word.text}", word)
    if word.text == "ttl":
        p.draft.settings["srs_ttl"] = p.value("a time of a day or more", _days)
        return
    name = "srs_backup" if p.word("backup") else "srs_key"
    p.draft.settings[name] = Secret(p.key("a key").text)


def _days(text: str) -> int:
    seconds = delay(text)
    if seconds < 86400:
        raise ValueError("it is too short")
    return seconds // 86400


STATEMENTS: dict[str, Callable[[Parser, Token], None]] = {
    "include": include,
    "admd": admd,
    "bounce": bounce,
    "ca": ca,
    "mda": mda,
    "mta": mta,
    "pki": pki,
    "queue": queue,
    "resolver": resolver,
    "scheduler": scheduler,
    "smtp": smtp,
    "srs": srs,
    "proc": grammar_filter.proc,
    "filter": grammar_filter.filter_,
    "table": grammar_table.table_statement,
    "listen": grammar_listen.listen,
    "action": grammar_action.action,
    "match": grammar_match.match,
    "log": grammar_log.log,
    "test": grammar_expect.expectation,
}
