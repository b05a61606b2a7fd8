"""Format specifiers, and what a hostile address can do with them: nothing."""

import contextlib
import shlex
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pysmtpd.base.format import (
    ADDRESSES,
    COMMAND,
    PATH,
    REPLY,
    ExpandError,
    FormatError,
    Values,
    expand,
    fill,
    parse,
    strip_subaddress,
)
from pysmtpd.base.mailaddr import NULL, MailAddr

VALUES = Values(MailAddr("Bob", "Example.org"), MailAddr("list", "example.com"), MailAddr("joe+tag", "example.com"),
                "joe", "/home/joe")


def with_dest(user: str, domain: str = "example.com") -> Values:
    return VALUES._replace(dest=MailAddr(user, domain))


@pytest.mark.parametrize("template, wanted", [
    ("", ""),
    ("plain", "plain"),
    ("%{sender}", "Bob@Example.org"),
    ("%{SENDER.User}", "Bob"),
    ("%{sender.domain:lowercase}", "example.org"),
    ("%{rcpt}", "list@example.com"),
    ("%{dest.user}", "joe+tag"),
    ("%{dest.user:strip}", "joe"),
    ("%{dest:strip|uppercase}", "JOE@EXAMPLE.COM"),
    ("%{user.username}", "joe"),
    ("%{user.directory}/x", "/home/joe/x"),
    ("%{mbox.from}", "Bob@Example.org"),
    ("~/Maildir", "/home/joe/Maildir"),
    ("x~/y", "x~/y"),
    ("100%% of %x", "100% of %x"),
    ("%", "%"),
    # ranges are inclusive, open, negative, clipped
    ("%{rcpt.user[0]}", "l"),
    ("%{rcpt.user[1:2]}", "is"),
    ("%{rcpt.user[2:]}", "st"),
    ("%{rcpt.user[:1]}", "li"),
    ("%{rcpt.user[:]}", "list"),
    ("%{rcpt.user[0:99]}", "list"),
    ("%{rcpt.user[-3:]}", "ist"),
    ("%{rcpt.user[0:-3]}", "l"),
    # what the original refuses
    ("%{rcpt.user[-1]}", "t"),
    ("%{rcpt.user[0:2]:uppercase}", "LIS"),
])
def test_values(template: str, wanted: str) -> None:
    assert expand(template, VALUES, PATH) == wanted


def test_the_null_sender() -> None:
    values = VALUES._replace(sender=NULL)
    assert expand("%{sender}|%{sender.user[3:9]}|%{mbox.from}", values, PATH) == "||MAILER-DAEMON"


@pytest.mark.parametrize("template, config", [
    ("%{nobody}", True), ("%{sender.nobody}", True), ("%{}", True), ("%{sender", True), ("%{mda}", True),
    ("%{sender:rot13}", True), ("%{sender:}", True), ("%{sender[]}", True), ("%{sender[x]}", True),
    ("%{sender[1:2:3]}", True), ("%{rcpt.user[0:1025]}", True), ("%{rcpt.user[9999:]}", True),
    ("%{sender.user" + "x" * 127 + "}", True), ("%{rcpt.user[4]}", False), ("%{rcpt.user[2:1]}", False),
    ("%{rcpt.user[-5:]}", False), ("x" * 4097, False),
])
def test_errors(template: str, config: bool) -> None:
    """Whether the administrator has to mend it, or only this address cannot be delivered to."""
    with pytest.raises(ExpandError) as error:
        expand(template, VALUES, PATH)
    assert error.value.config is config


def test_a_home_that_is_not_known() -> None:
    values = VALUES._replace(directory=None)
    for template in ("~/x", "%{user.directory}"):
        with pytest.raises(ExpandError):
            expand(template, values, PATH)


def test_wrappers() -> None:
    values = VALUES._replace(mda="deliver --to '%{literal}'")
    assert expand("spam | %{MDA}", values, COMMAND) == "spam | deliver --to '%{literal}'"
    with pytest.raises(ExpandError):
        expand("spam | %{mda[0:3]}", values, COMMAND)


def test_paths_stay_in_their_directory() -> None:
    for user in ("..", ".", "../../etc", "a/b", "/etc"):
        path = expand("/var/mail/%{dest.user}/new", with_dest(user), PATH)
        assert path.count("/") == 4 and "/../" not in path and "/./" not in path
    assert expand("/v/%{dest.user[0:1]}", with_dest("..a"), PATH) == "/v/::"
    assert expand("/v/.%{dest.user}", with_dest("."), PATH) == "/v/.:"
    assert expand("/v/%{dest.user:raw}", with_dest("a/b"), PATH) == "/v/a/b"


def test_the_characters_opensmtpd_replaces() -> None:
    for place in (PATH, COMMAND):
        assert expand("%{dest.user}", with_dest("a!#$%&'*?`{|}~b"), place) == "a" + ":" * 13 + "b"


