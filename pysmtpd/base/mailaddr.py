"""Mail addresses: a local-part and a domain, checked once where they enter.

The null reverse-path is the address with neither.  Text is kept as it was given, so that a domain's
spelling survives; comparisons are the caller's (rules fold case, delivery does not).
Bounds are octets of UTF-8 (RFC 5321 4.5.3.1, RFC 6531 3.3), wider than the RFC's as in OpenSMTPD.
"""

import re

from pysmtpd.base.struct import Wire

LOCAL_MAX = 255
DOMAIN_MAX = 255

_BAD = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class MailAddr(Wire):
    """An address.  Raises ValueError for control characters or more octets than the bounds."""

    user: str
    domain: str

    def __post_init__(self) -> None:
        user, domain = self.user, self.domain
        if len(user) + len(domain) > 63 and (len(user.encode()) > LOCAL_MAX or len(domain.encode()) > DOMAIN_MAX):
            raise ValueError("address too long")
        # Nothing printable is bad, and nearly all addresses are printable.
        if not (user.isprintable() and domain.isprintable()) and (_BAD.search(user) or _BAD.search(domain)):
            raise ValueError("control character in address")

    def __str__(self) -> str:
        """``user@domain``; empty for the null address, so that ``<%s>`` is always right."""
        return f"{self.user}@{self.domain}" if self.domain else self.user

    @property
    def is_null(self) -> bool:
        return not self.user and not self.domain


NULL = MailAddr("", "")


def split_tag(user: str, delimiters: str) -> tuple[str, str, str]:
    """``name+tag`` as name, delimiter and tag, as str.partition does; the first of any of the delimiters parts them.

    Without one in it the name is whole."""
    if len(delimiters) == 1:
        return user.partition(delimiters)
    for at, char in enumerate(user):
        if char in delimiters:
            return user[:at], char, user[at + 1 :]
    return user, "", ""


def parse(text: str) -> MailAddr:
    """``user@domain`` split at the last ``@``; the syntax of the parts is not judged here."""
    user, at, domain = text.rpartition("@")
    return MailAddr(user, domain) if at else MailAddr(text, "")
