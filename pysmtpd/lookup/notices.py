"""What the sender of a message for several is told when an alias is expanded (RFC 3461 5.2.7)."""

from pysmtpd.base.envelope import Agent, BounceKind, Envelope, Notify
from pysmtpd.base.struct import replace


def expanded(asked: Envelope, envelopes: list[Envelope], ttl: int) -> list[Envelope]:
    """The envelopes of a recipient, by which nobody hears of the same success twice.

    One that stands for another keeps its sender's wishes.  Of one that stands for several he is told that it was
    expanded, if he asked for news of success, and of each of them only what he else asked for.  ``ttl``: seconds that
    it is tried to tell him."""
    if not asked.notify & Notify.SUCCESS or len(envelopes) < 2 or asked.sender.is_null:
        return envelopes
    # A set without any bit would be that of a recipient who gave none.
    wanted = int(asked.notify & ~Notify.SUCCESS or Notify.NEVER)
    notice = replace(asked, agent=Agent.BOUNCE, bounce=BounceKind.EXPANDED, ttl=ttl)
    return [*(replace(envelope, notify=wanted) for envelope in envelopes), notice]