HOSTILE = [
    ";for i in 0 1 2;do read r;done;sh;exit 0;",        # CVE-2020-7247
    "$(touch pwned)", "`touch pwned`", "';touch pwned;'", '";touch pwned;"', "\\';touch pwned;'", "a b", "*", "?",
    "~root", "{a,b}", "[a-z]", "!!", "#", "&touch pwned", "|touch pwned", ">pwned", "<pwned", "(touch pwned)", "a\\",
    "$IFS", "${HOME}", "%{sender}", "=x", "a=b",
]
PLACES = ["X%{dest.user}", "'%{dest.user}'", '"%{dest.user}"', "'%{dest.user:raw}'", '"%{dest.user:raw}"',
          "X%{dest.user:raw}", "'a%{dest.user:raw}'\"b%{dest.user}\"", "X%{dest.user[0:3]:raw}"]


def test_no_address_is_a_command() -> None:
    """All of them through a real shell: each is one word, and nothing else happens."""
    script, count = "", 0
    for user in HOSTILE:
        for place in PLACES:
            script += f"printf '<%s>\\n' {expand(place, with_dest(user), COMMAND)}\n"
            count += 1
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, env={"PATH": "/nowhere"}, check=True)
    lines = done.stdout.decode().splitlines()
    assert done.stderr == b""
    assert len(lines) == count
    assert all(line.startswith("<") and line.endswith(">") for line in lines)


ANY_USER = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FFF, exclude_categories=["Cc", "Cs", "Zl", "Zp"]),
                   min_size=1, max_size=40)


@settings(max_examples=150, deadline=None)
@given(ANY_USER, st.sampled_from(PLACES[:6]))
def test_what_goes_into_a_command_is_one_word(user: str, place: str) -> None:
    """By another reader of shell words than the shell, and with anything."""
    text = expand(f"prog {place} end", with_dest(user), COMMAND)
    assert len(shlex.split(text)) == 3
    inside = text.removeprefix("prog ").removesuffix(" end").strip("'\"")
    assert not set(inside) & set("\"'\\$`;&|<>()*?[]{}~#! \t\n")


@pytest.mark.parametrize("template, wanted", [
    ("p %{dest.user}", "p :x"), ("p -f%{dest.user}", "p -f-x"), ("p '%{dest.user}'", "p ':x'"),
    ("p --to=%{dest.user}", "p --to=:x"), ("p %{dest.user[1:]:raw}", "p x"), ("p a%{dest.user}", "p a-x"),
])
def test_no_address_is_an_option(template: str, wanted: str) -> None:
    assert expand(template, with_dest("-x"), COMMAND) == wanted


def test_a_home_that_ends_a_quotation() -> None:
    values = VALUES._replace(directory="/home/o'neil")
    assert expand("~/x", values, PATH) == "/home/o'neil/x"
    with pytest.raises(ExpandError):
        expand("ls '%{user.directory}'", values, COMMAND)


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("%{}[]:|.~/-019abcdersunotmligwph"), max_size=40))
def test_any_template(template: str) -> None:
    """It is expanded or it is an ExpandError; anything else would end the process."""
    with contextlib.suppress(ExpandError):
        assert len(expand(template, VALUES, COMMAND)) <= 4096


def test_strip() -> None:
    assert strip_subaddress("a+b+c@d+e", "+") == "a@d+e"
    assert strip_subaddress("a-b", "-") == "a"
    assert strip_subaddress("a+b", "") == "a+b"


def test_the_examples_of_the_manual() -> None:
    values = VALUES._replace(rcpt=MailAddr("user", "example.org"))
    for offset, wanted in (("[0]", "e"), ("[1]", "x"), ("[8:]", "org"), ("[-3:]", "org"), ("[0:6]", "example"),
                           ("[0:-4]", "example")):
        assert expand(f"%{{rcpt.domain{offset}}}", values, PATH) == wanted
    values = VALUES._replace(rcpt=MailAddr("User+Tag", "Example.org"))
    for modifiers, wanted in (("lowercase", "user+tag@example.org"), ("uppercase", "USER+TAG@EXAMPLE.ORG"),
                              ("strip", "User@Example.org"), ("lowercase|strip", "user@example.org")):
        assert expand(f"%{{rcpt:{modifiers}}}", values, PATH) == wanted
    values = VALUES._replace(rcpt=MailAddr("user+t?g", "example.org"))
    assert expand("%{rcpt} %{rcpt:raw}", values, PATH) == "user+t:g@example.org user+t?g@example.org"


@pytest.mark.parametrize("template, offset, length", [
    ("ab %{nobody} c", 3, 9), ("%% %{sender:rot13}", 3, 15), ("%{rcpt} %{dest[x]}", 8, 10), ("a%{sender", 1, 2),
    ("~/%{mda}", 2, 6),
])
def test_where_a_template_is_wrong(template: str, offset: int, length: int) -> None:
    with pytest.raises(FormatError) as error:
        parse(template)
    assert (error.value.offset, error.value.length) == (offset, length)


def test_each_place_has_its_specifiers() -> None:
    with pytest.raises(FormatError):
        parse("%{user.username}", ADDRESSES)
    assert fill(parse("~/ <%{sender}> to %{dest[0:3]}", ADDRESSES, home=False), VALUES, REPLY) \
        == "~/ <Bob@Example.org> to joe+"


def test_a_reply_stays_one_printable_line() -> None:
    text = fill(parse("550 %{dest} %{dest.user:raw}", ADDRESSES), with_dest("j\u00f6`e"), REPLY)
    assert text == "550 j?:e@example.com j?`e"
