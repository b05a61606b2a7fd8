"""xtext, and addresses beyond ASCII in it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pysmtpd.base import xtext


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E)))
def test_what_was_encoded_is_decoded(text: str) -> None:
    encoded = xtext.encode(text)
    assert xtext.XTEXT.fullmatch(encoded)
    assert xtext.decode(encoded) == text


PRINTABLE = st.characters(min_codepoint=0x21, blacklist_categories=("C", "Z"))


@given(st.text(PRINTABLE))
def test_addresses_of_any_script(text: str) -> None:
    kind, _, value = xtext.orcpt(text).partition(";")
    assert xtext.XTEXT.fullmatch(value)
    assert kind == ("rfc822" if text.isascii() else "utf-8")
    assert xtext.decode_utf8(xtext.decode(value)) == text or "\\x{" in text


@pytest.mark.parametrize(("address", "value"), [
    ("a+b=c@d.example", "rfc822;a+2Bb+3Dc@d.example"),
    ('"a b"@d.example', 'rfc822;"a+20b"@d.example'),
    ("\u7528+\\@d.example", "utf-8;\\x{7528}\\x{2B}\\x{5C}@d.example"),
])
def test_orcpt(address: str, value: str) -> None:
    assert xtext.orcpt(address) == value


def test_decoding_shows_nothing_that_would_break_a_line() -> None:
    assert xtext.decode("a+20b+2B") == "a b+"
    assert xtext.decode("a+0D+0Ab") == "a+0D+0Ab"
    assert xtext.decode_utf8("\\x{A}b") == "\\x{A}b"
