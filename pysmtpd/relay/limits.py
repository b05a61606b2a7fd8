"""How many connections, and how soon after each other (``mta limit``).

The delays keep us from hammering a host that does not answer.  Where mail went through a moment ago they
would only hold up mail, so there the *default* delays do not count; one that the operator wrote always does.
"""

from math import inf

from pysmtpd.conf.config import MtaLimits
from pysmtpd.relay.route import Usage

_DEFAULT = MtaLimits()


def limits_of(configured: dict[str, MtaLimits], domain: str) -> MtaLimits:
    """Those of the domain, or the default ones."""
    return configured.get(domain) or configured.get("") or _DEFAULT


def wait(usage: Usage, maximum: int, delay: float, clock: float) -> float:
    """When another connection may use this: 0.0 now, infinity once one of its connections has ended."""
    if usage.nconn >= maximum:
        return inf
    if not delay or usage.lastconn is None or usage.lastconn + delay <= clock:
        return 0.0
    return usage.lastconn + delay


def delay_route(limits: MtaLimits, proven: bool) -> int:
    if proven and limits.conn_delay_route == _DEFAULT.conn_delay_route:
        return 0
    return limits.conn_delay_route


def delay_reconnect(limits: MtaLimits, proven: bool) -> int:
    if proven and limits.reconn_delay_route == _DEFAULT.reconn_delay_route:
        return 0
    return limits.reconn_delay_route


def delay_relay(limits: MtaLimits, proven: bool) -> int:
    if proven and limits.conn_delay_relay == _DEFAULT.conn_delay_relay:
        return 0
    return limits.conn_delay_relay
