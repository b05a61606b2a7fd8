"""Parameters of MAIL and RCPT: one table for each command (RFC 1870, 6152, 3030, 3461, 4954 5, 6531)."""

import re
from collections.abc import Callable
from typing import NamedTuple

from pysmtpd.base import esc, xtext
from pysmtpd.base.envelope import AUTH_MAX, ENVID_MAX, ORCPT_MAX, Notify, Ret
from pysmtpd.base.reply import (
    R501_DUPLICATE,
    R552_DECLARED_SIZE,
    R553_NOTIFY_NEVER,
    R553_ORCPT,
    Reply,
    described,
    line,
)

_ORCPT = re.compile(rf"[A-Za-z0-9-]+;{xtext.PATTERN}")
_SIZE = re.compile("[0-9]{1,20}")


class Parameters:
    """What parameters said; a fresh one for each command, so that nothing leaks from one recipient to the next."""

    __slots__ = ("auth", "binary", "body_8bit", "envid", "lacking", "max_size", "notify", "orcpt", "ret", "size",
                 "smtputf8")

    def __init__(self, lacking: frozenset[str] = frozenset(), max_size: int = 0) -> None:
        self.lacking = lacking     # keywords of EHLO that are not offered
        self.max_size = max_size
        self.size = 0
        self.auth = ""             # xtext, as given
        self.body_8bit = False
        self.binary = False        # BODY=BINARYMIME
        self.ret = Ret.NONE
        self.envid = ""
        self.notify = 0            # a set of Notify
        self.orcpt = ""
        self.smtputf8 = False


class Parameter(NamedTuple):
    """A row: what reads its value (it refuses, or sets), and the keyword of EHLO it belongs to.

    A parameter of an extension to come is a row here and one in EXTENSIONS."""

    read: Callable[[Parameters, str], Reply | None]
    keyword: str = ""


def _size(into: Parameters, value: str) -> Reply | None:
    if not _SIZE.fullmatch(value):
        return _bad(f"SIZE={value}")
    into.size = int(value)
    return R552_DECLARED_SIZE if into.size > into.max_size else None


def _body(into: Parameters, value: str) -> Reply | None:
    kind = value.upper()
    if kind not in ("7BIT", "8BITMIME", "BINARYMIME") or kind in into.lacking:
        return _unsupported(f"BODY={value}")
    into.body_8bit = kind != "7BIT"
    into.binary = kind == "BINARYMIME"
    return None


def _auth(into: Parameters, value: str) -> Reply | None:
    if not value or len(value) > AUTH_MAX or not xtext.XTEXT.fullmatch(value):
        return _bad(f"AUTH={value[:AUTH_MAX]}")
    into.auth = value
    return None


def _ret(into: Parameters, value: str) -> Reply | None:
    ret = {"HDRS": Ret.HDRS, "FULL": Ret.FULL}.get(value.upper())
    if ret is None:
        return _bad(f"RET={value}")
    into.ret = ret
    return None


def _envid(into: Parameters, value: str) -> Reply | None:
    if len(value) > ENVID_MAX:
        return described(503, esc.INVALID_ARGUMENTS, f"option too large, truncated: {value[:ENVID_MAX]}")
    if not value or not xtext.XTEXT.fullmatch(value):
        return _bad(f"ENVID={value}")
    into.envid = value
    return None


def _notify(into: Parameters, value: str) -> Reply | None:
    notify = 0
    for word in value.upper().split(","):
        if word not in Notify.__members__:
            return _bad(f"NOTIFY={value}")
        notify |= Notify[word]
    if notify & Notify.NEVER and notify != Notify.NEVER:
        return R553_NOTIFY_NEVER
    into.notify = notify
    return None


def _smtputf8(into: Parameters, value: str) -> Reply | None:
    if value:
        return _bad(f"SMTPUTF8={value}")
    into.smtputf8 = True
    return None


def _orcpt(into: Parameters, value: str) -> Reply | None:
    if into.smtputf8 and not value.isascii() and value[:6].lower() == "utf-8;" and value.isprintable():
        # The form that passes everywhere (RFC 6533 3): nobody has to know later what this session was.
        value = xtext.beyond_ascii(value)
    if len(value) > ORCPT_MAX or not _ORCPT.fullmatch(value):
        return R553_ORCPT
    into.orcpt = value
    return None


MAIL: dict[str, Parameter] = {
    "SIZE": Parameter(_size, "SIZE"),
    "BODY": Parameter(_body),
    "AUTH": Parameter(_auth),
    "SMTPUTF8": Parameter(_smtputf8, "SMTPUTF8"),
    "RET": Parameter(_ret, "DSN"),
    "ENVID": Parameter(_envid, "DSN"),
}
RCPT: dict[str, Parameter] = {
    "NOTIFY": Parameter(_notify, "DSN"),
    "ORCPT": Parameter(_orcpt, "DSN"),
}


def read_mail(text: str, lacking: frozenset[str], *, max_size: int) -> Parameters | Reply:
    """The parameters behind a reverse-path, or the reply that refuses them.  ``lacking``: Listener.lacking."""
    into = Parameters(lacking, max_size)
    refused = _read(MAIL, text, into) if text else None
    return into if refused is None else refused


def read_rcpt(text: str, lacking: frozenset[str], *, smtputf8: bool = False) -> Parameters | Reply:
    """The parameters behind a forward-path, or the reply that refuses them.  ``smtputf8``: MAIL said so."""
    into = Parameters(lacking)
    into.smtputf8 = smtputf8
    refused = _read(RCPT, text, into) if text else None
    return into if refused is None else refused


def _read(table: dict[str, Parameter], text: str, into: Parameters) -> Reply | None:
    seen: set[str] = set()
    for option in filter(None, text.split(" ")):
        keyword, _, value = option.partition("=")
        keyword = keyword.upper()
        row = table.get(keyword)
        if row is None or row.keyword in into.lacking:
            return _unsupported(option) if table is MAIL else line(f"503 Unsupported option {option}")
        if keyword in seen:
            return R501_DUPLICATE
        seen.add(keyword)
        refused = row.read(into, value)
        if refused is not None:
            return refused
    return None


def _unsupported(option: str) -> Reply:
    return described(503, esc.INVALID_ARGUMENTS, f"Unsupported option {option}")


def _bad(option: str) -> Reply:
    return described(501, esc.INVALID_ARGUMENTS, f"Invalid value in {option}")
