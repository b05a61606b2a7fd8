"""Composes what a sender is told about his message: multipart/report of RFC 3462 and RFC 3464, and of RFC 6533
where there is more than ASCII in it.

Facts in, the whole message as bytes out, lines ending in CRLF.  Recipients are shown as the sender named them: what an
alias led to is nobody's business.
"""

import re
from typing import NamedTuple

from pysmtpd.base import xtext
from pysmtpd.base.date import UTC, Zone, rfc5322
from pysmtpd.base.envelope import BounceKind, Envelope, Flag, Ret
from pysmtpd.base.mailaddr import MailAddr
from pysmtpd.spool.outcome import EXPIRED, LAST_ERROR

ORIGINAL_MAX = 64 * 1024           # octets of the original that are returned; headers only when it is larger
LINE_MAX = 76

_SUBJECT = {BounceKind.FAILED: "failed", BounceKind.DELAYED: "delayed", BounceKind.DELIVERED: "delivered",
            BounceKind.EXPANDED: "expanded"}
_CLASS = {BounceKind.FAILED: "45", BounceKind.DELAYED: "4", BounceKind.DELIVERED: "2", BounceKind.EXPANDED: "2"}
_STATUS = {BounceKind.FAILED: "5.0.0", BounceKind.DELAYED: "4.0.0", BounceKind.DELIVERED: "2.0.0",
           BounceKind.EXPANDED: "2.0.0"}
_ESC = re.compile(r"[245]\.\d{1,3}\.\d{1,3}")
_REPLY_CODE = re.compile(r"[245]\d\d[ -]")


class Original(NamedTuple):
    """What is returned of the original."""

    data: bytes                    # its headers, or all of it
    whole: bool
    eight_bit: bool                # of data


class Report(NamedTuple):
    """All there is to say."""

    msgid: int                     # of the report
    token: int                     # 64 random bits: boundary and Message-ID
    sender: MailAddr               # to whom it goes
    envelopes: list[Envelope]      # bounces, all of one message, sender and kind
    arrival: int                   # when the original came
    original: Original
    now: int
    zone: Zone = UTC

    @property
    def kind(self) -> BounceKind:
        return self.envelopes[0].bounce

    @property
    def smtpname(self) -> str:
        return self.envelopes[0].smtpname


def compose(report: Report) -> bytes:
    """The report as a message."""
    text = crlf(_explanation(report))
    status = crlf(_delivery_status(report))
    boundary = f"{report.token:016x}.{report.msgid:08x}"
    eight_bit = report.original.eight_bit or not (text.isascii() and status.isascii())
    original = report.original
    utf8 = bool(report.envelopes[0].flags & Flag.SMTPUTF8)
    parts = [
        crlf(_header(report, boundary, eight_bit)),
        _part(boundary, "Notification", "text/plain; charset=utf-8", not text.isascii()),
        text,
        _part(boundary, "Delivery Report",
              "message/global-delivery-status" if utf8 and not status.isascii() else "message/delivery-status",
              not status.isascii()),
        status,
        _part(
            boundary,
            "Message" if original.whole else "Message headers",
            _type_of(original, utf8=utf8),
            original.eight_bit,
        ),
        original.data,
        b"" if original.data.endswith(b"\r\n") else b"\r\n",
        f"\r\n--{boundary}--\r\n".encode(),
    ]
    return b"".join(parts)


def _type_of(original: Original, *, utf8: bool) -> str:
    """Of the part that is returned.  ``utf8``: it came by SMTPUTF8 (RFC 6533 4)."""
    if utf8 and not original.data.partition(b"\r\n\r\n")[0].isascii():
        return "message/global" if original.whole else "message/global-headers"
    return "message/rfc822" if original.whole else "text/rfc822-headers"


def cut_original(head: bytes, size: int, kind: BounceKind, ret: Ret, *, binary: bool = False) -> Original:
    """What goes back of a message of ``size`` octets, of which ``head`` is the first ORIGINAL_MAX.

    Of a binary one only the header, which is text: the report must be able to go where the message was not."""
    if not binary and kind is BounceKind.FAILED and ret is Ret.FULL and size <= len(head):
        return Original(head, True, not head.isascii())
    end = 0 if head.startswith(b"\r\n") else head.find(b"\r\n\r\n") + 2
    if end == 1:                   # no end of the headers in sight
        end = len(head) if size <= len(head) else head.rfind(b"\r\n") + 2
    headers = head[:end]
    return Original(headers, False, not headers.isascii())


def _header(report: Report, boundary: str, eight_bit: bool) -> list[str]:
    name = report.smtpname
    return [
        f"Subject: Delivery status notification: {_action(report)}",
        f"From: Mailer Daemon <MAILER-DAEMON@{name}>",
        f"To: <{report.sender}>",
        f"Date: {rfc5322(report.now, report.zone)}",
        f"Message-ID: <{report.token:016x}.{report.msgid:08x}@{name}>",
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
        "Content-Type: multipart/report; report-type=delivery-status;",
        f'\tboundary="{boundary}"',
        *(["Content-Transfer-Encoding: 8bit"] if eight_bit else []),
        "",
        "This is a report of the mail system in several parts (MIME).",
        "",
    ]


def _part(boundary: str, description: str, content_type: str, eight_bit: bool) -> bytes:
    lines = [f"--{boundary}", f"Content-Description: {description}", f"Content-Type: {content_type}"]
    if eight_bit:
        lines.append("Content-Transfer-Encoding: 8bit")
    return crlf(["", *lines, ""])


