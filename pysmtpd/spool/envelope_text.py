"""An envelope in OpenSMTPD's text format, as ``smtpctl show envelope`` prints it."""

from collections.abc import Iterator

from pysmtpd.base.envelope import Agent, BounceKind, Envelope, Flag, Ret
from pysmtpd.base.logline import address_text
from pysmtpd.base.mailaddr import MailAddr

_AGENTS = {Agent.MDA: "mda", Agent.MTA: "mta", Agent.BOUNCE: "bounce"}
_KINDS = {BounceKind.FAILED: "failed", BounceKind.DELAYED: "delayed", BounceKind.DELIVERED: "delivered",
          BounceKind.EXPANDED: "expanded"}


def dump(envelope: Envelope) -> str:
    """``key: value`` lines in the order of OpenSMTPD's envelope files; empty values are left out."""
    return "".join([f"{key}: {value}\n" for key, value in _fields(envelope) if value != ""])


def _fields(e: Envelope) -> Iterator[tuple[str, object]]:
    bounce = e.agent is Agent.BOUNCE
    yield from (
        ("version", 3), ("dispatcher", e.action), ("tag", e.tag), ("type", _AGENTS[e.agent]),
        ("smtpname", e.smtpname), ("helo", e.helo), ("hostname", e.hostname), ("username", e.username),
        ("errorline", e.errorline), ("sockaddr", address_text(e.source)), ("sender", _address(e.sender)),
        ("rcpt", _address(e.rcpt)), ("dest", _address(e.dest)), ("ctime", e.ctime), ("last-try", e.last_try),
        ("last-bounce", e.last_bounce), ("ttl", e.ttl), ("retry", e.retry), ("flags", _flags(e, bounce)),
        ("dsn-notify", e.notify), ("dsn-ret", "" if e.ret is Ret.NONE else e.ret.name), ("dsn-envid", e.envid),
        ("dsn-orcpt", e.orcpt),
    )  # fmt: skip
    if e.esc:
        esc_class, _, code = e.esc.partition(".")
        subject, _, detail = code.partition(".")
        yield "esc-class", esc_class
        # OpenSMTPD's numbers have two digits; a code that has more is kept readable.
        yield "esc-code", f"{subject}{detail}".lstrip("0") or "0"
    if e.agent is Agent.MDA:
        yield "mda-exec", e.command
        yield "mda-subaddress", e.subaddress
        yield "mda-user", e.user
    if bounce:
        if e.bounce is BounceKind.DELAYED:
            yield "bounce-ttl", e.ttl
            yield "bounce-delay", e.bounce_delay
        yield "bounce-type", _KINDS.get(e.bounce, "")
    # What OpenSMTPD has not.
    yield "mail-auth", e.auth
    yield "remote-mta", e.remote


def _address(address: MailAddr) -> str:
    """With an @ always: the null reverse-path is ``@``."""
    return f"{address.user}@{address.domain}"


def _flags(e: Envelope, bounce: bool) -> str:
    names = (
        ("authenticated", e.flags & Flag.AUTHENTICATED),
        ("bounce", bounce),
        ("internal", e.flags & Flag.INTERNAL),
    )
    return " ".join([name for name, given in names if given])
