"""What the end of a delivery attempt does to an envelope: facts in, a Change out.

Who is told of it follows RFC 3461: nobody for the null sender and for bounces, and otherwise as NOTIFY said; without
NOTIFY failures and delays are told.
"""

from pysmtpd.base.envelope import ERRORLINE_MAX, NAME_MAX, Agent, BounceKind, Envelope, Notify
from pysmtpd.base.struct import replace
from pysmtpd.base.text import line_of
from pysmtpd.spool.backend import Change, Stored

EXPIRED = ("5.4.7", "Envelope expired")
LAST_ERROR = "; last error: "      # between that and what the last attempt said
LOOP_ESC = "5.4.6"

_NOTIFY = {
    BounceKind.FAILED: Notify.FAILURE,
    BounceKind.DELAYED: Notify.DELAY,
    BounceKind.DELIVERED: Notify.SUCCESS,
}
_DEFAULT_ESC = {BounceKind.FAILED: "5.0.0", BounceKind.DELAYED: "4.0.0", BounceKind.DELIVERED: "2.0.0"}


def can_return(envelope: Envelope) -> bool:
    """Whether anybody could be told anything about it."""
    return envelope.agent is not Agent.BOUNCE and not envelope.sender.is_null


def wanted(envelope: Envelope, kind: BounceKind) -> bool:
    """Whether its sender wants to be told (RFC 3461 4.1)."""
    notify = envelope.notify
    if notify == 0:
        return kind is not BounceKind.DELIVERED and can_return(envelope)
    return bool(notify & _NOTIFY[kind]) and not notify & Notify.NEVER and can_return(envelope)


def errorline(text: str) -> str:
    """A stranger's words as they are stored: one clean line."""
    return line_of(text.encode("utf-8", "replace"), ERRORLINE_MAX)


def _host(name: str) -> str:
    return line_of(name.encode("utf-8", "replace"), NAME_MAX)


def bounce_of(envelope: Envelope, kind: BounceKind, esc: str, text: str, now: int, ttl: int, delay: int = 0,
              remote: str = "") -> Stored:
    """The bounce about an envelope, due now.  ttl: how long it is tried at least.  remote: who said the text."""
    bounce = replace(
        envelope,
        agent=Agent.BOUNCE,
        bounce=kind,
        bounce_delay=delay,
        retry=0,
        last_bounce=0,
        ctime=now,
        last_try=now,
        # A delay notice keeps the ttl of its envelope, because it tells how long that will be tried.
        ttl=envelope.ttl if kind is BounceKind.DELAYED else max(ttl, envelope.ttl),
        esc=esc or _DEFAULT_ESC[kind],
        errorline=errorline(text),
        remote=_host(remote),
    )
    return Stored(bounce, now, False)


def turned(bounce: Stored) -> Change:
    """One transaction: an envelope becomes the bounce about itself, under its own id."""
    e = bounce.envelope
    names = ("agent", "bounce", "bounce_delay", "retry", "last_bounce", "ctime", "last_try", "ttl", "esc", "errorline",
             "remote")
    values: dict[str, object] = {name: getattr(e, name) for name in names}
    return Change(update=((e.evpid, {**values, "due": bounce.due, "suspended": 0}),))


def retried(stored: Stored, esc: str, text: str, now: int, retry: int, due: int, delay: int,
            remote: str = "") -> tuple[Stored, Change]:
    """An envelope that failed for now, to be tried again at due; with delay > 0 its sender is told, if he wants."""
    old = stored.envelope
    values: dict[str, object] = {"retry": retry, "due": min(due, old.expire), "last_try": now}
    if text or esc:
        values |= {"errorline": errorline(text), "esc": esc, "remote": _host(remote)}
    if delay:
        values["last_bounce"] = old.ctime + delay
    new = replace(old, **{name: value for name, value in values.items() if name != "due"})
    notices: tuple[Stored, ...] = ()
    if delay and wanted(old, BounceKind.DELAYED):
        notices = (bounce_of(new, BounceKind.DELAYED, new.esc, new.errorline, now, 0, delay, new.remote),)
    change = Change(update=((old.evpid, values),), notices=notices)
    return Stored(new, min(due, old.expire), stored.suspended), change