def _action(report: Report) -> str:
    """RFC 3464 2.3.3.  What left for a system that promises nothing was relayed, not delivered."""
    if report.kind is BounceKind.DELIVERED and all(_relayed(envelope) for envelope in report.envelopes):
        return "relayed"
    return _SUBJECT[report.kind]


def _relayed(envelope: Envelope) -> bool:
    return not envelope.user


def _explanation(report: Report) -> list[str]:
    """The part for people."""
    first = report.envelopes[0]
    # Not the interval of the notice: that is over only before the next attempt.
    waited = span(max(0, report.now - report.arrival))
    opening = {
        BounceKind.FAILED: "Your message could not be delivered to these recipients:",
        BounceKind.DELAYED: f"Your message has been waiting for {waited}. It could not yet be delivered to these"
        " recipients:",
        BounceKind.DELIVERED: "Your message was relayed to these recipients:" if _action(report) == "relayed"
        else "Your message was delivered to these recipients:",
        BounceKind.EXPANDED: "Your message was passed on to those for whom these addresses stand:",
    }[report.kind]
    lines = [f"This is the MAILER-DAEMON of {report.smtpname}. Nobody reads replies to this address.", "",
             *wrap(opening), ""]
    for envelope in report.envelopes:
        text = f"{envelope.rcpt}: {envelope.errorline}" if envelope.errorline else str(envelope.rcpt)
        lines += [f"    {line}" for line in wrap(text, LINE_MAX - 4)]
    if report.kind is BounceKind.DELAYED:
        left = report.arrival + first.ttl
        lines += ["", "This is only a notice: there is no need to send the message again.",
                  f"Delivery will be tried until {rfc5322(left, report.zone)}."]
    what = "The message" if report.original.whole else "The headers of the message"
    return [*lines, "", f"{what} can be found below.", ""]


def _delivery_status(report: Report) -> list[str]:
    """The part for programs: one group of fields for the message, one for each recipient."""
    first = report.envelopes[0]
    lines = [f"Reporting-MTA: dns; {report.smtpname}"]
    if first.envid:
        lines += _field("Original-Envelope-Id", xtext.decode(first.envid))
    lines += [f"Arrival-Date: {rfc5322(report.arrival, report.zone)}", ""]
    for envelope in report.envelopes:
        lines += [*_recipient(report, envelope), ""]
    return lines[:-1]


def _recipient(report: Report, envelope: Envelope) -> list[str]:
    kind, lines = report.kind, []
    addr_type, semicolon, address = envelope.orcpt.partition(";")
    if addr_type.lower() == "utf-8":
        lines += _field("Original-Recipient", f"{addr_type}; {xtext.decode_utf8(xtext.decode(address))}")
    elif semicolon:
        lines += _field("Original-Recipient", f"{addr_type}; {xtext.decode(address)}")
    final = str(envelope.rcpt)
    lines += _field("Final-Recipient", f"{'rfc822' if final.isascii() else 'utf-8'}; {final}")
    relayed = kind is BounceKind.DELIVERED and _relayed(envelope)
    lines += [f"Action: {'relayed' if relayed else _SUBJECT[kind]}", f"Status: {status_of(kind, envelope.esc)}"]
    lines += _diagnostic(envelope)
    if envelope.last_try:
        lines.append(f"Last-Attempt-Date: {rfc5322(envelope.last_try, report.zone)}")
    if kind is BounceKind.DELAYED:
        lines.append(f"Will-Retry-Until: {rfc5322(report.arrival + envelope.ttl, report.zone)}")
    return lines


def _diagnostic(envelope: Envelope) -> list[str]:
    """What was said last, and by whom.  Only a reply of SMTP is a diagnostic code of type smtp (RFC 3464 2.3.6)."""
    text = envelope.errorline
    if not text:
        return []
    said = text.removeprefix(EXPIRED[1] + LAST_ERROR)
    if not _REPLY_CODE.match(said):
        return _field("Diagnostic-Code", f"X-pysmtpd; {text}")
    remote = [f"Remote-MTA: dns; {envelope.remote}"] if envelope.remote else []
    return [*remote, *_field("Diagnostic-Code", f"smtp; {said}")]


def status_of(kind: BounceKind, esc: str) -> str:
    """An enhanced status code that may stand in a report of this kind."""
    return esc if _ESC.fullmatch(esc) and esc[0] in _CLASS[kind] else _STATUS[kind]


def _field(name: str, value: str) -> list[str]:
    first, *rest = wrap(f"{name}: {value}")
    return [first, *(f"\t{line}" for line in rest)]


def wrap(text: str, width: int = LINE_MAX) -> list[str]:
    """Text in lines of at most width characters if its words allow it, and never of more than 500 octets or so."""
    lines, line = [], ""
    for word in text.split(" "):
        while len(word) > 125:
            lines += [line] if line else []
            line, word = "", lines.append(word[:125]) or word[125:]  # type: ignore[func-returns-value]
        if line and len(line) + 1 + len(word) > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    return [*lines, line] if line or not lines else lines


def crlf(lines: list[str]) -> bytes:
    return "".join([f"{line}\r\n" for line in lines]).encode("utf-8", "replace")


def span(seconds: int) -> str:
    """The largest unit, cut: ``4 hours``."""
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = seconds // length
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return f"{seconds} second{'' if seconds == 1 else 's'}"
