"""Addresses without a domain, in the header of a user's own mail, get ours (RFC 6409 8.1).

Only the ``@`` and the domain are put in; everything else stays as it came, folding included.  Groups stay whole, and so
does what cannot be understood.
"""

import re

from pysmtpd.session.masquerade import ANGLE, BARE, each_member, unquoted

_NAMES = rb"(?:resent-)?(?:from|sender|to|cc)|reply-to"
_FIELDS = re.compile(rb"(?:^|(?<=\r\n))((?:" + _NAMES + rb")[ \t]*:)((?:[^\r]|\r\n(?=[ \t]))*)(?=\r\n|\Z)",
                     re.IGNORECASE)
# What is between angle brackets, without blanks around it: a word, or a quoted string.
_LOCAL_PART = re.compile(rb'([ \t\r\n]*)([^ \t\r\n"@:;,<>()\\]+|"(?:[^"\\\r\n]|\\.)*")([ \t\r\n]*)')


def qualify(header: bytes, domain: bytes) -> bytes:
    """A header, in whose fields of senders and recipients every address has a domain."""
    return _FIELDS.sub(lambda field: field[1] + _field(field[2], domain), header)


def _field(text: bytes, domain: bytes) -> bytes:
    if text.count(b"@") > text.count(b",") and b'"' not in text and b"(" not in text:
        return text                # the usual case: as many as there can be
    return each_member(text, lambda member: _member(member, domain))


def _member(text: bytes, domain: bytes) -> bytes:
    angle = ANGLE.fullmatch(text)
    if angle is not None:
        inner = _LOCAL_PART.fullmatch(angle[2])
        if inner is None or b":" in unquoted(angle[1]):
            return text
        return b"".join((angle[1], inner[1], inner[2], b"@", domain, inner[3], angle[3]))
    bare = BARE.fullmatch(text)
    if bare is None or not _LOCAL_PART.fullmatch(bare[2]):
        return text
    return b"".join((bare[1], bare[2], b"@", domain, bare[3]))
