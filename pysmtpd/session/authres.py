"""Authentication-Results of strangers that claim to be ours (RFC 8601 5): whoever reads mail behind us would believe
them."""

import re

NAME = b"authentication-results"
_FIELD = re.compile(rb"(?:^|(?<=\r\n))Authentication-Results[ \t]*:([^\r]*(?:\r\n[ \t][^\r]*)*)\r\n", re.IGNORECASE)
_WHITE = re.compile(rb"[ \t\r\n]+")
_TOKEN = re.compile(rb"[^ \t\r\n;()\"]+")
_QUOTED = re.compile(rb'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)


def without_claims(header: bytes, admd: bytes) -> bytes:
    """The header without the fields whose authserv-id is this name, in lower case."""
    return _FIELD.sub(lambda field: b"" if authserv_id(field[1]) == admd else field[0], header)


def authserv_id(value: bytes) -> bytes:
    """Whose results these claim to be, in lower case; comments may stand before (RFC 8601 2.2)."""
    at = 0
    while at < len(value):
        white = _WHITE.match(value, at)
        if white is not None:
            at = white.end()
        elif value[at : at + 1] == b"(":
            at = _after_comment(value, at)
        else:
            break
    quoted = _QUOTED.match(value, at)
    if quoted is not None:
        return _ESCAPED.sub(rb"\1", quoted[1]).lower()
    token = _TOKEN.match(value, at)
    return token[0].lower() if token is not None else b""


def _after_comment(value: bytes, at: int) -> int:
    """Behind the parenthesis that closes the one here; comments nest.  One that never ends takes all."""
    depth = 0
    while at < len(value):
        char = value[at]
        at += 2 if char == 0x5C else 1
        depth += (char == 0x28) - (char == 0x29)
        if depth == 0:
            return at
    return len(value)
