"""The trace header this server puts before every message (RFC 5321 4.4), in OpenSMTPD's form."""

from pysmtpd.base.reply import SOFTWARE


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
