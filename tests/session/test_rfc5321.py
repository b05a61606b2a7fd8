"""RFC 5321, statement by statement: what the chats and other tests do not show. Each test says its section."""

import pytest

from pysmtpd.conf.config import Listener
from pysmtpd.session.effects import Close
from tests.support.session import player, say, sent

HELLO = b"EHLO c.example\r\n"
MAIL = b"MAIL FROM:<a@example.net>\r\n"
RCPT = b"RCPT TO:<b@example.org>\r\n"
BODY = b"Subject: x\r\n\r\nbody\r\n.\r\n"
REFUSED_ARGUMENTS = b"500 5.5.4 Invalid command arguments: command does not accept arguments.\r\n"
ACCEPTED = b"accepted for delivery\r\n"


def answer(*said: bytes, listener: Listener | None = None) -> bytes:
    """The last reply to all of this."""
    found = player(listener)
    say(found, b"".join(said))
    return found.sent.splitlines(keepends=True)[-1]


# 2.4 general syntax


@pytest.mark.parametrize("verb", [b"ehlo", b"EhLo", b"EHLO"])
def test_2_4_verbs_are_in_any_case(verb: bytes) -> None:
    assert answer(verb + b" c.example\r\n") == b"250 HELP\r\n"


def test_2_4_the_case_of_a_local_part_is_kept() -> None:
    found = player()
    say(found, HELLO + b"MAIL FROM:<MiXed@Example.NET>\r\nRCPT TO:<BoB@Example.ORG>\r\n")
    assert found.asked[-1] == "ExpandRcpt from=<MiXed@Example.NET> to=<BoB@Example.ORG>"


@pytest.mark.parametrize("path", [b"<\xc3\xbc@example.net>", b"<a@\xc3\xbc.example>", b"<\xff@example.net>"])
def test_2_4_octets_beyond_ascii_are_refused_without_smtputf8(path: bytes) -> None:
    assert answer(HELLO, b"MAIL FROM:" + path + b"\r\n")[:3] == b"553"


# 3.1, 3.8, 4.1.1.10 the beginning and the end


@pytest.mark.parametrize("before", [b"", HELLO, HELLO + MAIL, HELLO + MAIL + RCPT])
def test_4_1_1_10_quit_is_answered_221_at_any_time_and_the_connection_closed(before: bytes) -> None:
    found = player()
    say(found, before)
    effects = found.session.receive(b"QUIT\r\n", 0)
    assert sent(effects) == b"221 2.0.0 Bye\r\n" and isinstance(effects[-1], Close)
    assert not found.commits


def test_3_8_a_connection_that_breaks_is_a_transaction_that_never_was() -> None:
    found = player()
    say(found, HELLO + MAIL + RCPT + b"DATA\r\nSubject: x\r\n\r\n" + b"x" * 100_000)
    found.run(found.session.error("Connection reset by peer", 0))
    assert found.asked[-1] == "SmtpMessageRollback" and not found.commits


# 3.3 transactions, 4.1.4 order


def test_3_3_mail_begins_anew_only_after_the_end_of_one() -> None:
    assert answer(HELLO, MAIL, MAIL)[:3] == b"503"
    assert answer(HELLO, MAIL, b"RSET\r\n", MAIL)[:3] == b"250"
    assert answer(HELLO, MAIL, RCPT, b"DATA\r\n", BODY, MAIL)[:3] == b"250"


def test_3_3_data_without_a_recipient_is_503_and_the_transaction_goes_on() -> None:
    assert answer(HELLO, MAIL, b"DATA\r\n")[:3] == b"503"
    assert answer(HELLO, MAIL, b"DATA\r\n", RCPT, b"DATA\r\n", BODY).endswith(ACCEPTED)


def test_3_3_there_may_be_several_messages_in_a_session() -> None:
    assert answer(HELLO, *(MAIL, RCPT, b"DATA\r\n", BODY) * 3).endswith(ACCEPTED)


@pytest.mark.parametrize("command", [b"NOOP", b"HELP", b"RSET"])
@pytest.mark.parametrize("before", [b"", HELLO, HELLO + MAIL, HELLO + MAIL + RCPT])
def test_4_1_4_these_may_be_given_at_any_time(command: bytes, before: bytes) -> None:
    assert answer(before, command + b"\r\n")[:1] == b"2"


def test_4_1_4_noop_and_help_change_nothing() -> None:
    assert answer(HELLO, MAIL, b"NOOP\r\n", RCPT, b"HELP\r\nNOOP x\r\n", b"DATA\r\n", BODY).endswith(ACCEPTED)


