"""The Sender Rewriting Scheme: a sender at our domain that leads back to the one it stands for.

Mail that is forwarded keeps its sender, and so fails SPF.  With SRS the sender becomes an address of the domain it was
first sent to, ``SRS0=HHHH=TT=their.example=joe@ours.example``, where HHHH proves that we made it and TT is a day.  What
another forwarder rewrote becomes ``SRS1=HHHH=theirs.example==...``.  Bounces come to these addresses, and are sent on.
The form and the hash are OpenSMTPD's (a SHA-1 of key and text; it has four characters), so that either of the two can
take back what the other gave out.
"""

import base64
import hashlib
import hmac

from pysmtpd.base.mailaddr import MailAddr, parse

DAY = 86400
DAYS = 1024                        # after so many the count begins anew
BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
HASH_SIZE = 4
DELIMITERS = "=+-"


class Srs:
    """The keys of one configuration.  ``ttl``: days that a rewritten address is taken back."""

    def __init__(self, key: str, backup: str | None = None, ttl: int = 4) -> None:
        self._keys = [one.encode() for one in (key, backup) if one]
        self._ttl = ttl

    def encode(self, sender: MailAddr, domain: str, now: int) -> MailAddr:
        """The sender as an address at a domain of ours; itself when there is no room, or nothing to lead back to."""
        if not sender.user or not sender.domain:
            return sender
        text = self._forward(sender, domain, now)
        if text is None:
            return sender
        try:
            return parse(text)
        except ValueError:
            return sender

    def _forward(self, sender: MailAddr, domain: str, now: int) -> str | None:
        scheme, rest = sender.user[:5].upper(), sender.user[5:]
        if scheme == "SRS0=":
            return self._sealed("SRS1", f"{sender.domain}=={rest}@{domain}")
        if scheme == "SRS1=":
            # Its first hop stays; only the hash is ours.
            if len(rest) <= HASH_SIZE or rest[HASH_SIZE] not in DELIMITERS:
                return None
            return self._sealed("SRS1", f"{rest[HASH_SIZE + 1 :]}@{domain}")
        day = now // DAY % DAYS
        stamp = BASE32[day >> 5] + BASE32[day & 31]
        return self._sealed("SRS0", f"{stamp}={sender.domain}={sender.user}@{domain}")

    def decode(self, rcpt: MailAddr, now: int) -> MailAddr | None:
        """Whom a rewritten address stands for; None for one that is not ours, or too old."""
        scheme, sealed = rcpt.user[:5].upper(), f"{rcpt.user[5:]}@{rcpt.domain}"
        value = sealed[HASH_SIZE + 1 :]
        if len(sealed) <= HASH_SIZE or not self._genuine(sealed[:HASH_SIZE], value):
            return None
        user = value.rpartition("@")[0]
        if scheme == "SRS0=":
            stamp, (domain, equals, local) = user[:2], user[3:].partition("=")
        else:
            domain, equals, rest = user.partition("=")
            # =HHHH=TT=...: that hash is for whom it leads to.
            stamp, local = rest[HASH_SIZE + 2 : HASH_SIZE + 4], f"SRS0{rest}"
            if rest[HASH_SIZE + 4 : HASH_SIZE + 5] not in tuple(DELIMITERS):
                return None
        if not equals or not domain or not local or not self._fresh(stamp, now):
            return None
        try:
            return MailAddr(local, domain)
        except ValueError:
            return None

    def _sealed(self, scheme: str, value: str) -> str:
        return f"{scheme}={_hash(self._keys[0], value)}={value}"

    def _genuine(self, given: str, value: str) -> bool:
        found = [hmac.compare_digest(_hash(key, value).encode(), given.encode()) for key in self._keys]
        return True in found

    def _fresh(self, stamp: str, now: int) -> bool:
        if len(stamp) != 2 or not set(stamp) <= set(BASE32):
            return False
        made = BASE32.index(stamp[0]) << 5 | BASE32.index(stamp[1])
        today = now // DAY % DAYS
        return (today - made) % DAYS <= self._ttl or (made - today) % DAYS <= 1


def is_rewritten(user: str) -> bool:
    """Whether a local part may be a rewritten sender."""
    return user[:5].upper() in ("SRS0=", "SRS1=")


def _hash(key: bytes, value: str) -> str:
    digest = hashlib.sha1(key + value.encode(), usedforsecurity=False).digest()
    return base64.urlsafe_b64encode(digest)[:HASH_SIZE].decode()
