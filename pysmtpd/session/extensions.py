"""What EHLO offers (RFC 5321 4.1.1.1), in its order: OpenSMTPD's, with ours among them."""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from pysmtpd.conf.config import Tls
from pysmtpd.session.attributes import XCLIENT, XFORWARD

LIMIT_MAX = 999999                 # RFC 9422 4


class Offer(NamedTuple):
    """What the extensions offered depend on."""

    tls: Tls
    secure: bool
    lacking: frozenset[str]        # keywords that the listener leaves out
    max_message_size: int
    auth: tuple[str, ...] = ()     # mechanisms
    max_mails: int = 0             # 0 is not told
    max_rcpt: int = 0
    xclient: bool = False          # the client may say it
    xforward: bool = False


def _always(offer: Offer) -> bool:
    return True


def _starttls(offer: Offer) -> bool:
    return offer.tls in (Tls.OFFERED, Tls.REQUIRED) and not offer.secure


def _auth(offer: Offer) -> bool:
    return offer.auth != ()


def _limits(offer: Offer) -> str:
    """Those that are kept; a number of more than six digits cannot be said."""
    told = (("MAILMAX", offer.max_mails), ("RCPTMAX", offer.max_rcpt))
    return " ".join(f"{name}={value}" for name, value in told if 0 < value <= LIMIT_MAX)


class Extension(NamedTuple):
    """A row: the keyword, when it is offered, and its parameters."""

    keyword: str
    offered: Callable[[Offer], bool] = _always
    parameters: Callable[[Offer], str] | None = None


EXTENSIONS = (
    Extension("8BITMIME"),                                                       # RFC 6152
    Extension("PIPELINING"),                                                     # RFC 2920
    Extension("CHUNKING"),                                                       # RFC 3030 2
    Extension("BINARYMIME"),                                                     # RFC 3030 3
    Extension("SMTPUTF8"),                                                       # RFC 6531
    Extension("ENHANCEDSTATUSCODES"),                                            # RFC 2034
    Extension("SIZE", parameters=lambda offer: str(offer.max_message_size)),     # RFC 1870
    Extension("DSN"),                                                            # RFC 3461
    Extension("STARTTLS", _starttls),                                            # RFC 3207
    Extension("AUTH", _auth, lambda offer: " ".join(offer.auth)),                # RFC 4954
    Extension("LIMITS", lambda offer: _limits(offer) != "", _limits),           # RFC 9422
    Extension("XCLIENT", lambda offer: offer.xclient, lambda _offer: " ".join(XCLIENT)),
    Extension("XFORWARD", lambda offer: offer.xforward, lambda _offer: " ".join(XFORWARD)),
    Extension("HELP"),
)


@lru_cache(maxsize=64)
def keywords(offer: Offer) -> tuple[str, ...]:
    """The keywords offered, with their parameters."""
    return tuple(
        row.keyword if row.parameters is None else f"{row.keyword} {row.parameters(offer)}"
        for row in EXTENSIONS
        if row.keyword not in offer.lacking and row.offered(offer)
    )
