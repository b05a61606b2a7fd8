"""AUTH (RFC 4954): what the chats do not show: limits, delays, and a client that goes away."""

from collections.abc import Callable

import pytest

from pysmtpd.base.ids import MsgId
from pysmtpd.conf.config import Listener, Tls
from pysmtpd.messages import AuthChallenge, AuthDone, AuthResult, SmtpAuth, SmtpAuthCancel, SmtpAuthResponse
from pysmtpd.session.effects import Ask, AuthFailed, Close, Effect, Send, Wait
from pysmtpd.session.lines import AUTH_LINE_MAX, LINE_MAX
from pysmtpd.session.smtp_auth import DELAY_MAX, FAILURES_MAX
from pysmtpd.session.smtp_session import SmtpSession
from pysmtpd.session.smtp_settings import SessionSettings


def session(mechanisms: tuple[str, ...] = ("PLAIN", "LOGIN"), *, verified: bool = False) -> SmtpSession:
    """In TLS, and past EHLO."""
    listener = Listener(address="192.0.2.1", port=465, tls=Tls.SMTPS, auth="required")
    made = SmtpSession(listener, SessionSettings("mx.example.org", number=3, mechanisms=mechanisms), 7, "192.0.2.10",
                       lambda: MsgId(1), random=lambda bits: 0)
    made.tls_ready("TLSv1.3:A:256", 0, "SHA256:x", verified, ("ann@example.org",))
    made.start(0)
    made._waiting = None               # the name is of no interest
    made.receive(b"EHLO x.example\r\n", 0)
    return made


def sent(effects: list[Effect]) -> bytes:
    return b"".join(effect.data for effect in effects if isinstance(effect, Send))


def asked(effects: list[Effect]) -> list[object]:
    return [effect.message for effect in effects if isinstance(effect, Ask)]


def test_what_is_offered() -> None:
    assert b"250-AUTH PLAIN LOGIN\r\n" in sent(session().receive(b"EHLO x.example\r\n", 0))
    scram = session(("SCRAM-SHA-256", "PLAIN"), verified=True)
    assert b"250-AUTH SCRAM-SHA-256 PLAIN EXTERNAL\r\n" in sent(scram.receive(b"EHLO x.example\r\n", 0))
    [ask] = asked(scram.receive(b"AUTH EXTERNAL =\r\n", 0))
    assert ask == SmtpAuth(7, 3, "EXTERNAL", True, b"", "192.0.2.10", ["ann@example.org"])


def test_long_lines_are_for_credentials_only() -> None:
    """RFC 4954 4: 12288 octets."""
    made = session()
    long = b"QQ==" + b"QUFB" * 2900
    assert len(long) > LINE_MAX
    assert asked(made.receive(b"AUTH PLAIN " + b"QUFB" * 2900 + b"\r\n", 0))
    made.answer(AuthChallenge(7, b""), 0)
    [answer] = asked(made.receive(b"QUFB" * 3000 + b"\r\n", 0))
    assert answer == SmtpAuthResponse(7, b"AAA" * 3000)
    made.answer(AuthChallenge(7, b""), 0)
    effects = made.receive(b"Q" * AUTH_LINE_MAX, 0)
    assert sent(effects) == b"500 5.0.0 Command line too long\r\n"
    assert asked(effects) == [SmtpAuthCancel(7)]
    assert any(isinstance(effect, Close) for effect in effects)
    assert b"500 5.0.0" in sent(session().receive(b"NOOP " + b"x" * LINE_MAX, 0))


def test_failures_are_told_later_each_time_and_end_the_session() -> None:
    made = session()
    waits: list[float] = []
    for number in range(1, FAILURES_MAX + 1):
        made.receive(b"AUTH PLAIN AGEAYg==\r\nNOOP\r\n", 0)
        effects = made.answer(AuthDone(7, AuthResult.PERMFAIL, "joe"), 0)
        assert sent(effects) == b"" and AuthFailed("joe") in effects
        waits += [effect.seconds for effect in effects if isinstance(effect, Wait)]
        assert not made.reading
        told = sent(made.wake(0))
        assert told.startswith(b"535 Authentication failed\r\n")
        assert told.endswith(b"421 4.7.0 Too many errors\r\n" if number == FAILURES_MAX else b"250 2.0.0 Ok\r\n")
    assert made.closed
    assert waits == [0, 1, 3, 7] + [DELAY_MAX] * (FAILURES_MAX - 4)


def test_a_client_that_goes_away_is_forgotten_by_lka() -> None:
    leaves: list[Callable[[SmtpSession], list[Effect]]] = [
        lambda made: made.error("reset", 0), lambda made: made.timeout(0), lambda made: made.eof(0)]
    for leave in leaves:
        made = session()
        made.receive(b"AUTH LOGIN\r\n", 0)
        made.answer(AuthChallenge(7, b"Username:"), 0)
        assert asked(leave(made)) == [SmtpAuthCancel(7)]
        assert made.closed


def test_nothing_is_left_to_cancel_after_the_end() -> None:
    made = session()
    made.receive(b"AUTH PLAIN AGEAYg==\r\n", 0)
    assert sent(made.answer(AuthDone(7, AuthResult.OK, "a"), 0)) == b"235 2.0.0 Authentication succeeded\r\n"
    assert asked(made.receive(b"QUIT\r\n", 0)) == []


@pytest.mark.parametrize("initial", [b"\xff", b"\xc3\xbc", b"\xe2\x80\xa8", b"AGpvZQBz\xed\xb0\x80"])
def test_octets_beyond_ascii_are_a_syntax_error(initial: bytes) -> None:
    said = sent(session().receive(b"AUTH PLAIN " + initial + b"\r\nNOOP\r\n", 0))
    assert said == b"501 5.5.2 Syntax error: Syntax error\r\n250 2.0.0 Ok\r\n"
