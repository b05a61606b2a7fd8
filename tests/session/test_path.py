"""Paths of RFC 5321 4.1.2, and the domains of HELO."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pysmtpd.base.mailaddr import NULL
from pysmtpd.session.path import parse_path, valid_domain


@pytest.mark.parametrize("text, address", [
    ("<a@b.example>", "a@b.example"),
    ("<a>", "a@default.example"),
    ("<Postmaster>", "Postmaster@default.example"),
    ("<a.b+c@b.example>", "a.b+c@b.example"),
    ("<!#$%&'*+-/=?^_`{|}~@b.example>", "!#$%&'*+-/=?^_`{|}~@b.example"),
    ("<@x.example,@y.example:a@b.example>", "a@b.example"),
    ("<@x.example:a@b.example>", "a@b.example"),
    ('<"a b"@b.example>', '"a b"@b.example'),
    ('<"a@b>c"@b.example>', '"a@b>c"@b.example'),
    (r'<"a\"b\\"@b.example>', r'"a\"b\\"@b.example'),
    ('<""@b.example>', '""@b.example'),
    # RFC 5321 4.1.2: all quoted forms are equivalent, and the least quoting is sent on.
    ('<"joe"@b.example>', "joe@b.example"),
    (r'<"j\o\e"@b.example>', "joe@b.example"),
    ('<"joe.doe"@b.example>', "joe.doe@b.example"),
    (r'<"j\ d"@b.example>', '"j d"@b.example'),
    ('<".a"@b.example>', '".a"@b.example'),
    ('<"j\u00fcrgen"@b.example>', "j\u00fcrgen@b.example"),
    (r'<"\""@b.example>', r'"\""@b.example'),
    ("<a@[192.0.2.1]>", "a@[192.0.2.1]"),
    ("<a@[IPv6:2001:db8::1]>", "a@[IPv6:2001:db8::1]"),
    ("<a@[2001:db8::1]>", "a@[2001:db8::1]"),
    ("<a@B_c.example>", "a@B_c.example"),
    ("<a@localhost>", "a@localhost"),
    ("<j\u00fcrgen@b.example>", "j\u00fcrgen@b.example"),
    ("<@\u00fc.example:\u7528\u6237@B\u00dccher.example>", "\u7528\u6237@xn--bcher-kva.example"),
    ('<"\u00fc x"@b.example>', '"\u00fc x"@b.example'),
])
def test_accepted(text: str, address: str) -> None:
    assert parse_path(text, "default.example") == parse_path(f"{text} ", "default.example")
    path = parse_path(f"{text}  SIZE=1 X", "default.example")
    assert path is not None
    assert str(path[0]) == address
    assert path[1] == "SIZE=1 X"


def test_null() -> None:
    assert parse_path("<>", "d") == (NULL, "")
    assert parse_path("<> RET=HDRS", "d") == (NULL, "RET=HDRS")


@pytest.mark.parametrize("text", [
    "", "a@b.example", "<", "<a", "<a@b.example", "a@b.example>", "< a@b.example>", "<a @b.example>", "<a@b.example >",
    "<@b.example>", "<a@>", "<a@@b.example>", "<a@b@c.example>", "<.a@b.example>", "<a.@b.example>", "<a..b@b.example>",
    "<a@.b.example>", "<a@b..example>", "<a@b.example.>", "<a@-b.example>", "<a@b-.example>", "<a@b!.example>",
    "<a@b.example>x", "<a@b.example>SIZE=1", "<a;b@c.example>", "<;cmd;>", "<a(b)@c.example>", "<a,b@c.example>",
    '<"a"b"@b.example>', '<"a\\"@b.example>', '<"a\x00"@b.example>', '<"a\x7f"@b.example>', '<a"b"@b.example>',
    "<a@[192.0.2.256]>", "<a@[]>", "<a@[IPv6:192.0.2.1]>", "<a@[fe80::1%eth0]>", "<a@[x]>", "<a@192.0.2.1]>",
    "<@x.example:a>", "<@x.example,a@b.example>", "<x:y@b.example>", "<a\x80@b.example>", "<a@\u2028.example>",
    "<a@\u202eb.example>", "<a\u202eb@b.example>", "<a\udce9@b.example>", "<a@\udce9>", "<<a>>",
    "<a\t@b.example>", "<a@b.example\n>", "<a@b.example>\n",
    f"<{'a' * 256}@b.example>", f"<a@{'b' * 64}.example>", f"<a@{'b.' * 127}bc>",
])
def test_refused(text: str) -> None:
    assert parse_path(text, "default.example") is None


def test_longest() -> None:
    assert parse_path(f"<{'a' * 255}@{'b.' * 127}b>", "d") is not None


@pytest.mark.parametrize("text", ["a", "a.b", "a-b.c_d", "1.2", "[192.0.2.1]", "[IPv6:::1]", "[::1]", "x" * 63])
def test_domain(text: str) -> None:
    assert valid_domain(text)


@pytest.mark.parametrize("text", [
    "", ".", "a.", "-a", "a b", "[a]", "[", "[]", "[1.2.3.4", "x" * 64, "a." * 127 + "bc", "é", "a\n",
])
def test_no_domain(text: str) -> None:
    assert not valid_domain(text)


@given(st.text(alphabet=st.characters(max_codepoint=255), max_size=60))
def test_whatever_is_accepted_is_printable_and_round_trips(text: str) -> None:
    for path in (parse_path(text, "d.example"), parse_path(f"<{text}>", "d.example"), parse_path(f'<"{text}"@b>', "d")):
        if path is not None and not path[0].is_null:
            assert path[0].domain.isascii() and str(path[0]).isprintable()
            assert parse_path(f"<{path[0]}>", "other.example") == (path[0], "")


def test_no_slow_patterns() -> None:
    """None of these may take more than a moment: the test's timeout is the judge."""
    for text in ("<" + "a." * 1000, '<"' + "\\a" * 1000, "<" + "@a," * 600, "<a@" + "a-" * 1000, "<@" + "a." * 1000):
        assert parse_path(text, "d") is None
        assert not valid_domain(text)
