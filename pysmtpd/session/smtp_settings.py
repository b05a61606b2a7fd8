"""What a session is told before it begins, and what a handshake told it."""

from typing import NamedTuple

from pysmtpd.base.date import UTC, Zone
from pysmtpd.conf.config import Config, Listener
from pysmtpd.session.patience import Bounds
from pysmtpd.session.smtp_auth import MECHANISMS

LOCAL = "local"                    # the address of a session over the control socket


class SessionSettings(NamedTuple):
    """What a session has to know beside its listener."""

    smtpname: str                  # the name it greets with
    max_message_size: int = 35 * 1024 * 1024
    max_rcpt: int = 1000           # in a transaction
    max_mails: int = 100           # in a session
    zone: Zone = UTC
    number: int = 0                # which of the listeners this is
    xclient_from: str = ""         # table of proxies that may say XCLIENT; empty: there are none
    xforward_from: str = ""
    admd: str = ""                 # whose results of authentication nobody else may tell; empty: whoever likes may
    patience: Bounds = Bounds()
    normalize: bool = False        # bare line ends and NULs of messages are made good, not refused
    mechanisms: tuple[str, ...] = MECHANISMS  # of AUTH

    @classmethod
    def of(cls, config: Config, listener: Listener, zone: Zone, number: int = 0) -> "SessionSettings":
        """Those that a configuration gives a listener."""
        limits = config.limits
        bounds = Bounds(limits.smtp_max_errors, limits.smtp_max_refused, limits.smtp_max_commands,
                        limits.smtp_error_delay)
        return cls(
            listener.hostname or config.hostname, config.max_message_size, limits.smtp_max_rcpt, limits.smtp_max_mails,
            zone, number, xclient_from=config.xclient_from, xforward_from=config.xforward_from, admd=config.admd,
            patience=bounds, normalize=config.normalize_newlines)


class TlsFacts(NamedTuple):
    """What a handshake agreed on."""

    text: str
    fingerprint: str
    verified: bool
