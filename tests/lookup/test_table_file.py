"""lookup.table_file: the format of table(5)."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pysmtpd.conf.config import Shape
from pysmtpd.lookup.table import Service, TableError
from pysmtpd.lookup.table_file import FileTable, parse


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
    assert (content.shape, content.entries) == (Shape.HASH, [entry])


@pytest.mark.parametrize("text", [
    "a.example.org\nb.example.org\n", "# comment\n\n  # another\na.example.org\n   b.example.org\t\r\n",
])
def test_lines_without_values_are_a_list(text: str) -> None:
    assert parse(text, "t") == (Shape.LIST, [("a.example.org", ""), ("b.example.org", "")])


@pytest.mark.parametrize("line", ["2001:db8::1", "2001:db8::/32", "[2001:db8::/32]", "[2001:db8::]/32", "::1"])
def test_ipv6_addresses_are_a_list_in_brackets_or_not(line: str) -> None:
    assert parse(f"{line}\n10.0.0.0/8\n", "t") == (Shape.LIST, [(line, ""), ("10.0.0.0/8", "")])


def test_a_list_can_be_asked_for() -> None:
    content = parse("# @list\nkey with spaces\n", "t")
    assert content == (Shape.LIST, [("key with spaces", "")])


def test_the_word_list_counts_only_before_the_first_entry() -> None:
    content = parse("a b\n# @list\nc d\n", "t")
    assert content.entries == [("a", "b"), ("c", "d")]


@pytest.mark.parametrize("text, line", [("a b\nc\n", 2), ("a b\n\n# x\nc:\n", 4), ("[2001:db8::1 x\n", 1)])
def test_an_entry_without_a_value_is_named_by_its_line(text: str, line: int) -> None:
    with pytest.raises(TableError, match=f"^/t:{line} invalid map entry$"):
        parse(text, "/t")


def test_a_key_longer_than_any_look_up_is_refused() -> None:
    with pytest.raises(TableError, match=r"^/t:1 key is longer"):
        parse("é" * 512 + " x\n", "/t")


@given(st.text(max_size=60))
def test_any_text_is_entries_or_an_error_with_its_place(text: str) -> None:
    try:
        content = parse(text, "/t")
    except TableError as error:
        problem = str(error)
    else:
        problem = "" if all(value or content.shape is Shape.LIST for _, value in content.entries) else "no value"
    assert not problem or problem.startswith("/t:")


def test_a_file_that_went_wrong_keeps_the_last_good_content(tmp_path: Path) -> None:
    path = tmp_path / "aliases"
    path.write_text("root bob\n")
    table = FileTable("aliases", str(path), None)
    table.reload()
    path.write_text("root\n")
    with pytest.raises(TableError, match="aliases:1 invalid map entry"):
        table.reload()
    assert table.lookup(Service.ALIAS, "root") == "bob"
    path.unlink()
    with pytest.raises(TableError, match="No such file"):
        table.reload()
    assert table.lookup(Service.ALIAS, "root") == "bob"
    path.write_text("root alice\n")
    table.reload()
    assert table.lookup(Service.ALIAS, "root") == "alice"


def test_octets_that_are_not_utf8_may_stand_in_comments_only(tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_bytes(b"# Gr\xfc\xdfe\na b\n")
    table = FileTable("t", str(path), None)
    table.reload()
    assert table.lookup(Service.ALIAS, "a") == "b"
    path.write_bytes(b"a b\nc \xfc\n")
    with pytest.raises(TableError, match=":2 is not UTF-8"):
        table.reload()
