"""Reverse-path and forward-path (RFC 5321 4.1.2), and the domains of HELO and EHLO.

Accepted are dot-strings and quoted strings before the ``@``; domain names whose labels begin and end with a
letter or digit, address literals, or no domain at all after it.  Source routes are stripped (RFC 5321 C).
Characters beyond ASCII may stand for letters (RFC 6531 3.3); the domain is then given in A-form.
All quoted forms of a local-part become the one with the fewest quotes: no rule or table must tell them apart.
"""

import ipaddress
import re

from pysmtpd.base import idn
from pysmtpd.base.mailaddr import NULL, MailAddr

DOMAIN_MAX = 255

_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_NAME = rf"{_LABEL}(?:\.{_LABEL})*"
_BEYOND = "\xa0-\ud7ff\ue000-\U0010ffff"
_U_LABEL = f"[A-Za-z0-9{_BEYOND}](?:[A-Za-z0-9{_BEYOND}_-]{{0,61}}[A-Za-z0-9{_BEYOND}])?"
_U_NAME = rf"{_U_LABEL}(?:\.{_U_LABEL})*"
_ATOM = rf"[A-Za-z0-9!#$%&'*+/=?^_`{{|}}~{_BEYOND}-]+"
_QUOTED = rf'"(?:[ !#-\[\]-~{_BEYOND}]|\\[ -~])*"'
_PATH = re.compile(
    rf"<(?:(@{_U_NAME}(?:,@{_U_NAME})*):)?"
    rf"({_ATOM}(?:\.{_ATOM})*|{_QUOTED})"
    rf"(?:@({_U_NAME}|\[[0-9A-Za-z:.]+\]))?>(?: +|\Z)"
)
_DOT_STRING = re.compile(rf"{_ATOM}(?:\.{_ATOM})*")
_PAIR = re.compile(r"\\(.)")
_HIDDEN = re.compile("[\u200c\u200d]")   # joiners: some scripts cannot do without them
_NULL = re.compile(r"<>(?: +|\Z)")
_DOMAIN = re.compile(_NAME)


def valid_domain(text: str) -> bool:
    """A domain name or an address literal."""
    if len(text) > DOMAIN_MAX:
        return False
    return _DOMAIN.fullmatch(text) is not None or _valid_literal(text)


def parse_path(text: str, default_domain: str) -> tuple[MailAddr, str] | None:
    """The mailbox of a path, and the parameters behind it; None for a syntax error.

    A mailbox without domain gets the default one.  ``<>`` gives the null address."""
    match = _PATH.match(text)
    if match is None:
        null = _NULL.match(text)
        return (NULL, text[null.end() :]) if null else None
    route, user, domain = match.groups()
    if domain is None:
        if route:
            return None
        domain = default_domain
    elif domain[0] == "[" and not _valid_literal(domain):
        return None
    try:
        if not (user.isascii() or _HIDDEN.sub("", user).isprintable()):
            return None            # it would not look like what it is
        if user[0] == '"':
            user = _least_quoted(user)
        if not domain.isascii():
            domain = idn.to_ascii(domain)
            if not _DOMAIN.fullmatch(domain):
                return None
        return MailAddr(user, domain), text[match.end() :]
    except ValueError:
        return None


def _least_quoted(user: str) -> str:
    """A quoted string as a dot-string if it is one, else with the quotes it needs (RFC 5321 4.1.2)."""
    text = _PAIR.sub(r"\1", user[1:-1])
    if _DOT_STRING.fullmatch(text):
        return text
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'


def _valid_literal(text: str) -> bool:
    """``[192.0.2.1]``, ``[IPv6:2001:db8::1]`` and, as OpenSMTPD takes it, ``[2001:db8::1]``."""
    if not text.startswith("[") or not text.endswith("]"):
        return False
    address = text[1:-1]
    try:
        if address[:5].lower() == "ipv6:":
            return "%" not in address and ipaddress.IPv6Address(address[5:]) is not None
        return "%" not in address and ipaddress.ip_address(address) is not None
    except ValueError:
        return False
