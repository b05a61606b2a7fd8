"""lookup.members: what a list may hold, and how it is written (aliases(5))."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pysmtpd.base.mailaddr import MailAddr
from pysmtpd.lookup.forward import read_forward, read_include
from pysmtpd.lookup.members import Kind, Member, parse


def user(name: str, *, direct: bool = False) -> Member:
    return Member(Kind.USERNAME, name, None, direct)


def address(text: str) -> Member:
    name, _, domain = text.rpartition("@")
    return Member(Kind.ADDRESS, text, MailAddr(name, domain))


@pytest.mark.parametrize("line, members", [
    ("bob", [user("bob")]),
    ("BOB", [user("bob")]),
    ("bob, carol ,, dave", [user("bob"), user("carol"), user("dave")]),
    ("bob+lists", [user("bob+lists")]),
    ("\\bob", [user("bob", direct=True)]),
    ("alice, \\bob", [user("alice"), user("bob", direct=True)]),
    ("bob@example.org", [address("bob@example.org")]),
    ("Bob@Example.org", [address("Bob@Example.org")]),
    ("a@b@example.org", None),
    ("bob@[192.0.2.1]", [address("bob@[192.0.2.1]")]),
    ("bob@bad domain", None),
    ("|/bin/cmd -a b", [Member(Kind.COMMAND, "/bin/cmd -a b")]),
    ('"|/bin/cmd a, b"', [Member(Kind.COMMAND, "/bin/cmd a, b")]),
    ('|"/bin/cmd x"', [Member(Kind.COMMAND, '"/bin/cmd x"')]),
    ('"| exec cmd"', [Member(Kind.COMMAND, "exec cmd")]),
    ("|", None),
    ('"|cmd', None),
    ("/var/mail/archive file", [Member(Kind.FILE, "/var/mail/archive file")]),
    (":include:/etc/mail/list", [Member(Kind.INCLUDE, "/etc/mail/list")]),
    ("include:/etc/mail/list", [Member(Kind.INCLUDE, "/etc/mail/list")]),
    (":include:list", None),
    ("error:550 5.1.1 Gone", [Member(Kind.ERROR, "550 5.1.1 Gone")]),
    (":ERROR:451 later", [Member(Kind.ERROR, "451 later")]),
    ("error:350 no", None),
    ("error:550", None),
    ("bob # who is away", [user("bob")]),
    ("bob, carol # dave, eve", [user("bob"), user("carol")]),
    ("|cmd # not a comment", [Member(Kind.COMMAND, "cmd # not a comment")]),
    ("error:550 Use #5", [Member(Kind.ERROR, "550 Use #5")]),
    ("", []),
    (" , ", []),
    ("b\\,ob", None),
    ("b\u00fccher@b\u00fccher.example", [Member(Kind.ADDRESS, "b\u00fccher@b\u00fccher.example",
                                             MailAddr("b\u00fccher", "xn--bcher-kva.example"))]),
])
def test_a_line(line: str, members: list[Member] | None) -> None:
    read = parse(line)
    if members is None:
        assert read.good == [] and len(read.bad) == 1 and read.bad[0].why
    else:
        assert read == (members, [])


def test_a_bad_member_leaves_the_others_alone_and_is_named() -> None:
    read = parse("bob, <carol@example.org>, dave, 'open")
    assert read.good == [user("bob"), user("dave")]
    assert [str(bad) for bad in read.bad] == [
        '"<carol@example.org>" is no address',
        '"\'open" has an open quote, or ends in a backslash']


@pytest.mark.parametrize("text, why", [
    ("error:550", "is no error: that has a code from 400 to 599, a blank and a text"),
    (":Error:250 fine", "is no error: that has a code from 400 to 599, a blank and a text"),
    (":include:friends", "is no include: that has an absolute path"),
    ('"/var/mail/old mail"', "is no file: that has no quotes around it"),
    ("jane doe", "is no user, address, command, file, include or error"),
])
def test_what_is_wrong_is_said_by_what_was_meant(text: str, why: str) -> None:
    assert [bad.why for bad in parse(text).bad] == [why]


def test_a_command_longer_than_an_envelope_holds_is_bad() -> None:
    assert parse("|" + "x" * 1023).good and parse("|" + "x" * 1024).bad
    assert parse("/" + "x" * 1023).good and parse("/" + "x" * 1024).bad


def test_a_forward_file() -> None:
    read = read_forward(b"# mine\nbob@example.org # there\n\n\\alice,\\\n  carol\n:include:/etc/list\n"
                        b"\"|/bin/cmd a\\#b\"\n")
    assert read == ([address("bob@example.org"), user("alice", direct=True), user("carol"),
                     Member(Kind.COMMAND, "/bin/cmd a#b")], [])
    assert read_forward(b"\xff\n").bad
    assert read_forward(b"b@@d\n").bad


def test_an_include_file() -> None:
    read = read_include(b"# members\nbob, carol\ndave@example.org  # gone soon\n:include:/another\nno body\n")
    assert read.good == [user("bob"), user("carol"), address("dave@example.org")]
    assert [bad.text for bad in read.bad] == ["/another", "no body"]


@given(st.text(st.sampled_from("ab@\\\"'|/,:# \terror550."), max_size=40))
def test_any_line_is_read(line: str) -> None:
    read = parse(line)
    for member in read.good:
        assert member.text
        assert (member.address is not None) is (member.kind is Kind.ADDRESS)


@pytest.mark.parametrize("text", ["|id\0x", "/etc/pass\x07wd", "|echo \x1b[2J", ":include:/etc/\0x", "error:550 a\x08",
                                  "|a\u2028b", "bob\0"])
def test_a_member_with_a_control_character_is_a_bad_one(text: str) -> None:
    read = parse(f"bob, {text}")
    assert [member.text for member in read.good] == ["bob"]
    assert [bad.why for bad in read.bad] == ["has a control character"]
    assert read.bad[0].text.isprintable()


def test_a_tab_in_a_command_is_a_blank() -> None:
    assert [member.text for member in parse("|/bin/vacation\tjane").good] == ["/bin/vacation jane"]
