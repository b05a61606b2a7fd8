"""What chats cannot say: time, limits, large messages, endings, and properties over any input."""

import re
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pysmtpd.base.ids import MsgId
from pysmtpd.base.logline import Level
from pysmtpd.conf.config import Config, Limits, Listener, Tls
from pysmtpd.imsg import CHUNK_MAX
from pysmtpd.messages import (
    Fcrdns,
    Found,
    NameLookedUp,
    RcptExpanded,
    SmtpLookedUp,
    SmtpLookup,
    SmtpLookupName,
    SmtpMessage,
    SmtpMessageCommit,
    SmtpMessageCommitted,
)
from pysmtpd.session.conversation import TURN_MAX, WAITING_MAX
from pysmtpd.session.effects import Ask, Body, Close, Log, Send, StartTls, Wait
from pysmtpd.session.smtp_session import COMMANDS, SmtpSession
from pysmtpd.session.smtp_settings import SessionSettings
from tests.support import chat
from tests.support.session import Always, logs, player, say, sent

TO_DATA = b"EHLO c.example\r\nMAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n"
REPLY = re.compile(rb"[2-5][0-5][0-9](-[\t -~]*|( [\t -~]*)?)\r\n")   # RFC 5321 4.2
STATES = {
    "fresh": b"",
    "greeted": b"EHLO c.example\r\n",
    "mail": b"EHLO c.example\r\nMAIL FROM:<>\r\n",
    "rcpt": b"EHLO c.example\r\nMAIL FROM:<>\r\nRCPT TO:<b@example.org>\r\n",
    "data": TO_DATA,
    "header": TO_DATA + b"Subject: x\r\n",
    "body": TO_DATA + b"Subject: x\r\n\r\nbody\r\n",
}


# endings


def test_timeout() -> None:
    found = player()
    effects = found.session.timeout(300)
    assert sent(effects) == b"421 4.4.2 Connection timed out\r\n"
    assert logs(effects) == ["smtp disconnected reason=timeout"]
    assert isinstance(effects[-1], Close)
    assert found.session.closed
    assert found.session.timeout(600) == []
    assert found.session.receive(b"NOOP\r\n", 600) == []
    assert found.session.eof(600) == []
    assert found.session.shutdown(600) == []


@pytest.mark.parametrize("text, reason", [
    ("Connection reset by peer", '"io-error: Connection reset by peer"'), ('a"\n', '"io-error: a"\\n"'),
])
def test_error(text: str, reason: str) -> None:
    assert logs(player().session.error(text, 0)) == [f"smtp disconnected reason={reason}"]


def test_failed_handshakes() -> None:
    found = player(Listener(address="192.0.2.1", port=25, tls=Tls.OFFERED))
    say(found, b"EHLO c.example\r\nSTARTTLS\r\n")
    assert found.tls_wanted == 1
    assert not found.session.reading
    assert found.session.receive(b"MAIL FROM:<>\r\n", 0) == []
    assert len(found.session._lines) == 0
    effects = found.session.error("TLS: no shared cipher", 0)
    assert logs(effects) == ['smtp tls-failed address=192.0.2.10 reason="no shared cipher"',
                             "smtp disconnected reason=tls-accept-failed"]
    assert sent(effects) == b""
    smtps = Listener(address="192.0.2.1", port=465, tls=Tls.SMTPS)
    session = chat.Player(chat.Chat(smtps, SessionSettings("mx"), "192.0.2.10", False, [])).session
    assert logs(session.eof(0)) == ['smtp tls-failed address=192.0.2.10 reason="unexpected end"',
                                    "smtp disconnected reason=tls-accept-failed"]
    session = chat.Player(chat.Chat(smtps, SessionSettings("mx"), "2001:db8::1", False, [])).session
    assert logs(session.timeout(0)) == ['smtp tls-failed address=[2001:db8::1] reason="timeout"',
                                        "smtp disconnected reason=timeout"]


def test_smtps_shakes_hands_first() -> None:
    smtps = Listener(address="192.0.2.1", port=465, tls=Tls.SMTPS)
    found = Always(chat.Chat(smtps, SessionSettings("mx"), "192.0.2.10", False, []))
    found.run(found.session.tls_ready("TLSv1.3:A:256", 0, "SHA256:00ff", True))
    assert found.sent == b""
    found.start(False)
    assert found.logged == [
        "smtp connected address=192.0.2.10 host=client.example.org", "smtp tls ciphers=TLSv1.3:A:256",
        'smtp cert-check result="verified" fingerprint="SHA256:00ff"',
    ]
    say(found, TO_DATA + b"A: b\r\n.\r\n")
    assert b"with ESMTPS id 1234abcd (TLSv1.3:A:256:YES)\r\n" in found.body
    assert b"STARTTLS" not in found.sent


