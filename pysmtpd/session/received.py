"""The trace header this server puts before every message (RFC 5321 4.4), in OpenSMTPD's form."""

from typing import NamedTuple

from pysmtpd.base.reply import SOFTWARE


class Trace(NamedTuple):
    """Our field, and what takes its place where all else of the header is ASCII and the message must stay so.

    Who names a recipient beyond ASCII should not force SMTPUTF8 (RFC 6531) upon those to whom an alias leads."""

    full: bytes
    plain: bytes


def received(*, helo: str, hostname: str, address: str, smtpname: str, protocol: str, msgid: int, date: str,
             tls: str = "", auth: str = "", rcpt: str = "", mask_src: bool = False) -> bytes:
    """One folded header field.

    ``address`` is as logged (IPv6 in brackets) or ``local``; ``tls`` and ``auth`` are clauses, ready to stand;
    ``rcpt`` is the recipient when there is just one."""
    ip = address if address.startswith("[") else f"[{address}]"
    source = "" if mask_src else f"from {helo} ({hostname} {ip})\r\n\t"
    recipient = f"\r\n\tfor <{rcpt}>" if rcpt else ""
    return (
        f"Received: {source}by {smtpname} ({SOFTWARE}) with {protocol} id {msgid:08x}{tls}{auth}{recipient};"
        f"\r\n\t{date}\r\n"
    ).encode()
