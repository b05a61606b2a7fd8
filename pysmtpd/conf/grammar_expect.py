"""``test``, ours: what the rules shall say about a recipient.  lookup.trial asks them."""

import ipaddress
from collections.abc import Callable
from typing import Any

from pysmtpd.base.mailaddr import MailAddr, parse
from pysmtpd.base.text import is_clean
from pysmtpd.conf.config import Expectation
from pysmtpd.conf.lexer import Token
from pysmtpd.conf.parser import Parser

NAME_MAX = 255                     # octets, as an envelope has them
Fields = dict[str, Any]
Option = Callable[[Parser, Fields], None]


def expectation(p: Parser, word: Token) -> None:
    """test = "test" "from" address { test-option } "to" address "expect" outcome

    None of these words is reserved.  Without src the mail comes from the socket, as ``from local`` is the default of
    match."""
    p.must("from")
    fields: Fields = {"sender": _address(p, "the address of a sender, or <>", null=True)}
    seen: dict[str, Token] = {}
    while (option := p.word(*OPTIONS)) is not None:
        p.once(seen, option.text, option, f"{option.text} already specified for this test")
        OPTIONS[option.text](p, fields)
    p.must("to")
    fields["rcpt"] = _address(p, "the address of a recipient", null=False)
    p.must("expect")
    _outcome(p, fields)
    p.end()
    p.draft.expectations.append((Expectation(at=word.at, **fields), word))


def _address(p: Parser, what: str, *, null: bool) -> str:
    """address = STRING | "<" [ STRING ] ">" """
    if not p.mark("<"):
        return _checked(p, what, null=null)
    text = "" if null and p.token.is_mark(">") else _checked(p, what, null=null)
    p.must_mark(">")
    return text


def _checked(p: Parser, what: str, *, null: bool) -> str:
    token = p.string(what)
    try:
        address: MailAddr = parse(token.text)
    except ValueError as error:
        p.refuse(token, f"not {what}: {error}")
    if not address.user and not (null and address.is_null):
        p.refuse(token, f"expected {what}, such as joe@example.org")
    return token.text


def _outcome(p: Parser, fields: Fields) -> None:
    """outcome = "action" NAME | ( "reject" | "tempfail" ) [ STRING ]

    STRING is how the reply begins."""
    fields["verdict"] = p.must("action", "reject", "tempfail").text
    if fields["verdict"] == "action":
        fields["text"] = p.name("action", "the name of an action")
    elif p.at_string:
        fields["text"] = p.advance().text
    else:
        p.word("the beginning of the reply")


def _src(p: Parser, fields: Fields) -> None:
    """test-option = "src" ( "socket" | STRING )"""
    fields["source"] = "local" if p.word("socket") else p.value("the address of a client", _client)


def _client(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text.removeprefix("[").removesuffix("]")))
    except ValueError:
        raise ValueError("expected an address, such as 192.0.2.1 or \"2001:db8::1\"") from None


def _name(field: str, what: str) -> Option:
    """test-option = ( "rdns" | "helo" | "auth" | "tag" ) STRING"""

    def option(p: Parser, fields: Fields) -> None:
        token = p.string(what)
        if not 0 < len(token.text.encode()) <= NAME_MAX or not is_clean(token.text):
            p.refuse(token, f"{what} has 1 to {NAME_MAX} octets, without control characters")
        fields[field] = token.text

    return option


def _tls(_p: Parser, fields: Fields) -> None:
    """test-option = "tls" """
    fields["tls"] = True


OPTIONS: dict[str, Option] = {
    "src": _src,
    "rdns": _name("rdns", "the name of a client"),
    "helo": _name("helo", "a name for HELO"),
    "auth": _name("username", "the name of a user"),
    "tls": _tls,
    "tag": _name("tag", "a tag"),
}