def test_shutdown_between_commands() -> None:
    found = player()
    say(found, b"EHLO c.example\r\nMAIL FROM:<>\r\n")
    effects = found.session.shutdown(0)
    assert sent(effects) == b"421 4.3.2 Service shutting down\r\n"
    assert isinstance(effects[-1], Close)


def test_shutdown_lets_a_message_end() -> None:
    found = player()
    say(found, TO_DATA + b"Subject: x\r\n")
    assert found.session.shutdown(0) == []
    before = len(found.sent)
    say(found, b"\r\n.\r\nNOOP\r\n")
    assert found.sent[before:] == (
        b"250 2.0.0 1234abcd Message accepted for delivery\r\n421 4.3.2 Service shutting down\r\n"
    )
    assert found.closes == 1


def test_shutdown_waits_for_the_commit() -> None:
    found = player()
    say(found, TO_DATA)
    session = found.session
    effects = session.receive(b"A: b\r\n.\r\n", 0)
    assert any(isinstance(effect, Ask) for effect in effects)
    assert session.shutdown(0) == []
    effects = session.answer(SmtpMessageCommitted(chat.SESSION_ID, True), 0)
    assert sent(effects).count(b"\r\n") == 2
    assert isinstance(effects[-1], Close)


def test_no_word_of_acceptance_before_the_commit() -> None:
    found = player()
    say(found, TO_DATA)
    effects = found.session.receive(b"A: b\r\n.\r\nNOOP\r\n", 0)
    assert sent(effects) == b""
    assert logs(effects) == []
    assert not found.session.reading


def test_late_answers_are_ignored() -> None:
    found = player()
    say(found, b"EHLO c.example\r\nMAIL FROM:<>\r\n")
    session = found.session
    session.receive(b"RCPT TO:<b@example.org>\r\n", 0)
    session.timeout(300)
    assert session.answer(RcptExpanded(chat.SESSION_ID, b"", 0, "550 no", ""), 301) == []


def test_no_message_id_at_hand() -> None:
    session = SmtpSession(Listener(address="socket"), SessionSettings("mx"), 7, "local", lambda: None,
                          random=lambda bits: 0)
    session.start(0)
    session.receive(b"EHLO localhost\r\n", 0)
    assert sent(session.receive(b"MAIL FROM:<a>\r\n", 0)) == b"451 4.3.0 Temporary failure\r\n"


def test_a_message_id_is_used_by_the_message_that_ends() -> None:
    found = player()
    say(found, b"EHLO c.example\r\n" + b"MAIL FROM:<>\r\nRSET\r\n" * 50)
    assert found.msgid == chat.FIRST_MSGID
    say(found, TO_DATA + b"A: b\r\n.\r\n" + TO_DATA + b"A: b\r\n.\r\n")
    assert [commit.msgid for commit in found.commits] == [chat.FIRST_MSGID, chat.FIRST_MSGID + 1]


# messages


