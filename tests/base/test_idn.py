"""Domains in A-form and in U-form."""

import pytest

from pysmtpd.base import idn


@pytest.mark.parametrize("domain, ascii", [
    ("example.org", "example.org"), ("Example.ORG", "Example.ORG"), ("bücher.example", "xn--bcher-kva.example"),
    ("BÜCHER.Example", "xn--bcher-kva.Example"), ("例え.テスト", "xn--r8jz45g.xn--zckzah"), ("b_c.ü", "b_c.xn--tda"),
])
def test_a_form(domain: str, ascii: str) -> None:
    assert idn.to_ascii(domain) == ascii
    assert idn.to_ascii(ascii) == ascii
    assert idn.to_ascii(idn.to_unicode(ascii)) == ascii


@pytest.mark.parametrize("domain", ["\u202eb.example", "ü" * 64, "-ü", "a\u0301\u200d"])
def test_what_is_no_domain(domain: str) -> None:
    with pytest.raises(ValueError):
        idn.to_ascii(domain)
    assert idn.fold(domain) == domain


def test_u_form_of_what_has_none() -> None:
    assert idn.to_unicode("XN--BCHER-KVA.example") == "bücher.example"
    assert idn.to_unicode("xn--a.example") == "xn--a.example"


@pytest.mark.parametrize("entry, folded", [
    ("*.bücher.example", "*.xn--bcher-kva.example"), ("jürgen@bücher.example", "jürgen@xn--bcher-kva.example"),
    ("@bücher.example", "@xn--bcher-kva.example"), ("jürgen@b.example", "jürgen@b.example"),
])
def test_entries_of_tables(entry: str, folded: str) -> None:
    assert idn.fold(entry) == folded
