"""``senders``: as which addresses a user may send."""

import re

from pysmtpd.base.mailaddr import MailAddr
from pysmtpd.lookup.match import MailIndex
from pysmtpd.lookup.memo import Memo
from pysmtpd.lookup.table import Service, TableError, Tables

CATCHALL = "@"

_MEMBER = re.compile(r'\s*((?:"(?:[^"\\]|\\.)*"|\\.|[^",\\])*)(,|\Z)', re.DOTALL)
_QUOTED = re.compile(r'\\(.)|"', re.DOTALL)


def may_send(tables: Tables, table: str, user: str, sender: MailAddr, delimiter: str, memo: Memo | None) -> bool:
    """Whether a pattern of the user's entry (mailaddrmap of table(5)) matches.  Raises TableError or Pending."""
    value = tables.lookup(table, Service.MAILADDRMAP, user, memo)
    if value is None:
        return False
    try:
        patterns = members(value)
    except ValueError as error:
        raise TableError(f"table {table}: entry of {user}: {error}") from None
    key = "@" if sender.is_null else str(sender).lower()
    return CATCHALL in patterns or MailIndex(patterns, delimiter).find(key) is not None


def members(text: str) -> list[str]:
    """What commas part; quotes and backslashes keep them together.  Raises ValueError."""
    found: list[str] = []
    at = 0
    while at < len(text):
        match = _MEMBER.match(text, at)
        if match is None:
            raise ValueError("a quote without its end")
        member = _QUOTED.sub(lambda quoted: quoted[1] or "", match[1]).strip()
        if member:
            found.append(member)
        at = match.end()
    return found