@pytest.mark.parametrize("hello", [b"EHLO d.example\r\n", b"HELO d.example\r\n"])
def test_4_1_4_a_later_hello_is_a_reset(hello: bytes) -> None:
    assert answer(HELLO, MAIL, RCPT, hello, b"DATA\r\n")[:3] == b"503"
    assert answer(HELLO, MAIL, RCPT, hello, MAIL)[:3] == b"250"


@pytest.mark.parametrize("hello", [b"EHLO -x-\r\n", b"EHLO\r\n", b"HELO a b\r\n"])
def test_4_1_4_a_hello_that_failed_changes_nothing(hello: bytes) -> None:
    assert answer(HELLO, MAIL, hello, RCPT)[:3] == b"250"


def test_4_1_4_a_name_that_is_not_the_clients_is_no_reason_to_refuse() -> None:
    assert answer(b"EHLO somebody.else.example\r\n") == b"250 HELP\r\n"


# 4.1.1.1 EHLO and HELO


@pytest.mark.parametrize("name", [b"c.example", b"c", b"[192.0.2.1]", b"[IPv6:2001:db8::1]", b"xn--bcher-kva.example"])
def test_4_1_1_1_a_name_or_an_address_literal(name: bytes) -> None:
    assert answer(b"EHLO " + name + b"\r\n") == b"250 HELP\r\n"
    assert answer(b"HELO " + name + b"\r\n").startswith(b"250 mx.example.org Hello " + name)


@pytest.mark.parametrize("verb, listener", [
    (b"EHLO", None), (b"HELO", None), (b"LHLO", Listener(address="192.0.2.1", port=24, lmtp=True))])
def test_4_1_1_1_without_a_name_is_501(verb: bytes, listener: Listener | None) -> None:
    said = b"501 5.5.1 Invalid command: " + verb + b" requires domain name\r\n"
    assert answer(verb + b"\r\n", listener=listener) == said
    assert answer(verb + b" \t \r\n", listener=listener) == said


def test_4_1_1_1_helo_is_one_line() -> None:
    found = player()
    before = len(found.sent)
    say(found, b"HELO c.example\r\n")
    assert found.sent[before:].count(b"\r\n") == 1


# 4.1.1.2 and 4.1.1.3 paths


@pytest.mark.parametrize("command", [b"MAIL", b"MAIL FROM", b"MAIL FROM:", b"MAIL FROM:a@b.example", b"MAIL FROM:<a@b",
                                     b"MAIL FROM:<a b@c.example>", b"MAIL FROM:<a@b.example>x", b"MAIL <a@b.example>"])
def test_4_1_1_2_what_is_no_path_is_refused_for_good(command: bytes) -> None:
    assert answer(HELLO, command + b"\r\n")[:1] == b"5"


def test_4_1_1_2_the_null_reverse_path() -> None:
    assert answer(HELLO, b"MAIL FROM:<>\r\n")[:3] == b"250"
    assert answer(HELLO, MAIL, b"RCPT TO:<>\r\n")[:3] == b"501"


def test_4_1_1_3_source_routes_are_ignored() -> None:
    found = player()
    say(found, HELLO + b"MAIL FROM:<@x.example,@y.example:a@example.net>\r\n")
    say(found, b"RCPT TO:<@mx.example.org:b@example.org>\r\n")
    assert found.asked[-1] == "ExpandRcpt from=<a@example.net> to=<b@example.org>"


@pytest.mark.parametrize("name", [b"postmaster", b"Postmaster", b"POSTMASTER"])
def test_4_1_1_3_postmaster_needs_no_domain(name: bytes) -> None:
    found = player()
    say(found, HELLO + MAIL + b"RCPT TO:<" + name + b">\r\n")
    assert found.asked[-1].endswith(f" to=<{name.decode()}@mx.example.org>")


def test_4_1_1_3_a_recipient_that_was_refused_does_not_end_the_transaction() -> None:
    assert answer(HELLO, MAIL, b"RCPT TO:<>\r\n", RCPT, b"DATA\r\n", BODY).endswith(ACCEPTED)


@pytest.mark.parametrize("command", [b"MAIL FROM:<a@b.example> FOO=1", b"MAIL FROM:<a@b.example> FOO"])
def test_4_1_1_11_a_parameter_that_is_not_known_is_refused(command: bytes) -> None:
    assert answer(HELLO, command + b"\r\n")[:1] == b"5"
    assert answer(HELLO, command + b"\r\n", MAIL)[:3] == b"250"


