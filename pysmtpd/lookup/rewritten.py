"""Senders that lead back (base.srs): made for mail that is sent on, taken back from bounces."""

from collections.abc import Callable

from pysmtpd.base.envelope import Envelope, Flag
from pysmtpd.base.mailaddr import parse
from pysmtpd.base.srs import Srs, is_rewritten
from pysmtpd.base.struct import replace
from pysmtpd.base.text import line_of
from pysmtpd.conf.config import Config

HOPS = 3                           # rewritten addresses inside of each other
TEXT_MAX = 1024                    # octets


class Rewritten:
    """The scheme of one configuration.  now: seconds since the epoch; tell: hears of what is not ours."""

    def __init__(self, srs: Srs, now: Callable[[], int], tell: Callable[[str], None]) -> None:
        self._srs = srs
        self._now = now
        self._tell = tell

    def sender(self, address: str, domain: str) -> str | None:
        """A sender, for mail first sent to a recipient in that domain; None: as it is."""
        sender = parse(address)
        found = self._srs.encode(sender, domain, self._now())
        return None if found == sender else str(found)

    def reverse(self, envelope: Envelope) -> Envelope:
        """A bounce to a sender that was rewritten here goes to whom it stands for, as mail of this machine."""
        dest = envelope.dest
        for _ in range(HOPS):
            if not is_rewritten(dest.user):
                break
            found = self._srs.decode(dest, self._now())
            if found is None:
                if dest == envelope.dest:
                    self._tell(f"SRS failed to decode: {line_of(str(dest).encode(), TEXT_MAX)}")
                break
            dest = found
        if dest == envelope.dest:
            return envelope
        return replace(envelope, dest=dest, flags=envelope.flags | Flag.INTERNAL)


def of(config: Config, now: Callable[[], int], tell: Callable[[str], None]) -> Rewritten | None:
    """None: no key is configured."""
    if config.srs_key is None:
        return None
    backup = config.srs_backup.value if config.srs_backup is not None else None
    return Rewritten(Srs(config.srs_key.value, backup, config.srs_ttl), now, tell)
