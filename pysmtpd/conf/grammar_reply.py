"""The reply of a ``match`` that refuses, ours: a code, perhaps an enhanced one, and a text with format specifiers."""

import re

from pysmtpd.base.format import ADDRESSES, FormatError, parse
from pysmtpd.conf.diagnostic import inside
from pysmtpd.conf.lexer import Token
from pysmtpd.conf.parser import Parser

TEMPLATE_MAX = 400                 # octets; a reply has 510
TEMPORARY = "451 Temporary failure: <%{rcpt:raw}>"   # of tempfail without a text
CLASSES = {"reject": "5", "tempfail": "4"}
SAMPLES = {"reject": "550 5.7.1 Not here", "tempfail": "451 4.7.1 Try again later"}
_CODE = re.compile(r"[0-9]*")
_ENHANCED = re.compile(r" ([0-9]+(?:\.[0-9]+)+\.?)(?= |\Z)")
_ENHANCED_GOOD = re.compile(r"[245]\.[0-9]{1,3}\.[0-9]{1,3}")   # RFC 3463 2


def refusal(p: Parser, kind: str) -> str:
    """reply = STRING

    It begins with a code of three digits (RFC 5321 4.2.1): 5yz for reject, 4yz for tempfail."""
    if not p.at_string:
        p.word("a reply")
        return TEMPORARY if kind == "tempfail" else ""
    token = p.string("a reply")
    _check(p, token, kind)
    return token.text


def tempfails(p: Parser) -> bool:
    """Whether this is the verdict tempfail, and not an entry of that name: a word that is not reserved can be both,
    but no entry ends a rule, or stands before a quoted text."""
    return p.token.text == "tempfail" and p.next_ends_statement_or_is_quoted()


def _check(p: Parser, token: Token, kind: str) -> None:
    text, wanted = token.text, CLASSES[kind]
    sample = f'such as: {kind} "{SAMPLES[kind]}"'
    code = _CODE.match(text)
    digits = code[0] if code else ""
    place = inside(token, 0, max(1, len(digits)))
    if len(digits) != 3 or text[3:4] not in ("", " "):
        p.refuse(place, f"a reply begins with a code of three digits, {sample}")
    if digits[0] != wanted or digits[1] > "5":
        p.refuse(place, f"the code of a {kind} is from {wanted}00 to {wanted}59, not {digits}", sample)
    if digits == "421":
        p.refuse(place, "421 would end the session, and this refuses one recipient", sample)
    if not all(" " <= char <= "~" for char in text):
        p.refuse(token, "a reply is printable ASCII (RFC 5321 4.2)")
    if len(text) > TEMPLATE_MAX:
        p.refuse(token, f"this reply is longer than {TEMPLATE_MAX} characters")
    _check_enhanced(p, token, wanted)
    try:
        parse(text, ADDRESSES, home=False)
    except FormatError as error:
        p.refuse(inside(token, error.offset, error.length), str(error))


def _check_enhanced(p: Parser, token: Token, wanted: str) -> None:
    found = _ENHANCED.match(token.text, 3)
    if not token.text[found.end() if found else 3 :].strip():
        p.refuse(token, "a reply needs a text behind its code")
    if found is None:
        return
    place = inside(token, found.start(1), len(found[1]))
    if not _ENHANCED_GOOD.fullmatch(found[1]):
        p.refuse(place, f"{found[1]} is not an enhanced status code (RFC 3463), such as {wanted}.7.1")
    if found[1][0] != wanted:
        p.refuse(place, f"the enhanced status code must begin like the code, with {wanted}")
