"""Times, sizes and names as smtpd.conf(5) writes them.  Each function raises ValueError, whose text says what is
expected instead."""

import re

from pysmtpd.base.tls_versions import parse_versions

INT_MAX = 2**31 - 1
SIZE_MAX = 2**63 - 1
ID_MAX = 2**32 - 2                 # (uid_t)-1 means "leave it" to the kernel
_DELAY = re.compile(r"\s*\+?([0-9]{1,20})([smhd])", re.ASCII)
_SIZE = re.compile(r"\s*\+?(?=\.?[0-9])([0-9]{0,18}|[0-9]{19})(?:\.([0-9]{0,18})[0-9]*)?([BKMGTPE]?)", re.I | re.ASCII)
_IDS = re.compile(r"([0-9]{1,10})(?:-([0-9]{1,10}))?(?::([0-9]{1,10})(?:-([0-9]{1,10}))?)?", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")


def delay(text: str) -> int:
    """``4d``: seconds, at least 1."""
    match = _DELAY.fullmatch(text)
    if match is None:
        raise ValueError("expected a number and one of s, m, h, d, such as 30m or 4d")
    seconds = int(match[1]) * _SECONDS[match[2]]
    if seconds < 1:
        raise ValueError("a time must be at least 1s")
    if seconds > INT_MAX:
        raise ValueError("a time must be less than 69 years")
    return seconds


def size(text: str) -> int:
    """``35M``, ``1.5G`` or octets: powers of 1024."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError("expected octets, or a number and one of B, K, M, G, T, P, E, such as 35M")
    scale = 1 << 10 * "BKMGTPE".index((match[3] or "B").upper())
    fraction = match[2] or ""
    octets = int(match[1] or "0") * scale
    octets += int(fraction or "0") * scale // int("1" + "0" * len(fraction))
    if octets > SIZE_MAX:
        raise ValueError("a size must be less than 8E")
    return octets


def host_name(text: str) -> str:
    """A host name, in lower case."""
    labels = text.removesuffix(".").split(".")
    if len(text) > 255 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("expected a host name, such as mail.example.org")
    return text.lower()


def ids(text: str) -> tuple[tuple[int, int], tuple[int, int] | None]:
    """``5000-5999:5000``: user ids from and to, and group ids, if they are bounded too."""
    match = _IDS.fullmatch(text)
    if match is None:
        raise ValueError("expected user ids, and perhaps group ids, such as 5000-5999 or 5000-5999:5000")
    users = (int(match[1]), int(match[2] or match[1]))
    groups = (int(match[3]), int(match[4] or match[3])) if match[3] else None
    for first, last in (users, groups or users):
        if not 0 < first <= last <= ID_MAX:
            raise ValueError(f"ids go from 1 to {ID_MAX}, the smaller first")
    return users, groups


def protocols(text: str) -> str:
    """Versions of TLS, as they were written: ``tlsv1.2,tlsv1.3``, ``secure``, ``all,!tlsv1.0``."""
    parse_versions(text)
    return text
