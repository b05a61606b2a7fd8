"""The examples of RFC 4013 section 3, and what its tables forbid."""

import pytest

from pysmtpd.base.saslprep import saslprep


@pytest.mark.parametrize("text, wanted", [
    ("I\u00adX", "IX"), ("user", "user"), ("USER", "USER"), ("\u00aa", "a"), ("\u2168", "IX"), ("a\u00a0b", "a b"),
    ("", ""), ("\u0627\u0628", "\u0627\u0628"),
])
def test_prepared(text: str, wanted: str) -> None:
    assert saslprep(text) == wanted


@pytest.mark.parametrize("text", ["\u0007", "\u06271", "a\x7f", "\x00", "\u200e\u0627", "\ue000", "\ufffd\u00e4",
                                  "\u0627a\u0627"])
def test_prohibited(text: str) -> None:
    with pytest.raises(ValueError):
        saslprep(text)
