"""lookup.match: how keys are compared with entries."""

import re
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pysmtpd.lookup.match import (
    ExactIndex,
    HostIndex,
    MailIndex,
    NetIndex,
    RegexIndex,
    ere,
    glob,
    parse_address,
    parse_network,
)
from pysmtpd.lookup.order import keys_for
from pysmtpd.lookup.service import Service


@pytest.mark.parametrize("pattern, name, matches", [
    ("example.org", "example.org", True),
    ("Example.ORG", "example.org", True),
    ("example.org", "a.example.org", False),
    ("*.example.org", "a.example.org", True),
    ("*.example.org", "a.b.example.org", True),
    ("*.example.org", "example.org", False),
    ("*.example.org", ".example.org", False),
    ("*.example.org", "badexample.org", False),
    ("*", "anything", True),
    ("*", "", False),
    ("mail*.example.org", "mail1.example.org", True),
    ("mail*.example.org", "mail.example.org", False),
    ("*example.org", "badexample.org", True),
    ("mx.*", "mx.example.org", True),
    ("mx.*", "mx.", False),
    ("a*b*c", "aabbcc", True),
    ("a*b*c", "abc", False),
    ("a**c", "abc", False),
    ("a**c", "abbc", True),
    ("a.b", "axb", False),
])
def test_host_patterns(pattern: str, name: str, matches: bool) -> None:
    assert (HostIndex([pattern]).find(name) == pattern) is matches


def naive(pattern: str, text: str) -> bool:
    """A star is one character or more, tried in every way."""
    return re.fullmatch(".+".join(re.escape(piece) for piece in pattern.split("*")), text) is not None


@settings(max_examples=300)
@given(st.text("ab*", max_size=8), st.text("ab", max_size=10))
def test_a_glob_matches_what_trying_everything_matches(pattern: str, text: str) -> None:
    assert (re.fullmatch(glob(pattern), text) is not None) is naive(pattern, text)


def test_a_glob_of_many_stars_takes_no_time() -> None:
    index = HostIndex(["*a" * 30 + "b"])
    start = time.perf_counter()
    assert index.find("a" * 253) is None
    assert time.perf_counter() - start < 0.2


def test_the_exact_entry_comes_before_the_wildcard() -> None:
    index = HostIndex(["*", "*.example.org", "a.example.org"])
    assert index.find("a.example.org") == "a.example.org"
    assert index.find("b.example.org") == "*.example.org"
    assert index.find("example.com") == "*"


@pytest.mark.parametrize("entry, key, matches", [
    ("192.0.2.1", "192.0.2.1", True),
    ("192.0.2.0/24", "192.0.2.77", True),
    ("192.0.2.9/24", "192.0.2.77", True),
    ("192.0.2.0/24", "192.0.3.1", False),
    ("0.0.0.0/0", "203.0.113.9", True),
    ("0.0.0.0/0", "[2001:db8::1]", False),
    ("::/0", "[2001:db8::1]", True),
    ("10", "10.200.3.4", True),
    ("10", "11.0.0.1", False),
    ("172.16/12", "172.31.0.1", True),
    ("172.16/12", "172.32.0.1", False),
    ("192.168.1", "192.168.1.99", True),
    ("192.168.1", "192.168.2.99", False),
    ("[2001:db8::/32]", "[2001:db8:1::1]", True),
    ("[2001:db8::]/32", "[2001:db8:1::1]", True),
    ("2001:db8::/32", "[2001:db8:1::1]", True),
    ("2001:db8::/32", "[2001:db9::1]", False),
    ("ipv6:2001:db8::1", "[2001:db8::1]", True),
    ("IPv6:2001:DB8::1", "2001:db8:0::1", True),
    ("fe80::/10", "[fe80::1%eth0]", True),
    ("local", "local", True),
    ("local", "127.0.0.1", False),
    ("0.0.0.0/0", "local", False),
    ("192.0.2.0/33", "192.0.2.1", False),
    ("192.0.2.0/x", "192.0.2.1", False),
])
def test_networks(entry: str, key: str, matches: bool) -> None:
    assert (NetIndex([entry]).find(key) == entry) is matches


def test_the_narrowest_network_is_found_first() -> None:
    index = NetIndex(["192.0.2.0/24", "0.0.0.0/0", "192.0.2.128/25"])
    assert index.find("192.0.2.200") == "192.0.2.128/25"
    assert index.find("192.0.2.1") == "192.0.2.0/24"
    assert index.find("198.51.100.1") == "0.0.0.0/0"


@settings(max_examples=100)
@given(st.text(max_size=40))
def test_no_text_breaks_the_parsers_of_addresses(text: str) -> None:
    parse_address(text)
    parse_network(text)


