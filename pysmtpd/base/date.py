"""Dates of RFC 5322 3.3 as OpenSMTPD writes them: ``Thu, 1 Jan 1970 00:00:00 +0000 (UTC)``.

The local zone is an argument, so that this stays a function of its arguments.
"""

from functools import lru_cache
from typing import NamedTuple

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Zone(NamedTuple):
    """Seconds east of Greenwich, and the zone's abbreviation."""

    offset: int
    name: str


UTC = Zone(0, "UTC")


@lru_cache(maxsize=8)              # many messages arrive in one second
def rfc5322(now: int, zone: Zone = UTC) -> str:
    """The date of a time in seconds since the epoch; the day is not padded, names are English."""
    local = now + zone.offset
    days, rest = divmod(local, 86400)
    year, month, day = _civil(days)
    sign = "-" if zone.offset < 0 else "+"
    minutes = abs(zone.offset) // 60
    return (
        f"{_DAYS[(days + 3) % 7]}, {day} {_MONTHS[month - 1]} {year} "
        f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02} "
        f"{sign}{minutes // 60:02}{minutes % 60:02} ({zone.name})"
    )


def civil_date(now: int) -> str:
    """``1970-01-01``, at Greenwich."""
    year, month, day = _civil(now // 86400)
    return f"{year}-{month:02}-{day:02}"


def ctime(now: int, zone: Zone = UTC) -> str:
    """The date of an mbox From_ line: ``Thu Jan  1 00:00:00 1970``."""
    days, rest = divmod(now + zone.offset, 86400)
    year, month, day = _civil(days)
    return (
        f"{_DAYS[(days + 3) % 7]} {_MONTHS[month - 1]} {day:2} "
        f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02} {year}"
    )


def _civil(days: int) -> tuple[int, int, int]:
    """Year, month and day of the days since 1 January 1970 (proleptic Gregorian calendar)."""
    days += 719468
    era, doe = divmod(days, 146097)
    yoe = (doe - doe // 1460 + doe // 36524 - doe // 146096) // 365
    doy = doe - (365 * yoe + yoe // 4 - yoe // 100)
    mp = (5 * doy + 2) // 153
    month = mp + 3 if mp < 10 else mp - 9
    return yoe + era * 400 + (month <= 2), month, doy - (153 * mp + 2) // 5 + 1
