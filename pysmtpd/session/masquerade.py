"""``senders ... masquerade``: the addresses of the From field become the sender's.

Display names, comments and folding stay; a group stays whole.  What cannot be understood is left alone.
"""

import re
from collections.abc import Callable

# A From field with its continuation lines, which begins the block or follows a CRLF.
_FROM = re.compile(rb"(?:^|(?<=\r\n))(from[ \t]*:)((?:[^\r]|\r\n(?=[ \t]))*)(?=\r\n|\Z)", re.IGNORECASE)
# What stands between commas: quoted strings, comments of one level, and angle brackets keep theirs.
_MEMBER = re.compile(rb'(?:"(?:[^"\\]|\\.)*"|\((?:[^()\\]|\\.)*\)|<[^<>]*>|[^",()<>])+', re.DOTALL)
ANGLE = re.compile(rb'((?:"(?:[^"\\]|\\.)*"|\((?:[^()\\]|\\.)*\)|[^"()<>])*<)([^<>]*)(>.*)', re.DOTALL)
# Blanks and comments around a bare address.
_AROUND = rb"((?:[ \t\r\n]|\((?:[^()\\]|\\.)*\))*)"
BARE = re.compile(_AROUND + rb'([^ \t\r\n()"]+)' + _AROUND, re.DOTALL)


def masquerade(header: bytes, sender: bytes) -> bytes:
    """A header, in which each address of From became ``sender``."""
    return _FROM.sub(lambda field: field[1] + each_member(field[2], lambda member: _member(member, sender)),
                     header)


def each_member(text: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """A list of addresses, each of which was changed; one that cannot be understood stays as it is."""
    parts: list[bytes] = []
    at = 0
    for member in _MEMBER.finditer(text):
        between = text[at : member.start()]
        if between.strip(b","):
            return text            # a quote, comment or bracket without its end
        parts += [between, change(member[0])]
        at = member.end()
    rest = text[at:]
    return text if rest.strip(b",") else b"".join((*parts, rest))


def _member(text: bytes, sender: bytes) -> bytes:
    angle = ANGLE.fullmatch(text)
    if angle is not None:
        # <> is in nobody's From; a colon before it begins a group.
        return text if not angle[2].strip() or b":" in unquoted(angle[1]) else angle[1] + sender + angle[3]
    bare = BARE.fullmatch(text)
    return bare[1] + sender + bare[3] if bare is not None and b":" not in bare[2] and b";" not in bare[2] else text


def unquoted(text: bytes) -> bytes:
    """A text without its quoted strings."""
    return re.sub(rb'"(?:[^"\\]|\\.)*"', b"", text)