@pytest.mark.parametrize("entry, key, matches", [
    ("bob@example.org", "bob@example.org", True),
    ("Bob@Example.org", "bob@example.org", True),
    ("bob@example.org", "bob+tag@example.org", True),
    ("bob+tag@example.org", "bob+tag@example.org", True),
    ("bob+tag@example.org", "bob@example.org", False),
    ("bob+tag@example.org", "bob+other@example.org", False),
    ("@example.org", "anyone@example.org", True),
    ("@example.org", "anyone@a.example.org", False),
    ("@*.example.org", "anyone@a.b.example.org", True),
    ("bob@*.example.org", "bob@a.example.org", True),
    ("bob@*.example.org", "rob@a.example.org", False),
    ("bob", "bob@anywhere.example", True),
    ("bob", "bob+tag@anywhere.example", True),
    ("bob", "rob@anywhere.example", False),
    ("@", "@", True),
    ("@", "bob@example.org", False),
    ("@*", "bob@example.org", True),
    ("@*", "@", False),
])
def test_mail_addresses(entry: str, key: str, matches: bool) -> None:
    assert (MailIndex([entry], "+").find(key) == entry) is matches


def test_any_of_several_delimiters_begins_a_tag() -> None:
    index = MailIndex(["bob@example.org", "joe-a@example.org"], "+-")
    assert index.find("bob-x+y@example.org") == index.find("bob+x-y@example.org") == "bob@example.org"
    assert index.find("joe-a@example.org") == "joe-a@example.org"
    assert index.find("joe-b@example.org") is None


def test_without_a_delimiter_a_plus_is_part_of_the_name() -> None:
    assert MailIndex(["bob@example.org"], "").find("bob+tag@example.org") is None


@pytest.mark.parametrize("pattern, key, matches", [
    ("^mx[0-9]+\\.", "mx12.example.org", True),
    ("^mx[0-9]+\\.", "mx.example.org", False),
    ("EXAMPLE", "www.example.org", True),
    ("(?i)EXAMPLE", "www.example.org", True),
    ("^\\W", "-x", True),
    ("^\\W", "x", False),
    ("^[[:alpha:]]+$", "abc", True),
    ("^[[:alpha:]]+$", "ab1", False),
    ("^[^[:digit:].]+$", "abc", True),
    ("^[^[:digit:].]+$", "a.c", False),
    ("^[]x]+$", "]x]", True),
    ("^[\\d]$", "\\", True),
    ("^(a|b){2}$", "ab", True),
    ("\\<bob\\>", "x.bob@", True),
    ("\\<bob\\>", "xbob@", False),
    ("(unclosed", "(unclosed", False),
    ("[unclosed", "[unclosed", False),
])
def test_regular_expressions(pattern: str, key: str, matches: bool) -> None:
    assert (RegexIndex([pattern]).find(key) == pattern) is matches


def test_a_pattern_that_does_not_compile_is_told() -> None:
    (bad,) = RegexIndex(["good", "(bad"]).bad
    assert bad.pattern == "(bad"


@settings(max_examples=200)
@given(st.text(st.sampled_from("ab[]^-\\(){}|*+?.$:alph<>"), max_size=12))
@example("[:--]")
def test_no_pattern_breaks_the_translation(pattern: str) -> None:
    try:
        ere(pattern)
    except re.error:
        pass
    RegexIndex([pattern]).find("ab")


def test_large_tables_are_not_searched_entry_by_entry() -> None:
    names = [f"*.d{number}.example" for number in range(20_000)]
    nets = [f"10.{number >> 8}.{number & 255}.0/24" for number in range(20_000)]
    hosts, networks = HostIndex(names), NetIndex(nets)
    start = time.process_time()
    for _ in range(200):
        assert hosts.find("a.b.d19999.example") and networks.find("10.78.31.7")
    assert time.process_time() - start < 0.1


def test_a_range_may_end_with_a_hyphen() -> None:
    index = RegexIndex(["^[+--]$"])
    assert [char for char in "*+,-." if index.find(char)] == ["+", ",", "-"]


def test_domains_in_u_form_are_those_in_a_form() -> None:
    hosts = HostIndex(["Bücher.example", "*.müller.example"])
    assert hosts.find("xn--bcher-kva.example") == "Bücher.example"
    assert hosts.find("www.xn--mller-kva.example") == "*.müller.example"
    mail = MailIndex(["jürgen@bücher.example", "@müller.example"], "+")
    assert mail.find("jürgen@xn--bcher-kva.example") == "jürgen@bücher.example"
    assert mail.find("x@xn--mller-kva.example") == "@müller.example"
    assert ExactIndex(["a@Bücher.example"]).find("a@xn--bcher-kva.example") == "a@Bücher.example"


def test_a_back_end_is_asked_for_both_forms() -> None:
    assert keys_for(Service.DOMAIN, "xn--bcher-kva.example", "+") == [
        "xn--bcher-kva.example", "bücher.example", "*.example", "*"]
    assert "j@bücher.example" in keys_for(Service.MAILADDR, "j@xn--bcher-kva.example", "+")
    assert keys_for(Service.MAILADDR, "@", "+") == ["@"]
