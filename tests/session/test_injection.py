"""What is said before a handshake is nothing of what is said after it (RFC 3207 4.2), and what follows a command that
changes who speaks belongs to nobody else."""

import base64

import pytest

from pysmtpd.conf.config import Listener, Tls
from pysmtpd.messages import AuthChallenge, SmtpAuthCancel, SmtpAuthResponse
from pysmtpd.session.effects import Ask, Send
from tests.support.session import Always, player, say

TLS = "TLSv1.3:A:256"
OFFERS = Listener(address="192.0.2.1", port=25, tls=Tls.OFFERED, auth="optional")
PROBES = [
    b"NOOP\r\n", b"EHLO evil.example\r\n", b"MAIL FROM:<evil@example.net>\r\n", b"RSET\r\nMAIL FROM:<a@b.example>\r\n",
    b"QUIT\r\n", b"AUTH PLAIN AGpvZQBzZWNyZXQ=\r\n", b"AUTH LOGIN\r\n", b"XCLIENT ADDR=203.0.113.66 LOGIN=evil\r\n",
    b"XFORWARD ADDR=203.0.113.66\r\n", b"STARTTLS\r\n", b"BDAT 5\r\nevil!", b"BDAT 500000 LAST\r\n",
    b"EHLO evil.example\r\nMAIL FROM:<evil@example.net>\r\nRCPT TO:<b@example.org>\r\nDATA\r\nSubject: evil\r\n",
    b"NO", b"\0", b"\r", b"\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"x" * 300_000,
]


def offering() -> Always:
    found = player(OFFERS, xclient_from="proxies", xforward_from="filters")
    say(found, b"EHLO c.example\r\n")
    return found


def secured(found: Always) -> bytes:
    """What the server says once hands were shaken, to commands that show what it knows."""
    before = len(found.sent)
    found.run(found.session.tls_ready(TLS, 0))
    say(found, b"OP\r\nMAIL FROM:<a@example.net>\r\nEHLO c.example\r\nMAIL FROM:<a@example.net>\r\n")
    assert found.asked == ["SmtpLookup netaddr <proxies> 192.0.2.10", "SmtpLookup netaddr <filters> 192.0.2.10",
                           "SmtpLookupName 192.0.2.10"]
    return found.sent[before:]


CLEAN = (b"500 5.5.1 Invalid command: Command unrecognized\r\n"
         b"503 5.5.1 Invalid command: Command not allowed at this point.\r\n")


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: repr(probe[:30]))
def test_starttls_drops_what_was_pipelined(probe: bytes) -> None:
    stream = b"STARTTLS\r\n" + probe
    for cut in sorted({*range(1, min(len(stream), 30)), len(stream)}):
        found = offering()
        before = len(found.sent)
        for piece in (stream[:cut], stream[cut:]):
            found.run(found.session.receive(piece, 0))
        assert found.sent[before:] == b"220 2.0.0 Ready to start TLS\r\n" and found.tls_wanted == 1
        assert len(found.session._lines) == 0
        said = secured(found)
        assert said.startswith(CLEAN)
        assert said.endswith(b"250 HELP\r\n250 2.0.0 Ok\r\n")
        assert b"250-AUTH PLAIN LOGIN\r\n" in said


def test_starttls_forgets_who_was_greeted_and_forwarded() -> None:
    found = offering()
    say(found, b"XFORWARD NAME=spike SOURCE=LOCAL\r\nSTARTTLS\r\n")
    assert secured(found).startswith(CLEAN)
    assert not [line for line in found.logged if line.startswith("smtp xforward")]


def test_starttls_forgets_a_login_that_was_told_in_clear() -> None:
    found = offering()
    say(found, b"XCLIENT LOGIN=evil\r\nEHLO c.example\r\nSTARTTLS\r\n")
    assert b"250-AUTH PLAIN LOGIN\r\n" in secured(found)


@pytest.mark.parametrize("probe", [b"MAIL FROM:<a@example.net>\r\n", b"NOOP\r\n", b"QUIT\r\n", b"STARTTLS\r\n"])
def test_what_follows_auth_is_its_answer_and_no_command(probe: bytes) -> None:
    """Some commands are good base64: then they are for lka."""
    found = offering()
    say(found, b"STARTTLS\r\n")
    found.run(found.session.tls_ready(TLS, 0))
    say(found, b"EHLO c.example\r\n")
    session = found.session
    session.receive(b"AUTH LOGIN\r\n" + probe, 0)
    effects = session.answer(AuthChallenge(7, b"Username:"), 0)
    assert isinstance(effects[0], Send) and not session.closed
    response = [effect.message for effect in effects if isinstance(effect, Ask)]
    if probe[:4] == b"MAIL":
        assert effects[0].data.startswith(b"334 VXNlcm5hbWU6\r\n501 5.5.2 ") and response == [SmtpAuthCancel(7)]
    else:
        assert effects[0].data == b"334 VXNlcm5hbWU6\r\n"
        assert response == [SmtpAuthResponse(7, base64.b64decode(probe.strip()))]


def test_what_follows_quit_is_not_heard() -> None:
    found = offering()
    say(found, b"QUIT\r\nMAIL FROM:<a@example.net>\r\n")
    say(found, b"NOOP\r\n")
    assert found.sent.endswith(b"221 2.0.0 Bye\r\n") and found.closes == 1


def test_what_follows_xclient_is_the_new_clients() -> None:
    found = offering()
    say(found, b"XCLIENT ADDR=203.0.113.9 NAME=x.example\r\nMAIL FROM:<b@x.example>\r\n"
               b"EHLO x.example\r\nMAIL FROM:<b@x.example>\r\nRCPT TO:<b@example.org>\r\n")
    assert b"ESMTP pysmtpd\r\n503 5.5.1 " in found.sent
    assert found.sent.endswith(b"250 2.1.5 Destination address valid: Recipient ok\r\n")
    assert "smtp connected address=203.0.113.9 host=x.example" in found.logged


def test_octets_of_a_refused_chunk_are_nobodys_commands() -> None:
    found = offering()
    before = len(found.sent)
    say(found, b"BDAT 27 LAST\r\nMAIL FROM:<a@b.example>\r\nQUNOOP\r\n")
    assert found.sent[before:] == (b"503 5.5.1 Invalid command: Command not allowed at this point.\r\n"
                                   b"250 2.0.0 Ok\r\n")
