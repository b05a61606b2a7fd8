"""Whether a relay speaks TLS, and what it demands of the certificate.

Each relay has a policy of its own: that one smarthost must be verified never changes how another host of the same
action is spoken to (as it did in OpenSMTPD).
"""

from typing import NamedTuple

from pysmtpd.base import relay_url
from pysmtpd.base.relay_url import Schema
from pysmtpd.conf.config import Action
from pysmtpd.session.client_effects import StartTls


class TlsPolicy(NamedTuple):
    """What makes a TLS context; equal policies share one."""

    verify: bool = False
    pki: str = ""
    ca: str = ""
    ciphers: str = ""
    protocols: str = ""


def effective(schema: Schema, action: Action) -> Schema:
    """The schema once the action had its say.  Raises ValueError when they contradict each other."""
    return relay_url.effective(schema, action.tls)


def policy(schema: Schema, action: Action) -> TlsPolicy:
    """Whether the certificate is verified, and by what."""
    return TlsPolicy(
        relay_url.is_verified(schema, action.tls), action.pki, action.ca, action.ciphers, action.protocols
    )


def policies(action: Action) -> list[TlsPolicy]:
    """Every policy that this action can ever need: their contexts are made before the jail."""
    schemas = [Schema.SMTP_TLS] if action.tls else [Schema.SMTP]
    if action.host or action.domain:
        schemas.append(Schema.SMTPS)
    return sorted({policy(schema, action) for schema in schemas})


def starttls(schema: Schema) -> StartTls:
    """When the session says STARTTLS."""
    if schema is Schema.SMTP:
        return StartTls.OFFERED
    return StartTls.REQUIRED if schema is Schema.SMTP_TLS else StartTls.NEVER
