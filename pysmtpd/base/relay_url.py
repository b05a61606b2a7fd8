"""Relay URLs: ``[schema://][label@]host[:port]``, as smtpd.conf(5) has them."""

import enum
import ipaddress
import re
from typing import NamedTuple

URL_MAX = 1023                     # octets
_URL = re.compile(
    r"(?:(?P<schema>[A-Za-z0-9+.-]+)://)?(?:(?P<label>[^@/:\[\]]*)@)?"
    r"(?P<host>\[[0-9A-Za-z:.%]+\]|[A-Za-z0-9_.-]+)(?::(?P<port>[0-9]{1,5}))?/?"
)
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")


class Schema(enum.StrEnum):
    """How to speak to a host.  The value is its name in a log line."""

    SMTP = "smtp"                  # STARTTLS when it is offered
    SMTP_TLS = "smtp+tls"          # STARTTLS or nothing
    SMTP_NOTLS = "smtp+notls"
    SMTPS = "smtps"                # TLS from the first octet
    LMTP = "lmtp"

    @property
    def is_tls(self) -> bool:
        """Whether nothing may be said in the clear."""
        return self in (Schema.SMTP_TLS, Schema.SMTPS)


def effective(schema: Schema, tls: str) -> Schema:
    """The schema once ``tls`` of an action (empty, verify or no-verify) had its say.  Raises ValueError when they
    contradict each other."""
    if not tls:
        return schema
    if schema in (Schema.SMTP_NOTLS, Schema.LMTP):
        raise ValueError("TLS required for relaying")
    return Schema.SMTP_TLS if schema is Schema.SMTP else schema


def is_verified(schema: Schema, tls: str) -> bool:
    """Where TLS is demanded the certificate is verified, unless ``no-verify`` says otherwise."""
    return schema.is_tls and tls != "no-verify"


_PORTS = {Schema.SMTP: 25, Schema.SMTP_TLS: 25, Schema.SMTP_NOTLS: 25, Schema.SMTPS: 465, Schema.LMTP: 0}


class RelayUrl(NamedTuple):
    """A host to relay through."""

    schema: Schema
    host: str                      # a name, or an address without brackets
    port: int
    label: str = ""                # names the credentials


def parse(text: str) -> RelayUrl:
    """Raises ValueError, which says what is wrong with it."""
    match = _URL.fullmatch(text) if len(text) <= URL_MAX else None
    if match is None:
        raise ValueError("expected [schema://][label@]host[:port]")
    schema = _schema(match["schema"])
    port = int(match["port"]) if match["port"] else _PORTS[schema]
    if not 0 < port < 65536:
        raise ValueError("lmtp needs a port" if not match["port"] else "port out of range")
    label = match["label"]
    if label is not None and not (label and schema.is_tls):
        raise ValueError("empty label" if not label else "a label is only for smtp+tls:// and smtps://")
    return RelayUrl(schema, _host(match["host"]), port, label or "")


def _schema(text: str | None) -> Schema:
    try:
        return Schema(text.lower()) if text else Schema.SMTP
    except ValueError:
        raise ValueError(f"unknown schema {text}://") from None


def _host(text: str) -> str:
    if text.startswith("["):
        inner = text[1:-1]
        address = inner[5:] if inner[:5].lower() == "ipv6:" else inner
        if literal(address) is None:
            raise ValueError(f"{text} is no address")
        return address
    labels = text.removesuffix(".").split(".")
    if not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"{text} is no host name")
    return text


def literal(text: str) -> str | None:
    """An address in its usual spelling, with or without brackets; None when text is a name."""
    inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if inner[:5].lower() == "ipv6:":
        inner = inner[5:]
    try:
        return str(ipaddress.ip_address(inner))
    except ValueError:
        return None
