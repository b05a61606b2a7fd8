"""LIMITS (RFC 9422): what is told, and how what is told is read."""

import pytest

from pysmtpd.conf.config import Listener
from pysmtpd.session.client_commands import parse_extensions
from tests.support.session import player, say

ONE = b"MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.org>\r\nDATA\r\nSubject: x\r\n\r\n.\r\n"


def test_what_is_told_is_what_is_kept() -> None:
    """4.1 and 4.2: so many are accepted, and not one more."""
    found = player(max_mails=3, max_rcpt=2)
    say(found, b"EHLO c.example\r\n")
    assert b"250-LIMITS MAILMAX=3 RCPTMAX=2\r\n" in found.sent
    say(found, ONE * 2 + b"MAIL FROM:<a@example.net>\r\n" + b"RCPT TO:<b@example.org>\r\n" * 2)
    assert b"\r\n4" not in found.sent
    say(found, b"RCPT TO:<b@example.org>\r\n")
    assert found.sent.endswith(b"451 4.5.3 Too many recipients: Too many recipients\r\n")
    say(found, b"DATA\r\n.\r\n")
    assert found.sent.endswith(b" Message accepted for delivery\r\n")
    say(found, b"MAIL FROM:<a@example.net>\r\n")
    assert found.sent.endswith(b"452 4.5.3 Too many recipients: Too many messages sent\r\n")


def test_what_cannot_be_said_is_not_said() -> None:
    """4: a number has at most six digits."""
    found = player(max_mails=1_000_000, max_rcpt=999_999)
    say(found, b"EHLO c.example\r\n")
    assert b"250-LIMITS RCPTMAX=999999\r\n" in found.sent
    silent = player(max_mails=1_000_000, max_rcpt=1_000_000)
    say(silent, b"EHLO c.example\r\n")
    assert b"LIMITS" not in silent.sent


def test_in_lmtp_too() -> None:
    found = player(Listener(address="192.0.2.1", port=24, lmtp=True))
    say(found, b"LHLO c.example\r\n")
    assert b"250-LIMITS MAILMAX=100 RCPTMAX=1000\r\n" in found.sent


@pytest.mark.parametrize("line, expected", [
    (b"LIMITS MAILMAX=5 RCPTMAX=7 RCPTDOMAINMAX=1", (5, 7, 1)),
    (b"limits rcptmax=7", (0, 7, 0)),                       # 3: case does not matter
    (b"LIMITS FUTURE FUTUREMAX=1 X=a=b RCPTMAX=7", (0, 7, 0)),   # 3: what is not known is ignored
    (b"LIMITS MAILMAX=0 RCPTMAX=-7 RCPTDOMAINMAX=", (0, 0, 0)),  # 4: and so is what is malformed
    (b"LIMITS MAILMAX=05 RCPTMAX=1000000", (0, 0, 0)),
    (b"LIMITS", (0, 0, 0)),
])
def test_a_server_tells_its_limits(line: bytes, expected: tuple[int, int, int]) -> None:
    found = parse_extensions([b"mx.example", line])
    assert (found.mail_max, found.rcpt_max, found.domain_max) == expected
