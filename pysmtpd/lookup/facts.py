"""What the rules may ask about one recipient of one transaction."""

import ipaddress

from pysmtpd.base.envelope import Envelope, Flag
from pysmtpd.base.mailaddr import MailAddr
from pysmtpd.lookup.match import parse_address
from pysmtpd.lookup.memo import Memo

LOCAL = "local"                    # the source of mail from this machine itself
UNKNOWN = "<unknown>"              # the name of a client that has none


class Facts:
    """All texts but ``where`` are in lower case, as tables want their keys."""

    __slots__ = ("authenticated", "dest", "domain", "envelope", "helo", "hostname", "internal", "literal", "memo",
                 "sender", "source", "tag", "tls", "username")

    def __init__(self, envelope: Envelope, *, tls: bool, local: bool, internal: bool = False,
                 memo: Memo | None = None) -> None:
        """internal: an address that an expansion led to, which counts as this machine's.
        memo: what slow tables answered."""
        self.memo = memo
        self.envelope = envelope
        flags = envelope.flags
        self.internal = internal or bool(flags & _INTERNAL)
        self.source = LOCAL if local or self.internal else envelope.source.lower()
        self.hostname = LOCAL if self.internal else envelope.hostname.lower()
        self.helo = envelope.helo.lower()
        self.tag = envelope.tag.lower()
        self.authenticated = bool(flags & _AUTHENTICATED)
        self.username = envelope.username.lower()
        self.tls = tls
        self.sender = mail_key(envelope.sender)
        self.dest = mail_key(envelope.dest)
        self.domain = envelope.dest.domain.lower()
        self.literal = literal_key(self.domain) if self.domain.startswith("[") else ""


_AUTHENTICATED = int(Flag.AUTHENTICATED)
_INTERNAL = int(Flag.INTERNAL)


def mail_key(address: MailAddr) -> str:
    """An address as a key: ``user@domain``, and ``@`` for the null reverse-path."""
    return f"{address.user}@{address.domain}".lower()


def literal_key(domain: str) -> str:
    """An address literal (RFC 5321 4.1.3) in the spelling of ``<localnames>``: ``192.0.2.1``, ``[2001:db8::1]``."""
    known = parse_address(domain)
    if known is None:
        return ""
    version, number = known
    return str(ipaddress.IPv4Address(number)) if version == 4 else f"[{ipaddress.IPv6Address(number)}]"
