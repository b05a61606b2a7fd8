"""Attributes of XCLIENT and XFORWARD: what a trusted proxy says of the client behind it.

The commands are Postfix's, described in its XCLIENT_README and XFORWARD_README: ``NAME=value``, the value in xtext
(RFC 3461 4), or ``[UNAVAILABLE]``.
"""

import ipaddress
import re
from collections.abc import Callable

from pysmtpd.base import xtext
from pysmtpd.base.text import is_clean
from pysmtpd.session.path import valid_domain

VALUE_MAX = 255                    # octets, decoded
PROTO_MAX = 64
_ENCODED = re.compile(r"\+([0-9A-F]{2})")
# Words of a log line, and of a header field: nothing that could end one.
_WORD = re.compile(r"[!#-'*+./0-9:=?A-Z\[\]^_`a-z{|}~-]+")
_PORT = re.compile(r"[0-9]{1,5}")
_UNAVAILABLE = ("[UNAVAILABLE]", "[TEMPUNAVAIL]")

Attributes = dict[str, str]        # by name; empty: it is not known
Reader = Callable[[str], str]


def _name(value: str) -> str:
    if not valid_domain(value):
        raise ValueError
    return value


def _word(value: str) -> str:
    if not _WORD.fullmatch(value):
        raise ValueError
    return value


def _proto(value: str) -> str:
    if len(value) > PROTO_MAX:
        raise ValueError
    return _word(value)


def _smtp(value: str) -> str:
    if value.upper() not in ("SMTP", "ESMTP"):
        raise ValueError
    return value.upper()


def _address(value: str) -> str:
    """``192.0.2.1``, ``IPV6:2001:db8::1``, as a socket would tell it."""
    if value[:5].upper() != "IPV6:":
        return str(ipaddress.IPv4Address(value))
    if "%" in value:
        raise ValueError
    address = ipaddress.IPv6Address(value[5:])
    return str(address.ipv4_mapped or address)


def _port(value: str) -> str:
    if not _PORT.fullmatch(value) or int(value) > 65535:
        raise ValueError
    return value


def _login(value: str) -> str:
    if not is_clean(value) or " " in value:
        raise ValueError
    return value


def _source(value: str) -> str:
    if value.upper() not in ("LOCAL", "REMOTE"):
        raise ValueError
    return value.upper()


XCLIENT: dict[str, Reader] = {
    "NAME": _name, "ADDR": _address, "PORT": _port, "PROTO": _smtp, "HELO": _name, "LOGIN": _login,
    "DESTADDR": _address, "DESTPORT": _port,
}
XFORWARD: dict[str, Reader] = {
    "NAME": _word, "ADDR": _word, "PORT": _port, "PROTO": _proto, "HELO": _word, "IDENT": _word, "SOURCE": _source,
}


def read(argument: str, known: dict[str, Reader]) -> Attributes:
    """What a command says.  Raises ValueError, with the attribute that is wrong, or with an empty text."""
    words = argument.split()
    if not words:
        raise ValueError("")
    found: Attributes = {}
    for word in words:
        name, equals, value = word.partition("=")
        reader = known.get(name.upper())
        if reader is None or not equals:
            raise ValueError(name)
        try:
            found[name.upper()] = _value(value, reader)
        except ValueError:
            raise ValueError(word) from None
    return found


def _value(value: str, reader: Reader) -> str:
    if value.upper() in _UNAVAILABLE:
        return ""
    if not xtext.XTEXT.fullmatch(value.replace("=", "+3D")):
        raise ValueError
    octets = _ENCODED.sub(lambda match: chr(int(match[1], 16)), value).encode("latin-1")
    if not 0 < len(octets) <= VALUE_MAX:
        raise ValueError
    return reader(octets.decode())
