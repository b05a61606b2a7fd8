"""The report itself: multipart/report of RFC 3462, 3464, told by Python's own parser of mail."""

import email
import email.policy
from email.message import EmailMessage
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pysmtpd.base.envelope import BounceKind, Flag, Ret
from pysmtpd.base.mailaddr import MailAddr
from pysmtpd.spool.bounce import (
    ORIGINAL_MAX,
    Original,
    Report,
    compose,
    cut_original,
    span,
    status_of,
    wrap,
)
from tests.spool.house import NOW, envelope

HEADERS = b"From: alice@example.org\r\nSubject: hello\r\n"
WHOLE = HEADERS + b"\r\nThe text.\r\n"


def report(kind: BounceKind = BounceKind.FAILED, original: Original | None = None, **values: object) -> Report:
    common = {"bounce": kind, "errorline": "550 5.1.1 No such user", "esc": "5.1.1", "last_try": NOW + 5}
    fields: dict[str, Any] = {**common, **values}
    envelopes = [envelope(9 << 32 | 1, **fields), envelope(9 << 32 | 2, rcpt="carol@example.net", **fields)]
    original = original or Original(HEADERS, False, False)
    return Report(0xABC, 0x1234, MailAddr("alice", "example.org"), envelopes, NOW, original, NOW + 60)


