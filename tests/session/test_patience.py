"""What is borne of a client: errors, refused recipients, commands that bring no message on; then delays, then 421."""

import pytest

from pysmtpd.conf.config import Config, Limits, Listener
from pysmtpd.session.effects import Wait
from pysmtpd.session.patience import Bounds
from pysmtpd.session.smtp_settings import SessionSettings
from tests.support.session import player, say, sent

MESSAGE = (b"EHLO c.example\r\nMAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n"
           b"Subject: x\r\n\r\n.\r\n")


def test_bounds_are_the_configurations() -> None:
    limits = Limits(smtp_max_errors=2, smtp_max_refused=3, smtp_max_commands=4, smtp_error_delay=5)
    found = SessionSettings.of(Config(hostname="x", limits=limits), Listener(address="::1"), SessionSettings("x").zone)
    assert found.patience == Bounds(errors=2, refused=3, commands=4, delay=5)
    assert Bounds() == SessionSettings.of(Config(hostname="x"), Listener(address="::1"), found.zone).patience


def test_errors_are_slowed_down_then_ended() -> None:
    found = player(patience=Bounds(errors=30, delay=2))
    for number in range(1, 31):
        command = (b"FOO", b"DATA", b"MAIL FROM:x", b"\x01", b"STARTTLS")[number % 5]
        effects = found.session.receive(command + b"\r\n", 0)
        waits = [effect for effect in effects if isinstance(effect, Wait)]
        if number <= 6:
            assert not waits
        elif number < 30:
            assert waits == [Wait(2.0)]
            assert not found.session.reading
            assert found.session.receive(b"", 0) == []
            assert found.session.wake(1) == []
            assert found.session.reading
    assert sent(effects).endswith(b"421 4.7.0 Too many errors\r\n")
    assert found.session.closed


@pytest.mark.parametrize("command", [b"NOOP", b"RSET", b"EHLO x", b"HELP", b"MAIL FROM:<a@b.example>"])
def test_commands_that_bring_no_message_on_are_slowed_down_then_ended(command: bytes) -> None:
    found = player(patience=Bounds(commands=10, delay=1))
    waits = 0
    for _ in range(9):
        effects = found.session.receive(command + b"\r\n", 0)
        waits += effects.count(Wait(1.0))
        found.session.wake(1)
    assert waits == 7
    assert sent(found.session.receive(command + b"\r\n", 0)).endswith(b"421 4.7.0 Too many errors\r\n")
    assert found.session.closed


def test_recipients_and_chunks_are_no_such_commands() -> None:
    found = player(patience=Bounds(commands=3, delay=1))
    say(found, b"EHLO c.example\r\nMAIL FROM:<a@example.net>\r\n" + b"RCPT TO:<b@example.org>\r\n" * 50)
    say(found, b"BDAT 1\r\nx" * 50 + b"BDAT 0 LAST\r\n")
    assert found.sent.endswith(b" Message accepted for delivery\r\n")


def test_no_delay_is_none() -> None:
    found = player(patience=Bounds(errors=10, delay=0))
    effects = found.session.receive(b"FOO\r\n" * 9, 0)
    assert sent(effects).count(b"500 ") == 9 and not found.session.closed
    assert not [effect for effect in effects if isinstance(effect, Wait)]


def test_a_message_makes_up_for_what_was() -> None:
    found = player(patience=Bounds(errors=3, commands=7, delay=0))
    for _ in range(5):
        say(found, b"FOO\r\nFOO\r\n" + MESSAGE)
    assert found.sent.count(b" Message accepted for delivery") == 5


def test_a_message_for_many_that_is_refused_is_one_error() -> None:
    found = player(Listener(address="192.0.2.1", port=24, lmtp=True), patience=Bounds(errors=5, delay=0))
    say(found, b"LHLO c.example\r\nMAIL FROM:<a@example.net>\r\n" + b"RCPT TO:<b@example.org>\r\n" * 50)
    say(found, b"DATA\r\n\n\r\n.\r\nNOOP\r\n")
    assert found.sent.count(b"550 ") == 50 and found.sent.endswith(b"250 2.0.0 Ok\r\n")


def test_refused_recipients_have_a_limit_of_their_own() -> None:
    found = player(patience=Bounds(refused=10, delay=1))
    say(found, b"EHLO c.example\r\nMAIL FROM:<>\r\n" + b"RCPT TO:<>\r\n" * 200)
    assert found.sent.count(b"501 5.1.3") == 10 and found.session.closed


def test_refused_recipients_are_no_mistakes() -> None:
    found = player()
    say(found, b"EHLO c.example\r\nMAIL FROM:<>\r\n" + b"RCPT TO:<>\r\n" * 200)
    assert found.sent.count(b"501 5.1.3") == 200
    assert not found.session.closed
