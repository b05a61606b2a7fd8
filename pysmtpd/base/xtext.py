r"""xtext (RFC 3461 4) and its forms for addresses beyond ASCII (RFC 6533 3): how ORCPT, ENVID and AUTH say any text in
characters that pass everywhere."""

import re

from pysmtpd.base.text import is_clean

PATTERN = r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*"
XTEXT = re.compile(PATTERN)
_HEX = re.compile(r"\+([0-9A-F]{2})")
_NOT_XCHAR = re.compile(r"[^!-*,-<>-~]")
_UTF8_ADDR = re.compile(r"\\x\{(10[0-9A-F]{4}|[1-9A-F][0-9A-F]{0,4})\}")
_BEYOND = re.compile("[^\x00-\x7f]")
_NOT_QCHAR = re.compile(r"[^!-*,-<>-\[\]-~]")   # a backslash begins a character, too


def encode(text: str) -> str:
    """ASCII text as xtext."""
    return _NOT_XCHAR.sub(lambda match: f"+{ord(match.group()):02X}", text)


def decode(text: str) -> str:
    """What xtext stands for, or the text as it is when that would not be printable ASCII."""
    decoded = _HEX.sub(lambda match: chr(int(match.group(1), 16)), text)
    return decoded if is_clean(decoded) and decoded.isascii() else text


def beyond_ascii(text: str) -> str:
    r"""Characters beyond ASCII as ``\x{HEX}``; the rest stays."""
    return _BEYOND.sub(lambda match: f"\\x{{{ord(match.group()):X}}}", text)


def decode_utf8(text: str) -> str:
    r"""``\x{HEX}`` decoded, or the text as it is when that would not be printable."""
    decoded = _UTF8_ADDR.sub(lambda match: chr(int(match.group(1), 16)), text)
    return decoded if decoded.isprintable() else text


def orcpt(address: str) -> str:
    """An address as the value of ORCPT: ``rfc822;xtext``, or ``utf-8;`` and utf-8-addr-xtext."""
    if address.isascii():
        return f"rfc822;{encode(address)}"
    return "utf-8;" + _NOT_QCHAR.sub(lambda match: f"\\x{{{ord(match.group()):X}}}", address)