def parsed(made: Report) -> EmailMessage:
    data = compose(made)
    assert b"\n" not in data.replace(b"\r\n", b"")
    assert b"\r" not in data.replace(b"\r\n", b"")
    assert max(map(len, data.split(b"\r\n"))) <= 998
    message = email.message_from_bytes(data, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    assert not message.defects and not any(part.defects for part in message.walk())
    return message


def fields(message: EmailMessage) -> list[EmailMessage]:
    """The groups of fields of the machine's part."""
    groups = list(message.iter_parts())[1].get_payload()
    assert isinstance(groups, list)
    return groups  # type: ignore[return-value]


def test_structure() -> None:
    message = parsed(report())
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "delivery-status"
    assert [part.get_content_type() for part in message.iter_parts()] == [
        "text/plain", "message/delivery-status", "text/rfc822-headers",
    ]  # fmt: skip
    assert message["From"] == "Mailer Daemon <MAILER-DAEMON@mx.example.org>"
    assert message["To"] == "<alice@example.org>" or message["To"].addresses[0].addr_spec == "alice@example.org"
    assert message["Subject"] == "Delivery status notification: failed"
    assert message["Auto-Submitted"] == "auto-replied"
    assert message["Message-ID"] == "<0000000000001234.00000abc@mx.example.org>"
    assert message["Date"]


def test_fields_of_a_failure() -> None:
    message, *recipients = fields(parsed(report(envid="QQ+2B1", orcpt="rfc822;Bob+40example.net")))
    assert message["Reporting-MTA"] == "dns; mx.example.org"
    assert message["Original-Envelope-Id"] == "QQ+1"
    assert message["Arrival-Date"].startswith("Tue, 14 Nov 2023")
    assert [recipient["Final-Recipient"] for recipient in recipients] == [
        "rfc822; bob@example.net", "rfc822; carol@example.net",
    ]  # fmt: skip
    assert recipients[0]["Original-Recipient"] == "rfc822; Bob@example.net"
    assert recipients[0]["Action"] == "failed"
    assert recipients[0]["Status"] == "5.1.1"
    assert recipients[0]["Diagnostic-Code"] == "smtp; 550 5.1.1 No such user"
    assert recipients[0]["Last-Attempt-Date"]
    assert "Will-Retry-Until" not in recipients[0]


def test_what_an_alias_led_to_is_not_told() -> None:
    data = compose(report(dest=MailAddr("secret", "internal.example")))
    assert b"secret" not in data


def test_delay_tells_how_long_it_is_tried() -> None:
    message = parsed(report(BounceKind.DELAYED, bounce_delay=4 * 3600, ttl=4 * 86400, esc="", errorline="busy"))
    assert message["Subject"].endswith("delayed")
    recipient = fields(message)[1]
    assert (recipient["Action"], recipient["Status"]) == ("delayed", "4.0.0")
    assert recipient["Will-Retry-Until"].startswith("Sat, 18 Nov 2023")
    assert recipient["Diagnostic-Code"] == "X-pysmtpd; busy"
    text = next(iter(message.iter_parts())).get_content()
    assert "waiting for 1 minute." in text and "18 Nov 2023" in text


def test_who_said_it_is_named_when_it_was_a_reply() -> None:
    recipient = fields(parsed(report(remote="mx1.example.net")))[1]
    assert recipient["Remote-MTA"] == "dns; mx1.example.net"
    assert "Remote-MTA" not in fields(parsed(report()))[1]
    ours = fields(parsed(report(remote="mx1.example.net", errorline="Connection timeout")))[1]
    assert "Remote-MTA" not in ours and ours["Diagnostic-Code"] == "X-pysmtpd; Connection timeout"


def test_the_diagnostic_of_an_expired_message_is_the_last_reply() -> None:
    text = "Envelope expired; last error: 451 4.7.1 Greylisted"
    message = parsed(report(errorline=text, esc="5.4.7", remote="mx1.example.net"))
    recipient = fields(message)[1]
    assert (recipient["Status"], recipient["Diagnostic-Code"]) == ("5.4.7", "smtp; 451 4.7.1 Greylisted")
    assert recipient["Remote-MTA"] == "dns; mx1.example.net"
    assert text in " ".join(next(iter(message.iter_parts())).get_content().split())


def test_an_alias_that_stands_for_several_was_expanded() -> None:
    message = parsed(report(BounceKind.EXPANDED, esc="", errorline="", last_try=0))
    assert message["Subject"].endswith(": expanded")
    recipient = fields(message)[1]
    assert (recipient["Action"], recipient["Status"]) == ("expanded", "2.0.0")
    assert "Last-Attempt-Date" not in recipient and "Diagnostic-Code" not in recipient
    assert "passed on" in next(iter(message.iter_parts())).get_content()


@pytest.mark.parametrize(("user", "action"), [("bob", "delivered"), ("", "relayed")])
def test_success(user: str, action: str) -> None:
    message = parsed(report(BounceKind.DELIVERED, user=user, esc="", errorline=""))
    assert message["Subject"].endswith(action)
    assert (fields(message)[1]["Action"], fields(message)[1]["Status"]) == (action, "2.0.0")


def test_whole_message_is_a_message() -> None:
    message = parsed(report(original=Original(WHOLE, True, False)))
    part = list(message.iter_parts())[2]
    assert part.get_content_type() == "message/rfc822"
    (inner,) = part.iter_parts()
    assert inner["Subject"] == "hello"
    assert inner.get_content().splitlines() == ["The text."]


def test_eight_bit_is_declared() -> None:
    assert compose(report()).isascii()
    message = parsed(report(original=Original("Subject: é\r\n".encode(), False, True)))
    assert message["Content-Transfer-Encoding"] == "8bit"
    assert list(message.iter_parts())[2]["Content-Transfer-Encoding"] == "8bit"


def test_internationalized_mail_has_reports_of_its_own() -> None:
    original = Original("Subject: ü\r\n\r\nx\r\n".encode(), True, True)
    utf8: dict[str, Any] = {"flags": int(Flag.SMTPUTF8), "orcpt": "utf-8;\\x{7528}+2B@example.net"}
    made = compose(report(original=original, **utf8)).decode()
    assert "Content-Type: message/global-delivery-status\r\n" in made and "Content-Type: message/global\r\n" in made
    assert "Original-Recipient: utf-8; \u7528+@example.net\r\n" in made
    headers = Original("Subject: ü\r\n".encode(), False, True)
    assert "Content-Type: message/global-headers\r\n" in compose(report(original=headers, **utf8)).decode()
    # what came without SMTPUTF8 is reported as ever
    assert b"message/global" not in compose(report(original=original))


def test_boundary_of_the_original_does_no_harm() -> None:
    made = report(original=Original(WHOLE + b"--1/example--\r\n", True, False))
    assert len(list(parsed(made).iter_parts())) == 3


words = st.text(st.characters(blacklist_categories=("Cc", "Cs", "Zl", "Zp")), max_size=1000)


@given(words, st.sampled_from([kind for kind in BounceKind if kind]))
@settings(max_examples=50)
def test_any_error_makes_a_valid_report(text: str, kind: BounceKind) -> None:
    message = parsed(report(kind, errorline=text.encode()[:1024].decode("utf-8", "ignore")))
    assert len(fields(message)) == 3


@given(words, st.integers(10, 100))
@settings(max_examples=50)
def test_wrapping_keeps_every_character(text: str, width: int) -> None:
    lines = wrap(text, width)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(len(line) <= max(width, 125) for line in lines)


@pytest.mark.parametrize(
    ("kind", "ret", "whole"),
    [
        (BounceKind.FAILED, Ret.FULL, True),
        (BounceKind.FAILED, Ret.HDRS, False),
        (BounceKind.FAILED, Ret.NONE, False),
        (BounceKind.DELAYED, Ret.FULL, False),
        (BounceKind.DELIVERED, Ret.FULL, False),
    ],
)
def test_what_is_returned(kind: BounceKind, ret: Ret, whole: bool) -> None:
    original = cut_original(WHOLE, len(WHOLE), kind, ret)
    assert original == (WHOLE if whole else HEADERS, whole, False)


def test_too_large_to_be_returned() -> None:
    size = ORIGINAL_MAX + 1
    head = (HEADERS + b"\r\n" + b"x" * size)[:ORIGINAL_MAX]
    assert cut_original(head, size, BounceKind.FAILED, Ret.FULL) == (HEADERS, False, False)


@pytest.mark.parametrize(
    ("head", "size", "headers"),
    [
        (b"", 0, b""),
        (b"\r\nOnly text\r\n", 13, b""),
        (HEADERS, len(HEADERS), HEADERS),
        (b"A: 1\r\nB: 2\r\nC: 3", 100_000, b"A: 1\r\nB: 2\r\n"),
        (b"\r\nsecond\r\n\r\nthird", 17, b""),
    ],
)
def test_headers_are_found(head: bytes, size: int, headers: bytes) -> None:
    assert cut_original(head, size, BounceKind.FAILED, Ret.NONE).data == headers


def test_small_things() -> None:
    assert [span(n) for n in (0, 1, 59, 60, 7199, 86400, 4 * 86400)] == [
        "0 seconds", "1 second", "59 seconds", "1 minute", "1 hour", "1 day", "4 days",
    ]  # fmt: skip
    assert status_of(BounceKind.FAILED, "5.7.1") == "5.7.1"
    assert status_of(BounceKind.FAILED, "2.0.0") == "5.0.0"
    assert status_of(BounceKind.DELAYED, "5.0.0") == "4.0.0"
    assert status_of(BounceKind.DELIVERED, "x") == "2.0.0"