# 4.1.1.4 DATA, 4.5.2 transparency


def test_4_1_1_4_mail_data_are_not_commands() -> None:
    found = player()
    say(found, HELLO + MAIL + RCPT + b"DATA\r\nQUIT\r\nRSET\r\nMAIL FROM:<x@y.example>\r\n.\r\nNOOP\r\n")
    assert found.sent.endswith(b"250 2.0.0 Ok\r\n") and len(found.commits) == 1
    assert b"QUIT\r\nRSET\r\nMAIL FROM:<x@y.example>\r\n" in found.body


def test_4_1_1_4_after_the_message_the_buffers_are_empty() -> None:
    assert answer(HELLO, MAIL, RCPT, b"DATA\r\n", BODY, RCPT)[:3] == b"503"
    assert answer(HELLO, MAIL, RCPT, b"DATA\r\n", b"\n\r\n.\r\n", b"DATA\r\n")[:3] == b"503"


def test_4_5_2_a_leading_dot_is_taken_away_once() -> None:
    found = player()
    say(found, HELLO + MAIL + RCPT + b"DATA\r\nSubject: x\r\n\r\n..\r\n...a\r\nb.\r\n.c\r\n.\r\n")
    assert found.body.endswith(b"\r\n\r\n.\r\n..a\r\nb.\r\nc\r\n")


# 4.1.1.5 - 4.1.1.10 arguments


@pytest.mark.parametrize("command", [b"RSET", b"QUIT"])
def test_4_1_1_arguments_where_there_are_none(command: bytes) -> None:
    assert answer(HELLO, command + b" now\r\n") == REFUSED_ARGUMENTS
    assert answer(HELLO, command + b"  \t\r\n")[:1] == b"2"
    assert answer(HELLO, MAIL, RCPT, b"DATA now\r\n") == REFUSED_ARGUMENTS
    assert answer(HELLO, MAIL, RCPT, b"DATA \r\n")[:3] == b"354"


@pytest.mark.parametrize("command", [b"NOOP", b"HELP"])
def test_4_1_1_8_and_9_a_string_may_follow(command: bytes) -> None:
    assert answer(command + b" MAIL FROM\r\n")[:1] == b"2"


@pytest.mark.parametrize("command", [b"VRFY", b"VRFY bob", b"EXPN list", b"ETRN x", b"TURN", b"SAML FROM:<a@b>"])
def test_4_2_4_what_is_not_there_is_500_and_changes_nothing(command: bytes) -> None:
    """VRFY is asked for by 4.5.1, and left out as in OpenSMTPD."""
    assert answer(command + b"\r\n") == b"500 5.5.1 Invalid command: Command unrecognized\r\n"
    assert answer(HELLO, MAIL, command + b"\r\n", RCPT)[:3] == b"250"


# 4.5.3.1 what every server takes, at least


def test_4_5_3_1_sizes() -> None:
    local = b"l" * 64
    domain = b".".join([b"d" * 61] * 4) + b".example"
    assert len(domain) == 255
    assert answer(HELLO, b"MAIL FROM:<" + local + b"@example.net>\r\n")[:3] == b"250"
    assert answer(HELLO, b"MAIL FROM:<a@" + domain + b">\r\n")[:3] == b"250"
    assert answer(b"EHLO " + domain + b"\r\n") == b"250 HELP\r\n"
    assert answer(b"NOOP " + b"x" * 505 + b"\r\n")[:3] == b"250"
    text = b"y" * 998 + b"\r\n"
    assert answer(HELLO, MAIL, RCPT, b"DATA\r\nSubject: x\r\n\r\n" + text * 66 + b".\r\n").endswith(ACCEPTED)


def test_4_5_3_1_8_a_hundred_recipients() -> None:
    found = player()
    say(found, HELLO + MAIL + RCPT * 100)
    assert found.sent.count(b"250 2.1.5 ") == 100


def test_4_5_3_1_10_too_many_recipients_leave_those_that_were_taken() -> None:
    found = player(max_rcpt=100)
    say(found, HELLO + MAIL + RCPT * 103 + b"DATA\r\n" + BODY)
    assert found.sent.count(b"451 4.5.3 ") == 3 and found.sent.endswith(ACCEPTED)
    assert found.asked[-1] == "SmtpMessage 1234abcd envelopes=100"
