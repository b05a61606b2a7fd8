"""Mistakes that many make, each in its own words: what stands beneath an error of the grammar."""

from collections.abc import Collection, Iterator

from pysmtpd.base.netaddr import parse_network
from pysmtpd.conf.diagnostic import shown
from pysmtpd.conf.lexer import Kind, Token

_DOING = frozenset({"accept", "deliver", "relay", "mbox", "maildir", "lmtp", "mda", "forward-only", "expand-only"})
_CRITERIA = frozenset({"tag", "from", "for", "helo", "auth", "tls", "mail-from", "rcpt-to"})
_TEMPLATES = ("{{", "{%", "<%")     # of Jinja and Go, and of ERB
_TYPOGRAPHIC = "\u201c\u201d\u201e\u2018\u2019\u201a\u00ab\u00bb"   # quotation marks


def hints(token: Token, before: Token | None, want: Collection[str]) -> Iterator[str]:
    """Notes for a token that stands where one of ``want`` should."""
    in_match = "action" in want and "reject" in want
    in_relay = "helo-src" in want
    if token.kind is Kind.MARK and token.file.text[token.start : token.start + 2] in _TEMPLATES:
        yield "this file is a template, which something must fill in before it is smtpd.conf"
    elif token.kind is Kind.MARK and token.text in _TYPOGRAPHIC:
        yield 'write " for this quotation mark'
    elif token.is_mark(",") and in_match and before is not None and before.kind in (Kind.WORD, Kind.QUOTED):
        yield f"several values stand between braces: {{ {shown(before.text)}, ... }}"
    elif "src" in want and "rdns" in want and token.kind is not Kind.MARK and parse_network(token.text) is not None:
        yield f"an address stands behind the word src: from src {token.text}"
    elif {*want} <= {"a reply", "end of line"} and token.text in _CRITERIA and token.file.line(token.at.line).lstrip(
            " \t").startswith("match"):
        yield f"{token.text} is asked before the action: match ... {token.text} ... action"
    elif token.kind is Kind.WORD and token.text in _DOING and in_match:
        yield 'what is done stands in an action of its own: action "NAME" ..., and then: match ... action "NAME"'
    elif token.kind in (Kind.WORD, Kind.QUOTED) and in_relay:
        if token.text == "port" and token.kind is Kind.WORD:
            yield 'the port is a part of the host: host "smtp://mail.example.org:587"'
        elif token.text in ("hostname", "hostnames") and token.kind is Kind.WORD:
            yield f"{token.text} is now: helo{'-src' if token.text == 'hostnames' else ''}"
        elif token.text == "verify" and token.kind is Kind.WORD:
            yield "whether certificates are verified is said by: tls, or tls no-verify"
        elif "://" in token.text:
            yield f"a host stands behind the word host: host {shown(token.text)}"
        elif before is not None and before.text == "backup":
            yield f"the name of a mail exchanger stands behind the word mx: backup mx {shown(token.text)}"


def unknown(token: Token) -> Iterator[str]:
    """Notes for a line that begins with an unknown word."""
    file, line = token.file, token.at.line
    if token.text == "set":
        yield "set was dropped before 6.4 was released: begin the line with what is behind it"
    if line > 1:
        above = file.text[file.start(line - 1):file.start(line)].rstrip("\n")
        if above != above.rstrip() and above.rstrip().endswith("\\"):
            yield f"a blank is behind the backslash at the end of line {line - 1}, and so that line ends there"