@pytest.mark.parametrize("size", [CHUNK_MAX, 5 * CHUNK_MAX + 17])
def test_large_message(size: int) -> None:
    found = player()
    say(found, TO_DATA)
    line = b"." + b"x" * 76 + b"\r\n"
    text = b"Subject: x\r\n\r\n" + line * (size // len(line))
    wire = text.replace(b"\r\n.", b"\r\n..") + b".\r\n"
    chunks = []
    for at in range(0, len(wire), 50_000):
        effects = found.session.receive(wire[at : at + 50_000], 0)
        chunks += [len(effect.chunk) for effect in effects if isinstance(effect, Body)]
        found.run(effects)
    assert found.body.endswith(b"\r\n\t" + b"Thu, 1 Jan 1970 00:00:00 +0000 (UTC)\r\n" + text)
    assert all(chunk == CHUNK_MAX for chunk in chunks[:-1])
    [commit] = found.commits
    assert isinstance(commit, SmtpMessageCommit) and commit.size == len(found.body)


def test_rollback_of_what_the_queue_has() -> None:
    found = player(max_message_size=200_000)
    say(found, TO_DATA)
    for _ in range(4):
        say(found, b"x" * 60_000)
    assert len(found.body) >= CHUNK_MAX
    say(found, b"\r\n.\r\n" + TO_DATA + b"A: b\r\n")
    assert found.asked[-2:] == ["SmtpMessageRollback", "ExpandRcpt from=<a@example.net> to=<b@example.org>"]
    assert b"554 5.3.4 Message too big" in found.sent
    found._body_start = len(found.body)
    # the queue may still forget the first while the second arrives: it has another id
    say(found, b".\r\n")
    assert found.commits[0].msgid == chat.FIRST_MSGID + 1
    assert found.asked.count("SmtpMessageRollback") == 1


@pytest.mark.parametrize("ending", ["eof", "timeout", "error"])
def test_rollback_at_the_end(ending: str) -> None:
    found = player()
    say(found, TO_DATA + b"A: b\r\n\r\n" + b"x" * 60_000)
    say(found, b"x" * 60_000)
    session = found.session
    effects = session.error("x", 0) if ending == "error" else getattr(session, ending)(0)
    assert [chat.describe(effect.message) for effect in effects if isinstance(effect, Ask)] == ["SmtpMessageRollback"]


def test_what_is_being_committed_is_not_rolled_back() -> None:
    found = player()
    say(found, TO_DATA + b"A: b\r\n\r\n")
    say(found, b"x" * 65536)
    effects = found.session.receive(b"x" * 60_000 + b"\r\n.\r\n", 0)
    effects += found.session.error("x", 0)
    asked = [chat.describe(effect.message) for effect in effects if isinstance(effect, Ask)]
    assert asked[-1] == "SmtpMessageCommit 1234abcd envelopes=1"


def test_message_id_and_date_for_users_only() -> None:
    for listener, completed in (
        (Listener(address="192.0.2.1", port=25), False), (Listener(address="192.0.2.1", port=587), True),
        (Listener(address="127.0.0.1", port=25), True), (Listener(address="::1", port=25), True),
    ):
        found = player(listener)
        say(found, TO_DATA + b"Subject: x\r\n\r\n.\r\n")
        assert (b"\r\nMessage-ID: <0123456789abcdef@mx.example.org>\r\n\r\n" in found.body) is completed


def test_received_auth() -> None:
    listener = Listener(address="192.0.2.1", port=25, tls=Tls.SMTPS, received_auth=True)
    for username, clause in (("", "auth=no"), ("al ice", "auth=yes user=al\\sice")):
        session = SmtpSession(listener, SessionSettings("mx"), 7, "local", lambda: MsgId(1), random=lambda bits: 0,
                              username=username)
        session.tls_ready("TLSv1.3:A:256", 0)
        session.start(0)
        effects = session.receive(b"EHLO c\r\nMAIL FROM:<a>\r\nRCPT TO:<b>\r\n", 0)
        question = next(effect.message for effect in effects if isinstance(effect, Ask))
        session.answer(chat.answer_to(question, "RcptExpanded 1"), 0)
        effects = session.receive(b"DATA\r\n.\r\n", 0)
        [message] = [effect.message for effect in effects if isinstance(effect, Ask)]
        assert isinstance(message, SmtpMessage)
        assert b" id 00000001 (TLSv1.3:A:256:NO) " + clause.encode() + b"\r\n" in message.body


def test_settings_of_a_configuration() -> None:
    config = Config(hostname="host.example", max_message_size=5, limits=Limits(smtp_max_rcpt=3, smtp_max_mails=4))
    zone = SessionSettings("x").zone
    assert SessionSettings.of(config, Listener(address="::1"), zone) == SessionSettings("host.example", 5, 3, 4, zone)
    assert SessionSettings.of(config, Listener(address="::1", hostname="mx"), zone).smtpname == "mx"


# limits


def test_a_flood_of_commands_lets_others_have_their_turn() -> None:
    found = player()
    effects = found.session.receive(b"HELP\r\n" * 999, 0)
    assert effects[-1] == Wait(0.0)
    assert sent(effects).count(b"\r\n") == 3 * TURN_MAX
    assert not found.session.reading
    before = len(found.sent)
    found.run(effects)
    assert found.sent[before:].count(b"\r\n") == 2997
    assert found.session.reading


def test_command_line_too_long() -> None:
    found = player()
    say(found, b"NOOP " + b"x" * 2041 + b"\r\n" + b"NOOP " + b"x" * 2042 + b"\r\n")
    assert found.sent.endswith(b"250 2.0.0 Ok\r\n500 5.0.0 Command line too long\r\n")
    assert found.logged[1] == 'smtp bad-input result="500 5.0.0 Command line too long"'
    assert found.logged[2:] == ["smtp disconnected reason=quit"]


def test_who_is_given_too_much_while_waiting_hangs_up() -> None:
    found = player()
    say(found, b"EHLO c.example\r\nMAIL FROM:<>\r\n")
    session = found.session
    session.receive(b"RCPT TO:<b@example.org>\r\n", 0)
    for _ in range(WAITING_MAX // 65536):
        assert session.receive(b"x" * 65536, 0) == []
    effects = session.receive(b"x", 0)
    assert sent(effects) == b"421 4.3.0 Temporary failure\r\n"
    assert len(session._lines) == 0


# properties


def test_log_levels() -> None:
    found = player()
    effects = found.session.receive(b"FOO\r\n", 0)
    assert [effect.level for effect in effects if isinstance(effect, Log)] == [Level.INFO]


def test_every_row_of_the_table() -> None:
    for verb, row in COMMANDS.items():
        assert row.verb == verb
        assert verb.upper() == verb


def check_replies(data: bytes) -> None:
    while data:
        match = REPLY.match(data)
        assert match and match.end() <= 512, data
        data = data[match.end() :]


WORDS = st.sampled_from([
    b"HELO", b"EHLO ", b"MAIL FROM:", b"RCPT TO:", b"DATA", b"RSET", b"QUIT", b"NOOP", b"HELP", b"STARTTLS", b"AUTH ",
    b"PLAIN ", b"<a@b.example>", b"<>", b"<", b">", b" ", b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b".",
    b"\r\n.\r\n", b"SIZE=", b"1", b"\0", b"NOTIFY=NEVER", b"ORCPT=rfc822;", b"Subject: x\r\n", b"\xff",
    b"\xe2\x80\xa8", b"c.example", b'"', b"\\", b"@", b"[::1]", b"\t",
])


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(sorted(STATES)), st.lists(st.one_of(WORDS, st.binary(max_size=8)), max_size=30), st.integers())
def test_any_bytes_in_any_pieces(state: str, words: list[bytes], seed: int) -> None:
    """From every state: no exception, nothing another process would refuse, replies of RFC 5321, always the same."""
    data = STATES[state] + b"".join(words)
    whole, cut = player(), player()
    say(whole, data)
    for piece in chat.pieces(data, Random(seed)):
        say(cut, piece)
    for found in (whole, cut):
        check_replies(found.sent)
        found.run(found.session.eof(0))
        assert found.closes == 1
    assert whole.sent == cut.sent
    assert whole.asked == cut.asked
    assert whole.body == cut.body
    assert whole.logged == cut.logged


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(sorted(STATES)), st.sampled_from([b"x", b"\r\n", b"x: y\r\n", b"\0", b"\r", b"RCPT TO:<"]))
def test_memory_is_bounded(state: str, word: bytes) -> None:
    found = player(max_message_size=100_000)
    say(found, STATES[state])
    piece = word * (65536 // len(word))
    for _ in range(20):
        effects = found.session.receive(piece, 0)
        assert sum(len(effect.chunk) for effect in effects if isinstance(effect, Body)) <= 2 * 65536
        found.run(effects)
        assert len(found.session._lines) <= 65536


def test_long_names_are_cut_from_replies() -> None:
    found = player(Listener(address="192.0.2.1", hostname="h" * 250))
    long = ".".join(["x" * 62] * 4)
    say(found, f"EHLO {long}\r\nMAIL FROM:<a@b>\r\nRCPT TO:<{'u' * 255}@{long}>\r\n".encode())
    check_replies(found.sent)


def test_starttls_effect_is_last() -> None:
    found = player(Listener(address="192.0.2.1", tls=Tls.OFFERED))
    effects = found.session.receive(b"EHLO c.example\r\nSTARTTLS\r\nNOOP\r\n", 0)
    assert [type(effect) for effect in effects] == [Send, StartTls]


@pytest.mark.parametrize(("found", "value", "name"), [
    (Found.YES, "other.example", "other.example"), (Found.NO, "", "mx.example.org"),
    (Found.TEMPFAIL, "", "mx.example.org"),
])
def test_the_name_of_the_server_may_depend_on_its_address(found: Found, value: str, name: str) -> None:
    listener = Listener(address="0.0.0.0", port=25, hostnames="names")
    session = SmtpSession(listener, SessionSettings("mx.example.org"), 7, "192.0.2.10", lambda: None,
                          random=lambda bits: 0, local="192.0.2.1")
    assert session.start(0) == [Ask(SmtpLookup(7, "addrname", "names", "192.0.2.1"))]
    assert session.answer(SmtpLookedUp(7, found, value), 0) == [Ask(SmtpLookupName(7, "192.0.2.10"))]
    greeting = session.answer(NameLookedUp(7, "client.example", Fcrdns.PASS), 0)[0]
    assert isinstance(greeting, Send)
    assert greeting.data.startswith(f"220 {name} ESMTP".encode())
