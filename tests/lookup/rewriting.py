"""Rewritten senders (SRS), by the book (tests/lookup/walked.py): how OpenSMTPD makes them, and takes them back."""

import base64
import hashlib
import re
from typing import NamedTuple

BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
DAY = 86400


class Scheme(NamedTuple):
    """What a configuration says, and the time in seconds."""

    keys: tuple[str, ...]
    days: int
    now: int

    def decode(self, address: str) -> str | None:
        """Whom a rewritten address stands for, None: it is not ours, or too old."""
        user, _, _ = address.rpartition("@")
        seal, value = address[5:9], address[10:]
        if seal not in [sealed(key, value)[:4] for key in self.keys]:
            return None
        if address[:5].upper() == "SRS0=":
            found = re.fullmatch(r"(..).([^=]+)=(.+)", user[10:])
            return f"{found[3]}@{found[2]}" if found and self._fresh(found[1]) else None
        found = re.fullmatch(r"([^=]+)=(.(?:....).(..)[=+-].*)", user[10:])
        return f"SRS0{found[2]}@{found[1]}" if found and self._fresh(found[3]) else None

    def _fresh(self, stamp: str) -> bool:
        if not set(stamp) <= set(BASE32):
            return False
        then = BASE32.index(stamp[0]) * 32 + BASE32.index(stamp[1])
        today = self.now // DAY
        return then in {day % 1024 for day in range(today - self.days, today + 2)}


def sealed(key: str, value: str) -> str:
    """The hash, of which the beginning is used."""
    return base64.urlsafe_b64encode(hashlib.sha1((key + value).encode()).digest()).decode()


def first(key: str, sender: str, domain: str, now: int) -> str:
    """A sender as the first forwarder writes it."""
    user, _, host = sender.rpartition("@")
    day = now // DAY % 1024
    value = f"{BASE32[day // 32]}{BASE32[day % 32]}={host}={user}@{domain}"
    return f"SRS0={sealed(key, value)[:4]}={value}"


def further(key: str, sender: str, domain: str) -> str:
    """What another forwarder rewrote already."""
    user, _, host = sender.rpartition("@")
    value = f"{host}=={user[5:]}@{domain}" if user.startswith("SRS0") else f"{user[10:]}@{domain}"
    return f"SRS1={sealed(key, value)[:4]}={value}"
