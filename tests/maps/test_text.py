"""maps.text: the format of table(5)."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pysmtpd.maps import BadMap
from pysmtpd.maps.text import LOOK_MAX, _split_with_care, look, parse, split


@pytest.mark.parametrize("line, entry", [
    ("root bob", ("root", "bob")),
    ("root:bob", ("root", "bob")),
    ("root: bob", ("root", "bob")),
    ("root : bob", ("root", "bob")),
    ("root\t\tbob, alice", ("root", "bob, alice")),
    ("  root   bob  ", ("root", "bob")),
    ("list :include:/etc/mail/list", ("list", ":include:/etc/mail/list")),
    ("list: :include:/etc/mail/list", ("list", ":include:/etc/mail/list")),
    ("label user:pass #1", ("label", "user:pass #1")),
    ("bob@example.org  bob", ("bob@example.org", "bob")),
    ("[2001:db8::1] mail.example.org", ("[2001:db8::1]", "mail.example.org")),
    ("[2001:db8::1]: mail.example.org", ("[2001:db8::1]", "mail.example.org")),
    ("2001:db8::1 mail.example.org", ("2001:db8::1", "mail.example.org")),
    ("2001:db8::1: mail.example.org", ("2001:db8::1", "mail.example.org")),
    ("192.0.2.1 mail.example.org", ("192.0.2.1", "mail.example.org")),
    ("key \\", ("key", "\\")),
])
def test_a_line_of_a_mapping(line: str, entry: tuple[str, str]) -> None:
    content = parse(line + "\n", "t")
    assert (content.is_list, content.entries) == (False, [entry])


@pytest.mark.parametrize("text", [
    "a.example.org\nb.example.org\n", "# comment\n\n  # another\na.example.org\n   b.example.org\t\r\n",
])
def test_lines_without_values_are_a_list(text: str) -> None:
    assert parse(text, "t")[:2] == (True, [("a.example.org", ""), ("b.example.org", "")])


@pytest.mark.parametrize("line", ["2001:db8::1", "2001:db8::/32", "[2001:db8::/32]", "[2001:db8::]/32", "::1"])
def test_ipv6_addresses_are_a_list_in_brackets_or_not(line: str) -> None:
    assert parse(f"{line}\n10.0.0.0/8\n", "t")[:2] == (True, [(line, ""), ("10.0.0.0/8", "")])


def test_a_list_can_be_asked_for() -> None:
    content = parse("# @list\nkey with spaces\n", "t")
    assert content[:2] == (True, [("key with spaces", "")])


def test_the_word_list_counts_only_before_the_first_entry() -> None:
    content = parse("a b\n# @list\nc d\n", "t")
    assert content.entries == [("a", "b"), ("c", "d")]


@pytest.mark.parametrize("text, line", [("a b\nc\n", 2), ("a b\n\n# x\nc:\n", 4), ("[2001:db8::1 x\n", 1)])
def test_an_entry_without_a_value_is_named_by_its_line(text: str, line: int) -> None:
    with pytest.raises(BadMap, match=f"^/t:{line} invalid map entry$"):
        parse(text, "/t")


def test_a_key_longer_than_any_look_up_is_refused() -> None:
    with pytest.raises(BadMap, match=r"^/t:1 key is longer"):
        parse("é" * 512 + " x\n", "/t")


@given(st.text(max_size=60))
def test_any_text_is_entries_or_an_error_with_its_place(text: str) -> None:
    try:
        content = parse(text, "/t")
    except BadMap as error:
        problem = str(error)
    else:
        problem = "" if all(value or content.is_list for _, value in content.entries) else "no value"
    assert not problem or problem.startswith("/t:")


LINES = st.text(st.sampled_from("ab1:. \t[]@*/|2f-"), min_size=1, max_size=30).map(str.strip).filter(bool)


@given(LINES)
@example("2001:db8::1 x")
@example("a:b:c")
@example("fe80:1: x")
def test_the_quick_way_splits_as_the_careful_one(line: str) -> None:
    assert split(line) == _split_with_care(line)


def test_each_entry_knows_its_line() -> None:
    content = parse("# c\n\na b\nc d\n", "t")
    assert list(content.lines) == [3, 4]


def test_the_first_look_judges_no_line_that_may_be_cut() -> None:
    whole = b"key value\n" * (LOOK_MAX // 10 - 1)
    cut = (whole + b"key valu" + b"e" * LOOK_MAX)[: LOOK_MAX - 8] + b"\nlastkey"
    assert len(cut) == LOOK_MAX and look(cut, "t") == (False, None)
    bad = look(whole[:-LOOK_MAX // 2] + b"lonely\n", "t")[1]
    assert bad is not None and "invalid map entry" in str(bad)
