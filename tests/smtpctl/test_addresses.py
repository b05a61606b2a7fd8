"""smtpctl.addresses: the addresses in header fields and operands."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpctl.addresses import SyntaxFault, parse


@pytest.mark.parametrize("text, addresses", [
    ("alice@example.org", ["alice@example.org"]),
    ("alice", ["alice"]),
    ("alice,bob , carol", ["alice", "bob", "carol"]),
    ("Alice Liddell <alice@example.org>", ["alice@example.org"]),
    ('"Liddell, Alice" <alice@example.org>, bob', ["alice@example.org", "bob"]),
    ("root (Cron Daemon)", ["root"]),
    ("root (Cron (nested \\) ) Daemon)", ["root"]),
    ("(comment) a@b (more)", ["a@b"]),
    ("friends: a@b, C <c@d>;, e@f", ["a@b", "c@d", "e@f"]),
    ("undisclosed-recipients:;", []),
    ("", []),
    (" \r\n\t", []),
    ("a@b,\r\n\tc@d", ["a@b", "c@d"]),
    ("<>", [""]),
    ("<a@b>", ["a@b"]),
    ("< a @ b >", ["a@b"]),
    ("a @ b", ["a@b"]),
    ("<@relay.example,@other:a@b>", ["a@b"]),
    ('"john doe"@example.org', ['"john doe"@example.org']),
    ('"a,b"@example.org, c', ['"a,b"@example.org', "c"]),
    ("Jörg <j@b>", ["j@b"]),
    ("a@[192.0.2.1]", ["a@[192.0.2.1]"]),
    (",,a@b,,", ["a@b"]),
    ("O'Brien & Söhne. <o@b>", ["o@b"]),
])
def test_addresses(text: str, addresses: list[str]) -> None:
    assert parse(text) == addresses


@pytest.mark.parametrize("text", [
    "alice bob", "<a@b", "a@b>", "<a@b><c@d>", "(never closed", "closed)", '"never closed', "<a;b>", ": a", "a: b: c",
    "a@b c@d", "x" * 1001, "<" + "x" * 1001 + ">",
])
def test_what_is_no_list_of_addresses(text: str) -> None:
    with pytest.raises(SyntaxFault):
        parse(text)


@settings(max_examples=200)
@given(st.text(alphabet='ab@<>(),:;"\\ \n.'))
def test_anything_is_a_list_or_a_fault(text: str) -> None:
    try:
        found = parse(text)
    except SyntaxFault:
        return
    assert all(isinstance(address, str) for address in found)
